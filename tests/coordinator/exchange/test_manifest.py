"""The study manifest: plan, keys, sets and identities that contradict one another are refused by name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.exchange.manifest import (
    StudyManifest,
    assemble,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from coordinator.exchange.plan import Plan
from coordinator.exchange.statement import (
    PURPOSE,
    SPLITS,
    Statement,
    canonical,
    plan_digest,
    read_statement,
    sign_statement,
    write_statement,
)
from crypto.errors import CipherwardError
from crypto.identity import Identity
from tests.support.manifests import facts_of, fake_digest, identity_of, manifest_of, state


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {"study": "s", "counts": (90, 90, 90), "image_size": 32, "block": 8}
    return Plan.model_validate(settings | changes)


def statements(p: Plan, **of_p1: Any) -> list[Statement]:
    """Return the statements of three hospitals. Those of p1 have these changes."""
    return [state(p, "p0"), state(p, "p1", **of_p1), state(p, "p2")]


def resign(value: dict[str, Any], identity: Identity) -> dict[str, Any]:
    """Return a statement's JSON with a new signature."""
    unsigned = {k: v for k, v in value.items() if k != "signature"}
    return unsigned | {"signature": base64.b64encode(identity.sign(PURPOSE, canonical(unsigned))).decode()}


# ---- what belongs together -----------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["consortium", "party", "image"])
def test_statements_that_agree_make_a_manifest_that_survives_the_disk(tmp_path: Path, scope: str) -> None:
    p = plan(key_scope=scope)
    manifest = assemble(p, reversed(statements(p)))
    assert manifest.digest == assemble(p, statements(p)).digest
    assert manifest.hospitals == ["p0", "p1", "p2"] and manifest.study == "s"
    assert manifest.roster == {name: identity_of(name).public for name in manifest.hospitals}
    assert manifest.plan_sha256 == plan_digest(p) and manifest.read_plan() == p
    write_manifest(tmp_path / "study.json", manifest)
    again = read_manifest(tmp_path / "study.json")
    assert again == manifest and again.digest == manifest.digest
    assert manifest.statements["p1"].sets.of("val").images == 10
    # A nonce would make a statement of its own out of every sealing's scheme.
    assert "nonce" not in manifest.statements["p0"].spec["options"]


def test_a_statement_survives_the_disk_and_is_the_same_each_time(tmp_path: Path) -> None:
    statement = state(plan(), "p0")
    write_statement(tmp_path / "statement.json", statement)
    assert read_statement(tmp_path / "statement.json") == statement == state(plan(), "p0")


def test_the_digest_of_a_plan_knows_no_paths_and_all_settings() -> None:
    p = plan(source="folder", images="/here/images", weights="/here/w.safetensors")
    assert plan_digest(p) == plan_digest(
        p.model_copy(update={"images": "/there", "weights": "/there/w.safetensors"})
    )
    others = {"weights": "/here/v.safetensors", "quorum": 2, "rounds": 6, "max_update_norm": 3.0}
    digests = {plan_digest(p.model_copy(update={name: value})) for name, value in others.items()}
    assert len(digests | {plan_digest(p)}) == 5
    assert "/here" not in json.dumps(assemble(p, [state(p, f"p{i}") for i in range(3)]).to_json())


# ---- what contradicts the plan, or another hospital ----------------------------------------------

CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "consortium with two keys": (
        {"key_scope": "consortium"},
        {"key_id": "another"},
        "key_scope consortium, and p0 sealed with key key-of-all, p1 with key another",
    ),
    "party scope with one shared key": (
        {"key_scope": "party"},
        {"key_id": "key-of-p0"},
        "key_scope party, and p0 and p1 sealed with one key",
    ),
    "another scheme": (
        {},
        {"spec": {**facts_of(plan(), "p1").spec, "name": "value_shuffle"}},
        "p1 sealed with name 'value_shuffle', and the plan says 'block_pixel_shuffle'",
    ),
    "another version of the scheme": (
        {},
        {"spec": {**facts_of(plan(), "p1").spec, "version": 1}},
        "p1 sealed with version 1, and",
    ),
    "other options": (
        {"scheme": "value_shuffle"},
        {"spec": {**facts_of(plan(scheme="value_shuffle"), "p1").spec, "options": {"fixed_blocks": 1}}},
        "p1 sealed with options",
    ),
    "a field that no scheme has": (
        {},
        {"spec": {**facts_of(plan(), "p1").spec, "more": None, "x": 1}},
        "p1 sealed with x 1",
    ),
    "a setting that is only equal in Python": (
        {"image_size": 8, "block": 1, "scheme": "block_pixel"},
        {"spec": {**facts_of(plan(image_size=8, block=1, scheme="block_pixel"), "p1").spec, "block": True}},
        "p1 sealed with block True",
    ),
    "other classes": (
        {},
        {"classes": ["a", "c"]},
        "the classes of p1 are not those of the others: class 1 is 'c'",
    ),
    "classes in another order": ({}, {"classes": ["b", "a"]}, "the classes of p1 are not"),
    "a class that looks the same": (
        {},
        {"classes": ["a", "\u0431"]},
        r"class 1 is '\u0431' instead of 'b'",
    ),
    "a class too many": ({}, {"classes": ["a", "b", "c"]}, "3 instead of 2; it has 'c', and they do not"),
    "a class too few": ({}, {"classes": ["a"]}, "1 instead of 2; it lacks 'b'"),
    "another hospital's set": (
        {},
        {"sets": {split: (fake_digest("p0", split), 10) for split in SPLITS}},
        "train of p1 and train of p0 are the same sealed set",
    ),
    "the train set as the test set": (
        {},
        {"sets": {split: (fake_digest("one"), 10) for split in SPLITS}},
        "val of p1 and train of p1 are the same sealed set",
    ),
    "more images than the plan counts": (
        {},
        {"images": 10**7},
        "state 10000020 images in train, and the plan counts 90 in all",
    ),
    "more images than the plan leaves for one": ({}, {"images": 71}, "state 91 images in train"),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_what_contradicts_the_plan_or_another_hospital_is_named(kind: str) -> None:
    of_plan, of_p1, message = CONTRADICTIONS[kind]
    p = plan(**of_plan)
    with pytest.raises(CipherwardError) as error:
        assemble(p, statements(p, **of_p1))
    assert message in error.value.message and error.value.hint


def test_a_replayed_statement_of_an_older_plan_is_refused() -> None:
    older, p = plan(rounds=2), plan(rounds=3)
    with pytest.raises(CipherwardError, match="p1's statement is about another plan"):
        assemble(p, [state(p, "p0"), state(older, "p1"), state(p, "p2")])
    other = state(plan(study="t"), "p1")
    with pytest.raises(CipherwardError, match="about another plan, that of t"):
        assemble(p, [state(p, "p0"), other, state(p, "p2")])


def test_every_hospital_of_the_plan_states_once() -> None:
    p = plan()
    with pytest.raises(CipherwardError, match="two statements of p1"):
        assemble(p, [*statements(p), state(p, "p1")])
    with pytest.raises(CipherwardError, match="for 3 hospitals, and 2 stated something: p0, p1"):
        assemble(p, statements(p)[:2])
    with pytest.raises(CipherwardError, match="for 3 hospitals, and 4 stated"):
        assemble(p, [*statements(p), state(p, "p3")])
    with pytest.raises(CipherwardError, match="for 3 hospitals, and 0 stated"):
        assemble(p, [])


def test_hospitals_share_neither_identity_nor_name() -> None:
    p = plan()
    twin = Identity.from_pem("p2", identity_of("p0").reveal())
    stolen = sign_statement(twin, plan_digest(p), p.study, facts_of(p, "p2"))
    with pytest.raises(CipherwardError, match="p0 and p2 have the same identity key"):
        assemble(p, [*statements(p)[:2], stolen])
    with pytest.raises(CipherwardError, match="P0 and p0 differ in letters' case only"):
        assemble(p, [*statements(p)[:2], state(p, "P0")])


# ---- what was altered ----------------------------------------------------------------------------

EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "the key id": lambda s: s.update(key_id="another"),
    "a count": lambda s: s["sets"]["train"].update(images=21),
    "a digest": lambda s: s["sets"]["val"].update(digest="0" * 64),
    "a class": lambda s: s.update(classes=["a", "c"]),
    "the plan": lambda s: s.update(plan_sha256="0" * 64),
    "the scheme": lambda s: s["spec"].update(block=16),
    "the study": lambda s: s.update(study="u"),
    "the identity": lambda s: s.update(identity=Identity.generate("p1").public.line),
    "no signature": lambda s: s.update(signature=""),
    "a signature that is no base64": lambda s: s.update(signature="é"),
    "half a signature": lambda s: s.update(signature=s["signature"][:44]),
    "another's signature": lambda s: s.update(signature=state(plan(), "p0").signature),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_statement_edited_after_signing_is_refused_everywhere(tmp_path: Path, kind: str) -> None:
    value = json.loads(json.dumps(manifest_of(plan()).to_json()))
    EDITS[kind](value["statements"]["p1"])
    (tmp_path / "study.json").write_text(json.dumps(value))
    with pytest.raises(CipherwardError, match="the signature is not p1's"):
        read_manifest(tmp_path / "study.json")
    (tmp_path / "statement.json").write_text(json.dumps(value["statements"]["p1"]))
    with pytest.raises(CipherwardError, match="the signature is not p1's"):
        read_statement(tmp_path / "statement.json")


def test_a_statement_under_another_hospital_s_name_is_refused() -> None:
    value = json.loads(json.dumps(manifest_of(plan()).to_json()))
    stated = value["statements"]
    moved = {**value, "statements": {**stated, "p1": stated["p0"]}}
    with pytest.raises(CipherwardError, match="the statement of p0 stands under the name p1"):
        parse_manifest(moved, "study.json")
    # Signed by p0's own key, as p1.
    claimed = resign({**stated["p1"], "identity": stated["p0"]["identity"]}, identity_of("p0"))
    with pytest.raises(CipherwardError, match="the statement of p1 carries the identity of p0"):
        parse_manifest({**value, "statements": {**stated, "p1": claimed}}, "study.json")


@pytest.mark.parametrize("name", ["../p1", "p1/..", "", ".", "p\x1b[2J", "p 1", "x" * 65, "ｐ１", "p1\n"])
def test_a_hospital_s_name_is_safe_as_a_file_and_on_a_terminal(name: str) -> None:
    value = json.loads(json.dumps(state(plan(), "p1").to_json()))
    line = value["identity"].replace(" p1 ", f" {name} ")
    value = resign({**value, "hospital": name, "identity": line}, identity_of("p1"))
    manifest = {**manifest_of(plan()).to_json(), "statements": {name: value}}
    with pytest.raises(CipherwardError):
        parse_manifest(json.loads(json.dumps(manifest)), "study.json")


@pytest.mark.parametrize("names", [["a", "a"], ["a", "b\x1b[2J"], ["a", " b"], ["a", ""], []])
def test_names_of_classes_are_names(names: list[str]) -> None:
    value = json.loads(json.dumps(state(plan(), "p1").to_json()))
    value = resign({**value, "classes": names}, identity_of("p1"))
    with pytest.raises(CipherwardError, match="classes"):
        parse_manifest({**manifest_of(plan()).to_json(), "statements": {"p1": value}}, "study.json")


def test_any_change_is_another_manifest() -> None:
    p = plan()
    digest = manifest_of(p).digest
    exchanged = Identity.generate("p1")
    facts = facts_of(p, "p1", 20)
    others = [state(p, "p0"), sign_statement(exchanged, plan_digest(p), p.study, facts), state(p, "p2", 30)]
    assert assemble(p, others).digest != digest
    assert manifest_of(plan(quorum=2)).digest != digest


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another schema": lambda m: m.update(schema="cipherward.study/0"),
    "an unknown field": lambda m: m.update(more=1),
    "no plan": lambda m: m.pop("plan"),
    "a plan with a path": lambda m: m["plan"].update(weights="/a/w"),
    "a setting that the plan leaves out": lambda m: m["plan"].pop("max_update_norm"),
    "an unknown setting": lambda m: m["plan"].update(send_key=True),
    "a setting written otherwise": lambda m: m["plan"].update(rounds="5"),
    "infinity": lambda m: m["plan"].update(deadline_s=float("inf")),
    "another study": lambda m: m.update(study="u"),
    "counts as text": lambda m: m["statements"]["p0"]["sets"]["train"].update(images="10"),
    "no images": lambda m: m["statements"]["p0"]["sets"]["train"].update(images=0),
    "a set too few": lambda m: m["statements"]["p0"]["sets"].pop("val"),
    "statements as a list": lambda m: m.update(statements=list(m["statements"].values())),
    "nothing": lambda m: m.clear(),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, kind: str) -> None:
    value = json.loads(json.dumps(manifest_of(plan()).to_json()))
    DAMAGES[kind](value)
    (tmp_path / "study.json").write_text(json.dumps(value))
    with pytest.raises(CipherwardError):
        read_manifest(tmp_path / "study.json")


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    write_statement(tmp_path / "a.json", state(plan(), "p0"))
    write_manifest(tmp_path / "b.json", manifest_of(plan()))
    with pytest.raises(CipherwardError, match=r"is not a cipherward\.study/1 file"):
        read_manifest(tmp_path / "a.json")
    with pytest.raises(CipherwardError, match=r"is not a cipherward\.statement/1 file"):
        read_statement(tmp_path / "b.json")
    with pytest.raises(CipherwardError, match="no study manifest at"):
        read_manifest(tmp_path / "c.json")


def test_a_manifest_is_immutable_and_typed() -> None:
    manifest = manifest_of(plan())
    assert isinstance(manifest, StudyManifest)
    with pytest.raises(ValueError, match="frozen"):
        manifest.study = "u"
