"""The comparison of schemes: valid protocols, and cells that continue after a kill."""

from __future__ import annotations

import errno
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks import table1, table1_protocol
from benchmarks.pages.comparison import accuracy, comparison
from coordinator.federation.rounds import State
from coordinator.model.training import PlainImages
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import load
from tests.support.paths import ROOT
from tests.support.table1 import CONV, SECTION, SHORT, VIT, kill_after, run_table1


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "table1").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_protocols_are_valid_and_say_how_they_differ(path: Path) -> None:
    protocol = table1_protocol.read_protocol(path)
    assert protocol.protocol == path.stem
    head = path.read_text().split("\nprotocol:")[0]
    assert "benchmarks.table1" in head and "differs from the papers" in head
    pairs = [(s.data, s.network) for s in protocol.sections]
    assert len(set(pairs)) == len(pairs) == (1 if path.stem == "pretrained" else 9)
    for section in protocol.sections:
        for row, _ in table1_protocol.cells_of(section):
            plan = table1_protocol.plan_of(section, row, 0)
            assert plan.stem == ("private" if row == table1_protocol.PRIVATE else "learn")
            adapt = plan.model_args.get("adapt", "none")
            assert adapt == ("none" if section.network == "vit" else table1_protocol.PAIRS[row])


def test_a_wrong_protocol_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    for changes, line in (
        ({"network": "vgg"}, "network"),
        ({"plan": {**VIT, "epochs": 3}}, "unknown key 'epochs'"),
        ({"plan": {**VIT, "block": 3}}, "block"),
        ({"row_plans": {"LE": {"lr": 0.1}}}, "no row is called LE"),
        ({"row_plans": {"le": {"block": 4}}}, "block is the same for all rows"),
    ):
        path.write_text(yaml.safe_dump({"protocol": "t", "sections": [{**SECTION, **changes}]}))
        with pytest.raises(CipherwardError, match=line):
            table1_protocol.read_protocol(path)


def test_a_row_of_its_own_settings_changes_no_other_row() -> None:
    common = table1_protocol.Section.model_validate(SECTION)
    own = table1_protocol.Section.model_validate({**SECTION, "row_plans": {"le": {"lr": 0.5}}})
    assert table1_protocol.plan_of(own, "le", 0).lr == 0.5
    assert table1_protocol.plan_of(own, "pe", 0) == table1_protocol.plan_of(common, "pe", 0)
    digests = {row: table1_protocol.settings_of(own, row) for row in ("le", "pe", "plain")}
    assert digests["pe"] == digests["plain"] == table1_protocol.settings_of(common, "le") != digests["le"]
    same = table1_protocol.Section.model_validate({**SECTION, "plan": {**VIT, "lr": 0.5}})
    assert table1_protocol.settings_of(same, "pe") == digests["le"]  # wherever the rate is written


def test_a_killed_cell_continues_to_the_same_figures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SecretKey.generate()
    monkeypatch.setattr(SecretKey, "generate", lambda: key)
    options: dict[str, Any] = {"rows": ["block_pixel_shuffle"]}
    uninterrupted = run_table1(data, tmp_path / "whole", [SECTION], **options)["sections"][0]["cells"]
    saves = kill_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        run_table1(data, tmp_path / "cut", [SECTION], **options)
    monkeypatch.setattr(SecretKey, "generate", lambda: pytest.fail("the cell's own key must be used again"))
    result = run_table1(data, tmp_path / "cut", [SECTION], **options)["sections"][0]
    assert saves == [1, 2, 3] and result["begun"] == []
    [killed], [straight] = result["cells"], uninterrupted
    assert {**killed, "seconds": 0} == {**straight, "seconds": 0}
    assert [
        p.name for p in (tmp_path / "cut" / "t").iterdir() if p.is_dir()
    ] == []  # neither key nor checkpoint
    run_table1(data, tmp_path / "cut", [SECTION], **options)
    assert saves == [1, 2, 3]  # a finished cell is not trained again


def test_a_cell_keeps_its_nonce_and_no_two_images_share_their_noise(tmp_path: Path) -> None:
    section = table1_protocol.Section.model_validate(SECTION)
    plan = table1_protocol.plan_of(section, "noisy_orthogonal", 0)
    spec = table1.spec_at(tmp_path, plan)
    assert table1.spec_at(tmp_path, plan) == spec != plan.describe()
    gray = PlainImages(np.full((2, 32, 32, 1), 127, np.uint8), np.zeros(2, np.int64))
    sealed = table1.seal(load(spec).cipher(SecretKey.generate()), {"train": gray, "val": gray})
    images = np.concatenate([part.images for part in sealed.values()])
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4


def test_a_row_of_other_options_has_other_settings() -> None:
    fine = table1_protocol.Section.model_validate(SECTION)
    coarse = table1_protocol.Section.model_validate(
        {**SECTION, "plan": {**VIT, "image_size": 224, "block": 16}}
    )
    options = [
        dict(table1_protocol.plan_of(s, "sub_block_etc", 0).describe().options) for s in (fine, coarse)
    ]
    assert options == [{"sub_block": 2}, {"sub_block": 4}]
    assert len({table1_protocol.settings_of(fine, row) for row in table1_protocol.PAIRS}) == 2


def test_too_little_time_begins_no_cell_and_an_unfinished_cell_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_table1(data, tmp_path / "out", [SECTION], hours=0.0)
    assert (
        result["sections"][0]["cells"] == []
        and "not begun, it takes about 0.1 min" in capsys.readouterr().out
    )
    section = table1_protocol.Section.model_validate(SECTION)
    save, later = State.save, time.time() + 7200
    with monkeypatch.context() as patched:

        def save_late(state: State, path: Path) -> None:
            save(state, path)
            patched.setattr(time, "time", lambda: later)

        patched.setattr(State, "save", save_late)
        result = run_table1(data, tmp_path / "out", [SECTION], rows=["le"])["sections"][0]
    assert result["cells"] == [] and result["begun"] == [{"row": "le", "seed": 0, "epochs": 1}]
    assert accuracy(result, "le") == "not finished: 1 of 3 epochs"
    assert table1.expected(section, [], 1) == pytest.approx(4.0)  # two of three epochs of 6 s
    assert table1.expected(section, [{"seconds": 30.0}, {"seconds": 12.0}], 0) == 12.0


@pytest.mark.long
def test_every_row_runs_and_a_carried_stem_computes_the_same_as_plain_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No permutation of four under this key is the identity. One epoch, so that no tie chooses another epoch.
    monkeypatch.setattr(SecretKey, "generate", lambda: SecretKey(bytes(range(32))))
    vit, conv = {**VIT, "rounds": 1}, {**CONV, "rounds": 1}
    sections = [
        {**SECTION, "seeds": 2, "plan": vit},
        {**SECTION, "network": "shake_pyramidnet", "plan": conv},
    ]
    result = run_table1(data, tmp_path / "out", sections)
    vit, conv = result["sections"]
    cells = {(c["row"], c["seed"]): c for c in vit["cells"]}
    rows = list(table1_protocol.PAIRS)
    assert len(cells) == len(rows) + len(table1_protocol.SEEDED)
    assert conv["none"] == list(table1_protocol.VIT_ROWS)
    assert {c["row"] for c in conv["cells"]} == {*rows} - {*table1_protocol.VIT_ROWS}
    for seed in (0, 1):
        plain, carried = cells["plain", seed], cells[table1_protocol.PRIVATE, seed]
        # Close scores may change places by rounding.
        assert plain["test"] == pytest.approx(carried["test"], abs=0.05, rel=0.3)
        assert plain["val"]["loss"] == pytest.approx(carried["val"]["loss"], abs=1e-5)
        learnt = cells["block_pixel_shuffle", seed]["val"]["loss"]
        assert abs(learnt - plain["val"]["loss"]) > 1e-4  # not the same images
    assert str(data) not in json.dumps(result)
    page = "\n".join(comparison(result, []))
    shown = [line.split(" |")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert shown[1 : 1 + len(rows)] == rows
    assert "| block_pixel_shuffle private |" in page and "no such cell" in page and "not run" not in page
    assert "2 seeds, each with its own key" in page and "within" in page
    assert "Without any network: the nearest neighbour on 64-bin histograms" in page


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--data=pneumonia,mir", "unknown data set 'mir'"),
        ("--networks=vit,resnet", "unknown network 'resnet'"),
        ("--rows=plain,lee", "unknown row 'lee'"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, line: str
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", ["table1.py", "--hours=0", f"--folder={tmp_path}", f"--out={out}", option]
    )
    with pytest.raises(SystemExit, match=rf"error: {line}\nhint: (did you mean .*)?known: ") as error:
        table1.main()
    assert {"mir": "mri", "lee": "le,"}.get(option[-3:], "resnet18") in str(error.value)
    assert not out.exists()


def test_names_may_have_spaces_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data=pneumonia, mri", "--networks=vit, resnet18", "--rows=le, block_pixel_shuffle private"]
    words += ["--hours=0", f"--folder={tmp_path}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["table1.py", *words])
    table1.main()
    assert (tmp_path / "out" / "cpu").is_dir()


@pytest.mark.parametrize("full", ["t", "pneumonia-vit-plain"])
def test_a_full_disk_is_one_clear_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    real_mkdir = Path.mkdir

    def mkdir(path: Path, *args: Any, **options: Any) -> None:
        if path.name.startswith(full) and not path.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real_mkdir(path, *args, **options)

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(CipherwardError, match=f"the disk is full: cannot write .*{full}"):
        run_table1(data, tmp_path / "out", [SECTION], rows=["plain"])


def test_a_full_disk_at_a_checkpoint_is_one_clear_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = Path.write_bytes

    def write_bytes(path: Path, content: bytes) -> int:
        if "checkpoint" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(CipherwardError, match=r"the disk is full: cannot write .*checkpoint\.safetensors"):
        run_table1(data, tmp_path / "out", [SECTION], rows=["plain"])


def test_a_diverged_training_is_reported_and_the_table_continues(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = {**SECTION, "plan": {**VIT, "lr": 1e30}}
    conv = {**SHORT, "network": "shake_pyramidnet", "plan": {**CONV, "rounds": 1}}
    result = run_table1(data, tmp_path / "out", [wild, conv], rows=["plain"])
    [cell], [sound] = (section["cells"] for section in result["sections"])
    assert cell["diverged"] == 1 and cell["test"] == {"auc": None} and cell["seconds"] > 0
    assert "training diverged in epoch 1" in capsys.readouterr().out and "diverged" not in sound
    assert accuracy(result["sections"][0], "plain") == "diverged in epoch 1"
    page = "\n".join(comparison(result, []))
    assert "| plain | diverged in epoch 1 | " in page and "NaN" not in json.dumps(result)
    assert not [p for p in (tmp_path / "out" / "t").iterdir() if p.is_dir()]
    cells = tmp_path / "out" / "t" / "cells.jsonl"
    before = cells.read_text()
    run_table1(data, tmp_path / "out", [wild, conv], rows=["plain"])
    assert cells.read_text() == before  # it is not trained again
    section = table1_protocol.Section.model_validate(wild)
    assert table1.expected(section, [{"seconds": 30.0}, cell], 0) == 30.0


def test_another_error_of_a_training_is_not_a_divergence(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise CipherwardError("torch.compile does not work here")

    monkeypatch.setattr(table1, "measure", broken)
    with pytest.raises(CipherwardError, match="compile"):
        run_table1(data, tmp_path / "out", [SECTION], rows=["plain"])
