"""What an attack on a study's kept updates found: cloud/updates_attack.json, which the report shows."""

from __future__ import annotations

from coordinator.exchange.records import Record

FILE = "updates_attack.json"


class UpdateAttack(Record):
    """The outcome of the attack `updates` on everything that a study kept.

    Attributes:
        study: Hex SHA-256 of what was observed of the training.
        updates: How many updates were attacked.
        sums: How many of them are sums of several hospitals (secure aggregation).
        images: Images behind them: an image counts once in every round.
        candidates: Plain images of the adversary's own that were tested; 0 without any.
        confirmed: Images that the attack gave and that are confirmed.
        confirmed_updates: Updates that gave at least one.
        by_chance: Candidates that chance alone would confirm in all these updates, if none took part: where altered
            copies of them lie as near to an update as images that took part.
        candidates_sha256: Hex SHA-256 of the candidates; empty without any.
        notes: Why not more, in words.
        budget_s: Seconds that were allowed.
        seconds: Seconds that it took.
    """

    study: str
    updates: int
    sums: int
    images: int
    candidates: int
    confirmed: int
    confirmed_updates: int
    notes: tuple[str, ...]
    budget_s: float
    seconds: float
    by_chance: float = 0.0
    candidates_sha256: str = ""
