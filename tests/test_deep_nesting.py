"""Texts that are nested too deep: whatever reads YAML or JSON from a user or a file refuses them in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from benchmarks.command_line import parse_settings
from coordinator.exchange.kit import PLAN, Kit, KitManifest
from coordinator.federation.recording import read_updates
from coordinator.federation.rounds import State
from coordinator.model.belonging import read_belonging
from coordinator.model.weights_file import read_weights
from crypto.errors import CipherwardError
from crypto.files import parse_json, read_json, read_lines
from crypto.secure_sum.member import Member
from crypto.tensor_file import tensor_bytes
from parties.agent.join import read_plan
from tests.support.command_runs import Here

#: More than Python's limit of 1000 calls: its parsers of JSON and YAML end in RecursionError.
DEEP = "[" * 5000 + "]" * 5000
#: Values of YAML that PyYAML reads into no value, with another error for each: a month 13, a date that is none, a
#: truth value that is none, a number of 6000 digits, a list that holds itself, and what a shell passes on undecoded.
NO_VALUES = ["2026-13-45", "!!timestamp x", "!!bool x", "1" * 6000, "&a [*a]", "\udcff", "[1"]


def check_refused(done: CompletedProcess[str], message: str, hint: str) -> None:
    """Check for one short line, a hint, exit status 1, and no traceback."""
    assert done.returncode == 1 and done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr and len(done.stderr) < 400, done.stderr
    assert message in " ".join(lines) and hint in " ".join(lines)


@pytest.mark.parametrize(
    ("value", "reason"), [(DEEP, "nested too deep"), *((value, "not a value") for value in NO_VALUES)]
)
def test_a_setting_that_is_no_value_is_one_line(
    value: str, reason: str, tmp_path: Path, here: Here
) -> None:
    plan, folder = tmp_path / "plan.yaml", tmp_path / "hospital"
    plan.write_text("study: p\n")
    done = here("cipherward-coordinator", "simulate", plan, "--set", f"study={value}")
    check_refused(done, "--set study: ", "for example: --set rounds=3")
    assert reason in " ".join(done.stderr.split())
    done = here("cipherward-party", "seal", folder, "--images", tmp_path, "--option", f"mask={value}")
    check_refused(done, "--option mask: ", "for example: --option mask=independent")
    assert reason in " ".join(done.stderr.split())
    with pytest.raises(CipherwardError, match=reason):
        parse_settings([f"rounds={value}"])


@pytest.mark.parametrize("value", [DEEP, *NO_VALUES[:5]])
def test_a_plan_that_cannot_be_read_names_the_line(value: str, tmp_path: Path, here: Here) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"study: p\nrounds: {value}\n")
    done = here("cipherward-coordinator", "simulate", plan)
    check_refused(done, "plan.yaml is not YAML (line 2)", "each line is `key: value`")
    kit = Kit(KitManifest.model_construct(), {PLAN: plan.read_bytes()})
    with pytest.raises(CipherwardError, match="the plan in this kit is no plan"):
        read_plan(kit)


def test_json_from_outside_has_one_kind_of_error() -> None:
    assert parse_json('{"a": [1, 2]}') == {"a": [1, 2]} == parse_json(b'{"a": [1, 2]}')
    for text in (DEEP, '{"a":' * 5000, "", "1" * 6000):
        with pytest.raises(ValueError):
            parse_json(text)


def read_state_of_member(path: Path) -> object:
    return Member.restore(path.read_text())


READERS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: read_json(path, "note"), "cannot read the note"),
    (read_lines, "line 1: nested too deeply"),
    (read_state_of_member, "is damaged"),
]


@pytest.mark.parametrize(("read", "message"), READERS, ids=["one value", "lines", "a secure sum"])
def test_a_file_of_deep_json_is_refused(
    read: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.json"
    path.write_text(DEEP + "\n")
    with pytest.raises(CipherwardError, match=message) as error:
        read(path)
    assert error.value.hint and "\n" not in error.value.message


def test_a_line_that_a_kill_cut_short_is_left_out_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"b"\n{"c": 2}\n')
    assert read_lines(path) == [{"a": 1}, {"c": 2}]


MODEL = {"classes": "[]", "stem": "learn", "study": "s", "spec": "{}", "key_ids": "{}"}


@pytest.mark.parametrize("field", ["classes", "spec", "key_ids"])
def test_a_model_that_says_something_deep_of_itself_is_refused(field: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tensor_bytes({"w": np.zeros(1, np.float32)}, {**MODEL, field: DEEP}))
    with pytest.raises(CipherwardError, match=r"not a model of Cipherward|is damaged"):
        read_belonging(path)


def test_a_checkpoint_a_record_and_a_header_that_are_deep_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "updates" / "round-0001.safetensors"
    path.parent.mkdir()
    path.write_bytes(tensor_bytes({"before": np.zeros(1, np.float32)}, {"state": DEEP, "json": DEEP}))
    with pytest.raises(CipherwardError, match=r"the checkpoint .* cannot be read"):
        State.load(path)
    with pytest.raises(CipherwardError, match="cannot be read"):
        read_updates(tmp_path)
    header = ('{"a":' + DEEP + "}").encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CipherwardError, match="its header cannot be read"):
        read_weights(path)
