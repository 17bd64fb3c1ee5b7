"""The audit of a Python function: made-up schemes get the verdict they deserve, and faults of a function a name."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cipherward import result as result_module
from cipherward.arguments import as_settings
from cipherward.attacking import RECOVERY
from cipherward.audit import AuditResult, audit
from cipherward.controls import control_draws
from cipherward.draws import draw_rows, images_of_draw
from cipherward.function import FunctionUnderAudit
from cipherward.settings import Settings, require_public
from coordinator.adversary.contract import Ciphertexts
from coordinator.adversary.recover import unknown_scheme
from coordinator.adversary.recover.methods import METHODS
from coordinator.adversary.run import small_run
from coordinator.report.report_file import read_report
from coordinator.report.verdict_text import headline
from crypto.arrays import AnyArray, Images, Rows
from crypto.errors import CipherwardError
from crypto.files import folder_lock
from crypto.key import SecretKey
from crypto.scheme import describe, load
from tests.support import made_up_schemes as made_up
from tests.support.pictures import smooth

SMALL: dict[str, Any] = {"sizes": (10,), "draws": 2, "rows": 32, "block": 8, "budget_s": 60.0}
#: One attack is enough where a verdict does not depend on the others.
ONE_ATTACK = {**SMALL, "attacks": ("as_is",)}
MATCHING = {"attacks": ("as_is", "moment_matching")}
IMAGES = smooth(90, 32, 32)
LABELS = np.arange(len(IMAGES)) % 3


@pytest.fixture(autouse=True)
def quick_models(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Try the quick key recoveries only. The slow test tries all of them."""
    if not request.node.get_closest_marker("slow"):
        quick = tuple(model for model in unknown_scheme.MODELS if model[0] in ("value_shuffle", "etc"))
        monkeypatch.setattr(unknown_scheme, "MODELS", quick)


@pytest.fixture
def fixed_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same keys in every run: under some, a recovery of another scheme opens pictures, too."""
    keys = (bytes([number]) * 32 for number in itertools.count(1))
    monkeypatch.setattr(FunctionUnderAudit, "new_key", lambda _: next(keys))


def weak() -> AuditResult:
    return audit(made_up.mosaic, IMAGES, known_pairs=8, chosen_plaintext=True, **SMALL)


@pytest.mark.long
def test_an_attack_s_seconds_hold_no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call of a recovery in a process, in which Numba compiles or loads, is not on the audit's pools."""
    calls: list[int] = []

    def recover(pool: Ciphertexts, pool_rows: Rows, time_left: Callable[[], bool]) -> None:
        calls.append(len(pool_rows))

    monkeypatch.setattr(small_run, "LOADED", set())
    monkeypatch.setattr(unknown_scheme, "MODELS", (("etc", {}),))
    monkeypatch.setitem(METHODS, "etc", replace(METHODS["etc"], recover=recover))
    for family in ("", "etc"):
        calls.clear()
        small_run.LOADED.clear()
        audit(made_up.mosaic, IMAGES, **{**SMALL, "draws": 1, "attacks": (RECOVERY,)}, family=family)
        assert calls[0] == 28 and len(calls) > 1 and 28 not in calls[1:]


@pytest.mark.usefixtures("fixed_keys")
@pytest.mark.long
def test_a_weak_scheme_is_broken_and_its_report_says_by_what(tmp_path: Path) -> None:
    result = weak()
    assert result.valid and result.broken and result.broken_from == 10 and not result.defects
    assert result.report.verdict.broken_at == {"pooled_key_recovery": 10, "value_shuffle_recovery/8": 10}
    assert "value_shuffle_recovery/8 break mosaic with 10 sealed images" in result.verdict
    chosen = [f.fit for f in result.report.findings if f.attack == "pooled_key_recovery"]
    assert all(fit.startswith("chosen: value_shuffle_recovery/8; fit ") for fit in chosen)
    assert repr(result) == f"<AuditResult of mosaic: {result.verdict}>"
    # Every break with pairs stands beside the verdict, not in it.
    assert [(finding.attack, finding.is_break) for finding in result.pairs] == [
        ("known_pairs", True),
        ("chosen_plaintext", True),
    ]
    printed = str(result)
    assert "beside the verdict: known_pairs: broken with 8 pairs" in printed
    assert "no attack was written for mosaic" in printed and "1 draw" not in result.verdict
    # The same report as the commands write, and it is read as theirs is.
    page = result.write(tmp_path / "report")
    report = read_report(page.parent / "report.json")
    assert report == result.report and headline(report).sentence == result.verdict
    html = page.read_text()
    assert "a scheme from outside this program" in html and "data:image/png" in html


@pytest.mark.long
def test_a_strong_scheme_is_not_broken() -> None:
    sealed: dict[tuple[bytes, bytes], Images] = {}

    def encrypt(images: Images, key: bytes) -> Images:
        result = made_up.stream(images, key)
        sealed.update({(key, c.tobytes()): p for c, p in zip(result, images, strict=True)})
        return result

    def decrypt(ciphertexts: Images, key: bytes) -> Images:
        originals = [sealed.get((key, c.tobytes()), IMAGES[0]) for c in ciphertexts]
        return made_up.unstream(ciphertexts, key, np.stack(originals))

    result = audit(
        encrypt,
        IMAGES,
        decrypt=decrypt,
        labels=LABELS,
        known_pairs=8,
        chosen_plaintext=True,
        name="AES",
        **SMALL,
    )
    assert result.valid, result
    assert not result.broken and result.broken_from is None and not result.defects
    assert not any(finding.is_break for finding in result.pairs)
    assert result.verdict.startswith(("Not broken by suite/2 up to 10", "Attack uncertain"))
    assert "true key opens the scored rows of 7 sealed sets" in result.report.controls["true_key"].message
    assert result.report.verdict.linkable is False
    assert "no attack was written for AES" in str(result)


@pytest.mark.long
def test_plain_images_are_broken_from_one_and_the_verdict_says_why() -> None:
    result = audit(made_up.identity, IMAGES, **SMALL)
    assert result.valid and result.broken and result.broken_from == 1
    assert result.report.verdict.broken_at["as_is"] == 1
    assert "ciphertexts are the plain images, unchanged" in result.verdict


@pytest.mark.long
def test_an_ignored_key_is_a_break_though_no_attack_succeeds() -> None:
    result = audit(made_up.keyless, IMAGES, **ONE_ATTACK)
    assert result.valid and result.broken and result.broken_from is None
    assert result.verdict.startswith("Broken without an attack: the key is ignored: 3 fresh keys")
    assert result.defects == ("the key is ignored: 3 fresh keys give the same ciphertexts",)


def test_few_keys_are_a_break() -> None:
    keys = itertools.cycle([bytes(32), bytes([1]) * 32])

    @cache
    def renamed(key: bytes) -> bytes:  # so that two of three keys agree, in every run
        return next(keys)

    result = audit(lambda images, key: made_up.one_bit(images, renamed(key)), IMAGES, **ONE_ATTACK)
    assert result.broken and result.defects[0].startswith(
        "few keys differ in what they do: of 3 fresh ones"
    )


@pytest.mark.long
def test_bytes_of_the_key_that_do_nothing_are_a_break_if_few_are_left() -> None:
    result = audit(lambda i, k: made_up.stream(i, k[:2] * 16), IMAGES, **ONE_ATTACK)
    assert result.broken and result.defects[0].startswith("30 of the 32 bytes of a key do nothing")
    assert result.report.scheme.effective_bits == 16
    result = audit(lambda i, k: made_up.stream(i, k[:16] * 2), IMAGES, **ONE_ATTACK)
    assert not result.defects and "16 of the 32 bytes of a key do nothing" in str(result)
    assert result.report.scheme.effective_bits == 128
    result = audit(lambda i, k: made_up.stream(i, k[:16] * 2), IMAGES, claimed_bits=40, **ONE_ATTACK)
    assert not result.defects and "16 of the 32 bytes of a key do nothing" in str(result)
    assert "the claimed key space is 2^40: all keys can be tried" in str(result)
    assert result.report.scheme.effective_bits == 40


@pytest.mark.parametrize(("size", "is_short"), [(4, True), (9, True), (10, False)])
def test_a_key_of_which_all_can_be_tried_is_a_break_though_every_byte_is_used(
    size: int, is_short: bool
) -> None:
    function = FunctionUnderAudit(
        lambda images, key: made_up.stream(images, hashlib.sha256(key).digest()), None, size, is_flat=False
    )
    examined = function.examine(IMAGES, [bytes(size), bytes([1] * size)])
    assert examined.used_key_bytes == size and not examined.weakness
    expected = f"a key has {8 * size} bits, so all keys can be tried (at least 80 are needed)"
    assert examined.defects == ((expected,) if is_short else ())


def test_a_key_as_long_as_a_picture_is_looked_at_with_one_image() -> None:
    calls: list[int] = []

    def encrypt(images: Images, key: bytes) -> Images:
        calls.append(len(images))
        return images ^ np.frombuffer(key, np.uint8)[: images[0].size].reshape(images.shape[1:])

    size = IMAGES[0].size
    function = FunctionUnderAudit(encrypt, None, size + 5, is_flat=False)
    examined = function.examine(IMAGES, [function.new_key(), function.new_key()])
    assert examined.used_key_bytes == size and examined.weakness.startswith("5 of the")
    assert calls.count(1) > size and len(calls) - calls.count(1) < 100


def _each_in_its_own_order(images: Images, key: bytes) -> Images:
    """Move the blocks of every image in an order of its own."""
    return np.concatenate(
        [
            made_up.moved(images[i : i + 1], SecretKey(hashlib.sha256(key + bytes([i])).digest()))
            for i in range(len(images))
        ]
    )


@pytest.mark.long
def test_an_attack_on_each_image_alone_is_granted_a_move_for_each() -> None:
    attacks = {"attacks": ("as_is", "jigsaw")}
    result = audit(_each_in_its_own_order, IMAGES, **{**SMALL, **attacks})
    assert result.report.verdict.broken_at.get("jigsaw") == 1, result
    assert "no key recovery was tried either" in str(result)


def _crash(*_: object) -> None:
    raise MemoryError("planted")


@pytest.mark.long
def test_a_recovery_that_crashes_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = METHODS
    monkeypatch.setitem(methods, "etc", replace(methods["etc"], recover=_crash))
    recovery = {"attacks": ("as_is", "pooled_key_recovery")}
    result = audit(made_up.stream, IMAGES, **{**SMALL, **recovery})
    findings = [f for f in result.report.findings if f.attack == "pooled_key_recovery"]
    assert findings and not any(finding.is_complete for finding in findings)
    assert all("a crash in etc_recovery/8" in finding.note for finding in findings)
    assert (
        "key recoveries that crashed, which says nothing about the scheme: etc_recovery/8 (MemoryError: planted)"
        in str(result)
    )
    assert not result.verdict.startswith("Not broken by suite/2 up to 10")


def changed(images: Images, key: bytes) -> Images:
    images[:] = made_up.stream(images, key)
    return images


def unstable(images: Images, key: bytes) -> Images:
    return made_up.stream(images, np.random.default_rng().bytes(32))


def broken(images: Images, key: bytes) -> Images:
    raise ZeroDivisionError("division\nby zero")


def on_another_scale(by: float, level: float = 0) -> Callable[[Images, bytes], AnyArray]:
    """Return a scheme whose ciphertexts are real, and not in gray levels."""
    return lambda images, key: made_up.mosaic(images, key).astype(np.float32) * np.float32(by) + level


def real_in_the_second_draw() -> Callable[[Images, bytes], AnyArray]:
    whole_sets: set[bytes] = set()

    def encrypt(images: Images, key: bytes) -> AnyArray:
        if len(images) > 16:
            whole_sets.add(key)
        sealed = made_up.stream(images, key)
        return sealed + np.float32(0.5) if len(whole_sets) > 1 else sealed

    return encrypt


def not_a_number(images: Images, key: bytes) -> AnyArray:
    result = images.astype(np.float32)
    result[0, 0, 0] = np.nan
    return result


@pytest.mark.parametrize(
    ("encrypt", "message", "hint"),
    [
        (changed, "encrypt changes the images that it is given", "images.copy()"),
        (unstable, "encrypt is not deterministic", "derive all randomness from the key"),
        (broken, "encrypt raised ZeroDivisionError: division by zero", "encrypt(images, key)"),
        (not_a_number, "1 value that is NaN or infinite", "finite"),
        (lambda images, key: images[:, ::2], "encrypt returned uint8 [90, 16, 32, 1]", "plain shape"),
        (lambda images, key: images.astype(np.float64), "encrypt returned float64", "round to bytes"),
        (lambda images, key: images.tolist(), "encrypt returned list, not a NumPy array", "one ciphertext"),
        (lambda images, key: None, "encrypt returned NoneType", "one ciphertext"),
        ("aes", "encrypt is no function but str", "audit_ciphertexts"),
        (on_another_scale(1 / 255), "encrypt in draw 1 gave real numbers from", "255 * x"),
        (on_another_scale(1 / 40, -3), "encrypt in draw 1 gave real numbers from", "255 * x"),
        (on_another_scale(255), "the suite measures in gray levels", "255 * x"),
        (lambda images, key: made_up.stream(images, key).astype(np.float32), "so they are bytes", "uint8"),
        (
            lambda images, key: made_up.mosaic(images, key)[np.argsort(list(key[: len(images)]))],
            "something else than the ciphertext of image",
            "in the order of the images",
        ),
        (real_in_the_second_draw(), "encrypt in draw 2 gave float32 where uint8 was expected", "one type"),
    ],
)
def test_a_function_that_is_no_scheme_gets_one_line_and_a_hint(
    encrypt: Callable[[Images, bytes], Any], message: str, hint: str
) -> None:
    with pytest.raises(CipherwardError) as refused:
        audit(encrypt, IMAGES, **SMALL)
    # The first call is for a few images, the shape's message names how many they were.
    assert message.replace("[90, ", "[16, ") in refused.value.message and "\n" not in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (IMAGES.astype(np.float32), {}, "the images are float32 [90, 32, 32, 1], not uint8"),
        (IMAGES[0, ..., 0], {}, "the images are uint8 [32, 32]"),
        (IMAGES[:20], {}, "20 images are too few"),
        (
            IMAGES,
            {"sizes": (10, 100)},
            "a pool of 100 images was asked for, and 50 are left for pools: 40 are set aside to be guessed",
        ),
        (IMAGES, {"sizes": ()}, "sizes [] are no pool sizes"),
        (IMAGES, {"sizes": (1.5,)}, "sizes cannot be 1.5"),
        (IMAGES, {"rows": 4}, "rows=4 is too few"),
        (IMAGES, {"block": 7}, "blocks of 7 do not divide an image of 32×32"),
        (IMAGES[:, :30, :30], {"block": None}, "blocks of 16, 8, 4 pixels do not divide images of 30×30"),
        (IMAGES[:, :4, :4], {"block": 2}, "images of 4×4 are too small"),
        (IMAGES, {"attacks": ("magic",)}, "unknown attack 'magic'"),
        (IMAGES, {"attacks": ("known_pairs",)}, "known_pairs is no attack on ciphertexts alone"),
        (IMAGES, {"attacks": ("moment_matching",)}, "moment_matching needs public plain images"),
        (IMAGES, {"family": "enigma"}, "unknown scheme 'enigma'"),
        (IMAGES, {"name": "etc"}, "etc is the name of a scheme of this program"),
        (IMAGES, {"seed": 10**18 + 1}, "seed=1000000000000000001 is too large"),
        (IMAGES, {"colour": 1}, "there is no setting 'colour'"),
        (IMAGES, {"key_bytes": 0}, "key_bytes=0 makes no key"),
        (IMAGES, {"name": 5}, "name=5 is no name"),
        (IMAGES, {"name": "a\nverdict: Secure."}, "is no name"),
        (IMAGES, {"attacks": (["as_is"],)}, "are no names"),
        (IMAGES, {"family": "etc", "options": 3}, "options=3 are no options"),
        (IMAGES, {"labels": [1, 2]}, "the labels are int64 [2], for 90 images"),
        (IMAGES, {"labels": [[1], [2, 3]]}, "the labels are float64 [0], for 90 images"),
        (list(IMAGES), {}, "images came as list, which is neither an array nor a path"),
        (IMAGES, {"key_bytes": True}, "key_bytes=True makes no key"),
        (IMAGES, {"decrypt": "aes"}, "decrypt is no function but str"),
        (IMAGES, {"attacks": ("as_is", "as_is")}, "an attack is named twice"),
        (IMAGES, {"attacks": "as_was"}, "unknown attack 'as_was'"),
        (IMAGES, {"block": "8"}, "block cannot be '8'"),
        (IMAGES, {"block": 8.0}, "block cannot be 8.0"),
        (IMAGES, {"gallery": -1}, "gallery=-1 is too few"),
        (IMAGES, {"gallery": None}, "gallery cannot be None"),
        (IMAGES, {"budget_s": "60"}, "budget_s='60' leaves no attack any time"),
        (IMAGES, {"budget_s": float("nan")}, "budget_s=nan leaves"),
        (IMAGES, {"budget_s": float("inf")}, "budget_s=inf leaves"),
        (IMAGES, {"claimed_bits": float("nan")}, "claimed_bits=nan is no key space"),
        (IMAGES, {"claimed_bits": -1}, "claimed_bits=-1 is no key space"),
        (IMAGES, {"log": None}, "log=None cannot be called"),
        (IMAGES, {"options": {"colour_shuffle": True}}, "options and key_scope are a family's"),
        (IMAGES, {"key_scope": "image"}, "options and key_scope are a family's"),
        (IMAGES, {"family": "orthogonal"}, "encrypt in draw 1 gave uint8 where float32 was expected"),
        (IMAGES, {"public": IMAGES}, "no attack that is named uses them"),
        (IMAGES, {**MATCHING, "public": IMAGES[:, :16]}, "the public images are uint8 [90, 16, 32, 1]"),
        (IMAGES, {**MATCHING, "public": IMAGES.astype(float)}, "the public images are float64"),
        (IMAGES, {**MATCHING, "public": "nowhere"}, "no folder and no .npy file at nowhere"),
        (IMAGES, {**MATCHING, "public": [IMAGES[0], IMAGES[0, :3]]}, "the public images are float64"),
        (IMAGES, {**MATCHING, "public": IMAGES[:5]}, "5 of 5 public images are among the audited ones"),
        (IMAGES, {"log": "print"}, "log='print' cannot be called"),
        (IMAGES, {"family": ["etc"]}, "family=['etc'] is no name"),
        (IMAGES, {"chosen_plaintext": "no"}, "chosen_plaintext cannot be 'no'"),
        (IMAGES, {"key_bytes": 10**15}, "is a longer key than is audited"),
        (np.repeat(IMAGES[:3], 30, 0), {}, "images of audit-1 count"),
    ],
)
def test_images_and_settings_that_cannot_work_are_refused(
    images: Images, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CipherwardError) as refused:
        audit(made_up.mosaic, images, **{**SMALL, **settings})
    assert message in refused.value.message and refused.value.hint


def test_a_function_with_the_name_of_a_scheme_is_no_scheme_of_this_program() -> None:
    def pe(images: Images, key: bytes) -> Images:
        return made_up.mosaic(images, key)

    with pytest.raises(CipherwardError, match="pe is the name of a scheme of this program") as error:
        audit(pe, IMAGES, **ONE_ATTACK)
    assert "name='my-pe'" in error.value.hint


def test_images_that_repeat_in_a_later_draw_are_refused_before_any_is_encrypted() -> None:
    settings, images = Settings(**ONE_ATTACK), smooth(148, 32, 32)
    guessed = [
        members[draw_rows(settings, len(members), index, 0)[0]]
        for index, members in enumerate(images_of_draw(settings, 148, number) for number in (1, 2))
    ]
    images[np.setdiff1d(guessed[1], guessed[0])] = images[guessed[1][0]]
    encrypted: list[Images] = []
    with pytest.raises(CipherwardError, match="images of audit-2 count"):
        audit(lambda some, _: encrypted.append(some), images, **ONE_ATTACK)
    assert not encrypted


def test_blocks_may_have_an_odd_side() -> None:
    settings = Settings(**{**ONE_ATTACK, "block": 7})
    controls = control_draws(settings, settings.specs((28, 28, 1)), 1)
    [known] = [draw.spec for draw in controls if draw.set_name == "control-known"]
    assert (known.name, known.block) == ("pe", 7)


@pytest.mark.long
def test_public_images_may_be_a_folder_of_pictures_or_a_file(tmp_path: Path) -> None:
    images = IMAGES[:3]
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / "pictures" / f"{i}.png")
    np.save(tmp_path / "images.npy", images)
    for source in (str(tmp_path / "pictures"), tmp_path / "images.npy"):
        public = as_settings({"attacks": ("moment_matching",), "public": source}).public
        found = require_public(("moment_matching",), public, IMAGES[5:])
        assert found is not None and np.array_equal(found, images)


def test_an_authenticated_decryption_may_raise_under_another_key() -> None:
    sealed: dict[bytes, tuple[bytes, Images]] = {}

    def encrypt(images: Images, key: bytes) -> Images:
        result = made_up.mosaic(images, key)
        sealed[result.tobytes()] = key, images.copy()
        return result

    def decrypt(ciphertexts: Images, key: bytes) -> Images:
        of_key, images = sealed[ciphertexts.tobytes()]
        if key != of_key:
            raise ValueError("invalid tag")
        return images

    assert audit(encrypt, IMAGES, decrypt=decrypt, **ONE_ATTACK).valid
    with pytest.raises(CipherwardError, match="decrypt raised ValueError: invalid tag"):
        audit(encrypt, IMAGES, decrypt=lambda sealed, key: decrypt(sealed, bytes(32)), **ONE_ATTACK)
    with pytest.raises(CipherwardError, match=r"decrypt returned uint8 \[74, 32, 32\], not images"):
        audit(encrypt, IMAGES, decrypt=lambda sealed, key: decrypt(sealed, key)[..., 0], **ONE_ATTACK)


def test_a_decryption_that_loses_something_is_named_before_any_attack_runs() -> None:
    """A failed control would say so hours later, and leave no verdict."""

    def encrypt(images: Images, key: bytes) -> Images:
        return images ^ np.resize(np.frombuffer(key, np.uint8), images.shape[1:])

    def decrypt(ciphertexts: Images, key: bytes) -> Images:
        opened = encrypt(ciphertexts, key)
        opened[3:5] ^= 4
        return opened

    lines: list[str] = []
    error = "decrypt does not open 2 of 74 ciphertexts in draw 1: pixels differ from the plain image by up to 4 gray"
    with pytest.raises(CipherwardError, match=error):
        audit(encrypt, IMAGES, decrypt=decrypt, log=lines.append, **ONE_ATTACK)
    assert not any("as_is" in line for line in lines)


@pytest.mark.long
def test_pairs_of_real_ciphertexts_are_tried_as_orthogonal_blocks() -> None:
    spec = describe("orthogonal", IMAGES.shape[1:], 8)

    def mixed_blocks(images: Images, key: bytes) -> AnyArray:
        return np.asarray(load(spec).cipher(SecretKey(key)).encrypt(images))

    # Another fraction for each pixel: bytes and one fraction would be bytes.
    fractions = np.linspace(0, 0.9, IMAGES[0].size, dtype=np.float32).reshape(IMAGES.shape[1:])
    for encrypt, is_break in (
        (mixed_blocks, True),
        (lambda i, k: made_up.stream(i, k) + fractions, False),
    ):
        result = audit(encrypt, IMAGES, known_pairs=10, chosen_plaintext=True, **{**ONE_ATTACK, "draws": 1})
        assert [finding.is_break for finding in result.pairs] == [is_break, is_break]
        assert all(finding.pairs for finding in result.pairs)


@pytest.mark.long
def test_pairs_that_give_no_key_break_nothing_though_ciphertexts_name_their_image() -> None:
    def halved(images: Images, key: bytes) -> Images:
        pattern = np.random.default_rng(list(key)).integers(0, 128, images.shape[1:], np.uint8)
        masked: Images = images // 2 + pattern
        return masked

    result = audit(halved, IMAGES, known_pairs=10, **{**ONE_ATTACK, "draws": 1})
    assert [(finding.broken, finding.is_break) for finding in result.pairs] == [(0, False)]
    assert "no scheme of this program gives these pairs" in str(result.pairs[0])


def test_what_an_attack_reads_is_no_matter_of_strides() -> None:
    function = FunctionUnderAudit(lambda i, k: np.asfortranarray(made_up.mosaic(i, k)), None, 32, False)
    sealed = function.sealed(IMAGES, bytes(32))
    assert sealed.flags.c_contiguous and np.array_equal(sealed, made_up.mosaic(IMAGES, bytes(32)))


def test_a_function_that_cannot_take_chosen_images_fails_before_any_attack_runs() -> None:
    lines: list[str] = []

    def encrypt(images: Images, key: bytes) -> Images:
        if len(images) not in (16, 74):
            raise RuntimeError("a table of 74 images")
        return made_up.mosaic(images, key)

    with pytest.raises(CipherwardError, match="encrypt raised RuntimeError: a table of 74 images"):
        audit(encrypt, IMAGES, chosen_plaintext=True, log=lines.append, **ONE_ATTACK)
    assert [line.split(":")[0] for line in lines] == ["draw-0", "draw-1"]
    assert all("74 images encrypted in" in line for line in lines)


@pytest.mark.long
def test_numpy_s_numbers_are_numbers() -> None:
    numbers = {
        "seed": np.int64(3),
        "budget_s": np.float32(60),
        "sizes": np.int64(10),
        "key_bytes": np.int64(32),
    }
    assert audit(made_up.identity, IMAGES, **{**ONE_ATTACK, **numbers}).report.seed == 3


@pytest.mark.long
def test_a_folder_keeps_the_report_of_one_audit(tmp_path: Path) -> None:
    first, second = (audit(made_up.identity, IMAGES, name=name, **ONE_ATTACK) for name in ("one", "two"))
    page = first.write(tmp_path / "report")
    with (
        folder_lock(tmp_path / "report"),
        pytest.raises(CipherwardError, match="another command is at work"),
    ):
        second.write(tmp_path / "report")
    assert read_report(tmp_path / "report" / "report.json") == first.report

    # Killed between the two files: no page of another audit stands beside the report.
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(result_module, "write_text", killed)
        second.write(tmp_path / "report")
    assert read_report(tmp_path / "report" / "report.json") == second.report and not page.exists()
    second.write(tmp_path / "report")
    # The report of a study is not overwritten.
    (tmp_path / "report" / "report.json").write_text('{"attacked_by": "coordinator"}')
    with pytest.raises(CipherwardError, match="no report of this library, and is kept"):
        first.write(tmp_path / "report")


def test_keys_are_fresh_and_never_drawn_from_the_seed() -> None:
    keys: list[bytes] = []

    def encrypt(images: Images, key: bytes) -> Images:
        keys.append(key)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            audit(encrypt, IMAGES, key_bytes=20, **SMALL)
    assert len(set(keys)) == 2 and {len(key) for key in keys} == {20}


@pytest.mark.long
def test_a_function_may_take_images_without_channels() -> None:
    shapes = []

    def encrypt(images: Images, key: bytes) -> Images:
        shapes.append(images.shape)
        return made_up.mosaic(images[..., None], key)[..., 0]

    # By luck of the key, what a mosaic leaves in its place can name its image: the verdict is not asked for here.
    assert audit(encrypt, IMAGES[..., 0], **ONE_ATTACK).report.findings
    assert set(shapes) == {(16, 32, 32), (74, 32, 32)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mosaic", "stream", "identity"])
def test_every_key_recovery_is_tried_with_every_side_of_a_block(name: str) -> None:
    result = audit(getattr(made_up, name), IMAGES, **{**SMALL, "block": None, "sizes": (1, 10)})
    assert result.valid, result
    assert result.broken == (name != "stream")
    rows = {finding.attack for finding in result.report.findings}
    left_out = " ".join(doubt for doubt in result.report.doubts if doubt.startswith("key recoveries that"))
    names = [f"{scheme}_recovery/{side}" for scheme in ("etc", "le", "ele") for side in (16, 8, 4)]
    # le identifies nothing in blocks of 16 or 8, and says so; it is tried nevertheless.
    assert [n for n in (*names, "pe_recovery") if n not in rows and n not in left_out] == []
