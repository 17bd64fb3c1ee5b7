"""The result of a finished training: cloud/training.json, as every reader of it reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crypto.errors import CipherwardError
from crypto.files import read_json

#: Its name in a study's cloud folder. It is written last: a training that has one is finished.
TRAINING = "training.json"
_RESTORE = (
    "restore it from a copy; or remove it and run the same command again: the training goes on from its "
    "checkpoint"
)


def read_training(cloud: Path) -> dict[str, Any]:
    """Return what a finished training left in a study's cloud folder.

    Raises:
        CipherwardError: If there is no finished training, or its file is damaged.
    """
    path = cloud / TRAINING
    value = read_json(path, "finished training", remedy=_RESTORE)
    if not isinstance(value, dict):
        raise CipherwardError(f"the finished training {path} is damaged: it is no JSON object", _RESTORE)
    return value
