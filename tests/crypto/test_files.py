"""Files that others wrote: what is no regular file is named, and nothing is waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator.exchange.audit.scores_file import read_scores
from crypto.errors import CipherwardError
from crypto.files import (
    cut_torn_line,
    disk_errors,
    read_every_line,
    read_json,
    require_output_folder,
    require_outside,
    require_replaceable,
    write_text,
)
from crypto.sets.dataset import SealedDataset
from crypto.unlock import private_text


def test_a_pipe_in_the_place_of_a_manifest_is_named_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")  # reading it would wait for ever
    with pytest.raises(CipherwardError, match=r"manifest\.json is not a regular file"):
        SealedDataset.open(tmp_path)


def test_json_is_read_or_its_fault_is_named(tmp_path: Path) -> None:
    (tmp_path / "whole.json").write_text('{"a": "é"}', encoding="utf-8")
    assert read_json(tmp_path / "whole.json", "note") == {"a": "é"}
    (tmp_path / "half.json").write_bytes(b'{"a": "\xc3')
    (tmp_path / "cut.json").write_text('{"a": ')
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "folder.json").mkdir()
    for name, fault in (
        ("half.json", "cannot read the note .*: it is not text in UTF-8"),
        ("cut.json", "cannot read the note .*: line 1 is no JSON, or the file was cut short"),
        ("empty.json", "cannot read the note .*: it is empty"),
        ("folder.json", "cannot read the note .*: Is a directory"),
        ("none.json", "no note at"),
    ):
        with pytest.raises(CipherwardError, match=fault):
            read_json(tmp_path / name, "note")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"x": 0, "\\u0078": 1}}]'])
def test_a_name_that_stands_twice_is_refused(tmp_path: Path, text: str) -> None:
    """Another program reads the other value: a signed file would say two things."""
    (tmp_path / "twice.json").write_text(text)
    with pytest.raises(CipherwardError, match=r"twice\.json: '[ax]' stands twice in one object"):
        read_json(tmp_path / "twice.json", "note")


def test_a_file_larger_than_any_of_ours_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "scores.json", "wb") as file:
        file.truncate(1 << 30)  # no block of the disk: whoever read it would meet a gigabyte of NUL
    with pytest.raises(CipherwardError, match=r"scores\.json has more than the 34 MB of any"):
        read_scores(tmp_path / "scores.json")
    with pytest.raises(CipherwardError, match=r"scores\.json has more than the 268 MB of any"):
        read_json(tmp_path / "scores.json", "note")


def test_a_folder_in_the_place_of_a_file_is_told_with_the_files_in_it(tmp_path: Path) -> None:
    for name in ("scores.json", "secret.key", "notes.txt"):
        (tmp_path / name).write_text("{}")
    for read, name in (
        (lambda: read_json(tmp_path, "scores"), "scores.json"),
        (lambda: private_text(tmp_path, "key file"), "secret.key"),
    ):
        with pytest.raises(CipherwardError) as error:
            read()
        assert error.value.hint == f"it is a folder: it holds {name}; name one of them"
    with pytest.raises(CipherwardError) as error:
        read_json(tmp_path / "none.json", "scores", "cipherward-party score")
    assert error.value.hint == "name the file or folder that holds it; cipherward-party score makes it"


def test_the_folder_of_a_hospital_or_of_sets_names_the_sets_in_it(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / "sealed" / name).mkdir(parents=True)
        (tmp_path / "sealed" / name / "manifest.json").write_text("{}")
    for folder, names in ((tmp_path, "sealed/train, sealed/val"), (tmp_path / "sealed", "train, val")):
        with pytest.raises(CipherwardError) as error:
            SealedDataset.open(folder)
        assert error.value.hint == f"it holds sealed sets: {names}; name one of them"


def test_an_output_replaces_earlier_ones_of_its_kind_alone(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    require_replaceable(path, "cipherward.scores/")
    for own in ('{"schema": "cipherward.scores/1"}', ""):
        path.write_text(own)
        require_replaceable(path, "cipherward.scores/")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.key").write_text("# cipherward key\n")
    for name in ("pipe", "folder", "secret.key"):
        with pytest.raises(CipherwardError, match=f"{name} is there, and is no earlier output"):
            require_replaceable(tmp_path / name, "cipherward.scores/")


def test_a_text_with_plain_images_is_its_owner_s(tmp_path: Path) -> None:
    for mode, expected in ((0o666, 0o666 & ~_umask()), (0o600, 0o600)):
        write_text(tmp_path / "page.html", "é", mode)
        assert (tmp_path / "page.html").stat().st_mode & 0o777 == expected
        assert (tmp_path / "page.html").read_bytes() == "é".encode()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def test_every_line_of_a_journal_is_read_and_a_torn_end_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert read_every_line(path) == []
    cut_torn_line(path)
    assert not path.exists()
    path.write_bytes(b'{"a": 1}\n{"a"\n{"a": 2}\n{"a": 3')
    assert read_every_line(path) == [{"a": 1}, None, {"a": 2}]
    cut_torn_line(path)
    assert path.read_bytes() == b'{"a": 1}\n{"a"\n{"a": 2}\n'
    path.write_bytes(b'{"a": 1}')
    cut_torn_line(path)
    assert read_every_line(path) == [{"a": 1}] and path.read_bytes() == b'{"a": 1}'


def test_a_file_or_a_dead_link_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    """A folder that exists was said to be missing, and its user told to make it."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path, made, message in (
        (tmp_path / "file", tmp_path / "file" / "cloud", "file is a file, not a folder"),
        (tmp_path / "file" / "a" / "b", tmp_path / "file" / "a" / "b", "file is a file, not a folder"),
        (tmp_path / "link", tmp_path / "link", "link is a link that leads nowhere"),
    ):
        with pytest.raises(CipherwardError) as refused, disk_errors(path):
            made.mkdir(parents=True, exist_ok=True)
        assert str(refused.value.message) == f"{tmp_path}/{message}"


def test_a_folder_of_earlier_output_is_a_command_s_own(tmp_path: Path) -> None:
    require_output_folder(tmp_path / "absent", (), "hint")
    require_output_folder(tmp_path, (), "hint")
    (tmp_path / ".lock").touch()
    require_output_folder(tmp_path, (), "hint")
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    require_output_folder(tmp_path, ("x", "b"), "hint")
    with pytest.raises(CipherwardError, match="holds something else: a"):
        require_output_folder(tmp_path, ("x",), "hint")
    require_outside(tmp_path / "out", tmp_path / "images")
    (tmp_path / "images").mkdir()
    require_outside(tmp_path / "images-audit", tmp_path / "images")
    with pytest.raises(CipherwardError, match="is in the folder of the images"):
        require_outside(tmp_path / "images" / "x" / "y", tmp_path / "images")
