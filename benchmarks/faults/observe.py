"""Let a fault strike a running study at a moment of a round, and record what it cost: rounds, seconds, data.

Everything is read from what the product itself writes: the coordinator's journal, the hospitals' logs.

    before training   the hospital answered the last message of a round; the next one has not reached it
    in training       its log has the training message, and a client process computes the answer
    at evaluation     its log has the evaluation message; its client was stopped before, so that no answer has left

The third moment is short on a small model, so the client is held still (SIGSTOP) between the two messages. It goes on
when the fault has struck, unless the fault is about the client itself.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types

from benchmarks.faults.deployment import Deployment, TimedOutError, wait_until
from benchmarks.faults.record import MOMENTS, Moment, Record
from coordinator.federation.rounds import State
from crypto.errors import CipherwardError
from parties.agent.agent_log import AgentLog

#: Type and event of the line of a hospital's log that each moment begins with.
_EVENTS = dict(
    zip(MOMENTS, (("evaluate", "answered"), ("train", "received"), ("evaluate", "received")), strict=True)
)
#: Events of a hospital's log that are no answers.
_FAILED = ("error", "refused", "unsent", "unanswered")
#: Seconds that the study may take until all hospitals reply again; and until a moment comes.
_PATIENCE_S, _MOMENT_S = 280.0, 150.0
#: The hospital that most faults strike.
VICTIM = "hospital-1"


class NotReadyError(Exception):
    """A study was not whole before a fault could strike: nothing can be said of the fault."""


class LogTail:
    """Reads the lines of a hospital's log that were added since the last look."""

    def __init__(self, deployment: Deployment, name: str = VICTIM) -> None:
        self._path = AgentLog(deployment.place(name)).path
        self._at = self._path.stat().st_size if self._path.exists() else 0

    def read(self) -> list[dict[str, Any]]:
        """Return the whole lines since the last look. One that a kill cut short is left out."""
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            file.seek(self._at)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._at += len(whole)
            lines = []
            for text in whole.splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    lines.append(json.loads(text))
            return lines
        return []

    def wait_for(self, kind: str, event: str) -> None:
        """Wait for a line about a message of this kind."""
        wait_until(
            lambda: any(x.get("type") == kind and x["event"] == event for x in self.read()),
            _MOMENT_S,
            f"a message to {kind}, {event}",
            0.02,
        )


class Observer:
    """Watches the rounds of one deployment, with `run` at work.

    Attributes:
        deployment: the federation.
        client: while a fault strikes: the process that answers the victim's message now, or would answer the next.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.client: psutil.Process | None = None
        self._held: psutil.Process | None = None
        self._is_calm = False

    def is_whole(self, row: Mapping[str, Any]) -> bool:
        """Return whether all hospitals replied in a round, and none was refused."""
        return bool(
            row["aggregated"]
            and set(row["parties"]) == set(self.deployment.names)
            and not set(row["refused"]) & set(self.deployment.names)
        )

    def settle(self, rounds: int = 1) -> None:
        """Wait for whole rounds that begin from now on."""
        now, run = time.monotonic(), self.deployment.runs[-1]

        def is_settled() -> bool:
            if run.poll() is not None:
                raise TimedOutError(
                    f"`run` ended with status {run.returncode}: {self.deployment.last_words('run')}"
                )
            return len([row for at, row in self.deployment.rows if self._is_after(at, row, now)]) >= rounds

        wait_until(is_settled, _PATIENCE_S, f"{rounds} rounds of all hospitals")

    def _is_after(self, at: float, row: Mapping[str, Any], moment: float) -> bool:
        return at - row["seconds"] > moment and self.is_whole(row)

    @property
    def undisturbed_s(self) -> float:
        """The median wall seconds of a round that all hospitals answered."""
        seconds = [float(row["seconds"]) for _, row in self.deployment.rows if self.is_whole(row)]
        return statistics.median(seconds)

    def reach(self, moment: Moment) -> None:
        """Wait until the victim is at a moment of a round, and find its client. `release` must follow."""
        tail = LogTail(self.deployment)
        if moment == "at evaluation":
            self._hold_for_evaluation(tail)
            return
        tail.wait_for(*_EVENTS[moment])
        if moment == "in training":
            self.client = wait_until(lambda: self.deployment.client(VICTIM), 20, "a client at work", 0.02)
        else:
            self.client = self.deployment.warm_client(VICTIM)

    def _hold_for_evaluation(self, tail: LogTail) -> None:
        """Stop the client between the two messages of a round, and wait until the second one has come."""
        for _ in range(5):
            tail.wait_for("train", "answered")
            self.client = self._held = self.deployment.warm_client(VICTIM)
            if self._held is None:
                raise TimedOutError("the victim has no client between two messages")
            self._held.suspend()
            if not tail.read():  # nothing came before it stood still
                tail.wait_for(*_EVENTS["at evaluation"])
                return
            self.release()
        raise TimedOutError("the client could not be held between two messages")

    def release(self) -> None:
        """Let the client go on, if it was held."""
        if self._held is not None:
            with contextlib.suppress(psutil.Error):
                self._held.resume()
            self._held = None

    def strike(
        self, moment: Moment, inject: Callable[[], str | None], restore: Callable[[], None] = lambda: None
    ) -> Record:
        """Let a fault strike and record what follows until all hospitals reply again.

        Args:
            moment: when it strikes.
            inject: does the harm; it returns once the harm is over, with words that belong into the record.
            restore: mends what people would have to mend.
        """
        deployment = self.deployment
        if not self._is_calm:
            try:
                self.settle()
            except TimedOutError as error:
                raise NotReadyError(str(error)) from error
        self._is_calm = False
        first, submitted, tail = len(deployment.rows), deployment.submissions, LogTail(deployment)
        try:
            self.reach(moment)
            struck = time.monotonic()
            words = inject() or ""
        finally:
            self.release()
        restore()
        over = time.monotonic()
        try:
            self.settle()
        except TimedOutError as error:
            words += f"NOT BACK: {error}; {self._describe(first, tail)}"
            return Record(moment=moment, happened=words, data_lost=self.find_losses())
        self._is_calm = True
        if count := deployment.submissions - submitted:
            words += f"`run` submitted the study again ({count} ×); "
        words += self._describe(first, tail)
        return self._measure(moment, words, first, struck, over)

    def _measure(self, moment: Moment, words: str, first: int, struck: float, over: float) -> Record:
        """Return the record of a fault that struck and was over at these times. first: the first row to look at."""
        rows = self.deployment.rows[first:]
        whole = next(i for i, (at, row) in enumerate(rows) if self._is_after(at, row, over))
        end, row = rows[whole]
        # The round that the fault struck began before; its own time is no loss.
        began = min(rows[0][0] - rows[0][1]["seconds"], struck)
        disturbed = [row for _, row in rows[:whole] if row["aggregated"]]
        lost = (end - row["seconds"] - began) - len(disturbed) * self.undisturbed_s
        waits = [row["train_seconds"] for row in disturbed]
        waits += [row["seconds"] - row["train_seconds"] for row in disturbed]
        return Record(
            moment=moment,
            happened=words,
            rounds_missed=sum(VICTIM not in row["parties"] for row in disturbed),
            evaluations_missed=sum(
                row["refused"].get(VICTIM, "").startswith("at evaluation") for row in disturbed
            ),
            rounds_repeated=sum(not row["aggregated"] for _, row in rows[:whole]),
            seconds_lost=round(max(0.0, lost), 1),
            back_after_s=round(end - row["seconds"] - struck, 1),
            longest_wait_s=round(max(waits), 1) if waits else None,
            round_s=round(self.undisturbed_s, 1),
            data_lost=self.find_losses(),
        )

    def _describe(self, first: int, tail: LogTail) -> str:
        """Return what the journal and the victim's log say since then."""
        absent, refused, errors = set[str](), dict[str, str](), list[str]()
        for _, row in self.deployment.rows[first:]:
            absent |= set(row["absent"])
            refused |= row["refused"]
            errors += [row["error"]] if row.get("error") else []
        parts = [f"absent: {', '.join(sorted(absent))}"] if absent else []
        parts += [f"{name}: {why[:160]}" for name, why in sorted(refused.items())]
        parts += errors
        events = [x for x in tail.read() if x["event"] in _FAILED]
        reasons = dict.fromkeys(
            f"{x['event']} {x.get('error', '')} {x.get('field', '')}".strip() for x in events
        )
        parts += [f"its log: {', '.join(reasons)}"] if reasons else []
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
            if numbers and checkpoint < numbers[-1] - 1:
                # The journal's line is written just before the checkpoint.
                losses.append(f"the checkpoint is at round {checkpoint}")
        for place in deployment.places:
            try:
                AgentLog(place).verify()
            except CipherwardError as error:
                losses.append(error.message)
        return "; ".join(losses) or "none"
