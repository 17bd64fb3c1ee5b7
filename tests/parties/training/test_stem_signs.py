"""A stem that AdamW trained under `orthogonal` reveals the key's matrix if it is carried back and sent.

Plans refuse that combination. AdamW steps by signs: in the key's coordinates, each step of a weight is plus or minus
the learning rate. Carried back by the matrix M, a step D of the stem has entries of different sizes. D·M has entries
of one size, and this is enough to search for the columns of M.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message

from coordinator.model.shares import in_stem, shared_names
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, pack
from crypto.arrays import AnyArray, Float64Array
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load
from parties.training.stem import carry, carry_back, key_coordinates
from tests.support.hospitals import CLASSES, SMALL, federate, plan, seal_hospitals

BLOCK, WIDTH = 4, 96


def observe_steps(optimizer: str, key: SecretKey, rounds: int = 12) -> tuple[Float64Array, Float64Array]:
    """Return the stem's steps as a hospital would send them, [rounds·D, V], and the key's matrix, [V, V]."""
    args = {"patch_size": BLOCK, "embed_dim": WIDTH, "depth": 1, "num_heads": 3}
    settings: dict[str, Any] = {
        "scheme": "orthogonal",
        "block": BLOCK,
        "model_args": args,
        "stem": "plain",
        "batch": 16,
        "lr": 1e-3,
    }
    p = plan(**settings, rounds=rounds, weight_decay=0.0).model_copy(update={"optimizer": optimizer})
    spec = p.describe()
    coordinates = key_coordinates(spec, key)
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 1), dtype=np.uint8)
    sealed = PlainImages(np.asarray(load(spec).cipher(key).encrypt(images)), np.arange(16) % CLASSES)
    model: Any = build_model(p, CLASSES)
    steps = []
    torch.set_num_threads(1)
    for round_ in range(1, rounds + 1):
        before = model.patch_embed.proj.weight.detach().clone()
        carry(model, coordinates)
        train_locally(model, sealed, p, round_, "hospital-0")
        carry_back(model, coordinates)
        step = (model.patch_embed.proj.weight.detach() - before).reshape(WIDTH, -1)
        steps.append((step / step.std()).double().numpy())
    assert coordinates.matrix is not None
    return np.concatenate(steps), coordinates.matrix.astype(np.float64)


def search_columns(steps: Float64Array, starts: int = 400) -> Float64Array:
    """Search from random starts, without the key, for directions m in which all |steps·m| are equal, [found, V]."""
    random, inverse = np.random.default_rng(1), np.linalg.pinv(steps)
    columns: list[Float64Array] = []
    for _ in range(starts):
        m: AnyArray = random.standard_normal((steps.shape[1],))
        signs: AnyArray | None = None
        for _ in range(60):
            new_signs = np.sign(steps @ m)
            if signs is not None and (new_signs == signs).all():
                break
            signs, m = new_signs, inverse @ new_signs
        sizes = np.abs(steps @ m)
        m /= np.linalg.norm(m)
        # The key's columns had .0003 to .0235 on two kinds of processors, other directions .5 and more.
        if sizes.std() < 0.05 * sizes.mean() and not any(abs(c @ m) > 0.99 for c in columns):
            columns.append(m)
    return np.array(columns).reshape(-1, steps.shape[1])


def test_steps_of_adamw_reveal_the_matrix_and_steps_of_sgd_do_not(key: SecretKey) -> None:
    steps, matrix = observe_steps("adamw", key)
    columns = search_columns(steps)
    assert len(columns) == BLOCK**2 and np.abs(columns @ matrix).max(1).min() > 0.9999
    assert len(search_columns(observe_steps("sgd", key)[0], starts=100)) == 0


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {"precision": "bfloat16"}])
def test_a_plan_refuses_to_send_a_stem_that_stepped_by_signs(changes: dict[str, Any]) -> None:
    with pytest.raises(
        CipherwardError, match="stem plain with orthogonal goes with optimizer sgd"
    ) as error:
        plan(scheme="orthogonal", stem="plain", **changes)
    assert "set optimizer to sgd, stem to private" in error.value.hint
    others: list[dict[str, Any]]
    others = [{"stem": "private"}, {"stem_frozen": True}, {"scheme": "value_shuffle"}]
    for other in others:
        assert plan(**{"scheme": "orthogonal", "stem": "plain", **changes, **other})


def test_a_frozen_stem_that_is_sent_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Carrying it there and back by a matrix would round it in a way that depends on the key."""
    p = plan(scheme="orthogonal", stem="plain", stem_frozen=True, wire="bfloat16", rounds=1)
    places = seal_hospitals(tmp_path, p)
    received: list[AnyArray] = []

    def record(node: int, reply: Message) -> Message:
        if "arrays" in reply.content:
            received.append(reply.content["arrays"]["model"].numpy().copy())
        return reply

    federate(places, p, tmp_path / "cloud", record)
    model: Any = build_model(p, CLASSES)
    names = shared_names(model, p)
    is_stem = np.concatenate([np.full(model.state_dict()[n].numel(), in_stem(n)) for n in names])
    assert len(received) == 2 and len(is_stem) == len(pack(model, names)) == len(received[0])
    for words in received:  # differences, in bfloat16
        assert not words[is_stem].any() and words[~is_stem].any()
    assert model.patch_embed.proj.weight.shape[-1] == SMALL["patch_size"]
