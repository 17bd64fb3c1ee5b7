"""The steps of a simulated study: which commands they run, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coordinator.exchange.plan import Plan
from coordinator.study import study as study_module
from coordinator.study.steps import seal
from coordinator.study.study import Study, Talk
from crypto.errors import CipherwardError

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
        if words[0] == "accept":
            (Path(words[2]) / "policy.yaml").touch()

    monkeypatch.setattr(study_module, "run_command", run)
    return commands


def test_hospitals_share_a_key_and_the_first_seals_the_audit(
    commands: list[list[str]], tmp_path: Path
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
        ["parties", "accept", str(tmp_path / "plan.yaml"), first, "--yes"],
        ["parties", "accept", str(tmp_path / "plan.yaml"), second, "--yes"],
    ]
    # The details of a command stay out of the log, but images that are missing do not.
    assert details == ["a line of the command"] * 6
    assert [line.split(";")[0] for line in log] == [
        "hospital-0: images that could not be decoded, and are left out: 1",
        "hospital-1: images that could not be decoded, and are left out: 1",
    ]
    assert seal(study) is None and len(commands) == 6
    # A study that an earlier version sealed is accepted before it goes on.
    (study.hospital(1) / "policy.yaml").unlink()
    assert seal(study) is not None and commands[6:] == commands[5:6]


def test_hospitals_on_one_machine_share_the_public_weights(
    commands: list[list[str]], tmp_path: Path
) -> None:
    plan = PLAN.model_copy(update={"weights": "/public/w.safetensors"})
    seal(Study(plan, tmp_path, Talk(lambda _: None)))
    assert [words[-2:] for words in commands[-2:]] == [["--weights", "/public/w.safetensors"]] * 2


@pytest.mark.parametrize("changes", [{"train": "central"}, {"rounds": 0}])
def test_without_a_federation_there_is_nothing_to_accept(
    commands: list[list[str]], tmp_path: Path, changes: dict[str, object]
) -> None:
    study = Study(PLAN.model_copy(update=changes), tmp_path, Talk(lambda _: None))
    assert seal(study) and not any("accept" in words for words in commands)


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
