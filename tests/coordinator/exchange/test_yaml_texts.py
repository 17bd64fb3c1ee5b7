"""YAML texts: what libyaml reads is what PyYAML reads, and no text ends the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from coordinator.exchange.plan import read_plan, write_plan
from coordinator.exchange.settings import dump_yaml, load_yaml, mark_whole, read_yaml
from crypto.errors import CipherwardError
from parties.sealing.place import Place
from tests.support.deployment import provisioned
from tests.support.paths import ROOT

TEXTS = [
    *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "configs").rglob("*.yaml"))),
    "",
    "a: 1\nb: [1.5, 1e3, 1.0e-3, .inf, 0x1f, 0o17, 017, 1_000, ~, null, yes, no, on, True]\n",
    "a: 2026-01-02\nb: 12:30:45\nc: 'it''s'\nd: \"\\u00e9\\n\"\n",
    "a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  l: 2\n",
    "a: |\n  two\n  lines\nb: >-\n  folded\n  text\n",
    "ä: 'é ☃'\nTaille: \"\\U0001F600\"\n",
    "- 1\n- - 2\n  - 3\n- {a: b}\n",
    "a: 1\na: 2\n",
    "# a comment only\n",
    "just words",
]
NONE = [
    "a: [1",
    "a: 'x",
    "a: b: c\n",
    "\tx: 1",
    "a: 1\n---\nb: 2\n",
    "a: !!python/object:os.system x",
    "a: *x",
    "%",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_holds_what_pyyaml_reads_in_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = repr(yaml.safe_load(text))
    assert repr(load_yaml(text)) == expected
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)  # PyYAML may be built without libyaml
    assert repr(load_yaml(text)) == expected


@pytest.mark.parametrize("text", NONE, ids=range(len(NONE)))
def test_a_text_that_is_no_yaml_has_pyyaml_s_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError) as expected:
        yaml.safe_load(text)
    with pytest.raises(yaml.YAMLError) as error:
        load_yaml(text)
    assert (type(error.value), str(error.value)) == (type(expected.value), str(expected.value))


#: Lists in one line, lists of lists, and mappings of mappings. The first, made longer, ends the process in libyaml.
DEEP = {
    "brackets": "a:\n- " + "[" * 5000 + "]" * 5000,
    "dashes": "x: 1\n" + "- " * 5000,
    "braces": "{a: " * 5000,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_a_text_that_is_nested_too_deep_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "party.yaml"
    path.write_text(text)
    with pytest.raises(CipherwardError, match=r"party.yaml is not YAML \(line \d\)"):
        read_yaml(path, "settings")


@pytest.mark.parametrize("kind", ["{{<<: [{}]}}", "[{}]", "{{a: {{b: [{}]}}}}"])
def test_aliases_that_stand_for_billions_of_values_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    """A plan comes from the coordinator: half a kilobyte of it filled the memory of a hospital that looked at it."""
    lines = ["m0: &m0 {k: 1}"]
    for i in range(1, 20):
        lines.append(f"m{i}: &m{i} " + kind.format(",".join([f"*m{i - 1}"] * 9)))
    path = tmp_path / "plan.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(CipherwardError, match=r"is not YAML \(line [67]\)"):
        read_yaml(path, "plan")
    # As many as a file can need are read.
    path.write_text("\n".join(lines[:4]))
    assert len(read_yaml(path, "plan")) == 4


def test_a_setting_that_stands_twice_is_named_with_its_line(tmp_path: Path) -> None:
    """PyYAML takes the last one: what a hospital wrote above it would be left out in silence."""
    path = tmp_path / "policy.yaml"
    for text, line in {
        "evaluations: 0\ntrainings: 3\nevaluations: 99\n": 3,
        "a: {b: 1, c: 2, b: 3}\n": 1,
        "a:\n- {x: 1}\n- x: 1\n  y: [x, x]\n  x: 2\n": 5,
        "a: 1\n'a': 2\n": 2,
    }.items():
        path.write_text(text)
        with pytest.raises(CipherwardError, match=rf"stands twice, again in line {line}") as error:
            read_yaml(path, "policy")
        assert error.value.hint
    path.write_text("a: {x: a, y: a}\nb: [{x: 1}, {x: 1}]\nx: &x {k: 1}\nc: {<<: *x, k: 2}\nd: *x\ne: x\n")
    assert read_yaml(path, "policy")["c"] == {"k": 2}


@pytest.mark.parametrize(
    "text", ['study: "a\\0b"', 'study: "\\ud800"', 'study: a\nmodel_args: {pos_embed: "a\\0"}']
)
def test_text_that_no_file_can_hold_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(CipherwardError, match=r"(study|model_args): Input has a null character"):
        read_plan(path)


@pytest.mark.parametrize("allow_unicode", [False, True])
def test_what_is_written_is_read_as_the_same(allow_unicode: bool) -> None:
    values = {
        "study": "ä é ☃ \u2028 \x85 \U0001f600",
        "text": "two\nlines, 'quotes' and # no comment: " + 30 * "long ",
        "words": ["yes", "1e3", "012", "~", "- x", "", " padded "],
        "numbers": {"a": 1, "b": 1e-3, "c": 0.1 + 0.2, "d": True, "e": None, "f": []},
    }
    text = dump_yaml(values, allow_unicode)
    assert load_yaml(text) == yaml.safe_load(text) == values
    assert list(load_yaml(text)) == list(values) and (allow_unicode or text.isascii())


def test_settings_that_a_command_wrote_are_whole_or_refused(tmp_path: Path) -> None:
    """Every beginning of these settings but two is YAML, and what is gone would have its default."""
    path, values = tmp_path / "party.yaml", {"a": 12, "b": {"c": [1, 2]}, "d": "x"}
    text = mark_whole(dump_yaml(values))
    for length in range(len(text) - 1):
        path.write_text(text[:length])
        with pytest.raises(
            CipherwardError, match=r"was cut short: its line `# end` is missing|no settings|not YAML"
        ):
            read_yaml(path, "party file")
    path.write_text(text.replace("\n", "\r\n"))
    assert read_yaml(path, "party file") == values
    path.write_text("# mine\n" + text + "e: 1\n")  # whoever edits it may add to it
    assert read_yaml(path, "party file") == {**values, "e": 1}
    path.write_text("a: 1\n")
    assert read_yaml(path, "party file") == {"a": 1}


def test_the_settings_files_of_both_sides_are_marked(tmp_path: Path) -> None:
    hospital = Place.from_settings(tmp_path / "h", {"party": "h", "allow_leak": True, "seed": 7})
    hospital.save()
    deployment = provisioned(tmp_path, days="30")
    files: dict[Path, Callable[[], object]] = {
        hospital.folder / "party.yaml": lambda: Place.open(hospital.folder),
        deployment.root / "federation.yaml": lambda: deployment.settings,
        write_plan(read_plan(deployment.plan), tmp_path): lambda: read_plan(tmp_path / "plan.yaml"),
    }
    for path, read in files.items():
        read()
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[: len(lines) * 2 // 3]))
        with pytest.raises(CipherwardError, match="was cut short") as error:
            read()
        assert "backup" in error.value.hint
