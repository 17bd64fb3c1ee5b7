"""Ciphertexts that no key opens: everything that would open them refuses in one line, and loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.exchange.audit.control_sets import SETS
from crypto.errors import CipherwardError
from crypto.scheme import SCHEMES, is_invertible, load
from parties.scoring.true_key import check_true_key
from parties.sealing.place import Place
from parties.sealing.rotate import rotate
from parties.sealing.seal import plan_sealing
from parties.sealing.unseal import unseal
from parties.training.views import open_views
from tests.support.command_runs import Party
from tests.support.pictures import smooth
from tests.support.rotation import fresh_key, make_hospital
from tests.support.truth import KEY, make_truth

ONE_WAY = [name for name in SCHEMES if not is_invertible(name)]
#: Options that take no seconds.
SMALL: dict[str, dict[str, Any]] = {"neuracrypt": {"width": 16, "depth": 1}}


@pytest.fixture(params=ONE_WAY)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return a hospital that sealed its splits with a scheme that cannot be inverted."""
    name = request.param
    return make_hospital(tmp_path / "h", scheme=name, scheme_options=SMALL.get(name, {}))


def files(folder: Path) -> dict[Path, bytes]:
    """Return the content of every file below a folder but its lock."""
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    }


def test_there_is_such_a_scheme() -> None:
    assert ONE_WAY


def test_unseal_refuses_before_it_writes(place: Place, tmp_path: Path) -> None:
    sealed = place.sealed("train")
    sealed.verify(place.key())
    with pytest.raises(CipherwardError, match="cannot be inverted: no key opens its ciphertexts") as error:
        unseal(sealed, place.key(), tmp_path / "out")
    assert "plain images" in error.value.hint and not (tmp_path / "out").exists()


def test_the_command_says_so_in_one_line(place: Place, tmp_path: Path, party: Party) -> None:
    words = ("unseal", place.sealed_folder("train"), "--key", place.key_path, "--out", tmp_path / "out")
    status, _, errors = party(*words)
    assert status == 1 and "Traceback" not in errors
    assert "cannot be inverted: no key opens its ciphertexts" in " ".join(errors.split())
    status, output, _ = party("inspect", place.sealed_folder("train"))
    assert status == 0 and "invertible" in output and "False" in output


def test_rotate_refuses_before_it_makes_a_key(place: Place) -> None:
    before = files(place.folder)
    with pytest.raises(CipherwardError, match="cannot be inverted") as error:
        rotate(place, fresh_key)
    assert "seal the plain images" in error.value.hint
    assert files(place.folder) == before


def test_views_refuse(place: Place) -> None:
    with pytest.raises(CipherwardError, match="cannot be inverted") as error:
        open_views(place, place.sealed("train"))
    assert "augment" in error.value.hint


def test_no_control_of_an_audit_is_of_such_a_scheme(place: Place) -> None:
    assert all(is_invertible(plan_sealing(place, name).spec.name) for name in SETS)


def test_images_without_texture_are_opened_as_what_they_were() -> None:
    ramp = np.repeat(np.arange(32, dtype=np.uint8)[:, None] // 4, 32, 1)[None, ..., None]
    images = ramp + 5 * np.arange(24, dtype=np.uint8)[:, None, None, None]
    truth = make_truth(images[:12], images[12:], "block_pixel_shuffle")
    scheme, rows = load(truth.spec), np.arange(12)
    assert check_true_key(scheme, KEY, truth, rows) == (1.0, True)
    assert check_true_key(scheme, KEY.derive("another"), truth, rows) == (0.0, False)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_control_of_the_true_key_holds_for_every_scheme_and_for_no_other_key(name: str) -> None:
    images = smooth(24, 32, 32, 1)
    truth = make_truth(images[:12], images[12:], name, **SMALL.get(name, {}))
    scheme, rows = load(truth.spec), np.arange(12)
    ssim, is_exact = check_true_key(scheme, KEY, truth, rows)
    assert is_exact and (ssim is None) != scheme.is_invertible
    assert ssim is None or ssim > 0.99
    if name != "plain":  # every key opens it
        assert not check_true_key(scheme, KEY.derive("another"), truth, rows)[1]
    if scheme.draws_by_row:  # what a row got is that row's
        moved = check_true_key(scheme, KEY, truth, rows + 1)[1]
        assert not moved
