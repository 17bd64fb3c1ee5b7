"""What a cell of the comparison comes from: damaged, absent and changed data, and what counts as current."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import table1_data, table1_inputs, table1_protocol
from crypto.errors import CipherwardError
from tests.support.table1 import CONV, SECTION, SHORT, VIT, kill_after, ran
from tests.support.table1 import data as data


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
    for spoilt in (path.read_bytes(), b"hello"):
        path.write_bytes(spoilt)
        with pytest.raises(CipherwardError, match=r"cifar10_jpeg\.npz cannot be read") as error:
            table1_data.read(tmp_path, "cifar", 8, (0, 0, 0))
        assert "offsets, labels and is_test" in error.value.hint and "\n" not in str(error.value)


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
    epochs = kill_after(monkeypatch, 1, 2)
    chosen = {"rows": ["le"]}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ran(data, tmp_path / "out", [SECTION], **chosen)
    altered(data / "pneumoniamnist.npz")
    assert ran(data, tmp_path / "out", [SECTION], hours=0.0)["sections"][0]["begun"] == []
    ran(data, tmp_path / "out", [SECTION], **chosen)
    assert epochs == [1, 2, 1, 2, 3]


def test_a_begun_cell_that_kept_no_inputs_goes_on(data, tmp_path, monkeypatch):
    epochs = kill_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        ran(data, tmp_path / "out", [SECTION], rows=["le"])
    [kept] = (tmp_path / "out").rglob("inputs.json")
    kept.unlink()
    altered(data / "pneumoniamnist.npz")
    ran(data, tmp_path / "out", [SECTION], rows=["le"])
    assert epochs == [1, 2, 3]
