"""Nothing plain leaves as sealed: too few keys, and ciphertexts that still show their images, are refused."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import crypto.sets.shard_sealer
import parties.sealing.rotate
import parties.sealing.seal
from coordinator.exchange.plan import Plan
from crypto.arrays import AnyArray, Images
from crypto.cipher import TableCipher
from crypto.errors import CipherwardError
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.keyfile import write_key
from crypto.scheme import SCHEMES, Scheme, comparison_options, describe, load
from crypto.sets.dataset import SealedDataset
from parties.cli.app import app
from parties.sealing import still_plain
from parties.sealing.place import Place
from parties.sealing.rotate import rotate
from parties.sealing.seal import plain_rows, plan_sealing, seal
from parties.sealing.still_plain import excess, fresh_likeness, likeness, require_hidden, sample_rows
from tests.support.dicom_files import scan
from tests.support.pictures import smooth
from tests.support.rotation import SETTINGS, fresh_key, make_hospital

KEYED = [name for name in SCHEMES if name not in ("plain", "noise", "permuted")]
#: Settings whose keys can all be tried, with the bits of their key space.
FEW_KEYS: list[tuple[str, dict[str, Any], str]] = [
    ("orthogonal", {"block": 1}, "2^1.0"),
    ("orthogonal", {"block": 1, "channels": 3}, "2^25.0"),
    ("orthogonal", {"block": 2}, "2^49.0"),
    ("etc", {"block": 64, "image_size": 64}, "2^4.0"),
    ("le", {"block": 1}, "2^1.0"),
    ("value_shuffle", {"scheme_options": {"fixed_blocks": 16, "fixed_values": 64}}, "2^0.0"),
    ("block_pixel_shuffle", {"image_size": 16}, "2^48.8"),
]
#: More than 2^80 keys, and readable pictures.
NEARLY_PLAIN: dict[str, Any] = {
    "scheme": "value_shuffle",
    "block": 8,
    "image_size": 64,
    "scheme_options": {"fixed_blocks": 56, "fixed_values": 44},
}


def hospital(folder: Path, **settings: Any) -> Place:
    """Return a hospital with a key and nothing sealed."""
    folder.mkdir(parents=True)
    place = Place.from_settings(folder, SETTINGS | settings)
    place.save()
    write_key(place.key_path, SecretKey.generate())
    return place


def files(folder: Path) -> set[str]:
    """Return the files below a folder, without locks."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def still(images: AnyArray, shown: float) -> AnyArray:
    """Return images whose values change places at random, but for this share."""
    result, rng = images.copy(), np.random.default_rng(0)
    for image in result.reshape(len(images), -1):
        moving = np.flatnonzero(rng.random(image.size) >= shown)
        image[moving] = image[rng.permutation(moving)]
    return result


# ---- few keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings", "bits"), FEW_KEYS)
def test_too_few_keys_are_refused_before_anything_is_written(
    tmp_path: Path, name: str, settings: dict[str, Any], bits: str
) -> None:
    place = hospital(tmp_path / "h", scheme=name, **settings)
    before = files(tmp_path)
    for set_name in ("train", "val", "test", "audit-1"):
        with pytest.raises(CipherwardError) as error:
            seal(place, plan_sealing(place, set_name))
        assert bits in error.value.message and name in error.value.message and error.value.hint
    assert files(tmp_path) == before
    settings = {"block": SETTINGS["block"], "image_size": SETTINGS["image_size"], **settings}
    with pytest.raises(CipherwardError, match="all of them can be tried"):
        Plan(study="s", counts=(9, 9, 9), scheme=name, **settings)


@pytest.mark.parametrize("name", KEYED)
def test_usual_settings_have_enough_keys(name: str) -> None:
    # The orders of 16 blocks are too few.
    side = 64 if name in ("sub_block_etc", "patch_shuffle") else 32
    for channels in (1, 3):
        load(describe(name, (side, side, channels), 8)).require_key_space()
        load(describe(name, (224, 224, channels), 16, "image")).require_key_space()


def test_the_command_refuses_and_saves_no_settings(tmp_path: Path) -> None:
    place = hospital(tmp_path / "h")
    settings = (place.folder / "party.yaml").read_text()
    weak = [["--scheme", "le", "--block", "1"], ["--scheme", "orthogonal", "--block", "1"]]
    for options in weak:
        result = CliRunner().invoke(app, ["seal", str(place.folder), *options])
        assert isinstance(result.exception, CipherwardError)
        assert "can be tried" in result.exception.message
    assert (place.folder / "party.yaml").read_text() == settings
    assert not (place.folder / "sealed").exists()


def test_controls_of_an_audit_need_no_key_space(tmp_path: Path) -> None:
    place = hospital(
        tmp_path / "h", image_size=16
    )  # 2^48.8 keys: no images of this hospital's may be sealed so
    for name in ("control-known", "control-plain", "control-noise"):
        assert len(seal(place, plan_sealing(place, name)).dataset)


def test_a_rotation_does_not_seal_again_what_has_few_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(Scheme, "require_key_space", lambda self: None)
        place = make_hospital(tmp_path / "h", image_size=16)
    with pytest.raises(CipherwardError, match=r"2\^48\.8 keys"):
        rotate(place, fresh_key)
    assert not list((place.folder / "sealed-new").glob("*/*"))


# ---- pictures that still show ------------------------------------------------------------------


def test_a_set_that_shows_its_images_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = hospital(tmp_path / "h", **NEARLY_PLAIN)
    assert load(plan_sealing(place, "train").spec).formula_bits() > 80
    before = files(tmp_path)
    for name in ("train", "val", "audit-1"):
        with pytest.raises(
            CipherwardError, match=f"{name}: the sealed images still show the plain ones"
        ) as error:
            seal(place, plan_sealing(place, name))
        assert error.value.hint.startswith("nothing of this set is kept")
    assert files(tmp_path) - before <= {"h/private/audit-1.key"}
    # Without the check, the pictures leave.
    monkeypatch.setattr(parties.sealing.seal, "require_hidden", lambda *_: None)
    sealed = seal(place, plan_sealing(place, "train")).dataset
    plain = plain_rows(place, "train", np.arange(len(sealed)))
    assert np.mean(np.asarray(sealed.rows(slice(0, len(sealed)))) == plain) > 0.5


def _identity(negative: bool) -> Any:
    """Return a loader of schemes whose cipher leaves images as they are, or makes their negatives."""

    def load_broken(spec: Any) -> Scheme:
        scheme = load(spec)
        mask = np.full((1, int(np.prod(spec.image_shape))), 255 if negative else 0, np.uint8)

        class Broken:
            def __getattr__(self, name: str) -> Any:
                return getattr(scheme.algorithm, name)

            def cipher(self, parts: Any) -> TableCipher:
                return TableCipher(Table(spec.image_shape, spec.image_shape[:2], mask=mask))

        return dataclasses.replace(scheme, algorithm=Broken())

    return load_broken


@pytest.mark.parametrize("scope", ["consortium", "image"])
@pytest.mark.parametrize("negative", [False, True])
def test_what_lies_on_the_disk_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, negative: bool, scope: str
) -> None:
    place = hospital(tmp_path / "h", key_scope=scope)
    before = files(tmp_path)
    with monkeypatch.context() as broken:
        # The settings are sound, so that the check before writing passes. The writer is at fault.
        broken.setattr(crypto.sets.shard_sealer, "load", _identity(negative))
        with pytest.raises(CipherwardError, match="100% of their values are the plain ones or negatives"):
            seal(place, plan_sealing(place, "train"))
        assert files(tmp_path) == before
        with pytest.raises(CipherwardError, match="no sealed set at"):
            place.sealed("train")
    assert seal(place, plan_sealing(place, "train")).fresh


def test_a_rotation_compares_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_hospital(tmp_path / "h")
    key_id, digest = place.key().id, place.sealed("train").digest
    with monkeypatch.context() as broken:
        broken.setattr(crypto.sets.shard_sealer, "load", _identity(negative=True))
        with pytest.raises(CipherwardError, match="still show the plain ones"):
            rotate(place, fresh_key)
    assert not list((place.folder / "sealed-new").glob("*/*"))
    assert (place.key().id, place.sealed("train").digest) == (key_id, digest)
    assert rotate(place, fresh_key).new == place.key().id  # the same rotation, finished


def with_border(images: Images, share: float) -> Images:
    """Return images under a black border with JPEG-like noise, which covers this share of every side."""
    result = images.copy()
    side = images.shape[1]
    width = int(side * share / 2)
    noise = np.random.default_rng(1).integers(0, 4, images.shape, dtype=np.uint8)
    inner = (slice(None), slice(width, side - width), slice(width, side - width))
    mask = np.ones(images.shape, bool)
    mask[inner] = False
    result[mask] = noise[mask]
    return result


@pytest.mark.parametrize(
    ("border", "keys"), [(0.0, 2), (0.75, 2), pytest.param(0.5, 8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", KEYED)
def test_honest_sets_pass_whatever_their_border(name: str, border: float, keys: int) -> None:
    for channels in (1, 3):
        plain = with_border(smooth(6, 64, 64, channels), border)
        for scope in ("consortium", "image"):
            spec = describe(name, (64, 64, channels), 8, scope, comparison_options(name))
            for i in range(keys):
                key = SecretKey(bytes([i]) + bytes(range(31)))
                require_hidden("s", spec, plain, load(spec).cipher(key).encrypt(plain))


@pytest.mark.parametrize("border", [0.0, 0.75])
@pytest.mark.parametrize("name", KEYED)
def test_plain_images_negatives_and_half_of_them_are_refused(name: str, border: float) -> None:
    plain = with_border(smooth(6, 64, 64), border)
    spec = describe(name, (64, 64, 1), 8)
    for shown in (plain, 255 - plain):
        with pytest.raises(CipherwardError, match="100% of their values"):
            require_hidden("s", spec, plain, shown.astype(load(spec).sealed_dtype))
    for shown in (still(plain, 0.8), 255 - still(plain, 0.8)):
        with pytest.raises(CipherwardError, match="still show"):
            require_hidden("s", spec, plain, shown.astype(load(spec).sealed_dtype))
    # Other contrast and brightness: no value stays, and the pattern does.
    with pytest.raises(CipherwardError, match="is their correlation"):
        require_hidden("s", spec, plain, (plain // 2 + 60).astype(load(spec).sealed_dtype))


def test_an_honest_key_passes_that_correlates_by_chance() -> None:
    """One image of 16 blocks: one honest key in 20,000 leaves |r| above half of what is left to no encryption."""
    wave = np.clip((scan(3) + 400.0) / 800 * 255, 0, 255)
    plain, spec = wave.astype(np.uint8)[None, ..., None], describe("block_pixel_shuffle", (32, 32, 1), 8)
    key = SecretKey(hashlib.sha256(b"honest 76808").digest())
    sealed = load(spec).cipher(key).encrypt(plain)
    figure = likeness(plain, sealed)
    assert figure is not None
    assert excess(figure.correlation, [f.correlation for f in fresh_likeness(spec, plain)]) > 0.5
    require_hidden("s", spec, plain, sealed)
    with pytest.raises(CipherwardError, match="still show"):
        require_hidden("s", spec, plain, plain)


def test_a_border_does_not_count() -> None:
    plain = with_border(smooth(8, 64, 64), 0.75)
    spec = describe("block_pixel_shuffle", (64, 64, 1), 8)
    sealed = load(spec).cipher(SecretKey(bytes(range(32)))).encrypt(plain)
    assert (
        np.mean(np.abs(sealed.astype(int) - plain) < 4) > 0.7
    )  # nearly all is border, and looks unchanged
    figure = likeness(plain, sealed)
    assert figure is not None and figure.unchanged < 0.1 and figure.correlation < 0.3
    assert max(f.unchanged for f in fresh_likeness(spec, plain)) < 0.1


def test_images_that_show_nothing_are_not_compared() -> None:
    black = np.zeros((4, 32, 32, 1), np.uint8)
    assert likeness(black, black) is None
    require_hidden("s", describe("block_pixel_shuffle", (32, 32, 1), 8), black, black)
    # Little contrast is still a picture.
    faint = np.random.default_rng(0).integers(100, 105, (4, 32, 32, 1), dtype=np.uint8)
    with pytest.raises(CipherwardError, match="still show"):
        require_hidden("s", describe("block_pixel_shuffle", (32, 32, 1), 8), faint, faint)


def test_controls_are_not_compared() -> None:
    plain = smooth(4, 32, 32)
    require_hidden("s", describe("plain", (32, 32, 1), 8), plain, plain)


def test_the_sample_and_the_verdict_are_the_same_every_time() -> None:
    assert sample_rows(5).tolist() == [0, 1, 2, 3, 4]
    assert len(sample_rows(1000)) == still_plain.SAMPLE and {0, 999} <= set(sample_rows(1000).tolist())
    plain, spec = smooth(4, 32, 32), describe("etc", (32, 32, 1), 8)
    first = fresh_likeness(spec, plain)
    still_plain._fresh_ciphers.cache_clear()
    still_plain._fresh_likeness.cache_clear()
    assert fresh_likeness(spec, plain) == first
    assert (
        excess(0.5, [0.1, 0.2]) == pytest.approx(0.375)
        and excess(1.0, [0.3]) == 1
        and excess(0.1, [1.0]) == 0
    )


def test_an_audit_s_draws_are_judged_and_its_controls_are_not(tmp_path: Path) -> None:
    place = make_hospital(tmp_path / "h", ("audit-1", "control-plain", "control-public"))
    for name in ("audit-1", "control-plain", "control-public"):
        assert len(SealedDataset.open(place.sealed_folder(name)))


def test_an_earlier_set_of_the_same_key_and_name_is_found_by_verify(tmp_path: Path) -> None:
    place = make_hospital(tmp_path / "h")
    key, train = str(place.key_path), place.sealed_folder("train")
    run = CliRunner()
    assert run.invoke(app, ["verify", str(train), "--key", key]).exit_code == 0
    # A backup of an earlier sealing, of other images, under the same key and name.
    earlier = Place.from_settings(tmp_path / "earlier", SETTINGS | {"seed": 6})
    earlier.save()
    write_key(earlier.key_path, place.key())
    seal(earlier, plan_sealing(earlier, "train"))
    shutil.rmtree(train)
    shutil.copytree(earlier.sealed_folder("train"), train)
    SealedDataset.open(train).verify(place.key())  # its MAC holds
    result = run.invoke(app, ["verify", str(train), "--key", key])
    assert isinstance(result.exception, CipherwardError)
    assert "not the set that this hospital sealed last" in result.exception.message
    # And another split in its place.
    shutil.rmtree(train)
    shutil.copytree(place.sealed_folder("val"), train)
    result = run.invoke(app, ["verify", str(train), "--key", key])
    assert isinstance(result.exception, CipherwardError)
    assert "holds the set 'val'" in result.exception.message
