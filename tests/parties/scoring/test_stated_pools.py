"""What a cloud states of pools: sizes that its sets have, and that the hospital's own run reaches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coordinator.exchange.audit.guesses import Draw, StoredGuess
from crypto.errors import CipherwardError
from crypto.scheme import describe
from parties.scoring.stated_pools import require_possible_pools, require_same_sizes


def own_run(*sizes: int, key_scope: str = "consortium") -> Draw:
    """Return the hospital's own draw of a set of 100 images, of which 40 are guessed."""
    spec = describe("block_pixel_shuffle", (64, 64, 1), 8, key_scope=key_scope)
    guesses = [StoredGuess("pooled_key_recovery", "T1", True, n, "f", "", 0.0, "") for n in sizes]
    return Draw("draw-0", "k", spec, ["d"], 100, np.arange(40), np.arange(40, 100), guesses)


def test_a_size_that_the_hospital_did_not_try_does_not_stand_alone() -> None:
    require_same_sizes(own_run(1, 50), [1, 50], "folder")
    with pytest.raises(CipherwardError, match="is not of the 50 images that the cloud states"):
        require_same_sizes(own_run(1), [1, 50], "folder")


def test_sizes_that_a_blind_control_does_not_have_are_left_out() -> None:
    require_same_sizes(own_run(1, 50), [1, 50, 100], "folder")
    require_same_sizes(own_run(1, key_scope="image"), [1, 50], "folder")


@pytest.mark.parametrize("attack", ["as_is", "leading_bit", "reidentify", "mine"])
def test_an_attack_on_one_image_was_given_one(attack: str) -> None:
    """A larger size would be one that it was "not broken up to", by an attack that looks at single images."""

    def stated(size: int) -> Draw:
        guess = StoredGuess(attack, "T1", False, size, "f", "", 0.0, "")
        return dataclasses.replace(own_run(), guesses=[guess])

    require_possible_pools(stated(1), "train", {"d": 100})
    with pytest.raises(CipherwardError, match=f"{attack} with 50 sealed images, of 1"):
        require_possible_pools(stated(50), "train", {"d": 100})
