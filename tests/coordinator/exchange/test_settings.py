"""Settings on a command line: each is named once, and what is no setting is refused with the form of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.exchange.console import parse_pool_sizes
from coordinator.exchange.settings import parse_assignments
from crypto.errors import CipherwardError
from tests.support.command_runs import Here


def test_values_are_read_as_yaml_and_may_hold_the_sign() -> None:
    words = ["rounds=3", "privacy.epsilon=8", "study=a=b", "model_args={patch_size: 8}", "weights="]
    expected = {
        "rounds": 3,
        "privacy.epsilon": 8,
        "study": "a=b",
        "model_args": {"patch_size": 8},
        "weights": None,
    }
    assert parse_assignments(words, "--set", "key=value", "") == expected


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["rounds"], "--set 'rounds' is not key=value"),
        (["=3"], "--set '=3' is not key=value"),
        (["rounds=3", "seed=1", "rounds=4"], "--set rounds is there twice"),
        (["rounds=3", "rounds=3"], "--set rounds is there twice"),
    ],
)
def test_what_would_be_left_out_is_refused(words: list[str], error: str) -> None:
    with pytest.raises(CipherwardError) as refused:
        parse_assignments(words, "--set", "key=value", "for example: --set rounds=3")
    assert refused.value.message == error and refused.value.hint


def test_a_path_that_is_stated_in_two_ways_is_refused(tmp_path: Path, here: Here) -> None:
    (tmp_path / "plan.yaml").write_text("study: s\n")
    words = ("simulate", tmp_path / "plan.yaml", "--images", tmp_path, "--set", "images=elsewhere")
    done = here("cipherward-coordinator", *words)
    assert done.returncode == 1 and "--images and --set images state one setting" in done.stderr


def test_a_comma_alone_is_no_pool_size() -> None:
    assert parse_pool_sizes("5,1,5,") == [1, 5] and parse_pool_sizes("") == []
    for text in (",", ",,", "0", "-1,5", "1;5"):
        with pytest.raises(CipherwardError, match="are not numbers of images"):
            parse_pool_sizes(text)
