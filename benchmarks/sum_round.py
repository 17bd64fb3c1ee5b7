"""One round of secure aggregation in one process, with a place to strike before every step: for sum_faults.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from crypto.arrays import Float64Array
from crypto.errors import CipherwardError
from crypto.secure_sum.collector import Collector, weight_sum
from crypto.secure_sum.transcript import RoundKeys
from tests.support.secure_sum import Federation, encode_all, weighted_mean

Record = dict[str, Any]
HOSPITALS, PARAMETERS = 5, 5000
#: The largest distance of a right mean from the plain one, over the mean's norm.
_CLOSE = 1e-5
_STEPS = ("keys", "shares", "masked", "confirm", "reveal")


class StruckError(Exception):
    """A strike went on to the end of the attempt by itself, and no sum came out."""


class Round:
    """One attempt at a round, with a place to strike before every step.

    Args:
        federation: the hospitals; one is h00.
        strikes: what is done at a step, by its name: that of the step, or of the step and a hospital.
        dies: the step from which on a hospital does not answer, by its name.
        earlier: the survivors of a finished attempt at the same round.
    """

    def __init__(
        self,
        federation: Federation,
        strikes: Mapping[str, Callable[[Round], None]] | None = None,
        dies: Mapping[str, str] | None = None,
        earlier: list[str] | None = None,
    ) -> None:
        self.federation, self.strikes, self.earlier = federation, strikes or {}, earlier
        self.dies = {name: _STEPS.index(step) for name, step in (dies or {}).items()}
        rng = np.random.default_rng(0)
        names = list(federation.identities)
        self.updates = {name: rng.normal(0, 1e-3, PARAMETERS) for name in names}
        self.images = {name: 100 * (i + 1) for i, name in enumerate(names)}
        self.vectors, self.weights, self.point = encode_all(self.updates, self.images, clip=1.0)
        self.collector = Collector(federation.round_id, PARAMETERS, federation.rules)
        self.keys: dict[str, RoundKeys] = {}
        self.sent: dict[str, dict[str, bytes]] = {}
        self.survivors: list[str] = []
        self.signatures: dict[str, bytes] = {}
        self.refusals: list[str] = []

    def run(self) -> Float64Array:
        """Run the attempt and return the mean, float64 [parameters]. Raises CipherwardError if there is none."""
        collector = self.collector
        self._each("keys", self.federation.members, self._send_keys)
        self._strike("all keys")
        self.keys = dict(collector.close_keys())
        self._strike("shown keys")
        self._each("shares", self.keys, self._send_shares)
        self.incoming = collector.close_shares()
        self._each("masked", self.incoming, self._send_vector)
        self.survivors = collector.close_vectors()
        self._strike("survivors")
        self._each("confirm", collector.survivors, self._confirm)
        self.signatures = dict(collector.close_signatures())
        self._strike("signatures")
        self._each("reveal", list(self.signatures), self._reveal)
        total = collector.unmask()
        self._strike("unmasked")
        return self.point.decode(total, weight_sum(self.weights, collector.survivors))

    def refuses(self, name: str, work: Callable[[], object]) -> None:
        """Do what must be refused, and note the refusal. Raises AssertionError if it is done."""
        try:
            work()
        except CipherwardError as error:
            self.refusals.append(f"{name}: {error.message}")
        else:
            raise AssertionError(f"{name} took it")

    def _each(self, step: str, names: Any, work: Callable[[str], None]) -> None:
        """Let each hospital that still lives take a step. A refusal is noted, and the round goes on without it."""
        for name in sorted(set(names) & set(self.federation.members)):
            if self.dies.get(name, len(_STEPS)) <= _STEPS.index(step):
                continue
            try:
                work(name)
            except CipherwardError as error:
                self.refusals.append(f"{name}: {error.message}")

    def _send_keys(self, name: str) -> None:
        self.keys[name] = self.federation.members[name].keys()
        self._strike(f"keys {name}")
        self.collector.add_keys(name, self.keys[name])

    def _send_shares(self, name: str) -> None:
        self.sent[name] = self.federation.members[name].share(self.keys, self.federation.rules)
        self._strike(f"shares {name}")
        self.collector.add_shares(name, self.sent[name])

    def _send_vector(self, name: str) -> None:
        self._strike(f"update {name}")
        member, rules = self.federation.members[name], self.federation.rules
        self.vectors[name], unopened = member.mask(self.incoming[name], self.vectors[name], rules)
        self._strike(f"masked {name}")
        self.collector.add_vector(name, self.vectors[name], unopened)

    def _confirm(self, name: str) -> None:
        signature = self.federation.members[name].confirm(
            self.survivors, self.federation.identities[name], self.federation.rules, self.earlier
        )
        self.signatures[name] = signature
        self._strike(f"confirm {name}")
        self.collector.add_signature(name, self.signatures[name])

    def _reveal(self, name: str) -> None:
        self.collector.add_revelation(
            name, self.federation.members[name].reveal(self.signatures, self.federation.rules)
        )

    def _strike(self, step: str) -> None:
        if step in self.strikes:
            self.strikes[step](self)


def federation(hospitals: int = HOSPITALS) -> Federation:
    """Return fresh hospitals."""
    return Federation(hospitals, min_sum=3 if hospitals == 3 else 4)


def attempt(round_: Round, releases: bool, counted: int | None = None) -> Record:
    """Run an attempt and return its outcome.

    Args:
        round_: the attempt.
        releases: whether a sum may come out.
        counted: how many hospitals must be in it; None: any number that the least sum allows.
    """
    error, mean = "", None
    try:
        mean = round_.run()
    except CipherwardError as refusal:
        error = refusal.message
    except StruckError:
        pass
    survivors = sorted(round_.collector.survivors) if mean is not None else []
    said = [*round_.refusals, *([f"cloud: {error}"] if error else [])]
    record: Record = {"summed": len(survivors), "said": _group(said)}
    if mean is None:
        return record | {"survived": not releases}
    want = weighted_mean(round_.updates, round_.images, survivors)
    record["error"] = float(np.linalg.norm(mean - want) / np.linalg.norm(want))
    right = releases and record["error"] <= _CLOSE and counted in (None, len(survivors))
    return record | {"survived": bool(right)}


def _group(said: list[str]) -> list[str]:
    """Return what was said, with all who said the same in one line."""
    speakers: dict[str, list[str]] = {}
    for line in said:
        name, text = line.split(": ", 1)
        speakers.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in speakers.items()]
