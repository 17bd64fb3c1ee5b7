"""Identities, statements and study manifests of hospitals that exist in tests only."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

from coordinator.exchange.manifest import StudyManifest, assemble
from coordinator.exchange.plan import Plan
from coordinator.exchange.statement import SPLITS, StatedFacts, Statement, plan_digest, sign_statement
from crypto.identity import Identity
from crypto.spec import spec_without_nonce


@functools.cache
def identity_of(name: str) -> Identity:
    """Return the identity of a hospital, the same in all tests of a process."""
    return Identity.generate(name)


def fake_digest(*words: object) -> str:
    """Return a digest that stands for some sealed set."""
    return hashlib.sha256(repr(words).encode()).hexdigest()


def facts_of(plan: Plan, name: str, images: int = 10, **changes: Any) -> StatedFacts:
    """Return the facts that a hospital with so many images in each split states, with these changes."""
    key = "key-of-all" if plan.key_scope == "consortium" else f"key-of-{name}"
    sets = {split: (fake_digest(name, split), images) for split in SPLITS}
    spec = spec_without_nonce(plan.describe())
    return StatedFacts(spec, key, ["a", "b"], sets)._replace(**changes)


def state(plan: Plan, name: str, images: int = 10, **changes: Any) -> Statement:
    """Return a hospital's statement about a plan."""
    facts = facts_of(plan, name, images, **changes)
    return sign_statement(identity_of(name), plan_digest(plan), plan.study, facts)


def manifest_of(plan: Plan) -> StudyManifest:
    """Return the manifest of the hospitals p0, p1, … of a plan. Hospital i has 10·(i+1) images in each split."""
    return assemble(plan, [state(plan, f"p{i}", 10 * (i + 1)) for i in range(plan.parties)])
