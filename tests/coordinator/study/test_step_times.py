"""What a run goes on from: the study's plan, and the times of its steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.exchange.plan import Plan
from coordinator.study.simulate import _check_plan, _read_seconds
from coordinator.study.study import Study, Talk, ignore
from crypto.errors import CipherwardError


@pytest.mark.parametrize("content", ["", '{"seal": 1.', "[1]"])
def test_step_times_that_were_emptied_or_cut_say_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "seconds.json"
    path.write_text(content)

    with pytest.raises(CipherwardError, match="step times") as error:
        _read_seconds(path)

    assert str(path) in error.value.message
    assert "remove it" in error.value.hint


def test_a_study_whose_plan_is_gone_gets_no_other_plan(tmp_path: Path) -> None:
    """What was sealed and trained there was taken for the work of whatever plan came next."""
    study = Study(Plan(study="t", counts=(9, 9, 9), image_size=32, block=8), tmp_path, Talk(ignore))
    _check_plan(study)
    (tmp_path / "plan.yaml").unlink()
    _check_plan(study)  # nothing was sealed yet
    study.hospital(0).mkdir(parents=True)
    (tmp_path / "plan.yaml").unlink()

    with pytest.raises(CipherwardError, match=r"holds a study, and its plan.yaml is gone"):
        _check_plan(study)

    assert not (tmp_path / "plan.yaml").exists()
