"""Settings on a command line: each is named once, and what is no setting is refused with the form of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.exchange.console import parse_pool_sizes
from coordinator.exchange.plan import read_plan
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


BEGIN = "study: s\nsource: phantom\ncounts: [64, 16, 16]\nimage_size: 32\nblock: 8\n"
#: The end of a plan, and what its error says. Each was a traceback, another number in silence, or words that mislead.
ODD_PLANS = {
    "1: 2\n": "1 is no name of a setting",
    "yes: 2\n": "True is no name of a setting",
    "~: 2\n": "None is no name of a setting",
    "batch: 010\n": "010 in line 6 is 8 to YAML",
    "model_args:\n  depth: 1:30\n": "1:30 in line 7 is 90 to YAML",
    f"batch: 0{'7' * 6000}\n": "is another number to YAML",
    "batch: true\n": "batch: Input should be a number, and it is yes or no",
    "background: no\n": "background: Input should be a number, and it is yes or no",
    "lr: on\n": "lr: Input should be a number, and it is yes or no",
    "channels: yes\n": "channels: Input should be a number, and it is yes or no",
    "pools: [1, on]\n": "pools: Input should be a number, and it is yes or no",
    "model_args:\n\tdepth: 1\n": "(line 7): found character",
    "batch:8\n": "(line 7): could not find expected ':'",
    "pools: [2, 1]\n": "pools: sizes must rise",
}


@pytest.mark.parametrize("end", ODD_PLANS, ids=range(len(ODD_PLANS)))
def test_what_yaml_reads_in_another_way_than_it_is_meant_is_refused(end: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(BEGIN + end)
    with pytest.raises(CipherwardError) as refused:
        read_plan(tmp_path / "plan.yaml")
    assert ODD_PLANS[end] in refused.value.message and refused.value.hint
    assert "{" not in refused.value.hint and len(refused.value.message) < 300


def test_switches_and_other_ways_to_write_a_number_are_taken(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(
        f"{BEGIN}baseline: off\nbatch: 0x10\nlr: 1e-3\nseed: 0\nmomentum: 0.5\n"
    )
    plan = read_plan(tmp_path / "plan.yaml")
    assert (plan.baseline, plan.batch, plan.lr, plan.seed, plan.momentum) == (False, 16, 0.001, 0, 0.5)
    (tmp_path / "plan.yaml").write_text(f"{BEGIN}model_args: {{class_token: no}}\nscheme_options: {{}}\n")
    assert read_plan(tmp_path / "plan.yaml").model_args == {"class_token": False}


def test_a_list_that_is_too_short_and_a_text_in_another_encoding_are_named(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(BEGIN.replace("[64, 16, 16]", "[64, 16]"))
    with pytest.raises(CipherwardError, match="counts has too few values: number 3 is missing") as refused:
        read_plan(tmp_path / "plan.yaml")
    assert refused.value.hint == "it is [64, 16]"
    (tmp_path / "plan.yaml").write_bytes(f"{BEGIN}# é\n".encode("latin-1"))
    with pytest.raises(CipherwardError, match="it is not text in UTF-8") as refused:
        read_plan(tmp_path / "plan.yaml")
    assert "UTF-8" in refused.value.hint


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("batch=010", "010 in line 1 is 8 to YAML"),
        ("model_args={depth: 1, depth: 2}", "'depth' stands twice"),
    ],
)
def test_a_setting_on_the_command_line_has_one_meaning_too(word: str, error: str) -> None:
    with pytest.raises(CipherwardError, match=f"--set {word.partition('=')[0]}: {error}"):
        parse_assignments([word], "--set", "key=value", "")


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
