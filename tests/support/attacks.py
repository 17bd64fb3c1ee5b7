"""Attacks that a test puts in place of real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.adversary.contract import Attack
from coordinator.adversary.registry import ATTACKS


def replace_attack(monkeypatch: pytest.MonkeyPatch, name: str, attack: Attack) -> None:
    """Make the registry run another function under an attack's name, for the rest of a test."""
    monkeypatch.setitem(ATTACKS, name, replace(ATTACKS[name], attack=attack))
