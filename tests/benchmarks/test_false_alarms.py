"""The count of false alarms: it finds what is there, and a rule that is too easy does not pass it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import false_alarms
from benchmarks.false_alarms import GUESSERS, KINDS, SEEN, run_audit, summarise
from benchmarks.pages.false_alarms import false_alarms as page
from parties.scoring import measures
from parties.sources.phantom import Phantom


@pytest.fixture(scope="module")
def images() -> dict[str, Any]:
    source = Phantom(32, 1, 260, 0, "train")
    pictures = np.stack([source.read(row) for row in range(len(source))]).reshape(-1, 32, 32, 1)
    return dict.fromkeys(KINDS, pictures)


def test_guesses_that_know_nothing_break_nothing_and_the_control_is_found(images: dict[str, Any]) -> None:
    audit = run_audit(3, images)
    assert audit["broken"] == [SEEN]
    counts = summarise([audit])
    assert (counts["broken"]["hits"], counts["found"]["hits"]) == (0, 1)
    text = "\n".join(page({"draws": 3, "rows": 64, "gallery": 200, **counts, "audits": [audit]}))
    assert "audits called broken" in text
    assert audit["scheme"] in text


def test_a_rule_that_is_too_easy_raises_alarms(
    images: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "MARGIN", -1.0)
    monkeypatch.setattr(measures, "_CEILING_PERCENTILE", 50)
    audit = run_audit(3, images)
    assert set(audit["broken"]) - {SEEN}
    assert summarise([audit])["broken"]["hits"] == 1


def test_pictures_in_another_order_are_all_in_another_place() -> None:
    generator = np.random.default_rng(1)
    for count in (2, 3, 64):
        order = false_alarms._derange(count, generator)
        assert sorted(order) == list(range(count))
        assert (order != np.arange(count)).all()


def test_every_guess_has_the_shape_of_its_images(images: dict[str, Any]) -> None:
    own, others = images[KINDS[0]][:5], images[KINDS[0]][5:]
    for guess in GUESSERS.values():
        pictures = guess(own, others, np.random.default_rng(2))
        assert pictures.shape == own.shape
        assert pictures.dtype == np.uint8
