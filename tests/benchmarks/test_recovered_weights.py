"""Weights carried by a recovered key read ciphertext as the public ones read plain images, or in part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.recovered_weights import Carried, write_recovered_weights
from coordinator.exchange.plan import Plan
from coordinator.model.model_input import to_model_input
from coordinator.model.vit import build_model, create_model
from crypto.key import SecretKey
from crypto.scheme import load
from tests.support.local_training import SMALL
from tests.support.pictures import smooth

IMAGES = 100


def public_plan(folder: Path) -> Plan:
    """Return a plan whose weights file was made for colour images, as timm's are."""
    settings = {"num_classes": 1000, "in_chans": 3, "img_size": 64, **SMALL}
    torch.manual_seed(4)
    model = create_model("vit_tiny_patch16_224", settings)
    save_file(model.state_dict(), folder / "public.safetensors")
    args: dict[str, bool | int | float | str] = {**SMALL}
    return Plan(
        study="s",
        counts=(9, 9, 9),
        image_size=64,
        block=8,
        model_args=args,
        weights=str(folder / "public.safetensors"),
    )


@pytest.mark.parametrize("carried", ["key", "places", "pixels"])
def test_the_carried_stem_reads_what_was_sealed(tmp_path: Path, carried: Carried) -> None:
    plan, path = public_plan(tmp_path), tmp_path / "carried.safetensors"
    plain = smooth(IMAGES, 64, 64)
    key = SecretKey(bytes(range(32)))
    sealed = load(plan.describe()).cipher(key).encrypt(plain)
    figures = write_recovered_weights(plan, sealed, key, carried, path)
    assert (figures["images"], figures["carried"]) == (IMAGES, carried)
    assert figures["blocks"] == figures["pixels"] == 1.0
    before, after = load_file(plan.weights), load_file(path)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert before.keys() - after.keys() == {"head.weight", "head.bias"}
    stem = {"places": {"pos_embed"}, "pixels": {"patch_embed.proj.weight"}}
    assert moved == stem.get(carried, {"pos_embed", "patch_embed.proj.weight"})
    public, own = (
        build_model(plan.model_copy(update={"weights": str(file)}), 4, plain=True).eval()
        for file in (plan.weights, path)
    )
    with torch.inference_mode():
        difference = public(to_model_input(plain[:8])) - own(to_model_input(sealed[:8]))
    assert (float(difference.abs().max()) < 1e-4) == (carried == "key")
