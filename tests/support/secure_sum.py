"""A secure sum without a network: hospitals and a cloud in one process, with hospitals that die where a test says."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from crypto.arrays import Float64Array, UInt32Array
from crypto.identity import Identity
from crypto.secure_sum.collector import Collector
from crypto.secure_sum.fixed_point import FixedPoint
from crypto.secure_sum.member import Member
from crypto.secure_sum.transcript import RoundId, Rules

PHASES = ("keys", "shares", "vectors", "signatures", "revelations")


@dataclass
class Federation:
    """Hospitals h00, h01, … with identities and one attempt at a round."""

    count: int
    min_sum: int = 3
    model: str = "ab" * 32
    identities: dict[str, Identity] = field(init=False)
    rules: Rules = field(init=False)
    round_id: RoundId = field(init=False)
    members: dict[str, Member] = field(init=False)

    def __post_init__(self) -> None:
        names = [f"h{i:02d}" for i in range(self.count)]
        self.identities = {name: Identity.generate(name) for name in names}
        self.rules = Rules({name: i.public for name, i in self.identities.items()}, self.min_sum)
        self.begin()

    def begin(self) -> None:
        """Start another attempt, with fresh members."""
        self.round_id = RoundId("cd" * 32, 1, secrets.token_hex(16), self.model)
        self.members = {name: Member.start(i, self.round_id) for name, i in self.identities.items()}

    def reload(self, name: str) -> None:
        """Store a member's state and read it back, as a hospital does between two messages."""
        self.members[name] = Member.restore(self.members[name].export())


def run_round(
    federation: Federation, vectors: Mapping[str, UInt32Array], dies: Mapping[str, str] | None = None
) -> tuple[UInt32Array, list[str]]:
    """Run one attempt and return the sum and the survivors.

    Args:
        federation: the hospitals.
        vectors: uint32 [n] by hospital.
        dies: by hospital, the phase of PHASES that it does not answer any more.
    """
    at = {name: PHASES.index(phase) for name, phase in (dies or {}).items()}
    length = len(next(iter(vectors.values())))
    collector = Collector(federation.round_id, length, federation.rules)

    def alive(names: Collection[str], phase: int) -> list[str]:
        living = [name for name in names if at.get(name, len(PHASES)) > phase]
        for name in living:
            federation.reload(name)
        return living

    members, rules = federation.members, federation.rules
    for name in alive(list(members), 0):
        collector.add_keys(name, members[name].keys())
    keys = collector.close_keys()
    for name in alive(keys, 1):
        collector.add_shares(name, members[name].share(keys, rules))
    for name, shares in collector.close_shares().items():
        if alive([name], 2):
            masked, complaints = members[name].mask(shares, vectors[name], rules)
            assert not complaints
            collector.add_vector(name, masked)
    survivors = collector.close_vectors()
    for name in alive(survivors, 3):
        collector.add_signature(name, members[name].confirm(survivors, federation.identities[name], rules))
    signatures = collector.close_signatures()
    for name in alive(signatures, 4):
        collector.add_revelation(name, members[name].reveal(signatures, rules))
    return collector.unmask(), survivors


def encode_all(
    updates: Mapping[str, Float64Array], images: Mapping[str, int], clip: float
) -> tuple[dict[str, UInt32Array], dict[str, float], FixedPoint]:
    """Return the encoded updates, weights by the number of images, and the fixed point."""
    point = FixedPoint(clip, len(updates))
    most = max(images.values())
    weights = {name: count / most for name, count in images.items()}
    return {name: point.encode(u, weights[name])[0] for name, u in updates.items()}, weights, point


def weighted_mean(
    updates: Mapping[str, Float64Array], images: Mapping[str, int], names: Collection[str]
) -> Float64Array:
    """Return the plain weighted mean over some hospitals."""
    total = sum(images[name] for name in names)
    parts = [updates[name] * (images[name] / total) for name in sorted(names)]
    return np.asarray(np.sum(parts, axis=0), np.float64)
