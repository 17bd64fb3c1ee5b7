"""One keystream for all images is found from a few of them, whether it is XORed or added."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.adversary.opened import RecoveredStream, open_images
from coordinator.adversary.textbook import keystream
from coordinator.adversary.textbook.keystream_search import opening_table, search_stream
from coordinator.adversary.time_budget import always
from crypto.arrays import Images
from tests.support.pictures import smooth
from tests.support.textbook_ciphers import added, likeness, noise, pool_of, xored

UNSEEN = 12


@pytest.mark.long
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("is_xor", "seen"), [(True, 10), (False, 40)])
def test_the_keystream_opens_images_that_were_not_in_the_pool(
    channels: int, is_xor: bool, seen: int
) -> None:
    plain = smooth(seen + UNSEEN, 24, 28, channels)
    pool = pool_of((xored if is_xor else added)(plain, 5))
    key = keystream.recover(pool, np.arange(seen), always)
    assert key is not None and isinstance(key, RecoveredStream) != is_xor
    assert not key.fits[0].is_poor and ("XORed" in key.fits[0].of) == is_xor
    opened = open_images(pool.spec, pool.sealed[seen:], key)
    assert likeness(opened, plain[seen:]) > 0.8
    assert likeness(pool.sealed[seen:], plain[seen:]) < 0.2


def test_more_images_give_most_of_an_xored_stream_exactly() -> None:
    plain = smooth(60, 24, 24)
    stream = xored(np.zeros((1, 24, 24, 1), np.uint8), 5)[0, ..., 0]
    found = search_stream((plain[..., 0] ^ stream).transpose(1, 2, 0), is_xor=True)
    wrong = found ^ stream
    assert max((wrong == 0).mean(), (wrong == 255).mean()) > 0.5


def test_what_was_added_is_found_up_to_what_the_images_share() -> None:
    plain = smooth(60, 24, 24)
    stream = added(np.zeros((1, 24, 24, 1), np.uint8), 5)[0, ..., 0]
    found = search_stream((plain[..., 0] + stream).transpose(1, 2, 0), is_xor=False)
    offset = (found - stream).astype(np.uint8)
    around = np.sort((offset - np.uint8(np.median(offset))).astype(np.int8).ravel().astype(int))
    assert around[len(around) // 10] > -25 and around[-len(around) // 10] < 25


def test_the_colours_of_an_xored_stream_have_one_sign() -> None:
    plain = smooth(20, 24, 24, 3, gray=2.0)
    pool = pool_of(xored(plain, 5))
    key = keystream.recover(pool, np.arange(20), always)
    assert key is not None
    opened = open_images(pool.spec, pool.sealed, key).astype(float)
    assert all(np.corrcoef(opened[..., 0].ravel(), opened[..., c].ravel())[0, 1] > 0.5 for c in (1, 2))


@pytest.mark.parametrize("images", [2, 6, 30])
def test_noise_fits_poorly_however_well_it_was_smoothed(images: int) -> None:
    key = keystream.recover(pool_of(noise((images, 16, 16, 1))), np.arange(images), always)
    assert key is not None and key.fits[0].is_poor


@pytest.mark.parametrize("sealed", [noise((1, 16, 16, 1)), smooth(10, 16, 16)])
def test_a_one_time_pad_and_pictures_as_they_are_have_no_keystream(sealed: Images) -> None:
    assert keystream.recover(pool_of(sealed), np.arange(len(sealed)), always) is None


@pytest.mark.parametrize("is_xor", [True, False])
def test_the_table_opens_what_the_stream_sealed(is_xor: bool) -> None:
    table, plain = opening_table(is_xor=is_xor), np.arange(256).astype(np.uint8)
    for stream in (0, 1, 200, 255):
        sealed = plain ^ np.uint8(stream) if is_xor else plain + np.uint8(stream)
        assert np.array_equal(table[stream, sealed], plain)


def test_without_time_a_stream_of_the_right_shape_comes_back() -> None:
    pool = pool_of(xored(smooth(8, 16, 16), 5))
    key = keystream.recover(pool, np.arange(8), lambda: False)
    assert key is not None and open_images(pool.spec, pool.sealed, key).shape == pool.sealed.shape


@pytest.mark.long
@pytest.mark.parametrize("seal", ["xor", "add"])
def test_a_smooth_stream_is_found_though_its_ciphertexts_look_smooth(seal: str) -> None:
    row, column = np.mgrid[:32, :32]
    cover = ((np.sin(column / 9.0) + np.cos(row / 7.0)) * 60 + 120).astype(np.uint8)[..., None]
    plain = smooth(72, 32, 32)
    pool = pool_of(plain ^ cover if seal == "xor" else plain + cover)
    key = keystream.recover(pool, np.arange(60), always)
    assert key is not None and not key.fits[0].is_poor
    opened, seen_as_it_is = open_images(pool.spec, pool.sealed[60:], key), pool.sealed[60:]
    assert likeness(opened, plain[60:]) > max(0.5, likeness(seen_as_it_is, plain[60:]))


def test_an_empty_plane_is_left_out_of_the_fit() -> None:
    plain = np.zeros((40, 24, 24, 3), np.uint8)
    plain[..., :1] = smooth(40, 24, 24)
    key = keystream.recover(pool_of(xored(plain, 5)), np.arange(40), always)
    assert key is not None and not key.fits[0].is_poor and "XORed" in key.fits[0].of


def test_few_images_that_a_stream_was_added_to_are_doubted() -> None:
    """Their difference is smooth, too."""
    key = keystream.recover(pool_of(added(smooth(4, 24, 24), 5)), np.arange(4), always)
    assert key is not None and ("added" not in key.fits[0].of or key.fits[0].is_poor)
