"""What a recovery says of itself is held against what its guess reached: neither belief nor silence is a failure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cipherward.attacking import Attempt
from cipherward.links import links_of, strongest_link
from cipherward.scoring import finding_of
from coordinator.adversary.contract import Fit, Guess
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.audit.consistency import check_confidence
from crypto.arrays import Images
from crypto.scheme import describe
from tests.support.pictures import smooth
from tests.support.truth import make_truth
from tests.support.verdicts import make_finding

NAME = "pooled_key_recovery"
GUESS = Guess(np.zeros((3, 32, 32, 1), np.uint8))


def attempt(*, is_sound: bool, unfinished: str = "") -> Attempt:
    spec = describe("etc", (32, 32, 1), 8)
    return Attempt(
        NAME, ATTACKS[NAME], spec, 10, GUESS, 0.1, "T1", unfinished=unfinished, is_sound=is_sound
    )


@pytest.mark.parametrize("is_sound", [False, True])
def test_a_recovery_that_believes_what_it_found_and_is_wrong_is_uncertain(is_sound: bool) -> None:
    wrong, right = make_finding(NAME, 10), make_finding(NAME, 10, v=64, r=64)
    finding = finding_of(attempt(is_sound=is_sound), wrong.figures)
    assert finding.uncertain is is_sound and ("not these images" in finding.fit) is is_sound
    assert not finding_of(attempt(is_sound=is_sound), right.figures).uncertain


def test_a_refuted_recovery_is_not_confident() -> None:
    """A report in which an uncertain attack is confident contradicts itself, and cannot be read again."""
    sure = replace(GUESS, fits=(Fit(0.9, 0.5, "how well it fits"),))
    wrong, right = make_finding(NAME, 10), make_finding(NAME, 10, v=64, r=64)
    believing = replace(attempt(is_sound=True), guess=sure)
    refuted = finding_of(believing, wrong.figures)
    assert refuted.uncertain and refuted.confidence is None
    check_confidence(refuted, "report.json", "findings.0")
    assert finding_of(believing, right.figures).confidence == sure.confidence


def test_a_pool_is_unfinished_if_another_recovery_was_and_the_chosen_one_breaks_nothing() -> None:
    late = attempt(is_sound=False, unfinished="out of time in ele_recovery/8")
    wrong, right = make_finding(NAME, 10), make_finding(NAME, 10, v=64, r=64)
    finding = finding_of(late, wrong.figures)
    assert not finding.is_complete and "out of time in ele_recovery/8" in finding.note
    assert finding_of(late, right.figures).is_complete


def substituted(images: Images, generator: np.random.Generator) -> Images:
    """Return every image under a substitution of gray levels of its own."""
    return np.stack([generator.permutation(256).astype(np.uint8)[image] for image in images])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_substitution_of_levels_leaves_a_link(channels: int) -> None:
    """Every histogram is another, and so is the folded one: only how often levels occur is left."""
    images, generator = smooth(60, 32, 32, channels), np.random.default_rng(0)
    truth = make_truth(images[:40], images[40:], "plain")
    links = links_of(replace(truth, sealed=substituted(truth.sealed, generator)))
    kept, (rate,) = strongest_link([links])
    assert kept == "the sorted histogram" and rate.hits == rate.n == 20
    assert not any(link.hits for other, link in links.items() if other != kept)
    noise = generator.integers(0, 256, truth.sealed.shape, np.uint8)
    assert not any(link.hits for link in links_of(replace(truth, sealed=noise)).values())
