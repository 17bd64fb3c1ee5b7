"""How the hospitals of a simulated study come to agree: by the commands of real ones, and once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from coordinator.exchange.manifest import read_manifest
from coordinator.exchange.plan import Plan, write_plan
from coordinator.exchange.privacy import Privacy
from coordinator.model.vit import build_model
from coordinator.study import study as study_module
from coordinator.study.agreement import agree_on_study
from coordinator.study.study import Study, Talk
from crypto.errors import CipherwardError
from parties.sealing.place import Place
from parties.training.patients import record_patients
from parties.training.policy_file import read_policy
from tests.support.command_runs import Here
from tests.support.hospitals import plan, seal_hospitals

ALL = ["accept", "accept", "declare", "declare", "manifest", "agree", "agree"]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study's folder whose hospitals sealed their images, and agreed to nothing."""
    out = tmp_path_factory.mktemp("study")
    for place in seal_hospitals(out / "parties", plan()):
        for path in (place.private / "studies", place.private / "policies"):
            shutil.rmtree(path)
        place.policy_file.unlink()
    (out / "cloud").mkdir()
    (out / "logs").mkdir()
    return out


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, here: Here) -> list[str]:
    """Run a study's commands in this process, and return their names."""
    names: list[str] = []

    def run(module: str, words: Sequence[str], log_file: Path, on_line: Callable[[str], None]) -> None:
        program = "cipherward-party" if module.startswith("parties") else "cipherward-coordinator"
        names.append(words[0])
        done = here(program, *words)
        assert done.returncode == 0, done.stderr

    monkeypatch.setattr(study_module, "run_command", run)
    return names


def open_study(folder: Path, p: Plan) -> Study:
    write_plan(p, folder)
    return Study(p, folder, Talk(lambda _: None))


def test_the_hospitals_agree_once_by_the_commands_of_real_ones(
    sealed: Path, tmp_path: Path, commands: list[str]
) -> None:
    study = open_study(shutil.copytree(sealed, tmp_path / "s"), plan())
    assert agree_on_study(study) and commands == ALL
    digest = read_manifest(study.out / "study.json").digest
    for i in range(2):
        assert read_policy(Place.open(study.hospital(i))).manifest_sha256 == digest
    commands.clear()
    assert not agree_on_study(study) and commands == []
    # What a kill or an earlier version left out is made up for, and no more.
    (study.hospital(1) / "policy.yaml").unlink()
    assert agree_on_study(study) and commands == ["accept", "agree"]
    commands.clear()
    policy = yaml.safe_load((study.hospital(0) / "policy.yaml").read_text())
    earlier = {k: v for k, v in policy.items() if k not in ("manifest_sha256", "plan_sha256")}
    (study.hospital(0) / "policy.yaml").write_text(yaml.safe_dump(earlier))
    assert agree_on_study(study) and commands == ["accept", "agree"]
    assert read_manifest(study.out / "study.json").digest == digest


def test_a_rotation_needs_new_statements(
    sealed: Path, tmp_path: Path, commands: list[str], here: Here
) -> None:
    study = open_study(shutil.copytree(sealed, tmp_path / "s"), plan())
    agree_on_study(study)
    commands.clear()
    assert here("cipherward-party", "rotate", study.hospital(1), "--unprotected").returncode == 0
    with pytest.raises(
        CipherwardError, match="hospital-1 sealed its set train anew, as after a rotation"
    ) as e:
        agree_on_study(study)
    assert "choose another --out; or remove that file and cloud/" in e.value.hint and not commands
    (study.out / "study.json").unlink()
    assert agree_on_study(study) and commands == ALL[2:]


def test_the_public_weights_are_the_same_on_one_machine(
    sealed: Path, tmp_path: Path, commands: list[str]
) -> None:
    save_file(build_model(plan(), 2).state_dict(), tmp_path / "w.safetensors")
    p = plan(weights=str(tmp_path / "w.safetensors"))
    study = open_study(shutil.copytree(sealed, tmp_path / "s"), p)
    assert agree_on_study(study) and commands == ALL
    assert read_policy(Place.open(study.hospital(1))).weights_file == p.weights


@pytest.mark.parametrize("changes", [{"train": "central"}, {"rounds": 0}, {}])
def test_without_a_federation_to_come_there_is_nothing_to_agree_on(
    commands: list[str], tmp_path: Path, changes: dict[str, object]
) -> None:
    study = open_study(tmp_path, plan(**changes))
    if not changes:
        study.cloud.mkdir()
        (study.cloud / "training.json").write_text(json.dumps({}))
    assert not agree_on_study(study) and commands == []


def test_the_hospitals_say_their_patients_where_the_plan_protects_them(
    sealed: Path, tmp_path: Path, commands: list[str]
) -> None:
    p = plan(privacy=Privacy(epsilon=8.0, delta=1e-3, unit="patient"))
    study = open_study(shutil.copytree(sealed, tmp_path / "s"), p)
    # Phantoms say nothing of patients: the first hospital says what to do.
    with pytest.raises(AssertionError, match="do not say which are of one patient"):
        agree_on_study(study)
    assert commands == ["patients"]
    commands.clear()
    for index in range(2):  # as with a table of the hospital's own
        record_patients(Place.open(study.hospital(index)), [f"p{i % 5}" for i in range(12)])
    assert agree_on_study(study) and commands == ALL
