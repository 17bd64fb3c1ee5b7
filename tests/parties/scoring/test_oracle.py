"""The scorer as an oracle in the cloud's hands: its figures say little about any one image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.adversary.run import suite
from coordinator.adversary.run.draws import plan_draw
from coordinator.exchange.audit.guesses import Draw, StoredGuess, save_guess, write_draws
from crypto.arrays import Float64Array, Rows
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.symmetry import Move
from parties.scoring.score import score
from parties.scoring.truth import distinct_rows
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows, plan_sealing, seal
from parties.sources.phantom import Phantom
from tests.support.audits import forget_scores

SIDE = 32  # pixels
SCORED = 64  # audit rows, of which half are scored
WAVES = [(i, j) for i in range(4) for j in range(4)][1:13]
#: Makes the guesses about all rows but one, from the rows' mean levels and the scored rows.
Others = Callable[[Float64Array, Rows], Float64Array]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield a hospital whose images are not public, with its sealed sets."""
    folder = tmp_path_factory.mktemp("oracle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Phantom, "public", False)
        settings = {
            "party": "h",
            "source": "phantom",
            "counts": [160, 4, 40],
            "image_size": SIDE,
            "block": 8,
        }
        place = Place.from_settings(folder / "h", settings)
        place.save()
        write_key(place.key_path, SecretKey(bytes(range(32))))
        for name in ("train", "test"):
            seal(place, plan_sealing(place, name))
        yield place


def wave(i: int, j: int) -> Float64Array:
    """Return one basis image of the cosine transform, [SIDE, SIDE]."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    product: Float64Array = np.cos(np.pi * i * y / SIDE) * np.cos(np.pi * j * x / SIDE)
    return product


def craft_guesses(place: Place, out: Path, name: str, rows: int, make_others: Others) -> tuple[Draw, int]:
    """Write guesses that probe one scored image by each wave and its negative, among forged rows.

    Returns:
        The draw, and the row in it that is probed.
    """
    sealed = place.sealed(name)
    draw = plan_draw("draw-0", 0, [sealed], suite.Settings(["as_is"], [1], rows, 4, 60.0))
    odd = distinct_rows(plain_rows(place, name, draw.rows), SCORED)[1::2]
    level = sealed.rows(draw.rows).mean((1, 2, 3), keepdims=True)  # which the scheme keeps
    pictures, target = make_others(level, odd), int(odd[0])
    stored: list[StoredGuess] = []
    for i, j in WAVES:
        for sign in (1, -1):
            pictures[target] = np.clip(level[target] + 40 + sign * 50 * wave(i, j)[..., None], 0, 255)
            file = f"draw-0/{i}{j}{sign}.safetensors"
            digest = save_guess(out / file, pictures.astype(np.uint8), None)
            # One name for each: of one name and one size there is one guess.
            stored.append(StoredGuess(f"a_{len(stored)}", "T0", False, 1, file, digest, 0.0, ""))
    write_draws(out, [dataclasses.replace(draw, guesses=stored)], {"seed": 4, "rows": rows})
    return draw, target


def blank(level: Float64Array, odd: Rows) -> Float64Array:
    """Make all other guesses white."""
    return np.full((len(level), SIDE, SIDE, 1), 255.0)


def extremes(level: Float64Array, odd: Rows) -> Float64Array:
    """Make half of the scored guesses surely worse than the probed one and half surely better: it is the median."""
    noise = np.random.default_rng(0)
    pictures = level + noise.integers(-4, 5, (len(level), SIDE, SIDE, 1))
    worse = odd[1 : len(odd) // 2 + 1]
    pictures[worse] = noise.integers(225, 256, (len(worse), SIDE, SIDE, 1))
    clipped: Float64Array = np.clip(pictures, 0, 255)
    return clipped


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a finding with its name, but for those that the cloud itself wrote."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    elif isinstance(value, (int, float)) and name not in (".pool_size", ".seconds"):
        yield name, float(value)


@pytest.mark.parametrize("make_others", [blank, extremes])
def test_no_figure_tells_the_waves_of_one_image(
    hospital: Place, tmp_path: Path, make_others: Others
) -> None:
    forget_scores(hospital)
    draw, target = craft_guesses(hospital, tmp_path, "train", SCORED, make_others)
    findings = score(hospital, tmp_path, SCORED, 100).draws[0].findings
    figures = [finding.figures for finding in findings if finding.figures is not None]
    assert len(figures) == len(findings)
    chosen = figures[0].move
    move = dataclasses.replace(Move(**dict(chosen)) if chosen else Move(), negative=False)
    image = plain_rows(hospital, "train", draw.rows[target : target + 1])[0, ..., 0].astype(float)
    moved = [move.apply(wave(i, j)[None, ..., None], 8)[0, ..., 0] for i, j in WAVES]
    true = [((image - image.mean()) * w).mean() for w in moved]
    told = [dict(leaves(finding.to_json())) for finding in findings]
    assert len(told[0]) > 10
    for name in told[0]:
        answers = np.array([each[name] for each in told])
        gaps = answers[::2] - answers[1::2]
        # A step between two values is a yes or no, now and then.
        is_step = np.count_nonzero(gaps) <= 2
        assert is_step or abs(np.corrcoef(gaps, true)[0, 1]) < 0.5, name
    if make_others is blank:
        assert all(each.ssim is None for each in figures)
        assert all(each.reidentified.hits == each.visible.hits == 0 for each in figures)
        assert all("flat" in finding.note for finding in findings)


def test_the_hospital_decides_how_many_rows_and_of_which_set(hospital: Place, tmp_path: Path) -> None:
    craft_guesses(hospital, tmp_path / "few", "train", 18, blank)
    with pytest.raises(CipherwardError, match="fewer rows of train than the 64"):
        score(hospital, tmp_path / "few", SCORED, 100)
    craft_guesses(hospital, tmp_path / "test", "test", SCORED, blank)
    with pytest.raises(CipherwardError, match="about test, whose images are not scored"):
        score(hospital, tmp_path / "test", SCORED, 100)
