"""What scores say beside K, R and V: links, classes, assembled blocks, deranged guesses; textbook versions."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from skimage.measure import block_reduce

from coordinator.exchange.audit.rates import LinkableRate
from coordinator.exchange.audit.scores import Grid
from crypto.arrays import AnyArray, Images, Int64Array, Parts
from crypto.cipher import Cipher
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, kept_by, load
from crypto.symmetry import Move, Orbit
from parties.scoring.figures import compute_figures
from parties.scoring.key_share import assembled_grid, grid_measures
from parties.scoring.measures import nearest_class, thumbnails
from parties.scoring.truth import Truth, baseline_ssims, classified_rate, linkable_rate
from tests.support.pictures import smooth
from tests.support.truth import KEY, make_truth

# ---- links ------------------------------------------------------------------------------------------------------


def textbook(truth: Truth, fold: bool) -> list[set[int]]:
    """Return the gallery images with the values of each odd ciphertext, counted one by one."""

    def values(image: Images) -> Counter[int]:
        return Counter(min(int(v), 255 - int(v)) if fold else int(v) for v in image.ravel())

    known = [values(image) for image in truth.gallery]
    return [{k for k, v in enumerate(known) if v == values(truth.sealed[i])} for i in truth.odd]


def links(truth: Truth) -> LinkableRate:
    """Return how many ciphertexts name their image, of a truth that has a gallery."""
    rate = linkable_rate(truth)
    assert rate is not None
    return rate


@pytest.mark.parametrize(("name", "fold"), [("value_shuffle", False), ("permuted", False), ("pe", True)])
@pytest.mark.parametrize("levels", [2, 3, 256])  # few levels: many images with equal histograms
def test_links_are_the_textbook_s(name: str, fold: bool, levels: int) -> None:
    images = np.random.default_rng(levels).integers(0, levels, (60, 8, 8, 1), np.uint8)
    truth = make_truth(images[:40], images[40:], name)
    fits = textbook(truth, fold)
    rate = links(truth)
    assert rate.n == 20 and rate.gallery == 60 and rate.unmatched == 0
    assert rate.hits == sum(len(f) == 1 for f in fits)
    assert rate.ambiguous == sum(len(f) > 1 for f in fits)
    assert (rate.hits == 20) == (levels == 256) and rate.low <= rate.rate <= rate.high


@pytest.mark.parametrize("name", sorted(name for name in SCHEMES if kept_by(name) and name != "noise"))
@pytest.mark.parametrize("scope", ["consortium", "image"])
def test_every_scheme_but_noise_names_its_images_under_any_key(name: str, scope: str) -> None:
    images = smooth(40, 32, 32, 3, gray=0.3)
    rate = links(make_truth(images[:20], images[20:], name, scope))
    assert rate.n == 10 and rate.gallery == 40
    # Under noise the lengths of blocks fit further images too.
    found = rate.hits + rate.ambiguous if name in ("noisy_orthogonal", "block_projection") else rate.hits
    assert found == 10


def test_noise_wrong_rows_and_copies_are_no_links() -> None:
    images = smooth(40, 32, 32)
    rate = links(make_truth(images[:20], images[20:], "noise"))
    assert (rate.hits, rate.ambiguous, rate.unmatched) == (0, 0, 10)
    wrong = make_truth(images[:20], images[20:])
    wrong.sealed[:] = np.roll(wrong.sealed, 1, axis=0)  # each names an image, which is not its own
    assert links(wrong).unmatched == 10
    copies = links(make_truth(images[:20], np.concatenate([images[20:], images[1:4:2]])))
    assert (copies.hits, copies.ambiguous, copies.unmatched) == (8, 2, 0)


def test_what_is_kept_is_worded() -> None:
    assert kept_by("le") != kept_by("pe") != kept_by("block_pixel_shuffle") == "the histogram"
    assert kept_by("etc") == kept_by("block_pixel")


# ---- the class of a guess -----------------------------------------------------------------------------------------


def test_the_nearest_class_is_the_textbook_s() -> None:
    pictures, plains = smooth(9, 128, 128, 3, seed=1), smooth(30, 128, 128, 3, seed=2)
    labels = np.random.default_rng(0).integers(0, 3, 30)
    expected = []
    for i, picture in enumerate(pictures):
        fits = []
        for k, plain in enumerate(plains):
            small = [
                np.rint(block_reduce(im.mean(2).astype(np.uint8), (2, 2), np.mean) + 1e-9).ravel()
                for im in (picture, plain)
            ]
            fits.append(-2.0 if k == i + 3 else np.corrcoef(*small)[0, 1])
        expected.append(labels[int(np.argmax(fits))])
    found = nearest_class(pictures, thumbnails(plains), labels, np.arange(9) + 3)
    assert found.tolist() == expected


def test_classes_best_worst_and_random() -> None:
    kinds = smooth(4, 32, 32, seed=5).astype(int)
    labels = np.tile(np.arange(4), 50)
    wobble = np.random.default_rng(1).integers(-20, 20, (200, 32, 32, 1))
    images = np.clip(kinds[labels] + wobble, 0, 255).astype(np.uint8)
    truth = make_truth(images[:100], images[100:], labels=labels)
    own = truth.plain[truth.odd]
    assert classified_rate(own, truth).rate == 1.0
    assert classified_rate(255 - own, truth).hits == 0
    noise = np.random.default_rng(2).integers(0, 256, own.shape, np.uint8)
    assert 0.08 < classified_rate(noise, truth).rate < 0.5
    assert classified_rate(np.zeros_like(own), truth).hits == 0  # flat pictures are of no class
    assert classified_rate(np.roll(own, 1, axis=0), truth, coarse=True).rate in np.arange(0, 50, 2) / 50
    # A picture does not tell its class by being in the gallery itself.
    alone = make_truth(images[:100], images[100:], labels=np.arange(200))
    assert classified_rate(own, alone).hits == 0


# ---- assembled blocks ---------------------------------------------------------------------------------------------


def assembled(key: Parts, cipher: Cipher, truth: Truth, move: Move) -> Grid:
    """Return the measures of a key's blocks, which the scheme moves."""
    grid = assembled_grid(key, cipher, truth, move)
    assert grid is not None
    return grid


def textbook_grid(grid: Int64Array) -> dict[str, float]:
    """Return Dc over all shifts, Nc pair by pair, Lc by walking from block to block."""
    down, across = grid.shape
    home = np.arange(grid.size).reshape(grid.shape)
    shifts = itertools.product(range(down), range(across))
    direct = max((np.roll(home, s, (0, 1)) == grid).mean() for s in shifts)
    pairs = {}
    for y, x in np.ndindex(grid.shape):
        at = divmod(int(grid[y, x]), across)
        for dy, dx in ((0, 1), (1, 0)):
            if y + dy < down and x + dx < across:
                other = divmod(int(grid[y + dy, x + dx]), across)
                pairs[(y, x), (y + dy, x + dx)] = other == (at[0] + dy, at[1] + dx)
    largest, left = 0, set(np.ndindex(grid.shape))
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            part |= edge
            edge = {b for p, ok in pairs.items() if ok for a, b in (p, p[::-1]) if a in edge} - part
        left -= part
        largest = max(largest, len(part))
    return {"Dc": direct, "Nc": sum(pairs.values()) / len(pairs), "Lc": largest / grid.size}


def test_assembled_blocks_against_the_textbook() -> None:
    random = np.random.default_rng(3)
    for case in range(40):
        down, across = random.integers(2, 6, 2).tolist()
        grid = np.arange(down * across)
        some = random.permutation(grid.size)[: random.integers(0, grid.size + 1)]
        grid[some] = grid[random.permutation(some)]
        grid = np.roll(grid.reshape(down, across), random.integers(0, 3, 2), (0, 1))
        if case % 5 == 0:
            grid = np.asarray(random.integers(0, grid.size, grid.shape))  # a block may be found twice
        assert grid_measures(grid).to_json() == pytest.approx(textbook_grid(grid)), grid


def test_assembled_blocks_best_shifted_and_worst() -> None:
    home = np.arange(16).reshape(4, 4)
    assert grid_measures(home).to_json() == {"Dc": 1.0, "Nc": 1.0, "Lc": 1.0}
    assert grid_measures(np.roll(home, 1, 0)).to_json() == {"Dc": 1.0, "Nc": 20 / 24, "Lc": 12 / 16}
    assert grid_measures(home[::-1, ::-1]).to_json() == {"Dc": 4 / 16, "Nc": 0.0, "Lc": 1 / 16}


MOVING = ("block_pixel_shuffle", "value_shuffle", "etc", "block_pixel", "ele")


def true_key(truth: Truth) -> dict[str, AnyArray]:
    """Return the flat table that opens, as an attack reports it."""
    scheme = load(truth.spec)
    # Every scheme that moves blocks has a table.
    table: Table = scheme.algorithm.table(scheme.parts(KEY))  # type: ignore[attr-defined] # not of all schemes
    gather, mask = table.inverse().flattened()
    return {"gather": gather} | ({} if mask is None else {"mask": mask})


def turned(values: AnyArray, turn: int) -> AnyArray:
    """Return the flat values of a picture of 32×32 RGB, turned."""
    return Move(turn=turn).apply(values.reshape(1, 32, 32, 3), 1).ravel()


@pytest.mark.parametrize("name", MOVING)
def test_the_true_key_puts_every_block_in_its_place(name: str) -> None:
    images = smooth(4, 32, 32, 3)
    truth = make_truth(images, images[:0], name)
    key = true_key(truth)
    right = assembled(key, load(truth.spec).cipher(KEY), truth, Move())
    assert right.to_json() == {"Dc": 1.0, "Nc": 1.0, "Lc": 1.0}
    wrong = assembled(key, load(truth.spec).cipher(SecretKey(bytes([9]) * 32)), truth, Move())
    assert wrong.direct < 0.5 and wrong.neighbour < 0.4


@pytest.mark.parametrize("name", ["value_shuffle", "etc", "block_pixel"])
def test_a_picture_that_comes_out_turned_is_turned_back_first(name: str) -> None:
    images = smooth(4, 32, 32, 3)
    truth = make_truth(images, images[:0], name)
    cipher, key = load(truth.spec).cipher(KEY), true_key(truth)
    for turn, back in ((1, 3), (2, 2), (3, 1), (4, 4), (5, 5), (7, 7)):
        assert np.array_equal(turned(turned(images[0], turn), back), images[0].ravel())
        found = {part: turned(value, turn) for part, value in key.items()}
        assert assembled(found, cipher, truth, Move(turn=back)).direct == 1.0
        assert assembled(found, cipher, truth, Move()).direct <= 0.5
    moved = {part: np.roll(value.reshape(32, 32, 3), 8, 0).ravel() for part, value in key.items()}
    assert assembled(moved, cipher, truth, Move()).to_json() == {"Dc": 1.0, "Nc": 20 / 24, "Lc": 12 / 16}


def test_schemes_that_leave_blocks_in_place_have_no_order_to_find() -> None:
    images = smooth(4, 32, 32, 3)
    for name in ("pe", "le", "plain"):
        truth = make_truth(images, images[:0], name)
        key = {"gather": np.arange(32 * 32 * 3, dtype=np.int32)}
        assert assembled_grid(key, load(truth.spec).cipher(KEY), truth, Move()) is None, name


# ---- deranged guesses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["consortium", "image"])
def test_guesses_about_other_rows_are_told_from_right_ones(scope: str) -> None:
    images = smooth(60, 32, 32, seed=4)
    truth = make_truth(images[:40], images[40:], scope=scope)
    # Without freedom to move, so that the register does not bend what is wrong.
    truth = dataclasses.replace(truth, orbit=Orbit())
    bases = baseline_ssims(truth)

    def named(guesses: Images) -> tuple[int, int]:
        figures = compute_figures(guesses, None, truth, bases)
        assert figures.reidentified is not None and figures.reidentified_deranged is not None
        return figures.reidentified.hits, figures.reidentified_deranged.hits

    assert named(truth.plain) == (20, 0)
    # A scorer that mistakes each scored row for the next.
    assert named(np.roll(truth.plain, -2, axis=0)) == (0, 20)
    right, amiss = named(np.random.default_rng(0).integers(0, 256, truth.plain.shape, np.uint8))
    assert right <= 3 and amiss <= 3
    assert max(named(np.repeat(truth.plain[:1], 40, 0))) <= 1  # the same guess for all
