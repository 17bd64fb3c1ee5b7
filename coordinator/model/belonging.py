"""What a saved model says of the images that it reads, and whether images and model belong together.

A model that learnt on ciphertext of one key answers ciphertext of another key with confidence, and wrongly. So a
saved model states the ids of the keys, the whole scheme without its nonce, and the names of the classes, and whoever
asks it compares them first.

Key ids count under stem mode `learn` only. Under `private` and `plain` a hospital carries the stem into its own key's
coordinates, whichever key that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from crypto.errors import CipherwardError
from crypto.files import parse_json, require_regular
from crypto.spec import SchemeSpec, spec_without_nonce

#: The only class of the images of a query, whose classes are not known.
UNKNOWN_CLASS = "unknown"


@dataclass(frozen=True)
class Belonging:
    """What a saved model belongs to.

    Attributes:
        path: the model's file.
        metadata: everything that the file says of itself.
        study: the study's name.
        stem: the stem mode.
        classes: names of the classes, in the order of the outputs.
        spec: the scheme as JSON, without nonce.
        key_ids: the keys that sealed the training images.
    """

    path: Path
    metadata: dict[str, str]
    study: str
    stem: str
    classes: list[str]
    spec: dict[str, Any]
    key_ids: frozenset[str]

    @property
    def round(self) -> int:
        """The round that the weights come from, 0 if the file does not say."""
        return int(self.metadata.get("round", "0"))

    def require_match(self, spec: SchemeSpec, key_id: str, classes: Sequence[str]) -> None:
        """Check that the model reads images that were sealed so.

        Args:
            spec: the scheme of the images.
            key_id: the id of their key.
            classes: their classes; the only class of a query is `unknown`, which fits every model.

        Raises:
            CipherwardError: naming what differs.
        """
        sealed = spec_without_nonce(spec)
        for name in sorted(sealed.keys() | self.spec.keys()):
            if sealed.get(name) != self.spec.get(name):
                raise CipherwardError(
                    f"{self.path} reads images of another sealing: its {name} is {self.spec.get(name)!r}, that of "
                    f"these images is {sealed.get(name)!r}",
                    "name the model that was trained on images sealed with these settings",
                )
        if self.stem == "learn" and key_id not in self.key_ids:
            raise CipherwardError(
                f"{self.path} was trained under another key: {', '.join(sorted(self.key_ids))}, and these images are "
                f"sealed under {key_id}",
                "name the model that was trained after the last rotation of the key, or train again",
            )
        if list(classes) not in (self.classes, [UNKNOWN_CLASS]):
            raise CipherwardError(
                f"the classes of {self.path} are not those of these images",
                "name the model that was trained for these classes",
            )


def read_belonging(path: Path) -> Belonging:
    """Read what a model file says of itself.

    Raises:
        CipherwardError: if there is no such file, if it is no model of ours, and if it is one of an earlier version,
            which does not say which keys it was trained under.
    """
    try:
        require_regular(path)
        with safe_open(str(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
        classes, stem = parse_json(metadata["classes"]), metadata["stem"]
    except FileNotFoundError:
        raise CipherwardError(f"no model at {path}", "name a study's cloud/model.safetensors") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CipherwardError(
            f"{path} is not a model of Cipherward: {type(error).__name__}",
            "name a study's cloud/model.safetensors",
        ) from None
    if not {"study", "spec", "key_ids"} <= metadata.keys():
        raise CipherwardError(
            f"{path} was saved by an earlier version, and does not say which key, scheme and study it belongs to",
            "train the model again with this version",
        )
    try:
        spec, key_ids = parse_json(metadata["spec"]), parse_json(metadata["key_ids"])
        if not isinstance(spec, dict) or not isinstance(key_ids, dict) or not isinstance(classes, list):
            raise TypeError
        int(metadata.get("round", "0"))
        texts = [*classes, *key_ids.values()]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
    except (TypeError, ValueError):
        raise CipherwardError(
            f"{path} is damaged: what it says of itself cannot be read", "fetch it again"
        ) from None
    ids = frozenset(key_ids.values()) - {""}
    return Belonging(path, metadata, metadata["study"], stem, classes, spec, ids)
