"""The steps of a simulated study: which commands they run, and what they say."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coordinator.exchange.plan import Plan
from coordinator.federation.central import train_centrally
from coordinator.study import simulate as simulate_module
from coordinator.study import steps
from coordinator.study import study as study_module
from coordinator.study.simulate import simulate
from coordinator.study.steps import Skipped, baseline, seal, train
from coordinator.study.study import Study, Talk
from crypto.errors import CipherwardError
from parties.agent.accept import propose
from parties.sealing.place import Place
from parties.training.baseline import run_baseline

PLAN = Plan(study="s", parties=2, counts=(9, 9, 9), image_size=32, block=8)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands that a study runs; none of them is started, but `seal` leaves out an image."""
    commands: list[list[str]] = []

    def run(module: str, words: Sequence[str], log_file: Path, on_line: Callable[[str], None]) -> None:
        commands.append([module.partition(".")[0], *words])
        on_line("a line of the command")
        if words[0] == "keygen":
            (Path(words[1]) / "secret.key").touch()
        if words[0] == "seal":
            (Path(words[1]) / "private").mkdir()
            (Path(words[1]) / "private" / "quarantine.txt").write_text("broken.png\n")

    monkeypatch.setattr(study_module, "run_command", run)
    monkeypatch.setattr(steps, "agree_on_study", lambda study: False)
    return commands


def test_rows_of_tables_are_logged_and_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys\ndef main():\n    print('one\\n┏━━┓\\n│ lr │\\n┗━━┛\\ntwo', file=sys.stderr)\n"
    (tmp_path / "talks.py").write_text(script, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines: list[str] = []
    study_module.run_command("talks", ["accept"], tmp_path / "log", lines.append)
    assert lines == ["one", "two"]
    assert "│ lr │" in (tmp_path / "log").read_text(encoding="utf-8")


def test_hospitals_share_a_key_and_the_first_seals_the_audit(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    details: list[str] = []
    study = Study(PLAN, tmp_path, Talk(log.append, detail=details.append))
    assert seal(study) == "2 hospitals sealed 0 sets"
    first, second = str(study.hospital(0)), str(study.hospital(1))
    assert commands == [
        ["parties", "keygen", first],
        ["parties", "seal", first, "--audit", "3", "--named"],
        ["parties", "share-key", f"{first}/secret.key", f"{second}/secret.key", "--unprotected"],
        ["parties", "seal", second],
    ]
    # The details of a command stay out of the log, but images that are missing do not.
    assert details == ["a line of the command"] * 4
    assert [line.split(";")[0] for line in log] == [
        "hospital-0: images that could not be decoded, and are left out: 1",
        "hospital-1: images that could not be decoded, and are left out: 1",
    ]
    assert seal(study) is None and len(commands) == 4
    # A study that an earlier version sealed is agreed on before it goes on.
    monkeypatch.setattr(steps, "agree_on_study", lambda study: True)
    assert seal(study) is not None and len(commands) == 4


def test_a_command_that_fails_hands_on_its_error_and_hint(tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(CipherwardError, match="no plan at") as error:
        study_module.run_command(
            "coordinator.cli.app",
            ["simulate", str(tmp_path / "absent.yaml")],
            tmp_path / "log",
            lines.append,
        )
    assert error.value.hint and not lines
    assert "no plan at" in (tmp_path / "log").read_text()


def test_an_error_of_a_hospital_names_settings_that_a_study_takes(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`simulate` has no --background."""

    def fail(*_: object) -> None:
        raise CipherwardError("it is transparent: --background 0", "say how: --window auto, or --rgbx")

    monkeypatch.setattr(Study, "run_hospital", fail)
    monkeypatch.setattr(steps, "_provide_key", lambda *_: None)
    with pytest.raises(CipherwardError) as error:
        seal(Study(PLAN, tmp_path, Talk(print)))
    assert error.value.hint.endswith("--rgbx; in a study: --set window=…, --set background=0")


def test_a_plan_without_rounds_says_so_and_not_that_its_result_is_there(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    steps = {"train": train, "baseline": baseline}
    monkeypatch.setattr(simulate_module, "STEPS", steps)
    simulate(PLAN.model_copy(update={"rounds": 0}), tmp_path / "s", "baseline", lines.append)
    assert lines == [
        "train: the plan has 0 rounds, so nothing is trained",
        "baseline: nothing was trained, so there is nothing to compare",
    ]
    # A step whose result is there still says that.
    (tmp_path / "t" / "cloud").mkdir(parents=True)
    (tmp_path / "t" / "cloud" / "training.json").touch()
    simulate(PLAN, tmp_path / "t", "train", lines.append)
    assert lines[-1] == "train: there already" and not commands
    assert isinstance(train(Study(PLAN.model_copy(update={"rounds": 0}), tmp_path, Talk(print))), Skipped)


def test_a_copy_for_the_cloud_that_was_cut_short_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, copy, write = tmp_path / "train", tmp_path / "copy", shutil.copyfile
    folder.mkdir()
    for name in ("images-00000.safetensors", "manifest.json"):
        (folder / name).write_text(f"{name} whole")

    def full(source: Path, target: Path) -> None:
        Path(target).touch()
        if source.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(CipherwardError, match="disk is full"):
        steps._hand_over(folder, copy)
    assert not (copy / "manifest.json").exists()
    monkeypatch.setattr(shutil, "copyfile", write)
    (copy / ".images-00000.safetensors.1.tmp").touch()  # as a kill leaves it
    steps._hand_over(folder, copy)
    assert {path.name: path.read_text() for path in copy.iterdir()} == {
        name: f"{name} whole" for name in ("images-00000.safetensors", "manifest.json")
    }


def test_commands_that_train_refuse_a_plan_without_rounds(tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"rounds": 0})
    place = Place.from_settings(tmp_path / "hospital", {"party": "h"})
    refused: list[Callable[[], object]] = [
        lambda: train_centrally(plan, [], tmp_path / "cloud"),
        lambda: run_baseline(plan, [place], None),
        lambda: propose(place, plan),
    ]
    for command in refused:
        with pytest.raises(CipherwardError, match="has 0 rounds: nothing is trained"):
            command()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "plain images, wrong keys, linear model and histograms"),
        ({"baseline": False}, "wrong keys, linear model and histograms"),
        ({"baseline": False, "wrong_keys": 0}, "linear model and histograms"),
    ],
)
def test_the_baseline_names_what_it_measured_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], said: str
) -> None:
    monkeypatch.setattr(steps, "run_command", lambda *_: None)
    study = Study(PLAN.model_copy(update=changes), tmp_path, Talk(lambda _: None))
    assert baseline(study) == said
