"""An audit that a cloud runs, by the real commands: sets told apart by nothing, and forgeries of "not broken"."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordinator.exchange.audit.guesses import Draw, read_draws, save_guess, write_draws
from coordinator.exchange.audit.rates import rate_of
from crypto.files import write_json
from parties.sealing.audit_sets import AuditSets, read_map
from parties.sealing.place import Place
from parties.sources.phantom import Phantom
from tests.support.command_runs import Here, run_here

PARTY, COORDINATOR = "cipherward-party", "cipherward-coordinator"
ROWS = ("--rows", 16)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a hospital's folder, sealed for an audit of two draws that a cloud runs."""
    folder = tmp_path_factory.mktemp("blind")
    source = Phantom(32, 1, 120, 0, "train")
    for row in range(len(source)):
        path = folder / "images" / source.classes[source.labels[row]] / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)
    hospital = folder / "hospital"
    assert run_here(PARTY, "keygen", hospital).returncode == 0
    words = ["--images", folder / "images", "--image-size", 32, "--block", 8, "--audit", 2]
    done = run_here(PARTY, "seal", hospital, *words)
    assert done.returncode == 0, done.stderr
    done = run_here(
        COORDINATOR, "attack", hospital / "sealed", "--out", folder / "guesses", *ROWS, "--pools", "1,10"
    )
    assert done.returncode == 0, done.stderr
    return hospital


@pytest.fixture
def hospital(sealed: Path, tmp_path: Path) -> Path:
    """Return a copy of the hospital that has scored nothing yet; the cloud's guesses are beside it."""
    shutil.copytree(sealed, tmp_path / "hospital")
    shutil.copytree(sealed.parent / "guesses", tmp_path / "guesses")
    # The hospital's own run is the same in every test, and made once.
    if (sealed.parent / "hospital-run").exists():
        shutil.copytree(sealed.parent / "hospital-run", tmp_path / "hospital" / "hospital-run")
    return tmp_path / "hospital"


def map_of(hospital: Path) -> AuditSets:
    sets = read_map(Place.open(hospital))
    assert sets is not None
    return sets


def withhold(guesses: Path, hospital: Path, is_victim: Callable[[str], bool]) -> None:
    """Put noise in place of key recovery's guesses about the sets that a cloud chooses by name."""
    names = {}
    for manifest in (hospital / "sealed").glob("*/manifest.json"):
        names[Place.open(hospital).sealed(manifest.parent.name).digest] = manifest.parent.name
    draws, about = read_draws(guesses)
    about.pop("schema")
    rng = np.random.default_rng(0)

    def forged(draw: Draw) -> Draw:
        if not is_victim(names[draw.digests[0]]):
            return draw
        result = []
        for guess in draw.guesses:
            stored = guess
            if guess.attack == "pooled_key_recovery":
                noise = rng.integers(0, 256, (len(draw.rows), *draw.spec.image_shape), dtype=np.uint8)
                stored = replace(guess, sha256=save_guess(guesses / guess.file, noise, None))
            result.append(stored)
        return replace(draw, guesses=result)

    write_draws(guesses, [forged(draw) for draw in draws], about)


def score_and_report(here: Here, hospital: Path) -> tuple[int, str, dict[str, Any]]:
    """Score and report. Return the exit status, what `report` printed, and report.json."""
    guesses, out = hospital.parent / "guesses", hospital.parent / "report"
    done = here(PARTY, "score", hospital, guesses, *ROWS)
    assert done.returncode == 0, done.stderr
    words = ["--guesses", guesses, "--sealed", hospital / "sealed", "--out", out]
    done = here(COORDINATOR, "report", hospital / "scores.json", *words)
    return done.returncode, done.stdout + done.stderr, json.loads((out / "report.json").read_text())


@pytest.mark.long
def test_the_sets_of_an_audit_are_told_apart_by_nothing(sealed: Path) -> None:
    sets = map_of(sealed)
    assert sorted(sets.roles.values()) == ["blind_control", "blind_control", "own_key", "throwaway"]
    assert sorted(sets.controls.values()) == ["control-known", "control-noise", "control-permuted"]
    place = Place.open(sealed)
    # Nothing of these controls leaves under their names; their copies are intact under the keys that sealed them.
    left = {path.name for path in (sealed / "sealed").iterdir()}
    assert set(sets.names) <= left and not left & set(sets.controls.values())
    for name, control in sets.controls.items():
        done = run_here(
            PARTY, "verify", sealed / "sealed" / name, "--key", place.private / f"{control}.key"
        )
        assert done.returncode == 0, done.stderr
    assert (place.private / "audit-sets.json").stat().st_mode & 0o777 == 0o600
    assert sets.secret not in "".join(
        p.read_text(errors="ignore") for p in (sealed / "sealed").rglob("*.json")
    )

    def outside(name: str) -> list[object]:
        """Return all that the cloud sees of a set, but for random names, ciphertexts and digests."""
        manifest = json.loads((place.sealed_folder(name) / "manifest.json").read_text())
        files = sorted(place.sealed_folder(name).iterdir())
        shards = [{k: v for k, v in s.items() if k not in ("blake3", "mac")} for s in manifest["shards"]]
        fixed = {k: v for k, v in manifest.items() if k not in ("key_id", "mac", "shards")}
        labels = np.bincount(place.sealed(name).labels).tolist()
        stats = [(p.name, p.stat().st_size, p.stat().st_mode, p.stat().st_mtime_ns) for p in files]
        folder = place.sealed_folder(name).stat()
        return [fixed, shards, labels, stats, folder.st_mtime_ns, folder.st_mode, len(name)]

    first, *others = [outside(name) for name in sets.names]
    assert all(other == first for other in others)
    # Each has its own key, its own order of labels, and no order that the seed in party.yaml gives.
    assert len({place.sealed(name).key_id for name in sets.names}) == len(sets.names)
    orders = [tuple(place.sealed(name).labels) for name in sets.names]
    assert len(set(orders)) == len(orders) and tuple(place.sealed("train").labels) not in orders
    source = place.plain("train")
    for draw in range(1, 9):
        order = np.random.default_rng([place.settings.seed, 3, draw]).permutation(len(source))
        assert tuple(source.labels[order]) not in orders


@pytest.mark.long
def test_hidden_controls_are_never_sealed_in_the_open(hospital: Path, here: Here) -> None:
    done = here(PARTY, "seal", hospital, "--audit", 2, "--named")
    assert done.returncode == 1 and "are hidden from the cloud that audits it" in done.stderr
    # Killed before a copy was finished: the next run writes it, and nothing else.
    sets = map_of(hospital)
    victim = next(iter(sets.controls))
    before = {name: Place.open(hospital).sealed(name).digest for name in sets.names}
    (hospital / "sealed" / victim / "manifest.json").unlink()
    assert here(PARTY, "seal", hospital, "--audit", 2).returncode == 0
    after = {name: Place.open(hospital).sealed(name).digest for name in sets.names}
    assert {name for name in before if before[name] != after[name]} == {victim}
    # An audit of an earlier version left them in the open: a new map would hide nothing.
    (hospital / "private" / "audit-sets.json").unlink()
    for name in sets.names:
        shutil.rmtree(hospital / "sealed" / name)
    (hospital / "private" / "controls" / "control-noise").rename(hospital / "sealed" / "control-noise")
    done = here(PARTY, "seal", hospital, "--audit", 2)
    assert done.returncode == 1 and "have names that tell: control-noise" in done.stderr
    assert not (hospital / "private" / "audit-sets.json").exists()


def test_a_rotation_sets_hidden_controls_aside(hospital: Path, here: Here) -> None:
    done = here(PARTY, "rotate", hospital)
    assert done.returncode == 0, done.stderr
    assert "--audit 2" in done.stdout + done.stderr
    assert not (hospital / "private" / "controls").exists()
    [archive] = (hospital / "private").glob("epoch-*")
    assert (archive / "controls" / "control-noise" / "manifest.json").exists()
    assert (archive / "control-noise.key").exists() and (archive / "rows-control-noise.json").exists()


def test_names_and_roles_are_drawn_anew_in_every_hospital(sealed: Path, tmp_path: Path) -> None:
    from parties.sealing.audit_sets import ensure_map

    firsts = set()
    for index in range(40):
        place = Place.from_settings(tmp_path / str(index), {"party": "h", "source": "phantom"})
        place.folder.mkdir()
        sets = ensure_map(place, 2)
        firsts.add(sets.roles[sets.names[0]])
        assert not set(sets.names) & set(map_of(sealed).names)
    assert len(firsts) == 3, "the order of names says nothing about the roles"


@pytest.mark.long
def test_an_honest_cloud_is_believed_as_far_as_it_can_be(sealed: Path, hospital: Path, here: Here) -> None:
    status, text, report = score_and_report(here, hospital)
    shutil.copytree(hospital / "hospital-run", sealed.parent / "hospital-run", dirs_exist_ok=True)
    blind = report["controls"]["blind"]
    assert blind["ok"], blind
    assert "pooled_key_recovery at 10" in blind["said"] and "so do the cloud's guesses" in blind["said"]
    assert (
        report["verdict"]["broken"] and report["verdict"]["draws"] == 2 and report["attacked_by"] == "cloud"
    )
    assert "signed by hospital, fingerprint" in text
    assert {draw["role"] for draw in report["draws"]} == {"own_key", "throwaway"}
    assert any("a cloud can tell the controls known, noise," in doubt for doubt in report["doubts"])
    assert status == (0 if report["valid"] else 1)
    # Noise met the recovery of the audited scheme, at every pool size, and is scored as what it is.
    by_set = {draw["set"]: draw for draw in json.loads((hospital / "scores.json").read_text())["draws"]}
    for name in ("control-noise", "control-permuted"):
        noise, audited = by_set[name], next(d for d in by_set.values() if d.get("role") == "own_key")
        assert noise["spec"]["name"] == name.removeprefix("control-")
        met = [[(f["attack"], f["pool_size"]) for f in draw["findings"]] for draw in (noise, audited)]
        assert met[0] == met[1] and ("pooled_key_recovery", 1) in met[0]
    assert report["controls"]["noise"]["ok"] and report["controls"]["known"]["ok"]
    # The hospital's own guesses get the second look that the cloud's get.
    scores = json.loads((hospital / "scores.json").read_text())
    runs = [draw for draw in scores["draws"] if draw.get("hospital_run")]
    assert len(runs) == 2
    for draw in runs:
        for finding in (*draw["findings"], *draw["hospital_run"]):
            assert finding["second_look"]["V"]["looks"] == draw["second_looks"] > 1
    # The same question has the same answer, and its signature.
    before = (hospital / "scores.json").read_bytes()
    assert here(PARTY, "score", hospital, hospital.parent / "guesses", *ROWS).returncode == 0
    assert (hospital / "scores.json").read_bytes() == before


@pytest.mark.long
def test_noise_on_whatever_is_no_named_control_is_found(hospital: Path, here: Here) -> None:
    """The old forgery: honest work where the folder's name says control, noise everywhere else."""
    withhold(hospital.parent / "guesses", hospital, lambda name: not name.startswith("control-"))
    status, text, report = score_and_report(here, hospital)
    assert status == 1 and "INVALID: the cloud failed blind controls" in text
    assert not report["valid"] and not report["controls"]["blind"]["ok"]
    assert "not broken" not in text.lower()


def test_a_pool_size_at_which_the_hospital_cannot_look_is_refused(hospital: Path, here: Here) -> None:
    """Noise at a size that no pool has: no blind control is attacked there, and the report would say "up to"."""
    guesses = hospital.parent / "guesses"
    withhold(guesses, hospital, lambda name: not name.startswith("control-"))
    draws, about = read_draws(guesses)
    about.pop("schema")
    lies = [
        replace(
            draw, guesses=[replace(g, pool_size=10**6) if g.pool_size == 10 else g for g in draw.guesses]
        )
        for draw in draws
    ]
    write_draws(guesses, lies, about)
    done = here(PARTY, "score", hospital, guesses, *ROWS)
    assert done.returncode == 1 and "with 1,000,000 sealed images, of 10" in done.stderr
    assert not (hospital / "scores.json").exists()


@pytest.mark.slow
def test_noise_on_exactly_the_audited_sets_is_found(hospital: Path, here: Here) -> None:
    """A cloud that knew the map would fail nevertheless: what breaks the controls breaks what is drawn alike."""
    roles = map_of(hospital).roles
    withhold(
        hospital.parent / "guesses", hospital, lambda name: roles.get(name) in ("own_key", "throwaway")
    )
    status, text, report = score_and_report(here, hospital)
    assert status == 1 and "which are drawn alike" in text and not report["valid"]


@pytest.mark.long
def test_pictures_that_attacks_recovered_are_for_their_owner_alone(hospital: Path, here: Here) -> None:
    """The page itself says: treat it as patient data."""
    guesses = hospital.parent / "guesses"
    assert guesses.stat().st_mode & 0o077 == 0
    score_and_report(here, hospital)
    page = hospital.parent / "report" / "report.html"
    assert "contains pictures of patients" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600
    # A cloud that calls the images public would have neither.
    words = ["--guesses", guesses, "--sealed", hospital / "sealed", "--out", page.parent]
    done = here(
        COORDINATOR,
        "report",
        hospital / "scores.json",
        *words,
        "--public-plain",
        hospital / "any.safetensors",
    )
    assert done.returncode == 1 and "the images of hospital are of no public source" in done.stderr


@pytest.mark.long
def test_a_hospital_s_own_report_refuses_scores_without_its_signature(hospital: Path, here: Here) -> None:
    guesses, path = hospital.parent / "guesses", hospital / "scores.json"
    assert here(PARTY, "score", hospital, guesses, *ROWS).returncode == 0
    value = json.loads(path.read_text())
    del value["identity"], value["signature"]
    write_json(path, value)
    done = here(PARTY, "report", hospital, path, "--guesses", guesses)
    assert done.returncode == 1 and "is unsigned, but must be signed by hospital" in done.stderr
    assert not (hospital / "private" / "report.html").exists()


@pytest.mark.long
def test_guesses_that_leave_a_set_out_use_up_nothing(hospital: Path, here: Here) -> None:
    names = map_of(hospital).names
    sets = [hospital / "sealed" / name for name in names[1:]]
    words = ["--out", hospital.parent / "fewer", *ROWS, "--pools", 1, "--attacks", "as_is"]
    assert here(COORDINATOR, "attack", *sets, *words).returncode == 0
    done = here(PARTY, "score", hospital, hospital.parent / "fewer", *ROWS)
    assert done.returncode == 1 and "leave out 1 of the 7 sets" in done.stderr
    # The same images under the same key, in the pool: their ciphertexts would be among those to guess.
    own = next(name for name, role in map_of(hospital).roles.items() if role == "own_key")
    sets = [hospital / "sealed" / name for name in [*names, "train"]]
    words[1] = hospital.parent / "twice"
    assert here(COORDINATOR, "attack", *sets, *words).returncode == 0
    done = here(PARTY, "score", hospital, hospital.parent / "twice", *ROWS)
    assert (
        done.returncode == 1 and f"is about {own}, and its pool has the same images in train" in done.stderr
    )
    assert not (hospital / "private" / "score-ledger.jsonl").exists()


@pytest.mark.slow
def test_scores_that_are_edited_or_signed_by_another_are_refused(
    hospital: Path, here: Here, tmp_path: Path
) -> None:
    assert here(PARTY, "score", hospital, hospital.parent / "guesses", *ROWS).returncode == 0
    words = [
        "--guesses",
        hospital.parent / "guesses",
        "--sealed",
        hospital / "sealed",
        "--out",
        tmp_path / "r",
    ]
    mine = ["--signed-by", hospital / "identity.pub"]
    done = here(COORDINATOR, "report", hospital / "scores.json", *words, *mine, "--allow-invalid")
    assert done.returncode == 0, done.stderr
    value = json.loads((hospital / "scores.json").read_text())
    for draw in value["draws"]:
        for finding in draw["findings"]:
            finding.pop("K", None)
            for letter in ("V", "R"):
                finding[letter] |= dict(rate_of(0, finding[letter]["n"]))
    write_json(tmp_path / "edited.json", value)
    done = here(COORDINATOR, "report", tmp_path / "edited.json", *words)
    assert done.returncode == 1 and "was changed after hospital signed it" in done.stderr
    done = here(PARTY, "report", hospital, tmp_path / "edited.json", *words[:2])
    assert done.returncode == 1 and "was changed after hospital signed it" in done.stderr
    # Another hospital's identity under the same name.
    (hospital / "private" / "identity.pem").unlink()
    (hospital / "identity.pub").unlink()
    assert here(PARTY, "score", hospital, hospital.parent / "guesses", *ROWS).returncode == 0
    (tmp_path / "true.pub").write_text(value["identity"] + "\n")
    done = here(
        COORDINATOR, "report", hospital / "scores.json", *words, "--signed-by", tmp_path / "true.pub"
    )
    assert done.returncode == 1 and "signed by another identity than hospital's" in done.stderr


@pytest.mark.slow
def test_a_second_audit_spares_the_hospital_s_own_key(hospital: Path, here: Here) -> None:
    """A scorer answers once about images under the hospital's key, so later audits are of throwaway keys alone."""
    assert here(PARTY, "score", hospital, hospital.parent / "guesses", *ROWS).returncode == 0
    names = map_of(hospital).names
    old_keys = {name: Place.open(hospital).sealed(name).key_id for name in names}
    done = here(PARTY, "seal", hospital, "--audit", 3)
    assert done.returncode == 1 and "were made for 2 draws, not 3" in done.stderr
    (hospital / "private" / "audit-sets.json").unlink()
    for name in names:
        shutil.rmtree(hospital / "sealed" / name)
    assert here(PARTY, "seal", hospital, "--audit", 2).returncode == 0
    later = map_of(hospital)
    assert not set(later.names) & set(names)
    assert sorted(later.roles.values()) == ["blind_control", "blind_control", "throwaway", "throwaway"]
    # The cloud knows the ciphertexts of the first audit's controls: others are sealed, under other keys.
    assert {old_keys[name] for name in old_keys}.isdisjoint(
        Place.open(hospital).sealed(name).key_id for name in later.names
    )
