"""Networks for keys of each image: what they read is what the scheme leaves, whatever the key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.image_keys import DATA, ROWS, plan_of
from coordinator.model.model_input import to_model_input
from coordinator.model.order_free import HistogramMLP, OrderFreeViT, block_statistics
from coordinator.model.vit import build_model
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load

SEALED = [name for name in ROWS if not name.startswith(("plain", "histogram", "noise"))]


def pictures(shape: tuple[int, int, int] = (16, 16, 3)) -> Any:
    return np.random.default_rng(5).integers(0, 256, (6, *shape), np.uint8)


def logits(model: torch.nn.Module, images: Any) -> Any:
    with torch.inference_mode():
        return model.double().eval()(to_model_input(images).double())


def network(name: str, shape: tuple[int, int, int]) -> OrderFreeViT:
    torch.manual_seed(0)
    row: Any = ROWS[name]
    return OrderFreeViT(3, shape[2], shape[:2], 4, row.statistic, row.positions, 32, 2, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SEALED)
def test_answers_do_not_depend_on_the_key(name: str, channels: int) -> None:
    shape = (16, 16, channels)
    scheme = load(describe(ROWS[name].scheme, shape, 4, "image", {}))
    images = pictures(shape)
    sealed = [scheme.cipher(SecretKey.generate()).encrypt(images, first) for first in (0, 100)]
    assert not np.array_equal(*sealed)
    first, second = (logits(network(name, shape), part) for part in sealed)
    # float32 rounds v/127.5 - 1, and the ciphertexts of `orthogonal` more.
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-4 if name == "orthogonal" else 1e-6)
    assert np.ptp(np.asarray(first), axis=0).min() > 1e-3  # images do differ


@pytest.mark.parametrize("name", [name for name in SEALED if name != "orthogonal"])
def test_the_plain_network_does_depend_on_it(name: str) -> None:
    shape = (16, 16, 1)
    scheme = load(describe(ROWS[name].scheme, shape, 4, "image", {}))
    first, second = (scheme.cipher(SecretKey.generate()).encrypt(pictures(shape), row) for row in (0, 100))
    model = network("plain", shape)
    assert np.abs(np.asarray(logits(model, first) - logits(model, second))).max() > 1e-3


def test_statistics_of_a_known_block() -> None:
    # One block of one channel: gray levels 0, 16, 200, 255.
    block = (torch.tensor([[[[0.0, 200.0, 255.0, 16.0]]]]) / 127.5 - 1).double()
    levels = {
        name: [round(float(v), 3) for v in block_statistics(block, name)[0, 0]]
        for name in ("values", "sorted", "signed", "folded", "absolute")
    }
    assert levels["values"] == [-1, 0.569, 1, -0.875]
    assert levels["sorted"] == [-1, -0.875, 0.569, 1]
    assert levels["signed"] == [-1, -0.569, 0.875, 1]  # they sum to less than 0
    assert levels["folded"] == [0.569, 0.875, 1, 1]
    assert levels["absolute"] == [1, 0.569, 1, 0.875]
    nibbles = 7.5 * block_statistics(block, "nibbles")[0, 0]  # 0x00, 0x10, 0xc8, 0xff
    torch.testing.assert_close(
        nibbles, torch.tensor([0.5, 4.5, 6.5, 7.5, 7.5, 7.5, 7.5, 7.5]).double(), rtol=0, atol=1e-6
    )
    assert block_statistics(block, "gram").item() == pytest.approx(
        (1 + 0.569**2 + 1 + 0.875**2) / 4, abs=1e-3
    )


def test_histogram_reads_no_places() -> None:
    torch.manual_seed(0)
    model, images = HistogramMLP(3, 3, 16), pictures()
    turned = np.ascontiguousarray(np.rot90(images, axes=(1, 2)))
    torch.testing.assert_close(logits(model, images), logits(model, turned))
    assert not torch.allclose(logits(model, images), logits(model, 255 - images // 2))


@pytest.mark.parametrize(
    ("settings", "words"), [({"statistic": "sums"}, "sums"), ({"patch_size": 5}, "blocks of 5")]
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(CipherwardError, match=words):
        OrderFreeViT(2, 1, 16, **settings)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", ROWS)
def test_every_cell_has_a_plan_whose_network_builds(name: str, data: str) -> None:
    model = build_model(plan_of(data, name, 0), 2)
    assert sum(p.numel() for p in model.parameters()) > 1000
