"""Sub-block EtC: what a pool gives away, also after JPEG, and what it does not."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image

from coordinator.adversary.contract import Recovered
from coordinator.adversary.recover.sub_block_etc import recover
from coordinator.adversary.time_budget import TimeLeft, always
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.kernels.executors import apply
from crypto.scheme import describe, load
from tests.support.pictures import opened, recovered, sealed_pool, share, smooth


def run(pool: MemoryPool, time_left: TimeLeft = always) -> Recovered:
    return recovered(recover, pool, len(pool), time_left)


def compressed(images: Images, quality: int) -> Images:
    """Return images as JPEG stores them, without subsampling of colours."""
    decoded = []
    for image in images:
        file = io.BytesIO()
        picture = Image.fromarray(image if image.shape[2] == 3 else image[..., 0])
        picture.save(file, "JPEG", quality=quality, subsampling=0)
        decoded.append(np.asarray(Image.open(file)).reshape(image.shape))
    return np.stack(decoded)


@pytest.mark.parametrize(
    ("n", "height", "width", "channels", "block", "sub_block"),
    [
        (2, 96, 96, 3, 16, 8),
        (4, 64, 64, 1, 16, 4),
        (4, 96, 64, 3, 16, 4),
        (4, 48, 80, 1, 8, 4),
        (3, 64, 64, 3, 8, 8),
    ],
)
def test_the_key_is_recovered_up_to_the_orbit(
    n: int, height: int, width: int, channels: int, block: int, sub_block: int
) -> None:
    plain = smooth(n, height, width, channels, seed=2)
    pool, truth = sealed_pool("sub_block_etc", plain, block, sub_block=sub_block)
    key = run(pool)
    assert share(opened(pool, key), plain, signs=True) == 1.0
    assert key.notes == () and set(key.parts) == set(truth)
    assert all(key.parts[name].shape == truth[name].shape for name in truth)
    assert not any(fit.is_poor for fit in key.fits) and len(key.fits) == 2 - (block == sub_block)
    # The parts are the scheme's own: they seal what the table opens.
    algorithm = load(pool.spec).algorithm
    assert (algorithm.cipher(key.parts).encrypt(apply(key.table, pool.sealed)) == pool.sealed).all()


def test_the_key_of_a_jpeg_is_the_key() -> None:
    plain = smooth(4, 96, 96, 3, seed=5)
    pool, _ = sealed_pool("sub_block_etc", plain, 16, sub_block=8)
    stored = MemoryPool(pool.spec, compressed(pool.sealed, 70))
    assert (stored.sealed != pool.sealed).mean() > 0.1
    assert share(opened(pool, run(stored)), plain, signs=True) == 1.0


def test_noise_has_no_key() -> None:
    spec = describe("sub_block_etc", (64, 64, 1), 16, options={"sub_block": 8})
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 1), dtype=np.uint8)
    fits: Mapping[str, float] = {fit.of: fit.value for fit in run(MemoryPool(spec, noise)).fits}
    plain = smooth(3, 64, 64, 1, seed=2)
    pool, _ = sealed_pool("sub_block_etc", plain, 16, sub_block=8)
    of_pictures = {fit.of: fit.value for fit in run(pool).fits}
    name = "of main blocks"
    assert [v for k, v in fits.items() if name in k] < [v for k, v in of_pictures.items() if name in k]


def test_constant_images_identify_nothing() -> None:
    spec = describe("sub_block_etc", (32, 32, 3), 16)
    pool = MemoryPool(spec, np.full((3, 32, 32, 3), 9, np.uint8))
    assert recover(pool, np.arange(3), always) is None


def test_out_of_time_it_returns_what_it_has() -> None:
    pool, _ = sealed_pool("sub_block_etc", smooth(2, 64, 64, 3, seed=2), 16)
    key = run(pool, lambda: False)
    assert key.notes == ("truncated: out of time",) and sorted(key.parts["K5"].tolist()) == list(range(16))


def test_sub_blocks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(CipherwardError, match="sub-blocks of 8 do not divide main blocks of 12"):
        describe("sub_block_etc", (24, 24, 3), 12, options={"sub_block": 8})
