"""Let a fault strike a running study, and record what it cost: rounds, seconds, data.

Everything is read from what the product itself writes: the coordinator's journal, the hospitals' logs.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.faults.deployment import Deployment, TimedOutError, wait_until
from coordinator.federation.rounds import State
from crypto.errors import CipherwardError
from parties.agent.agent_log import AgentLog

#: When a fault strikes: after the hospital received the training message, after it answered it, or after it received
#: the message to evaluate.
Moment = Literal["training", "after the update", "evaluation"]
MOMENTS: tuple[Moment, ...] = ("training", "after the update", "evaluation")
_EVENTS = {"training": ("train", "received"), "after the update": ("train", "answered"),
           "evaluation": ("evaluate", "received")}  # fmt: skip
#: Events of a hospital's log that are no answers.
_FAILED = ("error", "refused", "unsent", "unanswered")
#: Seconds that the study may take until all hospitals reply again.
_PATIENCE_S = 280.0
#: The hospital that most faults strike.
VICTIM = "hospital-1"


@dataclass(frozen=True)
class Record:
    """What one fault did.

    Attributes:
        fault: its name.
        moment: when in a round it struck; "" if it strikes no round.
        happened: what followed, in words made from the journal and the logs.
        rounds_missed: rounds that were made without the hospital's reply.
        rounds_repeated: attempts at a round that had to be made again.
        seconds_lost: wall seconds beyond those that as many undisturbed rounds take.
        back_after_s: seconds from the fault to the beginning of the first round that all hospitals answered.
        data_lost: what was lost, or "none".
        skipped: why it was not run, or "".
    """

    fault: str
    moment: str = ""
    happened: str = ""
    rounds_missed: int | None = None
    rounds_repeated: int | None = None
    seconds_lost: float | None = None
    back_after_s: float | None = None
    data_lost: str = ""
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


class Observer:
    """Watches the rounds of one deployment, with `run` at work.

    Attributes:
        deployment: the federation.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    def is_whole(self, row: Mapping[str, Any]) -> bool:
        """Return whether all hospitals replied in a round, and none was refused."""
        return bool(
            row["aggregated"]
            and set(row["parties"]) == set(self.deployment.names)
            and not set(row["refused"]) & set(self.deployment.names)
        )

    def settle(self, rounds: int = 1) -> None:
        """Wait for whole rounds that begin from now on."""
        now = time.monotonic()
        wait_until(
            lambda: (
                len([row for at, row in self.deployment.rows if self._is_after(at, row, now)]) >= rounds
            ),
            _PATIENCE_S,
            f"{rounds} rounds of all hospitals; {self.deployment.output('run')[-600:]}",
        )

    def _is_after(self, at: float, row: Mapping[str, Any], moment: float) -> bool:
        return at - row["seconds"] > moment and self.is_whole(row)

    @property
    def undisturbed_s(self) -> float:
        """The median wall seconds of a round that all hospitals answered."""
        seconds = [float(row["seconds"]) for _, row in self.deployment.rows if self.is_whole(row)]
        return statistics.median(seconds)

    def wait_for(self, moment: Moment, name: str = VICTIM) -> int:
        """Wait until a hospital is at a moment of a round, and return the round."""
        kind, event = _EVENTS[moment]
        before = len(self.deployment.log(name))

        def find() -> int | None:
            lines = self.deployment.log(name)[before:]
            return next((x["round"] for x in lines if x.get("type") == kind and x["event"] == event), None)

        number = wait_until(lambda: find() is not None, 120, f"{name}: {moment}", 0.02) and find()
        assert number is not None
        return number

    def strike(
        self, fault: str, moment: Moment, inject: Callable[[], str | None], restore: Callable[[], None] = lambda: None
    ) -> Record:  # fmt: skip
        """Let a fault strike and record what follows until all hospitals reply again.

        Args:
            fault: its name.
            moment: when it strikes.
            inject: does the harm; it returns once the harm is over, with words that belong into the record.
            restore: mends what people would have to mend.
        """
        deployment = self.deployment
        self.settle()
        first = len(deployment.rows)
        log_from = len(deployment.log(VICTIM))
        self.wait_for(moment)
        struck = time.monotonic()
        words = inject() or ""
        restore()
        over = time.monotonic()
        try:
            self.settle()
            words += self._describe(first, log_from)
        except TimedOutError as error:
            words += f"NOT BACK: {error}"
            return Record(fault, moment, words, data_lost=self.find_losses())
        rows = deployment.rows[first:]
        whole = next(i for i, (at, row) in enumerate(rows) if self._is_after(at, row, over))
        end, row = rows[whole]
        # The round that the fault struck began before; its own time is no loss.
        began = (
            rows[0][0] - rows[0][1]["seconds"] if rows[0][0] - rows[0][1]["seconds"] < struck else struck
        )
        disturbed = [row for _, row in rows[:whole] if row["aggregated"]]
        lost = (end - row["seconds"] - began) - len(disturbed) * self.undisturbed_s
        return Record(
            fault,
            moment,
            words,
            rounds_missed=sum(VICTIM not in row["parties"] for row in disturbed),
            rounds_repeated=sum(not row["aggregated"] for _, row in rows[:whole]),
            seconds_lost=round(max(0.0, lost), 1),
            back_after_s=round(end - row["seconds"] - struck, 1),
            data_lost=self.find_losses(),
        )

    def _describe(self, first: int, log_from: int) -> str:
        """Return what the journal and the victim's log say since then."""
        absent, refused, errors = set[str](), dict[str, str](), list[str]()
        for _, row in self.deployment.rows[first:]:
            absent |= set(row["absent"])
            refused |= row["refused"]
            errors += [row["error"]] if row.get("error") else []
        parts = [f"absent: {', '.join(sorted(absent))}"] if absent else []
        parts += [f"{name}: {why[:160]}" for name, why in sorted(refused.items())]
        parts += errors
        lines = self.deployment.log(VICTIM)[log_from:]
        events = [x for x in lines if x["event"] in _FAILED]
        said = dict.fromkeys(
            f"{x['event']} {x.get('error', '')} {x.get('field', '')}".strip() for x in events
        )
        parts += [f"its log: {', '.join(said)}"] if said else []
        return "; ".join(parts) or "every round was made of all replies"

    def find_losses(self) -> str:
        """Return which finished rounds or lines of logs were lost, or "none"."""
        deployment = self.deployment
        numbers = [row["round"] for _, row in deployment.rows if row["aggregated"]]
        losses = []
        if numbers != list(range(1, len(numbers) + 1)):
            losses.append(f"rounds in the journal: {numbers}")
        with contextlib.suppress(FileNotFoundError):
            checkpoint = State.load(deployment.study / "checkpoint.safetensors").round
            if numbers and checkpoint < numbers[-1]:
                losses.append(f"the checkpoint is at round {checkpoint}")
        for place in deployment.places:
            try:
                AgentLog(place).verify()
            except CipherwardError as error:
                losses.append(error.message)
        return "; ".join(losses) or "none"
