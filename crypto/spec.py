"""SchemeSpec: what everybody may know of a sealing, the adversary included. It never holds the key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from crypto.errors import CipherwardError, unknown

_Value = TypeVar("_Value")

KEY_SCOPES = ("consortium", "party", "image")
#: Longest side of an image in pixels. A spec comes from others: what is counted from it stays a number.
MAX_SIDE = 65_536


@dataclass(frozen=True)
class SchemeSpec:
    """A scheme with its public parameters.

    Attributes:
        name: Name of the scheme.
        version: Its version. A scheme whose output bytes change gets a new one.
        image_shape: (height, width, channels) of the plain uint8 images.
        block: Block side M in pixels.
        key_scope: `consortium` (all hospitals share the key), `party` (one each) or `image` (one an image).
        options: The scheme's options, and the nonce where every image has a key of its own.
    """

    name: str
    version: int
    image_shape: tuple[int, int, int]
    block: int
    key_scope: str = "consortium"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        h, w, c = (int(v) for v in self.image_shape)
        object.__setattr__(self, "image_shape", (h, w, c))
        object.__setattr__(self, "block", int(self.block))
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        if self.key_scope not in KEY_SCOPES:
            raise unknown("key scope", self.key_scope, KEY_SCOPES)
        if min(h, w, self.block) < 1 or c not in (1, 3):
            raise CipherwardError(
                f"images of shape {self.image_shape} with blocks of {self.block} cannot be sealed",
                "sides and blocks are at least 1 pixel; channels are 1 (gray) or 3 (RGB)",
            )
        if max(h, w, self.block) > MAX_SIDE:
            raise CipherwardError(
                f"images or blocks of more than {MAX_SIDE} pixels a side cannot be sealed",
                "choose a smaller image size",
            )
        if h % self.block or w % self.block:
            fitting = max(self.block, round(h / self.block) * self.block)
            raise CipherwardError(
                f"blocks of {self.block} do not divide an image of {h}×{w}",
                "choose a block that divides both sides, or an image size that is a multiple of "
                f"{self.block}, such as {fitting}",
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks down and across."""
        return self.image_shape[0] // self.block, self.image_shape[1] // self.block

    @property
    def blocks(self) -> int:
        """N, the number of blocks."""
        return self.grid[0] * self.grid[1]

    def to_json(self) -> dict[str, Any]:
        """Return the spec as a JSON object."""
        return {
            "name": self.name,
            "version": self.version,
            "image_shape": list(self.image_shape),
            "block": self.block,
            "key_scope": self.key_scope,
            "options": dict(self.options),
        }

    def canonical(self) -> str:
        """Return the one text of this spec: `to_json` with sorted keys, without spaces, in ASCII.

        Two specs that differ in any field have different texts. Keys are derived from it.
        """
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SchemeSpec:
        """Return the spec of a JSON object.

        Raises:
            CipherwardError: If the object is no spec, or names settings that do not go together.
        """
        try:
            height, width, channels = (_of_type(int, side) for side in value["image_shape"])
            return cls(
                name=_of_type(str, value["name"]),
                version=_of_type(int, value["version"]),
                image_shape=(height, width, channels),
                block=_of_type(int, value["block"]),
                key_scope=_of_type(str, value["key_scope"]),
                options=dict(value["options"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CipherwardError(
                f"not a scheme description: {error!r}",
                "restore the file that holds it from a copy, or make it again",
            ) from None


def _of_type(kind: type[_Value], value: object) -> _Value:
    """Return a value of JSON; raise TypeError if it is of another type: a cast would read another scheme from it."""
    if type(value) is not kind:
        raise TypeError(f"{value!r:.60} is no {kind.__name__}")
    return value


def spec_without_nonce(spec: SchemeSpec) -> dict[str, Any]:
    """Return a scheme's description as JSON, without the nonce, which every sealing draws anew."""
    value = spec.to_json()
    value["options"] = {k: v for k, v in value["options"].items() if k != "nonce"}
    return value


def log2_factorial(n: int) -> float:
    """Return log2(n!), the bits of a uniform permutation of n things."""
    # scipy.special takes a quarter of a second to load, and most commands count no key space.
    from scipy.special import gammaln

    return float(gammaln(float(n) + 1) / math.log(2))
