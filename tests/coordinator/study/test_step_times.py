"""The times of a study's steps, which a run goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.study.simulate import _read_seconds
from crypto.errors import CipherwardError


@pytest.mark.parametrize("content", ["", '{"seal": 1.', "[1]"])
def test_step_times_that_were_emptied_or_cut_say_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "seconds.json"
    path.write_text(content)

    with pytest.raises(CipherwardError, match="step times") as error:
        _read_seconds(path)

    assert str(path) in error.value.message
    assert "remove it" in error.value.hint
