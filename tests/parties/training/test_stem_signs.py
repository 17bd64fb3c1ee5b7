"""Why a stem that AdamW trained under `orthogonal` must not be carried back and sent, and that plans refuse it.

AdamW steps by signs: in the key's coordinates, each step of a weight is plus or minus the rate. Carried back by the
matrix M, a step D of the stem is no longer of one size, but D·M is, and columns of M can be hunted for by that alone.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordinator.model.shares import travelling
from coordinator.model.training import PlainImages, train_locally
from coordinator.model.vit import build_model, in_stem, pack
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load
from parties.training.stem import carry, carry_back, coordinates
from tests.support.hospitals import CLASSES, SMALL, federate, hospitals, plan

BLOCK, WIDTH = 4, 96


def steps_seen(optimizer: str, key: SecretKey, rounds: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """(the stem's steps as a hospital would send them, in plain coordinates, [rounds·D, V]; the matrix [V, V])."""
    args = {"patch_size": BLOCK, "embed_dim": WIDTH, "depth": 1, "num_heads": 3}
    settings = {
        "scheme": "orthogonal",
        "block": BLOCK,
        "model_args": args,
        "stem": "plain",
        "batch": 16,
        "lr": 1e-3,
    }
    p = plan(**settings, rounds=rounds, weight_decay=0.0).model_copy(update={"optimizer": optimizer})
    spec = p.describe()
    where = coordinates(spec, key)
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 1), dtype=np.uint8)
    sealed = PlainImages(np.asarray(load(spec).cipher(key).encrypt(images)), np.arange(16) % CLASSES)
    model, steps = build_model(p, CLASSES), []
    torch.set_num_threads(1)
    for round_ in range(1, rounds + 1):
        before = model.patch_embed.proj.weight.detach().clone()
        carry(model, where)
        train_locally(model, sealed, p, round_, "hospital-0")
        carry_back(model, where)
        step = (model.patch_embed.proj.weight.detach() - before).reshape(WIDTH, -1)
        steps.append((step / step.std()).double().numpy())
    assert where.matrix is not None
    return np.concatenate(steps), where.matrix.astype(np.float64)


def columns_hunted(steps: np.ndarray, starts: int = 400) -> np.ndarray:
    """[found, V]: directions m in which |steps·m| is one number, from random starts; no key is asked."""
    random, inverse, found = np.random.default_rng(1), np.linalg.pinv(steps), []
    for _ in range(starts):
        m, signs = random.standard_normal(steps.shape[1]), None
        for _ in range(60):
            now = np.sign(steps @ m)
            if signs is not None and (now == signs).all():
                break
            signs, m = now, inverse @ now
        size = np.abs(steps @ m)
        m /= np.linalg.norm(m)
        if size.std() < 0.02 * size.mean() and not any(abs(f @ m) > 0.99 for f in found):
            found.append(m)
    return np.array(found).reshape(-1, steps.shape[1])


def test_steps_by_signs_show_the_matrix_and_gradients_do_not(key):
    steps, matrix = steps_seen("adamw", key)
    found = columns_hunted(steps)
    assert len(found) == BLOCK**2 and np.abs(found @ matrix).max(1).min() > 0.9999
    assert len(columns_hunted(steps_seen("sgd", key)[0], starts=100)) == 0


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {"precision": "bfloat16"}])
def test_a_plan_refuses_to_send_what_stepped_by_signs(changes):
    with pytest.raises(CipherwardError, match="stem plain with orthogonal goes with optimizer sgd") as said:
        plan(scheme="orthogonal", stem="plain", **changes)
    assert "set optimizer to sgd, stem to private" in said.value.hint
    for other in ({"stem": "private"}, {"stem_frozen": True}, {"scheme": "value_shuffle"}):
        assert plan(**{"scheme": "orthogonal", "stem": "plain", **changes, **other})


def test_a_frozen_stem_that_travels_comes_back_to_the_bit(tmp_path):
    """Carried there and back by a matrix, it would be rounded in a way that depends on the key."""
    p = plan(scheme="orthogonal", stem="plain", stem_frozen=True, wire="bfloat16", rounds=1)
    places, came = hospitals(tmp_path, p), []

    def see(node, reply):
        if "arrays" in reply.content:
            came.append(reply.content["arrays"]["model"].numpy().copy())
        return reply

    federate(places, p, tmp_path / "cloud", see)
    model = build_model(p, CLASSES)
    names = travelling(model, p)
    in_it = np.concatenate([np.full(model.state_dict()[n].numel(), in_stem(n)) for n in names])
    assert len(came) == 2 and len(in_it) == len(pack(model, names)) == len(came[0])
    for words in came:  # differences, in bfloat16
        assert not words[in_it].any() and words[~in_it].any()
    assert model.patch_embed.proj.weight.shape[-1] == SMALL["patch_size"]
