"""The inputs of a cell of the comparison: damaged, missing and changed data, and what counts as current."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import table1_data, table1_inputs, table1_protocol
from crypto.errors import CipherwardError
from crypto.files import blake3_file
from tests.support.table1 import CONV, SECTION, SHORT, VIT, kill_after, run_table1


def test_missing_and_damaged_data_is_one_clear_line(tmp_path: Path) -> None:
    for name, line in (
        ("pneumonia", r"no \.npz file"),
        ("cifar", r"no \.npz file"),
        ("mri", "no image folder"),
    ):
        with pytest.raises(CipherwardError, match=line):
            table1_data.read(tmp_path, name, 8, (0, 0, 0))
    path = table1_data.path_of(tmp_path, "cifar")
    np.savez(path, jpeg=np.zeros(3, np.uint8))
    for content in (path.read_bytes(), b"hello"):
        path.write_bytes(content)
        with pytest.raises(CipherwardError, match=r"cifar10_jpeg\.npz cannot be read") as error:
            table1_data.read(tmp_path, "cifar", 8, (0, 0, 0))
        assert "offsets, labels and is_test" in error.value.hint and "\n" not in str(error.value)


def change_first_pixel(path: Path) -> None:
    """Give the first pixel of the data another value."""
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["train_images"][0, 0, 0] ^= 1
    np.savez(path, **arrays)


@pytest.mark.long
def test_a_cell_of_another_data_file_or_pairing_is_trained_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = {**SHORT, "network": "shake_pyramidnet", "plan": {**CONV, "rounds": 1}}
    out, file = tmp_path / "out", data / "pneumoniamnist.npz"
    cells = out / "t" / "cells.jsonl"
    digests: list[str] = []

    def counting_digest(path: Path) -> str:
        digests.append(path.name)
        return blake3_file(path)

    monkeypatch.setattr(table1_inputs, "blake3_file", counting_digest)

    def count_trained() -> int:
        result = run_table1(data, out, [SHORT, conv], rows=["plain", "le"])
        assert [len(s["cells"]) for s in result["sections"]] == [2, 2] and str(data) not in json.dumps(
            result
        )
        return len(cells.read_text().splitlines())

    assert count_trained() == 4 and digests == [file.name]  # once in a run
    inputs = json.loads(cells.read_text().splitlines()[-1])["inputs"]
    assert inputs == {"pair": "block", "data": blake3_file(file), "weights": None}
    assert count_trained() == 4
    with monkeypatch.context() as patched:
        patched.setitem(table1_protocol.PAIRS, "le", "pixel")
        assert count_trained() == 5  # the ViT takes no adaptation network
    assert count_trained() == 5  # and the first is still there
    file.touch()
    assert count_trained() == 5
    change_first_pixel(file)
    assert count_trained() == 9
    lines = [json.loads(line) for line in cells.read_text().splitlines()[:4]]
    for line in lines:
        del line["inputs"]
    cells.write_text("".join(json.dumps(line) + "\n" for line in lines))
    change_first_pixel(file)
    assert count_trained() == 4  # a cell that did not keep its inputs counts


def test_a_changed_weights_file_is_another_input_and_a_missing_one_is_no_change(tmp_path: Path) -> None:
    section = table1_protocol.Section.model_validate(
        {**SECTION, "plan": {**VIT, "weights": "w.safetensors"}}
    )

    def now() -> dict[str, str | None]:
        return table1_inputs.inputs_of(tmp_path, table1_inputs.digest_of, section, "plain")

    (tmp_path / "w.safetensors").write_bytes(b"one")
    kept = now()
    assert kept["weights"] and kept["data"] is None and table1_inputs.same(kept, now())
    (tmp_path / "w.safetensors").write_bytes(b"two")
    assert not table1_inputs.same(kept, now()) and table1_inputs.same(None, now())
    (tmp_path / "w.safetensors").unlink()
    assert table1_inputs.same(kept, now())  # a machine that only writes the page has no weights


def test_the_digest_of_a_folder_is_of_its_images_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    image = tmp_path / "train" / "a" / "1.png"
    image.write_bytes(b"pixels")
    digests = [table1_inputs.digest_of(tmp_path)]
    (tmp_path / "notes.txt").write_text("no image")
    assert table1_inputs.digest_of(tmp_path) == digests[0]
    image.write_bytes(b"Pixels")
    digests.append(table1_inputs.digest_of(tmp_path))
    image.rename(image.with_name("2.png"))
    digests.append(table1_inputs.digest_of(tmp_path))
    assert len(set(digests)) == 3 and table1_inputs.digest_of(tmp_path / "none") is None


def test_a_begun_cell_of_other_data_starts_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = kill_after(monkeypatch, 1, 2)
    options: dict[str, Any] = {"rows": ["le"]}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_table1(data, tmp_path / "out", [SECTION], **options)
    change_first_pixel(data / "pneumoniamnist.npz")
    assert run_table1(data, tmp_path / "out", [SECTION], hours=0.0)["sections"][0]["begun"] == []
    run_table1(data, tmp_path / "out", [SECTION], **options)
    assert epochs == [1, 2, 1, 2, 3]


def test_a_begun_cell_that_did_not_keep_its_inputs_continues(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = kill_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run_table1(data, tmp_path / "out", [SECTION], rows=["le"])
    [kept] = (tmp_path / "out").rglob("inputs.json")
    kept.unlink()
    change_first_pixel(data / "pneumoniamnist.npz")
    run_table1(data, tmp_path / "out", [SECTION], rows=["le"])
    assert epochs == [1, 2, 3]
