"""Guesses of an attack on every image alone: each may be turned and negated on its own, and so may the baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.run import suite
from coordinator.exchange.audit.scores import Figures
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.symmetry import Move
from parties.scoring.score import score
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from tests.support.attacks import replace_attack
from tests.support.audits import forget_scores

ATTACKS = ("jigsaw", "leading_bit")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a hospital with a set under `etc` and one key for all images."""
    settings = {"party": "h", "source": "phantom", "counts": [80, 4, 4], "image_size": 32, "block": 8}
    place = Place.from_settings(tmp_path_factory.mktemp("alone") / "h", {**settings, "scheme": "etc"})
    place.save()
    write_key(place.key_path, SecretKey.generate())
    seal(place, plan_sealing(place, "train"))
    return place


def scored(place: Place, out: Path, monkeypatch: pytest.MonkeyPatch, shown: int) -> dict[str, Figures]:
    """Return the figures of two attacks that guess the same: the row's image plus `shown`, in a state of its own."""
    source = plan_sealing(place, "train").source

    def guess(knowledge: Knowledge) -> Guess:
        pictures = [source.read((int(row) + shown) % len(source))[None] for row in knowledge.rows]
        moves = [Move(turn=k % 8, negative=bool(k // 8 % 2)) for k in range(len(pictures))]
        return Guess(
            np.concatenate([move.apply(each, 8) for move, each in zip(moves, pictures, strict=True)])
        )

    for attack in ATTACKS:
        replace_attack(monkeypatch, attack, guess)
    settings = suite.Settings(list(ATTACKS), [1], rows=32, seed=4, budget_s=60.0)
    forget_scores(place)
    suite.run_suite([place.sealed("train")], out, settings)
    (draw,) = score(place, out, 32, 64).draws
    return {f.attack: f.figures for f in draw.findings if f.figures is not None}


def test_each_image_that_was_opened_alone_has_its_own_element(
    hospital: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = scored(hospital, tmp_path / "g", monkeypatch, shown=0)
    assert figures["jigsaw"].visible.rate == figures["jigsaw"].reidentified.rate == 1.0
    assert figures["jigsaw"].move is None
    # One element for all of them is not enough: other attacks are granted no more than before.
    assert figures["leading_bit"].visible.rate < 0.5 and figures["leading_bit"].move is not None


def test_the_freedom_breaks_nothing_by_itself(
    hospital: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = scored(hospital, tmp_path / "g", monkeypatch, shown=1)["jigsaw"]
    assert figures.reidentified.rate < 0.05 and figures.visible.low < 0.05
