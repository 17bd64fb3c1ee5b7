"""The map of an audit's sets: nothing else says which of them are blind controls."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import write_key
from parties.sealing.audit_sets import ensure_map, map_path, read_map, role_of
from parties.sealing.place import Place


def test_a_map_that_was_lost_is_said_and_no_other_is_made_beside_its_sets(tmp_path: Path) -> None:
    """The sets of both maps would be handed out together, and nobody could score the earlier ones."""
    place = Place.from_settings(tmp_path / "h", {"party": "h", "source": "phantom"})
    place.save()
    write_key(place.key_path, SecretKey.generate())
    name = ensure_map(place, 2).names[0]
    sealed = place.folder / "sealed" / name
    sealed.mkdir(parents=True)
    kept = map_path(place).read_text()
    map_path(place).unlink()
    uses: list[Callable[[], object]] = [lambda: role_of(place, name), lambda: ensure_map(place, 2)]
    for use in uses:
        with pytest.raises(CipherwardError, match=rf"audit-sets\.json is missing.*{name}") as error:
            use()
        assert "restore it from your backup" in error.value.hint
    assert read_map(place) is None
    map_path(place).write_text(kept)
    assert role_of(place, name) == ensure_map(place, 2).roles[name]
    map_path(place).unlink()
    shutil.rmtree(sealed)  # as the hint says
    assert name not in ensure_map(place, 2).names
