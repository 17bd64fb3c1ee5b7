"""Secure aggregation on the wire: which messages a round has, and what stands in their records.

    train          ▶ the model and the name of the attempt      ◀ signed round keys; the update stays in the hospital
    query.shares   ▶ the round keys of all                      ◀ encrypted shares for the others
    query.masked   ▶ the shares for this hospital               ◀ the masked vector
    query.confirm  ▶ whose vectors are counted                  ◀ a signature
    query.reveal   ▶ the signatures                             ◀ shares that unmask the sum

A masked vector is the encoded update and two figures, so that no figure of one hospital is seen alone: its loss, and
the share of its values that were clipped. The protocol itself is crypto/secure_sum/.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from coordinator.exchange.manifest import StudyManifest
from coordinator.exchange.privacy import Privacy
from crypto.arrays import AnyArray, Float32Array, Float64Array, UInt32Array
from crypto.errors import CipherwardError
from crypto.files import parse_json
from crypto.secure_sum.fixed_point import FixedPoint
from crypto.secure_sum.transcript import Rules

#: Name of the record, and of its one text, in every message of the protocol.
RECORD, TEXT = "sum", "json"
#: Settings of a training message that name an attempt.
ATTEMPT = "attempt"
#: A loss is divided by this before it is summed; a larger one counts as this.
_LARGEST_LOSS = 64.0
_FIGURES = 2
#: The longest text of one record: the shares of 1,000 hospitals have a sixth of it.
_MAX_TEXT = 1 << 20


@dataclass(frozen=True)
class SumSettings:
    """What both sides need to know of a study. A hospital takes it from the manifest and the policy that it accepted.

    Attributes:
        study: hex digest of the study manifest.
        rules: the roster, and the least number of summands.
        images: training images by hospital, as the manifest states them.
        clip: the largest magnitude of one value of an update.
    """

    study: str
    rules: Rules
    images: Mapping[str, int]
    clip: float

    @classmethod
    def of(cls, manifest: StudyManifest, privacy: Privacy) -> SumSettings:
        """Return the settings that a manifest and a plan's or policy's privacy block give.

        Raises:
            CipherwardError: if the hospitals are too few.
        """
        images = {name: entry.sets.of("train").images for name, entry in manifest.statements.items()}
        return cls(
            manifest.digest,
            Rules(manifest.roster, privacy.least_sum(len(manifest.roster))),
            images,
            privacy.sum_clip,
        )

    @property
    def point(self) -> FixedPoint:
        """The fixed point of all rounds."""
        return FixedPoint(self.clip, len(self.rules.roster))

    @property
    def weights(self) -> dict[str, float]:
        """Each hospital's weight in the mean: its images relative to the most."""
        most = max(self.images.values())
        return {name: count / most for name, count in self.images.items()}


def settings_text(config: Mapping[str, object]) -> str:
    """Return all settings of a training message as one text, but for the name of the attempt."""
    return json.dumps({name: value for name, value in config.items() if name != ATTEMPT}, sort_keys=True)


def model_digest(words: AnyArray, settings: str) -> str:
    """Return the hex SHA-256 of what all members are sent: the model as it travels, and the settings.

    The members sign it. A cloud that sends one of them another model, plan or setting gets no sum.

    Args:
        words: the model: its type, shape and bytes count.
        settings: as `settings_text` returns them.
    """
    about = f"{words.dtype.str} {words.shape} {settings}\0".encode()
    return hashlib.sha256(about + np.ascontiguousarray(words).tobytes()).hexdigest()


def vector_length(parameters: int) -> int:
    """Return the length of a masked vector."""
    return parameters + _FIGURES


def encode_update(
    update: Float32Array, loss: float, weight: float, point: FixedPoint
) -> tuple[UInt32Array, int]:
    """Return the vector that is masked, uint32 [parameters + 2], and how many values of the update were clipped.

    Args:
        update: trained minus received weights, float32 [parameters].
        loss: the mean training loss.
        weight: the hospital's weight in the mean, above 0 and at most 1.
        point: the fixed point.

    Raises:
        CipherwardError: if a value is not finite.
    """
    words, saturated = point.encode(update, weight)
    figures = np.array([min(loss, _LARGEST_LOSS) / _LARGEST_LOSS, saturated / max(1, len(update))])
    return np.concatenate([words, point.encode(figures * point.clip, weight)[0]]), saturated


def decode_mean(
    total: UInt32Array, weight_sum: float, point: FixedPoint
) -> tuple[Float64Array, float, float]:
    """Return the mean update, float64 [parameters], the mean loss and the mean share of clipped values of a sum."""
    mean = point.decode(total, weight_sum)
    loss, saturated = mean[-_FIGURES:] / point.clip
    return mean[:-_FIGURES], float(loss) * _LARGEST_LOSS, float(max(0.0, saturated))


def write_record(value: Mapping[str, Any]) -> ConfigRecord:
    """Return a record that holds JSON values, with bytes as base64."""

    def encode(item: object) -> str:
        if isinstance(item, bytes):
            return base64.b64encode(item).decode()
        raise TypeError(f"{type(item).__name__} is not sent")

    return ConfigRecord({TEXT: json.dumps(value, default=encode)})


def read_record(content: RecordDict, fields: frozenset[str]) -> dict[str, Any]:
    """Return the JSON values of a message from the other side.

    Args:
        content: the message's content.
        fields: the names that it must have, and no others.

    Raises:
        CipherwardError: if it is malformed.
    """
    try:
        text = content.config_records[RECORD][TEXT]
        if not isinstance(text, str) or len(text) > _MAX_TEXT:
            raise TypeError
        value = parse_json(text)
        if not isinstance(value, dict) or value.keys() != fields:
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CipherwardError("a message of secure aggregation is malformed", "") from None
    return value


def read_bytes_map(value: object, length: int | None = None) -> dict[str, bytes]:
    """Return bytes by hospital from their base64.

    Args:
        value: what JSON gave.
        length: the length of each, if it is known.

    Raises:
        CipherwardError: if it is malformed.
    """
    try:
        if not isinstance(value, dict):
            raise TypeError
        parts = {str(name): base64.b64decode(text, validate=True) for name, text in value.items()}
        if length is not None and any(len(part) != length for part in parts.values()):
            raise ValueError
    except (TypeError, ValueError):
        raise CipherwardError("a message of secure aggregation is malformed", "") from None
    return parts
