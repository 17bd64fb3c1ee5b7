"""The attack on what a study kept: its file says what was confirmed, and is not reused for another training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from typer.testing import CliRunner

from coordinator.adversary.run.cell import study_digest
from coordinator.adversary.training.kept_updates import attack_kept_updates
from coordinator.cli.app import app
from coordinator.exchange.plan import write_plan
from coordinator.exchange.update_attack import FILE
from coordinator.federation.recording import record_sum, record_updates
from crypto.arrays import Float32Array
from crypto.errors import CipherwardError
from tests.support.updates import CLASSES, LABELS, PICTURES, plan, trained


@pytest.fixture(autouse=True)
def one_core() -> None:
    """Keep torch to one thread."""
    torch.set_num_threads(1)


def keep(study: Path, starts: tuple[int, ...], images: int, sums: bool = False) -> None:
    """Write what the cloud holds after a round of hospitals, the first one with the pictures from starts[0] on."""
    p = plan(keep_updates=1, batch=8)
    (study / "cloud").mkdir(parents=True)
    write_plan(p, study)
    write_training(study)
    parts = [trained(p, PICTURES[i : i + images], LABELS[i : i + images]).updates[0] for i in starts]
    before = parts[0].before
    save_file({"w": np.zeros(1, np.float32)}, study / "cloud" / "model.safetensors")
    if sums:
        mean: Float32Array = np.mean([part.after for part in parts], axis=0, dtype=np.float32)
        counts = {f"hospital-{i}": images for i in range(len(parts))}
        record_sum(study / "cloud", 1, before, mean, counts, {})
    else:
        replies = {f"hospital-{i}": (part.after, images) for i, part in enumerate(parts)}
        record_updates(study / "cloud", 1, before, replies)


def write_training(study: Path) -> None:
    names = [str(i) for i in range(CLASSES)]
    (study / "cloud" / "training.json").write_text(json.dumps({"classes": names, "parties": []}))


def test_kept_updates_of_one_image_give_it_and_the_file_says_so(tmp_path: Path) -> None:
    keep(tmp_path, (0, 1, 2), 1)
    found = attack_kept_updates(tmp_path, study_digest(tmp_path), None, 60.0)
    assert found is not None and (found.updates, found.sums, found.images) == (3, 0, 3)
    assert found.confirmed == found.confirmed_updates == 3
    written = (tmp_path / "cloud" / FILE).read_bytes()
    assert attack_kept_updates(tmp_path, study_digest(tmp_path), None, 60.0) == found
    assert (tmp_path / "cloud" / FILE).read_bytes() == written


def test_the_sum_of_three_single_images_gives_none_without_candidates_and_all_with(tmp_path: Path) -> None:
    keep(tmp_path, (0, 1, 2), 1, sums=True)
    digest = study_digest(tmp_path)
    alone = attack_kept_updates(tmp_path, digest, None, 60.0)
    assert alone is not None and (alone.updates, alone.sums, alone.images) == (1, 1, 3)
    assert alone.confirmed == 0 and "several images mix" in alone.notes[0]
    known = attack_kept_updates(tmp_path, digest, PICTURES, 60.0)
    assert known is not None and known.confirmed == 3 and known.candidates == len(PICTURES)


def test_the_attack_on_a_study_s_sealed_sets_attacks_its_kept_updates_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, (0, 1), 1)
    # The attacks on sealed sets are not what is looked at here.
    monkeypatch.setattr("coordinator.adversary.run.suite.find_sets", lambda _paths: [])
    monkeypatch.setattr("coordinator.adversary.run.suite.run_suite", lambda *_args: [])
    words = [
        "attack",
        "sealed",
        "--attacks",
        "as_is",
        "--study",
        str(tmp_path),
        "--out",
        str(tmp_path / "g"),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "cloud" / FILE).read_text())
    assert (found["updates"], found["confirmed"]) == (2, 2)


def test_another_training_in_the_folder_is_attacked_anew(tmp_path: Path) -> None:
    keep(tmp_path, (0,), 1)
    first = attack_kept_updates(tmp_path, "of another training", None, 60.0)
    second = attack_kept_updates(tmp_path, study_digest(tmp_path), None, 60.0)
    assert first is not None and second is not None and first.study != second.study


def test_other_candidates_are_tested_even_if_they_are_as_many(tmp_path: Path) -> None:
    keep(tmp_path, (0, 1, 2), 1, sums=True)
    digest = study_digest(tmp_path)
    strangers = attack_kept_updates(tmp_path, digest, PICTURES[12:], 60.0)
    assert strangers is not None and strangers.confirmed == 0
    members = attack_kept_updates(tmp_path, digest, PICTURES[:12], 60.0)
    assert members is not None and members.confirmed == 3 and members.candidates == strangers.candidates


def test_without_kept_updates_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "cloud").mkdir()
    write_plan(plan(), tmp_path)
    write_training(tmp_path)
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "cloud" / "model.safetensors")
    assert attack_kept_updates(tmp_path, "", None, 60.0) is None
    assert not (tmp_path / "cloud" / FILE).exists()


def test_candidates_of_another_shape_are_refused(tmp_path: Path) -> None:
    keep(tmp_path, (0,), 1)
    with pytest.raises(CipherwardError, match="another shape"):
        attack_kept_updates(tmp_path, "", PICTURES[:, :16, :16], 60.0)
