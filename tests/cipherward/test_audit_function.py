"""The audit of a Python function: made-up schemes get the verdict they deserve, and faults of a function a name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cipherward.audit import AuditResult, audit
from coordinator.adversary.recover import unknown_scheme
from coordinator.report.report_file import read_report
from coordinator.report.verdict_text import headline
from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError
from tests.support import made_up_schemes as made_up
from tests.support.pictures import smooth

SMALL: dict[str, Any] = {"sizes": (10,), "draws": 2, "rows": 32, "block": 8, "budget_s": 60.0}
#: One attack is enough where a verdict does not depend on the others.
ONE_ATTACK = {**SMALL, "attacks": ("as_is",)}
IMAGES = smooth(90, 32, 32)
LABELS = np.arange(len(IMAGES)) % 3


@pytest.fixture(autouse=True)
def quick_models(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Try the quick key recoveries only. The slow test tries all of them."""
    if not request.node.get_closest_marker("slow"):
        quick = tuple(model for model in unknown_scheme.MODELS if model[0] in ("value_shuffle", "etc"))
        monkeypatch.setattr(unknown_scheme, "MODELS", quick)


def weak() -> AuditResult:
    return audit(made_up.mosaic, IMAGES, known_pairs=8, chosen_plaintext=True, **SMALL)


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


def test_plain_images_are_broken_from_one_and_the_verdict_says_why() -> None:
    result = audit(made_up.identity, IMAGES, **SMALL)
    assert result.valid and result.broken and result.broken_from == 1
    assert result.report.verdict.broken_at["as_is"] == 1
    assert "ciphertexts are the plain images, unchanged" in result.verdict


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


def changed(images: Images, key: bytes) -> Images:
    images[:] = made_up.stream(images, key)
    return images


def unstable(images: Images, key: bytes) -> Images:
    return made_up.stream(images, np.random.default_rng().bytes(32))


def broken(images: Images, key: bytes) -> Images:
    raise ZeroDivisionError("division\nby zero")


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
        (not_a_number, "1 values that are NaN or infinite", "finite"),
        (lambda images, key: images[:, ::2], "encrypt returned uint8 [90, 16, 32, 1]", "plain shape"),
        (lambda images, key: images.astype(np.float64), "encrypt returned float64", "round to bytes"),
        (lambda images, key: images.tolist(), "encrypt returned list, not a NumPy array", "one ciphertext"),
        (lambda images, key: None, "encrypt returned NoneType", "one ciphertext"),
        ("aes", "encrypt is no function but str", "audit_ciphertexts"),
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
            "pools of 100 images were asked for; beside the 40 that are guessed",
        ),
        (IMAGES, {"sizes": ()}, "sizes [] are no pool sizes"),
        (IMAGES, {"sizes": (1.5,)}, "sizes cannot be 1.5"),
        (IMAGES, {"rows": 4}, "rows=4 is too few"),
        (IMAGES, {"block": 7}, "blocks of 7 do not divide an image of 32×32"),
        (IMAGES[:, :30, :30], {"block": None}, "blocks of 16, 8, 4 pixels do not divide images of 30×30"),
        (IMAGES, {"attacks": ("magic",)}, "unknown attack 'magic'"),
        (IMAGES, {"attacks": ("known_pairs",)}, "known_pairs is no attack on ciphertexts alone"),
        (IMAGES, {"attacks": ("moment_matching",)}, "moment_matching needs public plain images"),
        (IMAGES, {"family": "enigma"}, "unknown scheme 'enigma'"),
        (IMAGES, {"name": "etc"}, "etc is the name of a scheme of this program"),
        (IMAGES, {"colour": 1}, "there is no setting 'colour'"),
        (IMAGES, {"key_bytes": 0}, "key_bytes=0 makes no key"),
        (IMAGES, {"labels": [1, 2]}, "the labels are int64 [2], for 90 images"),
        (np.repeat(IMAGES[:3], 30, 0), {}, "images of audit-1 count"),
    ],
)
def test_images_and_settings_that_cannot_work_are_refused(
    images: Images, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CipherwardError) as refused:
        audit(made_up.mosaic, images, **{**SMALL, **settings})
    assert message in refused.value.message and refused.value.hint


def test_keys_are_fresh_and_never_drawn_from_the_seed() -> None:
    keys: list[bytes] = []

    def encrypt(images: Images, key: bytes) -> Images:
        keys.append(key)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            audit(encrypt, IMAGES, key_bytes=20, **SMALL)
    assert len(set(keys)) == 2 and {len(key) for key in keys} == {20}


def test_a_function_may_take_images_without_channels() -> None:
    shapes = []

    def encrypt(images: Images, key: bytes) -> Images:
        shapes.append(images.shape)
        return made_up.mosaic(images[..., None], key)[..., 0]

    assert not audit(encrypt, IMAGES[..., 0], **ONE_ATTACK).broken
    assert set(shapes) == {(16, 32, 32), (74, 32, 32)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mosaic", "stream", "identity"])
def test_every_key_recovery_is_tried_with_every_side_of_a_block(name: str) -> None:
    result = audit(getattr(made_up, name), IMAGES, **{**SMALL, "block": None, "sizes": (1, 10)})
    assert result.valid, result
    assert result.broken == (name != "stream")
    rows = {finding.attack for finding in result.report.findings}
    left_out = next((doubt for doubt in result.report.doubts if "no row of their own" in doubt), "")
    names = [f"{scheme}_recovery/{side}" for scheme in ("etc", "le", "ele") for side in (16, 8, 4)]
    # le identifies nothing in blocks of 16 or 8, and says so; it is tried nevertheless.
    assert [n for n in (*names, "pe_recovery") if n not in rows and n not in left_out] == []
