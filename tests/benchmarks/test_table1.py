"""The comparison of schemes: sound protocols, and cells that go on."""

from __future__ import annotations

import errno
import json
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks import table1, table1_page, table1_protocol
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from tests.support.paths import ROOT
from tests.support.table1 import CONV, SECTION, SHORT, VIT, kill_after, ran
from tests.support.table1 import data as data


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "table1").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_protocols_are_sound_and_say_how_they_differ(path):
    protocol = table1_protocol.read_protocol(path)
    assert protocol.protocol == path.stem
    head = path.read_text().split("\nprotocol:")[0]
    assert "benchmarks/table1.py" in head and "differs from the papers" in head
    pairs = [(s.data, s.network) for s in protocol.sections]
    assert len(set(pairs)) == len(pairs) == 9
    for section in protocol.sections:
        for row, _ in table1_protocol.cells_of(section):
            plan = table1_protocol.plan_of(section, row, 0)
            assert plan.stem == ("private" if row == table1_protocol.PRIVATE else "learn")
            adapt = plan.model_args.get("adapt", "none")
            assert adapt == ("none" if section.network == "vit" else table1_protocol.PAIRS[row])


def test_a_wrong_protocol_is_one_clear_line(tmp_path):
    path = tmp_path / "p.yaml"
    for changes, line in (
        ({"network": "vgg"}, "network"),
        ({"plan": {**VIT, "epochs": 3}}, "unknown key 'epochs'"),
        ({"plan": {**VIT, "block": 3}}, "block"),
    ):
        path.write_text(yaml.safe_dump({"protocol": "t", "sections": [{**SECTION, **changes}]}))
        with pytest.raises(CipherwardError, match=line):
            table1_protocol.read_protocol(path)


def test_a_killed_cell_goes_on_to_the_same_figures(data, tmp_path, monkeypatch):
    key = SecretKey.generate()
    monkeypatch.setattr(SecretKey, "generate", lambda: key)
    chosen = {"rows": ["block_pixel_shuffle"]}
    whole = ran(data, tmp_path / "whole", [SECTION], **chosen)["sections"][0]["cells"]
    saves = kill_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        ran(data, tmp_path / "cut", [SECTION], **chosen)
    monkeypatch.setattr(SecretKey, "generate", lambda: pytest.fail("the cell's own key must be used again"))
    result = ran(data, tmp_path / "cut", [SECTION], **chosen)["sections"][0]
    assert saves == [1, 2, 3] and result["begun"] == []
    [cut], [straight] = result["cells"], whole
    assert {**cut, "seconds": 0} == {**straight, "seconds": 0}
    assert [
        p.name for p in (tmp_path / "cut" / "t").iterdir() if p.is_dir()
    ] == []  # neither key nor checkpoint
    ran(data, tmp_path / "cut", [SECTION], **chosen)
    assert saves == [1, 2, 3]  # what is done is not done again


def test_time_that_is_too_short_begins_nothing_and_what_is_begun_is_told(
    data, tmp_path, monkeypatch, capsys
):
    result = ran(data, tmp_path / "out", [SECTION], hours=0.0)
    assert (
        result["sections"][0]["cells"] == []
        and "not begun, it takes about 0.1 min" in capsys.readouterr().out
    )
    section = table1_protocol.Section.model_validate(SECTION)
    real, later = table1.State.save, time.time() + 7200
    with monkeypatch.context() as patched:

        def late(state, path):
            real(state, path)
            patched.setattr(table1.time, "time", lambda: later)

        patched.setattr(table1.State, "save", late)
        result = ran(data, tmp_path / "out", [SECTION], rows=["le"])["sections"][0]
    assert result["cells"] == [] and result["begun"] == [{"row": "le", "seed": 0, "epochs": 1}]
    assert table1_page.accuracy(result, "le") == "not finished: 1 of 3 epochs"
    assert table1.expected(section, [], 1) == pytest.approx(4.0)  # two of three epochs of 6 s
    assert table1.expected(section, [{"seconds": 30.0}, {"seconds": 12.0}], 0) == 12.0


def test_every_row_runs_and_a_carried_stem_computes_what_plain_images_do(data, tmp_path, monkeypatch):
    # A key whose permutations of four are none of them the identity; one epoch, so that no tie chooses another.
    monkeypatch.setattr(SecretKey, "generate", lambda: SecretKey(bytes(range(32))))
    vit, conv = {**VIT, "rounds": 1}, {**CONV, "rounds": 1}
    sections = [
        {**SECTION, "seeds": 2, "plan": vit},
        {**SECTION, "network": "shake_pyramidnet", "plan": conv},
    ]
    result = ran(data, tmp_path / "out", sections)
    vit, conv = result["sections"]
    cells = {(c["row"], c["seed"]): c for c in vit["cells"]}
    assert len(cells) == 7 + 3 and len(conv["cells"]) == 6 and conv["none"] == [table1_protocol.PRIVATE]
    for seed in (0, 1):
        plain, carried = cells["plain", seed], cells[table1_protocol.PRIVATE, seed]
        # Scores that lie together may change places by rounding.
        assert plain["test"] == pytest.approx(carried["test"], abs=0.05, rel=0.3)
        assert plain["val"]["loss"] == pytest.approx(carried["val"]["loss"], abs=1e-5)
        learnt = cells["block_pixel_shuffle", seed]["val"]["loss"]
        assert abs(learnt - plain["val"]["loss"]) > 1e-4  # not the same images
    assert str(data) not in json.dumps(result)
    page = "\n".join(table1_page.table1(result, []))
    shown = [line.split(" |")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert shown[1:8] == list(table1_protocol.PAIRS)
    assert "| block_pixel_shuffle private |" in page and "no such cell" in page and "not run" not in page
    assert "2 seeds, each with a key of its own" in page and "within" in page


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--data=pneumonia,mir", "unknown data set 'mir'"),
        ("--networks=vit,resnet", "unknown network 'resnet'"),
        ("--rows=plain,lee", "unknown row 'lee'"),
    ],
)
def test_a_name_that_is_none_is_refused_before_anything_runs(tmp_path, monkeypatch, option, line):
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["table1.py", "--hours=0", f"--folder={tmp_path}", f"--out={out}", option]
    )
    with pytest.raises(SystemExit, match=f"error: {line}\nhint: known: ") as error:
        table1.main()
    assert {"mir": "mri", "lee": "le,"}.get(option[-3:], "resnet18") in str(error.value)
    assert not out.exists()


def test_known_names_with_blanks_are_taken(tmp_path, monkeypatch):
    given = ["--data=pneumonia, mri", "--networks=vit, resnet18", "--rows=le, block_pixel_shuffle private"]
    given += ["--hours=0", f"--folder={tmp_path}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["table1.py", *given])
    table1.main()
    assert (tmp_path / "out" / "cpu").is_dir()


@pytest.mark.parametrize("full", ["t", "pneumonia-vit-plain"])
def test_a_full_disk_is_one_clear_line(data, tmp_path, monkeypatch, full):
    real = Path.mkdir

    def mkdir(path, *args, **options):
        if path.name.startswith(full) and not path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, *args, **options)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(CipherwardError, match=f"the disk is full: cannot write .*{full}"):
        ran(data, tmp_path / "out", [SECTION], rows=["plain"])


def test_a_full_disk_at_a_checkpoint_is_one_clear_line(data, tmp_path, monkeypatch):
    real = Path.write_bytes

    def write_bytes(path, content):
        if "checkpoint" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(CipherwardError, match=r"the disk is full: cannot write .*checkpoint\.safetensors"):
        ran(data, tmp_path / "out", [SECTION], rows=["plain"])


def test_a_training_that_diverges_is_told_and_the_table_goes_on(data, tmp_path, capsys):
    wild = {**SECTION, "plan": {**VIT, "lr": 1e30}}
    conv = {**SHORT, "network": "shake_pyramidnet", "plan": {**CONV, "rounds": 1}}
    result = ran(data, tmp_path / "out", [wild, conv], rows=["plain"])
    [cell], [sound] = (section["cells"] for section in result["sections"])
    assert cell["diverged"] == 1 and cell["test"] == {"auc": None} and cell["seconds"] > 0
    assert "training diverged in epoch 1" in capsys.readouterr().out and "diverged" not in sound
    assert table1_page.accuracy(result["sections"][0], "plain") == "diverged in epoch 1"
    page = "\n".join(table1_page.table1(result, []))
    assert "| plain | diverged in epoch 1 | " in page and "NaN" not in json.dumps(result)
    assert not [p for p in (tmp_path / "out" / "t").iterdir() if p.is_dir()]
    cells = tmp_path / "out" / "t" / "cells.jsonl"
    before = cells.read_text()
    ran(data, tmp_path / "out", [wild, conv], rows=["plain"])
    assert cells.read_text() == before  # it is not tried again
    section = table1_protocol.Section.model_validate(wild)
    assert table1.expected(section, [{"seconds": 30.0}, cell], 0) == 30.0


def test_another_error_of_a_training_is_not_a_divergence(data, tmp_path, monkeypatch):
    def broken(*_):
        raise CipherwardError("torch.compile does not work here")

    monkeypatch.setattr(table1, "measure", broken)
    with pytest.raises(CipherwardError, match="compile"):
        ran(data, tmp_path / "out", [SECTION], rows=["plain"])
