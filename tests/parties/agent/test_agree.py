"""Enrol, declare, manifest, agree: what the commands show, ask, write and refuse."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from coordinator.exchange.manifest import assemble, read_manifest, write_manifest
from coordinator.exchange.plan import Plan, write_plan
from coordinator.exchange.statement import (
    SPLITS,
    StatedFacts,
    Statement,
    read_statement,
    sign_statement,
    write_statement,
)
from crypto.errors import CipherwardError
from crypto.identity import Identity, PublicIdentity
from parties.agent.agree import CHANGED, KNOWN, NEW, THIS, list_members
from parties.agent.declare import make_statement
from parties.agent.identity_file import ensure_identity, identity_path
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from parties.training.policy_file import read_policy, save_policy
from parties.training.study_file import read_agreed
from tests.support.command_runs import Here
from tests.support.hospitals import accept, drop_identity, plan, seal_hospitals


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    """Return two hospitals with sealed sets that agreed on the tests' plan."""
    return seal_hospitals(tmp_path_factory.mktemp("agree"), plan())


@pytest.fixture
def places(sealed: list[Place], tmp_path: Path) -> list[Place]:
    """Return copies of the hospitals, which accepted the plan and did nothing else yet."""
    copies = []
    for place in sealed:
        folder = tmp_path / place.folder.name
        shutil.copytree(place.folder, folder)
        shutil.rmtree(folder / "private" / "studies")
        (folder / "policy.yaml").unlink()
        copies.append(Place.open(folder))
    accept(copies, plan())
    return copies


def make_manifest(folder: Path, places: list[Place], p: Plan) -> Path:
    """Write the manifest of the hospitals as they are, and return its file."""
    texts = [make_statement(place, read_policy(place), ensure_identity(place)) for place in places]
    write_manifest(folder / "study.json", assemble(p, texts))
    return folder / "study.json"


def wrapped(text: str) -> str:
    """Return printed text without what a table puts between its words."""
    return re.sub(r"[\s│┃]+", " ", text)


def test_the_four_commands_lead_to_an_agreement(places: list[Place], tmp_path: Path, here: Here) -> None:
    fingerprints = []
    for place in places:
        drop_identity(place)
        done = here("cipherward-party", "enrol", place.folder)
        assert done.returncode == 0 and "by telephone or in person" in wrapped(done.stderr)
        fingerprints.append(done.stdout.strip())
        public = PublicIdentity.parse((place.folder / "identity.pub").read_text())
        assert (public.name, public.fingerprint) == (place.settings.party, fingerprints[-1])
        again = here("cipherward-party", "enrol", place.folder)
        assert again.stdout == done.stdout
        done = here("cipherward-party", "declare", place.folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == str(place.folder / "statement.json")
    files = [place.folder / "statement.json" for place in places]
    study = tmp_path / "study.json"
    done = here("cipherward-coordinator", "manifest", write_plan(plan(), tmp_path), *files, "--out", study)
    assert done.returncode == 0, done.stderr
    again = here("cipherward-coordinator", "manifest", write_plan(plan(), tmp_path), *files, "--out", study)
    assert again.stdout == done.stdout and "is replaced" not in again.stderr
    manifest = read_manifest(study)
    assert manifest.digest in done.stdout and all(text in done.stderr for text in fingerprints)
    for place in places:
        done = here("cipherward-party", "agree", study, place.folder)
        assert done.returncode == 1 and "add --yes" in done.stderr  # no terminal
        assert read_policy(place).manifest_sha256 == ""
        done = here("cipherward-party", "agree", study, place.folder, "--yes")
        assert done.returncode == 0 and manifest.digest in done.stdout, done.stderr
        # In one piece also on 80 columns: people read them to each other.
        shown = [*fingerprints, *manifest.statements, *(s.key_id for s in manifest.statements.values())]
        assert all(text in done.stderr for text in shown), done.stderr
        assert "compare every fingerprint" in wrapped(done.stderr)
        assert read_agreed(place, read_policy(place)) == manifest
        assert (place.private / "studies").stat().st_mode & 0o077 == 0
        assert place.policy_file.stat().st_mode & 0o777 == 0o600
        done = here("cipherward-party", "agree", study, place.folder)
        assert done.returncode == 0 and done.stdout.strip().endswith("agreed to already")
    # Nothing of the statement or the manifest is a key.
    for place in places:
        assert place.key().reveal().hex() not in study.read_text()
        assert identity_path(place).read_text().splitlines()[1] not in study.read_text()


def test_a_statement_is_the_same_each_time_says_what_is_sealed_and_opens_no_key(
    places: list[Place], here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places[0]
    monkeypatch.setattr(Place, "key", lambda self: pytest.fail("the key was opened"))
    for name in ("a.json", "b.json"):
        done = here("cipherward-party", "declare", place.folder, "--out", place.folder / name)
        assert done.returncode == 0, done.stderr
    first, second = ((place.folder / name).read_bytes() for name in ("a.json", "b.json"))
    assert first == second
    statement = read_statement(place.folder / "a.json")
    for split in SPLITS:
        sealed = place.sealed(split)
        facts = statement.sets.of(split)
        assert (facts.digest, facts.images) == (sealed.digest, len(sealed))
    assert statement.key_id == place.sealed("train").key_id
    assert statement.plan_sha256 == read_policy(place).plan_sha256


def test_what_cannot_be_stated_is_named(places: list[Place], tmp_path: Path, here: Here) -> None:
    place = places[0]

    def error() -> str:
        done = here("cipherward-party", "declare", place.folder)
        assert done.returncode == 1 and not (place.folder / "statement.json").exists()
        return " ".join(done.stderr.split())

    shard = place.sealed_folder("val") / "images-00000.safetensors"
    before = shard.read_bytes()
    shard.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert "is altered" in error()
    shard.write_bytes(before)
    # Two sets in each other's place, or one whose row list is gone.
    val, test, aside = (place.folder / "sealed" / name for name in ("val", "test", "aside"))
    for source, target in ((val, aside), (test, val), (aside, test)):
        source.rename(target)
    assert "another one was put in its place" in error() or "was put in the place" in error()
    for source, target in ((val, aside), (test, val), (aside, test)):
        source.rename(target)
    rows = place.rows_file("val").read_bytes()
    place.rows_file("val").unlink()
    assert "rows-val.json, which says what was sealed as" in error()
    place.rows_file("val").write_bytes(rows)
    # One set is of another key: half of a rotation by hand.
    other = Place.from_settings(tmp_path / "other", place.settings.model_dump())
    other.save()
    (other.folder / "secret.key").write_bytes(places[1].key_path.read_bytes())
    (other.folder / "secret.key").chmod(0o600)
    seal(other, plan_sealing(other, "val"))
    shutil.rmtree(place.sealed_folder("val"))
    shutil.copytree(other.sealed_folder("val"), place.sealed_folder("val"))
    assert "the set val was sealed with key" in error()
    place.policy_file.unlink()
    assert "accepted no study" in error()


def refuse(here: Here, place: Place, study: Path) -> str:
    """Let a hospital refuse a manifest; return why. Its policy stays as it is."""
    before = place.policy_file.read_bytes()
    done = here("cipherward-party", "agree", study, place.folder, "--yes")
    assert done.returncode == 1 and place.policy_file.read_bytes() == before
    return " ".join(done.stderr.split())


def test_a_manifest_that_is_not_about_this_hospital_s_part_is_refused(
    places: list[Place], tmp_path: Path, here: Here
) -> None:
    place, p = places[0], plan()
    study = make_manifest(tmp_path, places, p)
    own, other = (make_statement(h, read_policy(h), ensure_identity(h)) for h in places)
    # Another plan, of which the hospital was told nothing.
    accept(places[1:], plan(rounds=3))
    accept([place], plan(rounds=3))
    lie = make_manifest(tmp_path, places, plan(rounds=3))
    accept([place], p)
    assert "about another plan than hospital-0 accepted" in (text := refuse(here, place, lie))
    assert "says rounds 3; this hospital accepted rounds 2" in text
    # Other settings of the coordinator's own work are another plan, too.
    accept(places, plan(max_update_norm=0))
    lie = make_manifest(tmp_path, places, plan(max_update_norm=0))
    accept([place], p)
    assert "about another plan than hospital-0 accepted" in refuse(here, place, lie)
    # Somebody else under this hospital's name, with its public facts.
    stranger = Identity.generate("hospital-0")
    forged = sign_as(stranger, own)
    write_manifest(study, assemble(p, [forged, other]))
    assert "has another identity under the name hospital-0" in refuse(here, place, study)
    # The hospital is not in it at all.
    write_manifest(study, assemble(p, [sign_as(Identity.generate("x"), own), other]))
    assert "has no statement of hospital-0" in refuse(here, place, study)
    # Edited after signing.
    value = json.loads(json.dumps(assemble(p, [own, other]).to_json()))
    value["statements"]["hospital-1"]["sets"]["train"]["images"] = 1
    study.write_text(json.dumps(value))
    assert "the signature is not hospital-1's" in refuse(here, place, study)


def sign_as(identity: Identity, statement: Statement) -> Statement:
    """Return a statement's facts, signed by another identity."""
    sets = {s: (statement.sets.of(s).digest, statement.sets.of(s).images) for s in SPLITS}
    facts = StatedFacts(statement.spec, statement.key_id, statement.classes, sets)
    return sign_statement(identity, statement.plan_sha256, statement.study, facts)


def test_a_rotation_makes_a_new_statement_necessary(
    places: list[Place], tmp_path: Path, here: Here
) -> None:
    place, study = places[0], make_manifest(tmp_path, places, plan())
    assert here("cipherward-party", "agree", study, place.folder, "--yes").returncode == 0

    assert here("cipherward-party", "rotate", place.folder, "--unprotected").returncode == 0
    place = Place.open(place.folder)
    text = refuse(here, place, study)
    assert "sealed its set train anew after it stated it" in text and "declare" in text
    again = make_manifest(tmp_path, [place, places[1]], plan())
    assert here("cipherward-party", "agree", again, place.folder, "--yes").returncode == 0
    assert read_manifest(again).digest == read_policy(place).manifest_sha256


def test_who_comes_with_another_identity_than_before_is_marked(
    places: list[Place], tmp_path: Path, here: Here
) -> None:
    place, other = places
    study = make_manifest(tmp_path, places, plan())
    standing = {m.name: m.standing for m in list_members(place, read_manifest(study))}
    assert standing == {"hospital-0": THIS, "hospital-1": NEW}
    here("cipherward-party", "agree", study, place.folder, "--yes")
    members = list_members(place, read_manifest(study))
    assert [m.standing for m in members] == [THIS, KNOWN]
    assert [m.images for m in members] == [(12, 4, 6), (12, 4, 6)] and members[0].weight == 0.5
    drop_identity(other)
    study = make_manifest(tmp_path, places, plan())
    assert [m.standing for m in list_members(place, read_manifest(study))] == [THIS, CHANGED]
    done = here("cipherward-party", "agree", study, place.folder, "--yes")
    assert done.returncode == 0 and "hospital-1 comes with another identity" in wrapped(done.stderr)


def test_accepting_again_keeps_or_drops_the_agreement(
    places: list[Place], tmp_path: Path, here: Here
) -> None:
    place, study = places[0], make_manifest(tmp_path, places, plan())
    here("cipherward-party", "agree", study, place.folder, "--yes")
    agreed = read_policy(place)
    save_policy(place, agreed.model_copy(update={"test_reads": 0}))
    accept([place], plan())
    assert read_policy(place).manifest_sha256 == agreed.manifest_sha256 == read_manifest(study).digest
    # Another plan of the same study: the hospital's limits and its count of answers stay, its agreement does not.
    accept([place], plan(quorum=2))
    policy = read_policy(place)
    assert (policy.manifest_sha256, policy.test_reads, policy.digest) == ("", 0, agreed.digest)


def test_a_lost_or_exchanged_copy_of_the_manifest_is_an_error(
    places: list[Place], tmp_path: Path, here: Here
) -> None:
    place, study = places[0], make_manifest(tmp_path, places, plan())
    here("cipherward-party", "agree", study, place.folder, "--yes")
    [kept] = (place.private / "studies").iterdir()
    drop_identity(places[1])
    kept.write_bytes(make_manifest(tmp_path, places, plan()).read_bytes())
    with pytest.raises(CipherwardError, match="is not the study manifest that hospital-0 agreed to"):
        read_agreed(place, read_policy(place))
    kept.unlink()
    with pytest.raises(CipherwardError, match="no study manifest at"):
        read_agreed(place, read_policy(place))


def test_the_coordinator_s_command_names_what_does_not_fit(
    places: list[Place], tmp_path: Path, here: Here
) -> None:
    files = []
    for place in places:
        path = tmp_path / f"{place.settings.party}.json"
        write_statement(path, make_statement(place, read_policy(place), ensure_identity(place)))
        files.append(path)
    words = ["manifest", write_plan(plan(), tmp_path)]

    def error(*paths: Path) -> str:
        done = here("cipherward-coordinator", *words, *paths, "--out", tmp_path / "study.json")
        assert done.returncode == 1 and not (tmp_path / "study.json").exists()
        return " ".join(done.stderr.split())

    assert "two statements of hospital-0" in error(files[0], files[0])
    assert "for 2 hospitals, and 1 stated" in error(files[0])
    words[1] = write_plan(plan(rounds=5), tmp_path)
    assert "hospital-0's statement is about another plan" in error(*files)


def test_a_second_study_with_the_same_images_and_hospitals_is_named(
    places: list[Place], tmp_path: Path, here: Here
) -> None:
    """Two sums over other hospitals, in two studies, differ by updates: nobody agrees to that unseen."""
    first = make_manifest(tmp_path, places, plan())
    for place in places:
        done = here("cipherward-party", "agree", first, place.folder, "--yes")
        assert "the same training images" not in done.stderr
    again = plan(study="second", lr=0.06)
    accept(places, again)
    second = make_manifest(tmp_path, places, again)
    done = here("cipherward-party", "agree", second, places[0].folder, "--yes")
    text = " ".join(done.stderr.split())
    assert "agreed to t with the same training images and hospital-1" in text
