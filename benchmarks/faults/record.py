"""What one fault did: the record that the harness keeps, and the moments at which faults strike."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

#: When in a round a fault strikes its hospital; benchmarks/faults/observe.py says how each is reached.
Moment = Literal["", "before training", "in training", "at evaluation"]
MOMENTS: tuple[Moment, ...] = ("before training", "in training", "at evaluation")


@dataclass(frozen=True)
class Record:
    """What one fault did.

    Attributes:
        name: the fault's short name, as the command line takes it.
        fault: what it is, in words.
        moment: when in a round it struck; "" if it strikes no round.
        happened: what followed, in words made from the journal, the logs and what the programs print.
        rounds_missed: rounds that were made without the hospital's update.
        evaluations_missed: evaluations that were made without its figures.
        rounds_repeated: attempts at a round that had to be made again.
        seconds_lost: wall seconds beyond those that as many undisturbed rounds take.
        back_after_s: seconds from the fault to the beginning of the first round that all hospitals answered.
        longest_wait_s: the longest that the coordinator took for the updates, or for the evaluation, of a round.
        round_s: the median wall seconds of the undisturbed rounds of this federation so far.
        data_lost: what was lost, or "none".
        left_running: the command lines of processes that nobody looks after any more, ten seconds later.
        details: several outcomes of one fault, by what was tried.
        figures: values that were compared.
        skipped: why it was not run, or "".
    """

    name: str = ""
    fault: str = ""
    moment: Moment = ""
    happened: str = ""
    rounds_missed: int | None = None
    evaluations_missed: int | None = None
    rounds_repeated: int | None = None
    seconds_lost: float | None = None
    back_after_s: float | None = None
    longest_wait_s: float | None = None
    round_s: float | None = None
    data_lost: str = ""
    left_running: tuple[str, ...] = ()
    details: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    @property
    def is_failed(self) -> bool:
        """Whether the study did not recover, or the harness could not go through with the fault."""
        return any(word in self.happened for word in ("NOT BACK", "NOT OBSERVED"))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "left_running": list(self.left_running)}
