"""Pretrained weights from timm's hub, downloaded once into a file that plans name.

Nothing else in the project uses the internet.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.constants import ENDPOINT

from coordinator.model.load_weights import load_weights
from coordinator.model.torchvision_fix import timm
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_bytes
from crypto.tensor_file import torch_tensor_bytes


def fetch_weights(name: str, path: Path, log: Callable[[str], None] = lambda _: None) -> str:
    """Download the pretrained weights of one of timm's models into a safetensors file, under timm's weight names.

    Args:
        name: a model, or a model and a tag: vit_tiny_patch16_224.augreg_in21k_ft_in1k.
        path: the file to write. Its folder is created.
        log: gets the line that says that every tensor of the encoder is read back from the file.

    Returns:
        The hex SHA-256 of the file.

    Raises:
        CipherwardError: if timm does not know the model or has no weights for it, if timm's hub cannot be reached,
            and if `path` exists.
    """
    if path.exists():
        raise CipherwardError(f"{path} already exists", "name another file, or remove it")
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_pretrained(), 5)
        raise CipherwardError(
            f"timm knows no model {name!r}", f"similar names: {', '.join(similar)}" if similar else ""
        )
    if not timm.models.is_model_pretrained(name):
        raise CipherwardError(f"timm has no pretrained weights for {name}", "name a model that has a tag")
    try:
        _require_reachable(ENDPOINT)
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the hub's client, or the network below it, raises
        line = (str(error).splitlines() or [""])[0][:200]
        raise CipherwardError(
            f"cannot fetch {name} from timm's hub: {type(error).__name__}: {line}",
            "fetch it on a machine with a network, and copy the file",
        ) from None
    data = torch_tensor_bytes(model.state_dict(), {"model": name})
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    log(load_weights(model, name, path).summary)
    return hashlib.sha256(data).hexdigest()


def _require_reachable(address: str) -> None:
    """Raise OSError at once if there is no network. The hub's client alone would retry for two minutes."""
    with contextlib.suppress(urllib.error.HTTPError):  # an HTTP error is an answer
        urllib.request.urlopen(address, timeout=15).close()
