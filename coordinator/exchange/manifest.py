"""The study manifest: what every hospital of a study states, signed, in one file that all of them agree on.

    hospital:     Statement     cipherward-party declare         signed by its identity (crypto/identity.py)
    coordinator:  study.json    cipherward-coordinator manifest  plan and statements together
    hospital:     agreement     cipherward-party agree           pins the manifest's digest in its policy

A plan says how images are to be sealed. The manifest says how they were: with which keys, into which sets, by whom.
Whoever reads one checks that plan, keys and sets do not contradict one another (`StudyManifest.verify`). The
signatures prove that a holder of an identity key states this. They do not prove who that holder is: hospitals compare
the fingerprints over another channel before they agree.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from coordinator.exchange.plan import Plan
from coordinator.exchange.records import MOST_RECORD_BYTES, Record, parse_record, write_record
from coordinator.exchange.settings import build
from coordinator.exchange.statement import SPLITS, Statement, canonical, plan_digest, plan_settings
from crypto.errors import CipherwardError
from crypto.files import read_json
from crypto.identity import PublicIdentity
from crypto.plural import counted
from crypto.spec import spec_without_nonce

#: The manifest's file name in a study's folder.
FILE = "study.json"
SCHEMA = "cipherward.study/1"
_MAKE_AGAIN = "make the manifest again from the hospitals' statements: cipherward-coordinator manifest"


class StudyManifest(Record):
    """The whole of study.json.

    Attributes:
        study: the study's name.
        plan: the plan's settings, as `plan_settings` returns them.
        statements: the hospitals' statements, by name.
    """

    schema_id: str = Field(validation_alias="schema", serialization_alias="schema")
    study: str
    plan: dict[str, Any]
    statements: dict[str, Statement]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest's canonical JSON. Hospitals pin it, and every message names it."""
        return hashlib.sha256(canonical(self.to_json())).hexdigest()

    @property
    def hospitals(self) -> list[str]:
        """The names of the hospitals, sorted."""
        return sorted(self.statements)

    @property
    def roster(self) -> dict[str, PublicIdentity]:
        """The hospitals' public identities, by name."""
        return {name: self.statements[name].public for name in self.hospitals}

    @property
    def plan_sha256(self) -> str:
        """The digest of the plan (`plan_digest`)."""
        return hashlib.sha256(canonical(self.plan)).hexdigest()

    def read_plan(self) -> Plan:
        """Return the plan. It names no images, and its weights are a file's name.

        Raises:
            CipherwardError: if a setting is wrong, or is one that this version does not know or writes otherwise.
        """
        plan = build(Plan, self.plan, "the study manifest's plan")
        if canonical(plan_settings(plan)) != canonical(self.plan):
            raise CipherwardError(
                "the study manifest's plan is of another version of cipherward, or names paths of one machine",
                "make the manifest with the version that the hospitals use",
            )
        return plan

    def verify(self) -> None:
        """Check every signature, and that plan, keys and sets do not contradict one another.

        Raises:
            CipherwardError: naming the hospital and what contradicts what.
        """
        plan = self.read_plan()
        statements = [self.statements[name] for name in self.hospitals]
        if self.study != plan.study:
            raise CipherwardError(
                f"the manifest of {self.study!r} holds the plan of {plan.study!r}", _MAKE_AGAIN
            )
        for name, statement in zip(self.hospitals, statements, strict=True):
            if statement.hospital != name:
                raise CipherwardError(
                    f"the statement of {statement.hospital} stands under the name {name}", _MAKE_AGAIN
                )
            statement.verify()
        if len(statements) != plan.parties:
            raise CipherwardError(
                f"the plan is for {counted(plan.parties, 'hospital')}, and {len(statements)} stated something: "
                f"{', '.join(self.hospitals)}",
                "name one statement of each hospital (cipherward-party declare)",
            )
        for statement in statements:
            _require_plan(statement, plan)
        _require_distinct(statements)
        _require_key_scope(statements, plan.key_scope)
        _require_counts(statements, plan)


def _require_plan(statement: Statement, plan: Plan) -> None:
    """Raise CipherwardError if a hospital states another plan, or sealed otherwise than the plan says."""
    name = statement.hospital
    if statement.study != plan.study or statement.plan_sha256 != plan_digest(plan):
        raise CipherwardError(
            f"{name}'s statement is about another plan"
            + (f", that of {statement.study}" if statement.study != plan.study else ""),
            f"{name} accepts this plan and states its sets again: cipherward-party accept, then declare",
        )
    expected = spec_without_nonce(plan.describe())
    for field in sorted(expected.keys() | statement.spec.keys()):
        stated, right = statement.spec.get(field), expected.get(field)
        if canonical(stated) != canonical(right):
            raise CipherwardError(
                f"{name} sealed with {field} {stated!r}, and the plan says {right!r}",
                f"{name} seals with the plan's settings, and states its sets again",
            )


def _require_distinct(statements: Sequence[Statement]) -> None:
    """Raise CipherwardError if two hospitals share what must be one's own, or do not share their classes."""
    usual = Counter(statement.classes for statement in statements).most_common(1)[0][0]
    for statement in statements:
        if statement.classes != usual:
            difference = _difference(statement.classes, usual)
            raise CipherwardError(
                f"the classes of {statement.hospital} are not those of the others: {difference}",
                "all hospitals need the same classes in the same order: cipherward-party seal --classes states them",
            )
    if pair := _find_pair(statements, lambda statement: statement.hospital.casefold()):
        raise CipherwardError(f"{pair} differ in letters' case only", "give each a name of its own")
    if pair := _find_pair(statements, lambda statement: statement.public.key):
        raise CipherwardError(
            f"{pair} have the same identity key", "each hospital makes its own: cipherward-party enrol"
        )
    owners: dict[str, str] = {}
    for statement in statements:
        for split in SPLITS:
            place, digest = f"{split} of {statement.hospital}", statement.sets.of(split).digest
            if digest in owners:
                raise CipherwardError(
                    f"{place} and {owners[digest]} are the same sealed set",
                    "every hospital seals its own images",
                )
            owners[digest] = place


def _difference(classes: Sequence[str], usual: Sequence[str]) -> str:
    """Return where two lists of classes differ first, with escapes: names may differ in nothing that is seen."""
    if len(classes) != len(usual):
        extra, lacking = sorted(set(classes) - set(usual)), sorted(set(usual) - set(classes))
        told = [f"it has {extra[0]!a}, and they do not"] if extra else []
        told += [f"it lacks {lacking[0]!a}"] if lacking else []
        return f"{len(classes)} instead of {len(usual)}; {', and '.join(told)}"
    number = next(i for i, pair in enumerate(zip(classes, usual, strict=True)) if pair[0] != pair[1])
    return f"class {number} is {classes[number]!a} instead of {usual[number]!a}"


def _find_pair(statements: Sequence[Statement], what: Callable[[Statement], object]) -> str:
    """Return the names of two hospitals that have the same of something, as "A and B"; "" if there are none."""
    owners: dict[object, str] = {}
    for statement in statements:
        value = what(statement)
        if value in owners:
            return f"{owners[value]} and {statement.hospital}"
        owners[value] = statement.hospital
    return ""


def _require_key_scope(statements: Sequence[Statement], scope: str) -> None:
    """Raise CipherwardError if the hospitals' keys are not shared as the plan says.

    Under scope `image` every image has a key of its own, whichever key it is derived from.
    """
    first = statements[0]
    for other in statements[1:] if scope == "consortium" else ():
        if other.key_id != first.key_id:
            raise CipherwardError(
                f"the plan says key_scope consortium, and {first.hospital} sealed with key {first.key_id}, "
                f"{other.hospital} with key {other.key_id}",
                "the hospitals of a consortium share one key: cipherward-party share-key, then rotate --key",
            )
    if scope == "party" and (pair := _find_pair(statements, lambda statement: statement.key_id)):
        raise CipherwardError(
            f"the plan says key_scope party, and {pair} sealed with one key",
            "each hospital makes a key of its own: cipherward-party rotate",
        )


def _require_counts(statements: Sequence[Statement], plan: Plan) -> None:
    """Raise CipherwardError if the hospitals have more images than a plan whose source counts them."""
    if plan.source != "phantom":
        return  # other sources do not use the plan's counts
    for split, limit in zip(SPLITS, plan.counts, strict=True):
        total = sum(statement.sets.of(split).images for statement in statements)
        if total > limit:
            most = max(statements, key=lambda statement: statement.sets.of(split).images)
            raise CipherwardError(
                f"the hospitals state {counted(total, 'image')} in {split}, and the plan counts {limit} in all",
                f"{most.hospital} states {most.sets.of(split).images}, the most",
            )


def assemble(plan: Plan, statements: Iterable[Statement]) -> StudyManifest:
    """Return the manifest of a plan and its hospitals' statements, in any order.

    Raises:
        CipherwardError: if two statements have one name, and as `StudyManifest.verify` does.
    """
    by_name: dict[str, Statement] = {}
    for statement in statements:
        if statement.hospital in by_name:
            raise CipherwardError(
                f"there are two statements of {statement.hospital}",
                "name the newest statement of each hospital",
            )
        by_name[statement.hospital] = statement
    value = {"schema": SCHEMA, "study": plan.study, "plan": plan_settings(plan)}
    texts = {name: by_name[name].to_json() for name in sorted(by_name)}
    manifest = parse_record(StudyManifest, value | {"statements": texts}, "the study manifest")
    manifest.verify()
    return manifest


def parse_manifest(value: object, where: str) -> StudyManifest:
    """Return the verified manifest of a JSON value.

    Raises:
        CipherwardError: if it is none, is damaged, or contradicts itself.
    """
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise CipherwardError(
            f"{where} is not a {SCHEMA} file", "name the study.json that the coordinator made"
        )
    manifest = parse_record(StudyManifest, value, where)
    manifest.verify()
    return manifest


def read_manifest(path: Path) -> StudyManifest:
    """Read and verify study.json.

    Raises:
        CipherwardError: if it is missing, damaged, or contradicts itself.
    """
    value = read_json(
        path, "study manifest", "cipherward-coordinator manifest", most_bytes=MOST_RECORD_BYTES
    )
    return parse_manifest(value, str(path))


def write_manifest(path: Path, manifest: StudyManifest) -> None:
    """Write study.json, atomically."""
    write_record(path, manifest)
