"""The comparison of schemes: sound protocols, cells that go on, and a page that claims nothing that was not run."""

from __future__ import annotations

import argparse
import errno
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from crypto.errors import CipherwardError
from crypto.key import SecretKey

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import table1  # noqa: E402
import table1_data  # noqa: E402
import table1_inputs  # noqa: E402
import table1_page  # noqa: E402
import table1_protocol  # noqa: E402

VIT = {"image_size": 8, "block": 4, "model": "vit_tiny_patch16_224", "rounds": 3, "batch": 8, "lr": 0.01}
VIT |= {"model_args": {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}, "optimizer": "sgd"}
CONV = {**VIT, "model": "shake_pyramidnet", "model_args": {"depth": 8, "alpha": 6}}
SECTION = {"data": "pneumonia", "network": "vit", "minutes": 0.1, "choose": "auc", "plan": VIT}


@pytest.fixture
def data(tmp_path):
    """A made PneumoniaMNIST of 8×8 pixels."""
    random, held = np.random.default_rng(0), {}
    for split, n in (("train", 40), ("val", 12), ("test", 16)):
        labels = np.arange(n) % 2
        held[f"{split}_labels"] = labels[:, None]
        held[f"{split}_images"] = (random.integers(0, 150, (n, 8, 8)) + 60 * labels[:, None, None]).astype(
            np.uint8
        )
    np.savez(tmp_path / "pneumoniamnist.npz", **held)
    return tmp_path


def ran(data, out, sections, **changes):
    """What a run of a protocol writes."""
    path = data / "protocol.yaml"
    path.write_text(yaml.safe_dump({"protocol": "t", "sections": sections}))
    options = {
        "protocol": path,
        "folder": data,
        "out": out,
        "json": out.parent / f"{out.name}.json",
        "hours": 1.0,
    }
    options |= {"data": ["pneumonia"], "networks": ["vit", "shake_pyramidnet"], "minutes": 5.0, "seeds": 9}
    options |= {"rows": list(table1_protocol.PAIRS), **changes}
    table1.run(argparse.Namespace(**options))
    return json.loads(options["json"].read_text())


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
    saves, real = [], table1.State.save

    def killed(state, path):
        real(state, path)
        saves.append(state.round)
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(table1.State, "save", killed)
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


def test_missing_and_damaged_data_is_one_clear_line(tmp_path):
    for name, line in (
        ("pneumonia", r"no \.npz file"),
        ("cifar", r"no \.npz file"),
        ("mri", "no image folder"),
    ):
        with pytest.raises(CipherwardError, match=line):
            table1_data.read(tmp_path, name, 8, (0, 0, 0))
    path = table1_data.path_of(tmp_path, "cifar")
    np.savez(path, jpeg=np.zeros(3, np.uint8))
    for data in (path.read_bytes(), b"hello"):
        path.write_bytes(data)
        with pytest.raises(CipherwardError, match=r"cifar10_jpeg\.npz cannot be read") as error:
            table1_data.read(tmp_path, "cifar", 8, (0, 0, 0))
        assert "offsets, labels and is_test" in error.value.hint and "\n" not in str(error.value)


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


SHORT = {**SECTION, "plan": {**VIT, "rounds": 1}}


def altered(path):
    """Gives the first pixel of the made data another value."""
    with np.load(path) as stored:
        held = dict(stored)
    held["train_images"][0, 0, 0] ^= 1
    np.savez(path, **held)


def test_a_cell_of_another_data_file_or_pairing_is_trained_again(data, tmp_path, monkeypatch):
    conv = {**SHORT, "network": "shake_pyramidnet", "plan": {**CONV, "rounds": 1}}
    out, file = tmp_path / "out", data / "pneumoniamnist.npz"
    cells, digests, real = out / "t" / "cells.jsonl", [], table1_inputs.blake3_file
    monkeypatch.setattr(table1_inputs, "blake3_file", lambda p: digests.append(p.name) or real(p))

    def trained():
        result = ran(data, out, [SHORT, conv], rows=["plain", "le"])
        assert [len(s["cells"]) for s in result["sections"]] == [2, 2] and str(data) not in json.dumps(
            result
        )
        return len(cells.read_text().splitlines())

    assert trained() == 4 and digests == [file.name]  # once a run
    held = json.loads(cells.read_text().splitlines()[-1])["inputs"]
    assert held == {"pair": "block", "data": real(file), "weights": None}
    assert trained() == 4
    with monkeypatch.context() as patched:
        patched.setitem(table1_protocol.PAIRS, "le", "pixel")
        assert trained() == 5  # the ViT takes none
    assert trained() == 5  # and the first is there still
    file.touch()
    assert trained() == 5
    altered(file)
    assert trained() == 9
    lines = [json.loads(line) for line in cells.read_text().splitlines()[:4]]
    for line in lines:
        del line["inputs"]
    cells.write_text("".join(json.dumps(line) + "\n" for line in lines))
    altered(file)
    assert trained() == 4  # a cell that kept no inputs counts


def test_a_changed_weights_file_is_another_input_and_an_absent_one_no_change(tmp_path):
    section = table1_protocol.Section.model_validate(
        {**SECTION, "plan": {**VIT, "weights": "w.safetensors"}}
    )

    def now():
        return table1_inputs.inputs_of(tmp_path, table1_inputs.digest_of, section, "plain")

    (tmp_path / "w.safetensors").write_bytes(b"one")
    held = now()
    assert held["weights"] and held["data"] is None and table1_inputs.same(held, now())
    (tmp_path / "w.safetensors").write_bytes(b"two")
    assert not table1_inputs.same(held, now()) and table1_inputs.same(None, now())
    (tmp_path / "w.safetensors").unlink()
    assert table1_inputs.same(held, now())  # who writes the page only has no weights


def test_the_digest_of_a_folder_is_of_its_images_names_and_bytes(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    image = tmp_path / "train" / "a" / "1.png"
    image.write_bytes(b"pixels")
    seen = [table1_inputs.digest_of(tmp_path)]
    (tmp_path / "notes.txt").write_text("no image")
    assert table1_inputs.digest_of(tmp_path) == seen[0]
    image.write_bytes(b"Pixels")
    seen.append(table1_inputs.digest_of(tmp_path))
    image.rename(image.with_name("2.png"))
    seen.append(table1_inputs.digest_of(tmp_path))
    assert len(set(seen)) == 3 and table1_inputs.digest_of(tmp_path / "none") is None


def test_a_begun_cell_of_other_data_begins_anew(data, tmp_path, monkeypatch):
    epochs, real = [], table1.State.save

    def killed(state, path):
        real(state, path)
        epochs.append(state.round)
        if len(epochs) in (1, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(table1.State, "save", killed)
    chosen = {"rows": ["le"]}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ran(data, tmp_path / "out", [SECTION], **chosen)
    altered(data / "pneumoniamnist.npz")
    assert ran(data, tmp_path / "out", [SECTION], hours=0.0)["sections"][0]["begun"] == []
    ran(data, tmp_path / "out", [SECTION], **chosen)
    assert epochs == [1, 2, 1, 2, 3]


def test_a_begun_cell_that_kept_no_inputs_goes_on(data, tmp_path, monkeypatch):
    epochs, real = [], table1.State.save

    def killed(state, path):
        real(state, path)
        epochs.append(state.round)
        if len(epochs) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(table1.State, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        ran(data, tmp_path / "out", [SECTION], rows=["le"])
    [kept] = (tmp_path / "out").rglob("inputs.json")
    kept.unlink()
    altered(data / "pneumoniamnist.npz")
    ran(data, tmp_path / "out", [SECTION], rows=["le"])
    assert epochs == [1, 2, 3]


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


AUDIT = {
    "scheme": "le",
    "scope": "consortium",
    "attack": "pooled_key_recovery",
    "data": "cifar",
    "block": 4,
}
AUDIT |= {"options": {}, "smallest_pool": 20, "largest_pool": 100}


def test_security_is_the_audit_s_and_nothing_else():
    def told(row="le", data="cifar", **changes):
        return table1_page.security(row, data, [{**AUDIT, **changes}])

    assert told() == "broken by 20 (at 32×32, blocks of 4)"
    assert told(smallest_pool=None) == "not broken by up to 100 (at 32×32, blocks of 4)"
    assert told(row="block_pixel_shuffle private", scheme="block_pixel_shuffle", data="cifar").startswith(
        "broken by 20"
    )
    unaudited = [
        {"scheme": "etc"},
        {"scope": "image"},
        {"attack": "leading_bit"},
        {"options": {"mask": "independent"}},
    ]
    assert {told(**c) for c in (*unaudited, {"largest_pool": 0})} == {"not audited"}
    assert table1_page.security("le", "pneumonia", [AUDIT]) == "not audited"
    assert table1_page.security("le", "cifar", []) == "not audited"


def test_the_page_tells_what_was_not_run():
    kept = {
        "data": "cifar",
        "network": "vit",
        "cells": [],
        "begun": [],
        "none": [],
        "seeds": 3,
        "plan": VIT,
    }
    kept["pairs"] = dict.fromkeys(table1_protocol.PAIRS, "none")
    kept["rows"] = list(table1_protocol.PAIRS)
    cell = {"row": "le", "seed": 0, "images": [9, 9, 9], "seconds": 3.0}
    cell["test"] = {"rate": 0.5, "low": 0.4, "high": 0.6, "auc": 0.75}
    kept["cells"] = [cell, {**cell, "seed": 1}]
    lines = table1_page.table1({"sections": [kept]}, [AUDIT])
    assert "| le | 50.0 % (40.0–60.0), AUC 0.750 | broken by 20 (at 32×32, blocks of 4) |" in lines
    assert "| plain | not run | not sealed |" in lines and not any("seeds, each" in line for line in lines)


def test_close_is_a_difference_of_means_and_not_within_is_said():
    def section(shift):
        cells = [
            {
                "row": row,
                "seed": seed,
                "test": {"auc": 0.90 + 0.01 * seed + (shift if row != "plain" else 0)},
            }
            for row in ("plain", "block_pixel_shuffle")
            for seed in range(3)
        ]
        return {"network": "vit", "seeds": 3, "cells": cells}

    assert "-0.0090: within" in "\n".join(table1_page.seeds(section(-0.009)))
    assert "-0.0110: **not within**" in "\n".join(table1_page.seeds(section(-0.011)))
    assert "0.0100" in table1_page.seeds(section(0.0))[4]  # the standard deviation of .90, .91, .92
