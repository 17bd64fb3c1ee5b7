"""Pretrained weights from timm's hub, fetched once into a file that plans name: all that asks the internet."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub.constants import ENDPOINT
from safetensors.torch import save

from coordinator.model.torchvision_fix import timm
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_bytes


def fetch_weights(name: str, path: Path) -> str:
    """Writes the pretrained weights of timm's model `name` as safetensors, in timm's names; returns its hex SHA-256.

    name: a model, or a model and a tag: vit_tiny_patch16_224.augreg_in21k_ft_in1k. Raises CipherwardError for a
    model that timm does not know or has no weights for, where its hub cannot be reached, and where `path` exists.
    """
    if path.exists():
        raise CipherwardError(f"{path} is there already", "name another file, or remove it")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_pretrained(), 5)
        raise CipherwardError(
            f"timm knows no model {name!r}", f"near it: {', '.join(near)}" if near else ""
        )
    if not timm.models.is_model_pretrained(name):
        raise CipherwardError(f"timm has no pretrained weights for {name}", "name a model that has a tag")
    try:
        _reach(ENDPOINT)
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the hub's client, or the network under it, raises
        line = (str(error).splitlines() or [""])[0][:200]
        raise CipherwardError(
            f"cannot fetch {name} from timm's hub: {type(error).__name__}: {line}",
            "fetch it where there is a network, and copy the file",
        ) from None
    data = save(
        {k: v.detach().contiguous() for k, v in model.state_dict().items()}, metadata={"model": name}
    )
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def _reach(address: str) -> None:
    """Raises OSError at once where there is no network: the hub's client would try for two minutes first."""
    with contextlib.suppress(urllib.error.HTTPError):  # somebody is there
        urllib.request.urlopen(address, timeout=15).close()
