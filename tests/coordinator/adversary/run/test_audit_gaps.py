"""`attack` says before it starts what an audit of the sets it was given will lack."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from coordinator.adversary.run.draws import audit_gaps
from coordinator.exchange.audit.control_sets import MAY_BE_HIDDEN
from coordinator.exchange.audit.suite1 import ATTACKS

CONTROLS = (
    "control-known",
    "control-noise",
    "control-permuted",
    "control-plain",
    "control-signs",
    "control-public",
)


@dataclass(frozen=True)
class NamedSet:
    """What `audit_gaps` looks at in a sealed set."""

    folder: Path
    key_id: str


def gaps_of(*names: str) -> list[str]:
    """Return the gaps of an audit of these sets, each under a key of its own."""
    return audit_gaps(cast(Any, [NamedSet(Path(name), name) for name in names]), ATTACKS)


def test_a_whole_audit_lacks_nothing() -> None:
    assert gaps_of("train", "audit-1", "audit-2", *CONTROLS) == []


def test_blind_controls_are_no_draws() -> None:
    assert gaps_of(*(f"set-{i}" for i in range(5)), *CONTROLS) == []
    [gap] = gaps_of(*(f"set-{i}" for i in range(4)), *CONTROLS)
    assert "2 draws of key and pool instead of 3" in gap


def test_controls_that_a_cloud_is_not_told_are_neither_draws_nor_missing() -> None:
    open_controls = [name for name in CONTROLS if name not in MAY_BE_HIDDEN]
    assert gaps_of(*(f"set-{i}" for i in range(8)), *open_controls) == []
    [gap] = gaps_of(*(f"set-{i}" for i in range(7)), *open_controls)
    assert "2 draws of key and pool instead of 3" in gap
    # One of them in the open, because its ciphertexts have another form.
    assert gaps_of(*(f"set-{i}" for i in range(7)), "control-known", *open_controls) == []


def test_missing_draws_and_controls_are_named() -> None:
    draws, controls = gaps_of("train", "control-known")
    assert "1 draw of key and pool instead of 3" in draws
    assert "no control-noise, control-permuted, control-plain, control-signs" in controls
    assert gaps_of("train", "audit-1", *CONTROLS) == [gaps_of("train", "audit-1")[0]]
