"""What was measured about ways to protect images, for the advice of a report.

measured.json is in the package. `make results` writes it from docs/results/*.json (benchmarks/pages/measured.py), so
that no figure of an advice is typed by hand.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from coordinator.exchange.records import Record, read_record

SCHEMA = "cipherward.measured/1"
FILE = Path(__file__).parent / "measured.json"


class MeasuredBreak(Record):
    """The pools of sealed images that were attacked, of one scheme on one kind of images.

    Attributes:
        scheme: The scheme's name.
        options: Its options that are not the default, as one text; empty without.
        images: What images were sealed, in words.
        key_scope: consortium, party or image.
        attack: The attack that needed the fewest images.
        tried: The pool sizes that were attacked, rising.
        smallest_pool: The smallest pool that was broken; None where none was.
        pool: The pool size that the other figures are of: the smallest that was broken, else the largest.
        broken: In how many draws it was broken.
        draws: How many draws there were.
        broken_earlier: Smaller pools that were broken in some draws, too few to count: size and draws.
        is_idle: Whether the attack found nothing that it could try. That says nothing about a scheme's strength.
        uncertain: In how many of the draws that were not broken the attack is uncertain: what it found fits too
            poorly to say that it failed.
        ssim: Median SSIM of the guesses.
    """

    scheme: str
    options: str
    images: str
    key_scope: str
    attack: str
    tried: tuple[int, ...]
    smallest_pool: int | None
    pool: int
    broken: int
    draws: int
    broken_earlier: tuple[tuple[int, int], ...]
    is_idle: bool
    uncertain: int = 0
    ssim: float

    @property
    def withstood(self) -> bool:
        """Whether no pool was broken, and the attack ran and surely failed in at least one draw."""
        return self.smallest_pool is None and not self.is_idle and self.broken + self.uncertain < self.draws


class MeasuredInversion(Record):
    """Images recovered from updates of a hospital: what made the updates, and how many of how many."""

    update: str
    found: str

    @property
    def share(self) -> float:
        """The share of the images that was recovered."""
        found, _, tried = self.found.partition(" of ")
        return int(found) / int(tried)


class MeasuredPrivacy(Record):
    """Mean test accuracy of a federation that trains the last layer only, under differential privacy.

    `epsilon` is None without differential privacy.
    """

    epsilon: float | None
    accuracy: float
    seeds: int


class MeasuredProtection(Record):
    """What attacks on updates of one step reach under a protection, on brain MRI.

    Attributes:
        protection: "nothing", "secure aggregation", "DP, ε = 8" and so on.
        ssim: Median SSIM of the pictures that the attack solves for, one image in each hospital.
        confirmed: Of the images that the attacker has already, how many are confirmed.
        members: How many there were.
    """

    protection: str
    ssim: float
    confirmed: int
    members: int


class MeasuredTraining(Record):
    """Test accuracies of trainings that need no pool of sealed images in the cloud, as texts, and their protocol."""

    protocol: str
    federated: str
    central: str


class Measured(Record):
    """The whole of measured.json. Each list is empty, and `training` None, where no run is kept.

    Attributes:
        sources: Which files of docs/results hold the figures, by the name of the field.
    """

    schema_id: str = Field(default=SCHEMA, validation_alias="schema", serialization_alias="schema")
    breaks: tuple[MeasuredBreak, ...] = ()
    inversions: tuple[MeasuredInversion, ...] = ()
    privacy: tuple[MeasuredPrivacy, ...] = ()
    protections: tuple[MeasuredProtection, ...] = ()
    training: MeasuredTraining | None = None
    sources: dict[str, str] = Field(default_factory=dict)


@cache
def measured() -> Measured:
    """Return what measured.json holds.

    Raises:
        CipherwardError: If the package's file is missing or damaged.
    """
    return read_record(Measured, FILE, SCHEMA, "measured results")
