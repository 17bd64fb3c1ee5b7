"""The hospital's own run of the attacks must reach the pool sizes that a cloud states."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.exchange.audit.guesses import Draw, StoredGuess
from crypto.errors import CipherwardError
from crypto.scheme import describe
from parties.scoring.stated_pools import require_same_sizes


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
