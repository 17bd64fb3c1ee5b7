"""A disk without room is named before anything is sealed, with what has to be freed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from parties.cli import sealing
from parties.scoring import local_audit
from parties.sealing import rotate, seal
from tests.support.agents import make_place

NEED, FREE = 3_041_000, 2_960_000


def test_what_has_to_be_freed_is_told_where_both_sizes_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(tmp_path)
    for module in (seal, local_audit):
        monkeypatch.setattr(module, "disk_needed", lambda *_: NEED)
    monkeypatch.setattr(seal, "disk_of_copies", lambda *_: 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=FREE))
    set_ = SimpleNamespace(folder=tmp_path / "train", manifest={"shards": [{"bytes": NEED}]})
    checks: tuple[Callable[[], object], ...] = (
        lambda: sealing._check_disk(place, []),
        lambda: rotate._check_room(place, {"train": cast(SealedDataset, set_)}, False),
        lambda: local_audit._seal(place, [], lambda _line: None, lambda *_: pytest.fail("sealed")),
    )
    for check in checks:
        with pytest.raises(CipherwardError, match=r"need 3\.0 MB and 3\.0 MB are free") as refused:
            check()
        assert refused.value.hint == "free 81.0 kB more"
