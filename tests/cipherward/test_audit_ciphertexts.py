"""Ciphertexts that another program made: arrays, files and folders, paired with the right plain images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cipherward.audit import audit_ciphertexts
from cipherward.folder import Stack, read_stack, require_pairs
from cipherward.function import key_defects
from coordinator.adversary.recover import unknown_scheme
from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support import made_up_schemes as made_up
from tests.support.pictures import smooth

SMALL: dict[str, Any] = {"sizes": (10,), "rows": 32, "block": 8, "budget_s": 60.0}
PLAIN = smooth(52, 32, 32)
KEYS = [bytes([i]) * 32 for i in range(2)]
SEALED = [made_up.mosaic(PLAIN, key) for key in KEYS]


@pytest.fixture(autouse=True)
def quick_models(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = tuple(model for model in unknown_scheme.MODELS if model[0] == "value_shuffle")
    monkeypatch.setattr(unknown_scheme, "MODELS", quick)


def write(folder: Path, images: AnyArray) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.long
def test_folders_arrays_and_files_have_the_same_verdict(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain", PLAIN)
    folders: list[Stack] = [write(tmp_path / f"key-{i}", sealed) for i, sealed in enumerate(SEALED)]
    result = audit_ciphertexts(folders, plain, **SMALL)
    assert result.valid and result.broken_from == 10 and result.report.verdict.draws == 2
    assert result.report.scheme.name == "ciphertexts" and "not stated" in result.write(tmp_path).read_text()
    np.save(tmp_path / "sealed.npy", SEALED[0])
    quick = {**SMALL, "attacks": ("as_is",), "name": "mine"}
    of_file = audit_ciphertexts(tmp_path / "sealed.npy", PLAIN, **quick).report
    of_array = audit_ciphertexts(SEALED[0][..., 0], PLAIN[..., 0], **quick).report
    assert of_file.verdict.draws == 1 and of_file.scheme.name == "mine"
    assert [f.figures for f in of_file.findings] == [f.figures for f in of_array.findings]


@pytest.mark.long
def test_sets_that_are_plain_or_equal_are_broken_without_an_attack() -> None:
    quick = {**SMALL, "attacks": ("as_is",)}
    result = audit_ciphertexts([SEALED[0], SEALED[0].copy()], PLAIN, **quick)
    assert result.broken and result.defects == ("the key is ignored: 2 sets give the same ciphertexts",)
    half = SEALED[0].copy()
    half[:5] = PLAIN[:5]
    assert audit_ciphertexts(half, PLAIN, **quick).defects == (
        "5 of 52 ciphertexts are the plain images, unchanged",
    )


def test_images_without_texture_do_not_show_whether_a_key_is_ignored() -> None:
    flat = np.repeat(np.arange(52, dtype=np.uint8), 1024).reshape(52, 32, 32, 1) * 4
    with pytest.raises(CipherwardError, match="images of audit-1 count"):
        audit_ciphertexts([flat, flat], flat, **{**SMALL, "attacks": ("as_is",)})
    assert key_defects([flat[:0], flat[:0]]) == []


def misnamed(folder: Path) -> Path:
    write(folder, SEALED[0])
    (folder / "000.png").rename(folder / "other.png")
    return folder


def with_a_note(folder: Path) -> Path:
    write(folder, SEALED[0])
    (folder / "notes.txt").write_text("key 1")
    return folder


def of_two_sizes(folder: Path) -> Path:
    write(folder, SEALED[0])
    Image.new("L", (16, 16)).save(folder / "051.png")
    return folder


def of_sixteen_bits(folder: Path) -> Path:
    write(folder, SEALED[0])
    Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32)).save(folder / "051.png")
    return folder


def transparent(folder: Path) -> Path:
    write(folder, SEALED[0])
    Image.new("LA", (32, 32)).save(folder / "051.png")
    return folder


def named_twice(folder: Path) -> Path:
    write(folder, SEALED[0])
    Image.new("L", (32, 32)).save(folder / "051.bmp")
    return folder


def with_a_dangling_link(folder: Path) -> Path:
    write(folder, SEALED[0])
    (folder / "051.png").unlink()
    (folder / "051.png").symlink_to(folder / "nowhere.png")
    return folder


def damaged(folder: Path) -> Path:
    write(folder, SEALED[0])
    (folder / "007.png").write_bytes(b"no picture")
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (misnamed, "do not hold pictures of the same names: 000, other"),
        (with_a_note, "holds 'notes.txt', which is no picture"),
        (of_two_sizes, "differ in size or channels: 000.png and 051.png"),
        (damaged, "007.png cannot be read"),
        (empty, "holds no picture"),
        (of_sixteen_bits, "would lose something (mode I;16)"),
        (transparent, "would lose something (mode LA)"),
        (named_twice, "holds two pictures named '051' that differ in their ending"),
        (with_a_dangling_link, "051.png cannot be read"),
        (lambda folder: iter(SEALED), "images came as list_iterator, which is neither"),
        (lambda folder: folder, "no folder and no .npy file"),
        (
            lambda folder: SEALED[0][:40],
            "set 1 of ciphertexts is uint8 [40, 32, 32, 1], and the images are",
        ),
        (lambda folder: SEALED[0].astype(np.int64), "set 1 of ciphertexts is int64"),
        (lambda folder: np.full(PLAIN.shape, np.nan, np.float32), "values that are NaN or infinite"),
        (
            lambda folder: SEALED[0].astype(np.float32) / 255,
            "set 1 of ciphertexts gave real numbers from 0 to 1",
        ),
        (lambda folder: [], "no ciphertexts were handed over"),
        (lambda folder: [SEALED[0], SEALED[0] + np.float32(0.5)], "differ in dtype"),
        (lambda folder: SEALED[0].astype(np.float32), "whole numbers from 0 to 255, so they are bytes"),
    ],
)
def test_ciphertexts_that_do_not_fit_are_refused(
    make: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    plain = write(tmp_path / "plain", PLAIN)
    with pytest.raises(CipherwardError) as refused:
        audit_ciphertexts(make(tmp_path / "sealed"), plain, **SMALL)
    assert message in refused.value.message and refused.value.hint


@pytest.mark.parametrize("ending", ["bmp", "png"])
def test_pictures_are_paired_by_name_whatever_their_endings(tmp_path: Path, ending: str) -> None:
    names = ("scan", "scan.left", "scan-1")
    for folder, last in (("plain", "png"), ("sealed", ending)):
        (tmp_path / folder).mkdir()
        for level, name in enumerate(names):
            Image.new("L", (8, 8), level).save(tmp_path / folder / f"{name}.{last}")
    plain, stems = read_stack(tmp_path / "plain")
    sealed, sealed_stems = read_stack(tmp_path / "sealed")
    assert stems == sealed_stems == sorted(names) and np.array_equal(plain, sealed)
    require_pairs(stems, sealed_stems, "sealed")


def test_a_picture_in_black_and_white_is_gray(tmp_path: Path) -> None:
    Image.new("1", (8, 8), 1).save(tmp_path / "white.png")
    Image.new("L", (8, 8), 7).save(tmp_path / "gray.png")
    images, _ = read_stack(tmp_path)
    assert images.shape == (2, 8, 8, 1) and images[:, 0, 0, 0].tolist() == [7, 255]


def test_nobody_encrypts_chosen_images() -> None:
    with pytest.raises(CipherwardError, match="encrypt no chosen images"):
        audit_ciphertexts(SEALED, PLAIN, chosen_plaintext=True, **SMALL)


def test_one_set_named_twice_is_no_scheme_that_ignores_its_key(tmp_path: Path) -> None:
    np.save(tmp_path / "sealed.npy", SEALED[0])
    twice: list[Stack] = [tmp_path / "sealed.npy", f"{tmp_path}/./sealed.npy"]
    with pytest.raises(CipherwardError, match="sets 1 and 2 of ciphertexts are one set, named twice"):
        audit_ciphertexts(twice, PLAIN, **SMALL)


def test_the_draws_are_the_sets() -> None:
    with pytest.raises(CipherwardError, match="draws=3 and 2 sets of ciphertexts do not go together"):
        audit_ciphertexts(SEALED, PLAIN, **{**SMALL, "draws": 3})


@pytest.mark.long
def test_real_numbers_are_taken_for_keyed_orthogonal_blocks() -> None:
    public: Images = smooth(60, 32, 32, seed=9)
    spec = describe("orthogonal", PLAIN.shape[1:], 8)
    sealed = np.asarray(load(spec).cipher(SecretKey(KEYS[0])).encrypt(PLAIN))
    result = audit_ciphertexts(sealed, PLAIN, attacks=("as_is", "moment_matching"), public=public, **SMALL)
    report = result.report
    assert {finding.attack for finding in report.findings} == {"as_is", "moment_matching"}
    assert report.controls["orthogonal"].ok and report.verdict.linkable
    assert report.scheme.version == 0 and "no attack was written for ciphertexts" in str(result)
    # A key recovery that takes bytes says that it did not attack.
    assert "Nothing is known about a pool" in audit_ciphertexts(sealed, PLAIN, **SMALL).verdict
