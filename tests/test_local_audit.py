"""`cipherward-party audit`: one command, attacks without a key, resumable, and no set of the hospital used up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
from PIL import Image
from typer.testing import CliRunner

from coordinator.adversary.run import suite
from coordinator.exchange.audit.scores import Scores
from coordinator.report.build import build_report
from crypto.key import SecretKey
from crypto.keyfile import read_key, write_key
from parties.agent.identity_file import ensure_identity
from parties.cli.app import app
from parties.scoring.local_audit import LEDGER_KIND, AuditSettings, _require_images, audit_place, plan_audit
from parties.scoring.score import score
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing, seal
from parties.sources.phantom import Phantom
from tests.support.command_runs import Here
from tests.support.keys import SCRYPT_BLOCK

PARTY = "cipherward-party"
SMALL = ("--image-size", 32, "--block", 8, "--rows", 16, "--pools", "1,10", "--draws", 2, "--jobs", 1)

#: Writes down what a process opens, and the names in its environment. Python runs it at its start.
_HOOK = """
import os, sys
if any("coordinator.cli.confined" in word for word in sys.orig_argv):
    log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    def hook(event, arguments):
        if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes, os.PathLike)):
            os.write(log, (event + " " + os.path.abspath(os.fsdecode(arguments[0])) + "\\n").encode())
        elif event == "import" and arguments[0].partition(".")[0] == "parties":
            os.write(log, f"import {{arguments[0]}}\\n".encode())
    os.write(log, ("environment " + " ".join(os.environ) + "\\n").encode())
    sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a class folder of phantom pictures."""
    folder: Path = tmp_path_factory.mktemp("images") / "scans"
    source = Phantom(32, 1, 90, 0, "train")
    for row in range(len(source)):
        path = folder / source.classes[source.labels[row]] / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)
    return folder


def facts(stdout: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(stdout)
    return value


class _StoppedError(Exception):
    """The audit would begin now."""

    def __init__(self, home: Place) -> None:
        self.home = home


def _stop(home: Place, *_: object) -> None:
    raise _StoppedError(home)


def identity_line(home: Place) -> str:
    """Return the public identity that a hospital would sign with."""
    return ensure_identity(home).public.line


@pytest.mark.long
def test_one_command_audits_images_and_its_attacks_open_sealed_sets_only(
    images: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hook").mkdir()
    log = tmp_path / "opened.log"
    (tmp_path / "hook" / "sitecustomize.py").write_text(_HOOK.format(log=str(log)))
    paths = [str(tmp_path / "hook"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("CIPHERWARD_PASSPHRASE", "a passphrase of the hospital")
    monkeypatch.setenv("CIPHERWARD_IDENTITY", str(tmp_path / "identity.txt"))
    out = tmp_path / "out"
    done = here(PARTY, "audit", images, "--out", out, *SMALL, "--json")
    said = facts(done.stdout)
    assert done.returncode == (0 if said["valid"] else 1), done.stderr
    assert said["broken"] and said["broken_at"]["pooled_key_recovery"] <= 10
    assert said["attacked_by"] == "hospital" and said["linkable"] in (True, False)
    assert isinstance(said["broken_in_too_few_draws"], list)
    work = Path(said["report"]).parent
    # What the attacks opened of the hospital's folder: sealed sets, and the folder of their guesses.
    lines = log.read_text().splitlines()
    opened = [
        Path(line.split(" ", 1)[1]) for line in lines if not line.startswith(("environment", "import"))
    ]
    # Sets that are told apart by their scheme, copies of all others under random names, and the guesses.
    named = [work / "sealed" / f"control-{name}" for name in ("plain", "signs", "orthogonal", "public")]
    allowed = (*named, work / "blinded", work / "guesses")
    inside = [path for path in opened if path.is_relative_to(out)]
    assert any(path.is_relative_to(work / "blinded") for path in inside), "the hook saw nothing"
    assert [p for p in inside if not any(p.is_relative_to(a) for a in allowed)] == []
    assert [p for p in opened if p.is_relative_to(images)] == []
    assert not [line for line in lines if line.startswith("import ")]
    names = next(line for line in lines if line.startswith("environment")).split()
    # Who ends silences is no secret. What is: the passphrase, and where the identity is.
    assert [name for name in names if name.startswith("CIPHERWARD")] in ([], ["CIPHERWARD_BEATS"])
    # No path that the attacks opened tells an audited draw from a control: copies have random names, and are gone.
    copies = {
        path.relative_to(work / "blinded").parts[0]
        for path in inside
        if path.is_relative_to(work / "blinded")
    }
    aliases = json.loads((work / "private" / "blinded.json").read_text())
    assert copies - {"."} == set(aliases) and not (work / "blinded").exists()
    assert sorted(aliases.values()) == [
        *("audit-1", "audit-2", "control-known", "control-noise", "control-permuted")
    ]
    # The throwaway keys are gone, what shows patients is closed to others, and the ledger notes it.
    assert not list(out.rglob("*.key"))
    closed = (work.parent, work, work / "guesses", work / "private")
    assert [path.stat().st_mode & 0o077 for path in closed] == [0, 0, 0, 0]
    (line,) = (out / "private" / "score-ledger.jsonl").read_text().splitlines()
    assert json.loads(line)["kind"] == LEDGER_KIND
    # The same command again only reads the report.
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*.json")}
    again = here(PARTY, "audit", images, "--out", out, *SMALL)
    assert "done already" in again.stderr and "run by the hospital itself" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in work.rglob("*.json")} == before
    require_report_of_its_scores(work, lambda: here(PARTY, "audit", images, "--out", out, *SMALL))
    # Pictures that changed and kept their sizes are no longer what was audited.
    kept = {path: path.read_bytes() for path in images.rglob("*.png")}
    for path, content in kept.items():
        path.write_bytes(content[:-1] + b"?")
    done = here(PARTY, "audit", images, "--out", out, *SMALL)
    assert done.returncode == 1 and "changed since they were audited" in done.stderr
    for path, content in kept.items():
        path.write_bytes(content)
    # Other images in the same folder are refused.
    shutil.copytree(images, tmp_path / "others")
    done = here(PARTY, "audit", tmp_path / "others", "--out", out, *SMALL)
    assert done.returncode == 1 and "holds audits of other images" in done.stderr


def require_report_of_its_scores(work: Path, audit: Callable[[], subprocess.CompletedProcess[str]]) -> None:
    """Check that a finished audit shows no report that was not made of its own scores, signed here."""
    report, scores = work / "report.json", work / "scores.json"
    kept = {path: path.read_bytes() for path in (report, scores)}
    # The report of an audit in which an attack had not run: consistent by itself, and of other scores.
    value = json.loads(kept[scores])
    for draw in value["draws"]:
        draw["findings"] = [f for f in draw["findings"] if f["attack"] != "pooled_key_recovery"]
    unsigned = {name: field for name, field in value.items() if name not in ("identity", "signature")}
    fewer = build_report(
        Scores.model_validate_json(json.dumps(unsigned)), json.loads(kept[report])["study"]
    )
    assert not fewer.verdict.broken
    right = json.loads(kept[report])
    changes: list[tuple[Path, bytes | None, str]] = [
        (report, json.dumps(fewer.to_json()).encode(), "was not made of the scores beside it"),
        (report, json.dumps({**right, "defects": ["none"]}).encode(), "scores beside it: other defects"),
        (scores, None, "no scores at"),
        (scores, json.dumps(unsigned).encode(), "is unsigned"),
    ]
    for path, content, message in changes:
        path.unlink() if content is None else path.write_bytes(content)
        done = audit()
        assert done.returncode == 1
        assert message in done.stderr
        assert "run the same command again" in done.stderr
        for each, original in kept.items():
            each.write_bytes(original)
    # Caveats that were taken out of a report are shown all the same.
    report.write_text(json.dumps({**right, "doubts": []}))
    shortened = audit()
    assert right["doubts"] and all(doubt in shortened.stdout for doubt in right["doubts"])
    assert "has other caveats or controls than the scores beside it make" in shortened.stderr
    # What the error says helps: the report is made again from the scores.
    report.unlink()
    again = audit()
    assert json.loads(report.read_bytes())["findings"] == json.loads(kept[report])["findings"], again.stderr


@pytest.mark.long
def test_an_audit_of_a_hospital_opens_no_key_and_burns_no_set(tmp_path: Path, here: Here) -> None:
    settings = {"party": "h", "source": "phantom", "counts": [90, 4, 4], "image_size": 32, "block": 8}
    place = Place.from_settings(tmp_path / "hospital", settings)
    place.save()
    write_key(place.key_path, SecretKey.generate())
    own = seal(place, plan_sealing(place, "train")).dataset
    key = place.key_path.read_bytes()
    place.key_path.write_bytes(b"locked away")
    done = here(PARTY, "audit", place.folder, *SMALL[4:], "--attacks", "as_is")
    assert "audits/block_pixel_shuffle-" in done.stdout.replace("\n", ""), done.stderr
    assert (
        done.returncode == 0 and "pooled_key_recovery, which suite/2 requires, was not run" in done.stdout
    )
    assert sorted(p.name for p in (place.folder / "sealed").iterdir()) == ["train"]
    place.key_path.write_bytes(key)
    # A cloud's guesses about the hospital's own set are scored afterwards as if nothing had been.
    suite.run_suite([own], tmp_path / "guesses", suite.Settings(["as_is"], [1], 16, 0, 60.0))
    scores = score(place, tmp_path / "guesses", 16, 64)
    assert [draw.set_name for draw in scores.draws] == ["train"] and scores.attacked_by == "cloud"


def test_an_audit_s_throwaway_keys_need_no_passphrase_and_are_closed_to_others(tmp_path: Path) -> None:
    settings = {"party": "h", "source": "phantom", "counts": [90, 4, 4], "image_size": 32, "block": 8}
    home = Place.from_settings(tmp_path / "hospital", settings)
    home.save()
    # The stock command wrapped it with a passphrase that nobody is asked for.
    home.key_path.write_text(f"# cipherward secret key\n# id {'0' * 16}\n{SCRYPT_BLOCK}")
    home.key_path.chmod(0o600)
    place = audit_place(home, AuditSettings(rows=16, pools=(1,)), {})
    for sealing in plan_audit(place, 1):
        key = sealing.key()
        assert read_key(sealing.key_path) == key == plan_sealing(place, sealing.name).key()
        assert sealing.key_path.stat().st_mode & 0o777 == 0o600
        assert sealing.key_path.parent.stat().st_mode & 0o777 == 0o700


def test_settings_that_cannot_work_write_nothing(images: Path, tmp_path: Path, here: Here) -> None:
    out = tmp_path / "out"
    done = here(PARTY, "audit", tmp_path / "absent", "--out", out)
    assert done.returncode == 1 and "no such file or folder" in done.stderr
    done = here(PARTY, "audit", images, "--out", out, "--image-size", 50, "--block", 8)
    assert done.returncode == 1 and "do not divide" in done.stderr
    done = here(PARTY, "audit", images, "--out", out, *SMALL[:4], "--scheme", "plain", *SMALL[4:])
    assert done.returncode == 1 and "seals nothing" in done.stderr
    assert not (out / "private").exists() and not (out / "audits").exists()
    done = here(PARTY, "audit", images, "--out", out, *SMALL[:4], "--attacks", "magic", *SMALL[4:])
    assert done.returncode == 1 and "unknown attack 'magic'" in done.stderr
    assert not list(out.rglob("guesses.json"))


@pytest.mark.parametrize(
    ("words", "party"),
    [
        ((), "hospital"),
        (("--name", "north"), "north"),
        (("--labels", "labels.csv", "--hospital-name", "Süd 1"), "Sud-1"),
    ],
)
def test_an_audit_of_images_has_no_name_of_their_folder(
    words: tuple[str, ...], party: str, images: Path, tmp_path: Path
) -> None:
    """The report leaves, and a folder may be named after a patient or a user."""
    folder = tmp_path / "Jane Doe 1970"
    shutil.copytree(images, folder)
    paths = sorted(p for p in folder.rglob("*.png"))
    rows = [f"{p.relative_to(folder)},{p.parent.name},Süd 1" for p in paths]
    (folder / "labels.csv").write_text("\n".join(["path,label,hospital", *rows]), encoding="utf-8")
    placed = [folder / word if word == "labels.csv" else word for word in words]

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr("parties.scoring.local_audit.run_local_audit", _stop)
        result = CliRunner().invoke(app, ["audit", str(folder), *map(str, (*placed, *SMALL))])

    assert isinstance(result.exception, _StoppedError), result.output
    assert result.exception.home.settings.party == party
    assert "Doe" not in identity_line(result.exception.home)


def test_an_interrupted_audit_says_that_its_throwaway_keys_stay(
    images: Path, tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They open sets of plain images, and nobody would look for them after a Ctrl-C."""

    def interrupted(home: Place, *_: object) -> None:
        (home.folder / "audits").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("parties.scoring.local_audit.run_local_audit", interrupted)
    done = here(PARTY, "audit", images, "--out", tmp_path / "out", *SMALL)
    assert done.returncode == 130
    assert (
        f"{tmp_path / 'out' / 'audits'} keeps this audit's throwaway keys until it is done" in done.stderr
    )
    assert done.stderr.endswith(f"{PARTY}: interrupted; the same command goes on where it stopped\n")


def test_a_name_that_an_audit_cannot_have_is_refused(images: Path, tmp_path: Path, here: Here) -> None:
    """A hospital has a name already, and one folder holds audits under one name."""
    hospital = Place.from_settings(tmp_path / "hospital", {"party": "h", "images": str(images)})
    hospital.save()
    audits = Place.from_settings(tmp_path / "audits", {"party": "north", "images": str(images)})
    audits.save()
    for words, error in (
        ((images, "--name", "Jane Doe"), "'Jane Doe' is no name of a hospital"),
        ((hospital.folder, "--name", "north"), "--name is for an audit of images alone"),
        ((images, "--out", audits.folder, "--name", "south"), "holds audits under the name north"),
    ):
        done = here(PARTY, "audit", *words, *SMALL)

        assert done.returncode == 1
        assert error in done.stderr
        assert "hint: " in done.stderr


def test_public_images_are_none_of_the_audited_ones(images: Path, tmp_path: Path, here: Here) -> None:
    """An attack would be told what it has to find."""
    audited = Place.from_settings(
        tmp_path, {"party": "h", "source": "folder", "images": str(images), "image_size": 32, "channels": 1}
    ).plain("train")
    (tmp_path / "public").mkdir()
    shutil.copy(images / next(iter(audited.states())), tmp_path / "public" / "other-name.png")
    done = here(PARTY, "audit", images, "--out", tmp_path / "out", *SMALL, "--public", tmp_path / "public")
    assert done.returncode == 1
    assert "other-name.png is one of the audited ones" in done.stderr and "hint: " in done.stderr
    assert not list(tmp_path.rglob("images-*.safetensors"))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--scheme", "le", "--option", "maks=independent"), "unknown option of le 'maks'"),
        (("--scheme", "le", "--option", "mask=9"), "le: mask cannot be 9"),
        (("--public", "absent"), "no public image in absent"),
        (("--attacks", "jigsaw", "--public", "absent"), "--public: jigsaw uses no public images"),
    ],
)
def test_wrong_options_are_named_before_an_image_is_read(
    words: tuple[str, ...], error: str, tmp_path: Path, here: Here
) -> None:
    """A folder that holds no classes is not looked at yet, in an audit of images and in that of a hospital."""
    (tmp_path / "scans").mkdir()
    hospital = Place.from_settings(tmp_path / "hospital", {"party": "h", "images": str(tmp_path / "scans")})
    hospital.save()
    for target in (tmp_path / "scans", hospital.folder):
        done = here(PARTY, "audit", target, *SMALL[:4], *words)

        assert done.returncode == 1
        assert error in done.stderr
        assert "hint: " in done.stderr
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["hospital", "party.yaml", "scans"]


def test_an_audit_refuses_what_seal_refuses_and_says_what_it_leaves_out(
    images: Path, tmp_path: Path, here: Here
) -> None:
    """Before anything is sealed: an audit of other images than the user's is none of theirs."""
    colour = tmp_path / "colour"
    for path in images.rglob("*.png"):
        (colour / path.parent.name).mkdir(parents=True, exist_ok=True)
        with Image.open(path) as gray:
            Image.merge("RGB", (gray, gray.point(lambda v: 255 - v), gray)).save(
                colour / path.parent.name / path.name
            )
    done = here(PARTY, "audit", colour, "--out", tmp_path / "out", *SMALL)
    assert done.returncode == 1 and "colour" in done.stderr and "--rgb" in done.stderr
    few = tmp_path / "few"
    for path in sorted(images.rglob("*.png"))[::3]:
        (few / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, few / path.parent.name)
    done = here(PARTY, "audit", few, "--out", tmp_path / "out", *SMALL)
    assert done.returncode == 1 and "too few to attack some and audit others" in done.stderr
    assert not list(tmp_path.glob("out/audits/*"))
    (tmp_path / "hospital").mkdir()
    (tmp_path / "hospital" / "secret.key").write_bytes(b"")
    done = here(PARTY, "audit", tmp_path / "hospital")
    assert done.returncode == 1 and "or seal first" in done.stderr


def test_pools_that_the_images_do_not_fill_are_named(tmp_path: Path) -> None:
    home = Place.from_settings(
        tmp_path / "h",
        {"party": "h", "source": "phantom", "counts": (60, 4, 4), "image_size": 32, "block": 8},
    )
    settings = AuditSettings(draws=1, rows=16, pools=(1, 10, 1000))
    lines: list[str] = []
    _require_images(audit_place(home, settings, {}), settings, lines.append)
    assert lines == [
        "pools of 1000 images are not tried: of 60 training images, 40 are beside those that are audited"
    ]


@pytest.mark.slow
def test_a_killed_audit_takes_its_attacks_along_and_goes_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [str(w) for w in ("audit", images, "--out", out, *SMALL)]
    program = [sys.executable, "-c", "from parties.cli.app import main; main()", *words]
    running = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(out.rglob("as_is-0001.safetensors")) and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.01)
    children = psutil.Process(running.pid).children(recursive=True)
    assert children
    running.send_signal(signal.SIGKILL)
    running.wait()
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive and gone
    assert not list(out.rglob("scores.json"))
    done = subprocess.run([*program, "--json"], capture_output=True, text=True, check=False, timeout=300)
    assert facts(done.stdout)["broken"], done.stderr
