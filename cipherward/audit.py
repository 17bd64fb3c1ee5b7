"""Audit any image encryption scheme: a Python function, or ciphertexts that another program made.

    from cipherward.audit import audit

    result = audit(encrypt, images, sizes=(1, 10, 100))
    print(result)

The audit draws fresh keys, encrypts the images, runs the attacks of the suite on the ciphertexts, and judges what
they reached by the rules of suite/2 (docs/suite.md), with the suite's controls. It plays all roles in one process,
for research. A hospital audits its own images with `cipherward-party audit`, whose attacks run without a key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from cipherward.arguments import (
    as_ciphertexts,
    as_images,
    as_labels,
    as_settings,
    require_dtype,
    require_form,
    require_gray_levels,
)
from cipherward.controls import control_draws, public_of_controls
from cipherward.draws import SealedDraw, draw_rows, images_of_draw, require_distinct, require_enough
from cipherward.folder import Stack, read_stack, require_pairs
from cipherward.function import Function, FunctionUnderAudit, key_defects, plain_defects, require_opened
from cipherward.pairs import attack_with_pairs
from cipherward.report import Subject, make_report, pictures_of
from cipherward.result import AuditResult
from cipherward.scoring import score_draw
from cipherward.settings import KEY_BYTES, Settings, require_own_name, require_public
from coordinator.exchange.audit.control_sets import TARGETED
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.errors import CipherwardError
from crypto.key import KEY_BYTES as SEED_BYTES
from crypto.plural import counted
from crypto.scheme import load
from crypto.spec import SchemeSpec

__all__ = ["AuditResult", "audit", "audit_ciphertexts"]

#: Keys that are compared besides those of the draws, so that one draw has another key to compare with.
_FURTHER_KEYS = 1
#: Bytes of a key, at most. Chosen by hand: more than a keystream for a large picture has.
_MOST_KEY_BYTES = 1 << 24


def audit(
    encrypt: Function,
    images: Stack,
    *,
    decrypt: Function | None = None,
    labels: Sequence[int] | Int64Array | None = None,
    key_bytes: int = KEY_BYTES,
    **settings: Any,
) -> AuditResult:
    """Audit a scheme that is a Python function.

    Args:
        encrypt: encrypt(images, key) returns the ciphertexts of images uint8 [n, h, w] or [n, h, w, c]: uint8 or
            float32 of the same shape. The key is bytes from the operating system's generator. The same images and key
            must give the same ciphertexts.
        images: Plain images uint8 [n, h, w] or [n, h, w, c] (c 1 or 3), or a folder of pictures of one size. An audit
            needs at least 32, and says little below 128.
        decrypt: Its inverse, decrypt(ciphertexts, key). With it, the audit checks that the key opens the ciphertexts.
        labels: The class of each image, whole numbers [n], if the report shall say how much of it stays visible.
        key_bytes: Bytes of a key.
        **settings: The fields of `cipherward.settings.Settings`: sizes, draws, rows, block, family, attacks, seed, …

    Returns:
        The result. Printing it shows the verdict with every caveat.

    Raises:
        CipherwardError: If the images or settings cannot be audited, or the function does what no scheme may do.
    """
    if decrypt is not None and not callable(decrypt):
        raise CipherwardError(
            f"decrypt is no function but {type(decrypt).__name__}", "leave it out, or name a function"
        )
    if not callable(encrypt):
        raise CipherwardError(
            f"encrypt is no function but {type(encrypt).__name__}",
            "for ciphertexts that are there already: audit_ciphertexts(ciphertexts, images)",
        )
    if not isinstance(key_bytes, Integral) or isinstance(key_bytes, bool) or key_bytes < 1:
        raise CipherwardError(
            f"key_bytes={key_bytes!r:.60} makes no key", "name the bytes of a key, such as 32"
        )
    if key_bytes > _MOST_KEY_BYTES:
        raise CipherwardError(
            f"key_bytes={key_bytes!r:.60} is a longer key than is audited",
            f"at most {_MOST_KEY_BYTES:,}: draw more from a key as a seed",
        )
    chosen = as_settings(settings)
    stack, _ = read_stack(images)
    plain, is_flat = as_images(stack)
    classes = as_labels(labels, len(plain))
    function = FunctionUnderAudit(encrypt, decrypt, int(key_bytes), is_flat)
    name = chosen.name or function.name
    require_own_name(name, chosen.family)
    require_enough(chosen, len(plain))
    chosen.specs(plain.shape[1:])  # settings that cannot work are named before anything is encrypted
    chosen = replace(chosen, public=require_public(chosen.attacks, chosen.public, plain))
    sets = [images_of_draw(chosen, len(plain), index + 1) for index in range(chosen.draws)]
    require_distinct(chosen, plain, sets)
    keys = [function.new_key() for _ in range(chosen.draws)]
    examined = function.examine(plain, [*keys, *(function.new_key() for _ in range(_FURTHER_KEYS))])
    specs: list[SchemeSpec] = []
    draws = []
    for index, (members, key) in enumerate(zip(sets, keys, strict=True)):
        started = time.perf_counter()
        sealed = function.sealed(plain[members], key)
        chosen.log(
            f"draw-{index}: {counted(len(members), 'image')} encrypted in {time.perf_counter() - started:.2f} s"
        )
        if not index:
            function.require_deterministic(plain[members], key, sealed)
            specs = chosen.specs(plain.shape[1:], is_real=sealed.dtype == np.float32)
        require_dtype(sealed, specs[0], f"encrypt in draw {index + 1}")
        require_gray_levels(sealed, plain[members], f"encrypt in draw {index + 1}")
        require_form(sealed, plain[members], f"encrypt in draw {index + 1}", is_family=bool(chosen.family))
        draws.append(_draw(chosen, specs, index, plain[members], classes[members], sealed, function, key))
    defects = [*_plain_defects(draws), *examined.defects]
    subject = Subject(
        name,
        "a Python function",
        specs[0],
        8 * examined.used_key_bytes,
        tuple(defects),
        has_decrypt=decrypt is not None,
        weakness=examined.weakness,
    )
    return _audit_draws(subject, draws, chosen)


def audit_ciphertexts(
    ciphertexts: Stack | Sequence[Stack],
    images: Stack,
    *,
    labels: Sequence[int] | Int64Array | None = None,
    **settings: Any,
) -> AuditResult:
    """Audit ciphertexts that another program made of known plain images.

    Args:
        ciphertexts: For each key the ciphertexts of all images in their order: an array uint8 or float32 of the plain
            images' shape, a .npy file, or a folder of pictures with the plain images' names. Each is one draw; an
            audit should have three.
        images: The plain images: an array uint8 [n, h, w] or [n, h, w, c], a .npy file, or a folder of pictures.
        labels: The class of each image, whole numbers [n].
        **settings: The fields of `cipherward.settings.Settings`; `draws` follows from the ciphertexts.

    Returns:
        The result.

    Raises:
        CipherwardError: If images and ciphertexts do not belong together, or cannot be audited.
    """
    is_one = isinstance(ciphertexts, np.ndarray) or not isinstance(ciphertexts, list | tuple)
    sources: list[Stack] = [ciphertexts] if is_one else list(ciphertexts)  # type: ignore[list-item, arg-type] # narrowed
    if not sources:
        raise CipherwardError("no ciphertexts were handed over", "name an array or a folder for each key")
    if settings.get("chosen_plaintext"):
        raise CipherwardError(
            "ciphertexts alone encrypt no chosen images", "hand over the function: audit(encrypt, …)"
        )
    if settings.get("draws", len(sources)) != len(sources):
        raise CipherwardError(
            f"draws={settings['draws']!r:.60} and {counted(len(sources), 'set')} of ciphertexts do not go together",
            "each set is one draw: leave draws out",
        )
    _require_different(sources)
    chosen = as_settings({**settings, "draws": len(sources)})
    stack, names = read_stack(images)
    plain, _ = as_images(stack)
    classes = as_labels(labels, len(plain))
    require_enough(chosen, len(plain))
    chosen = replace(chosen, public=require_public(chosen.attacks, chosen.public, plain))
    require_distinct(chosen, plain, [np.arange(len(plain))] * len(sources))
    sets = []
    for number, source in enumerate(sources, 1):
        sealed, sealed_names = read_stack(source)
        where = f"set {number} of ciphertexts" if isinstance(source, np.ndarray) else str(source)
        require_pairs(names, sealed_names, where)
        sets.append(as_ciphertexts(sealed, plain, where))
    if len({sealed.dtype for sealed in sets}) > 1:
        raise CipherwardError("the sets of ciphertexts differ in dtype", "hand over sets of one scheme")
    specs = chosen.specs(plain.shape[1:], is_real=sets[0].dtype == np.float32)
    require_dtype(sets[0], specs[0], "the set of ciphertexts")
    for number, sealed in enumerate(sets, 1):
        require_form(sealed, plain, f"set {number} of ciphertexts", is_family=bool(chosen.family))
    draws = [_draw(chosen, specs, index, plain, classes, sealed) for index, sealed in enumerate(sets)]
    textured = _textured(plain)
    defects = [
        *_plain_defects(draws),
        *(d.replace("fresh keys", "sets") for d in key_defects([sealed[textured] for sealed in sets])),
    ]
    subject = Subject(
        chosen.name or "ciphertexts", "ciphertexts", specs[0], 0, tuple(defects), has_decrypt=False
    )
    return _audit_draws(subject, draws, chosen)


def _require_different(sources: Sequence[Stack]) -> None:
    """Raise CipherwardError if one path is named twice: that would read as a scheme that ignores its key."""
    seen: dict[Path, int] = {}
    for number, source in enumerate(sources, 1):
        if not isinstance(source, str | os.PathLike):
            continue
        which = Path(source).absolute()
        if which in seen:
            raise CipherwardError(
                f"sets {seen[which]} and {number} of ciphertexts are one set, named twice",
                "name each once: each is to be under a key of its own",
            )
        seen[which] = number


def _textured(plain: Images) -> Int64Array:
    """Return which images are not of one value, int64 [m]: others may be their own ciphertexts."""
    return np.flatnonzero(plain.reshape(len(plain), -1).std(1) > 0)


def _plain_defects(draws: Sequence[SealedDraw]) -> list[str]:
    """Return a sentence if ciphertexts are the plain images themselves. All are compared; the worst draw is told."""
    plain = [_textured(draw.plain) for draw in draws]
    same = [
        (draw.plain[rows] == draw.sealed[rows]).all((1, 2, 3)).sum()
        for draw, rows in zip(draws, plain, strict=True)
    ]
    worst = int(np.argmax(same))
    return plain_defects(draws[worst].plain[plain[worst]], draws[worst].sealed[plain[worst]])


def _audit_draws(subject: Subject, draws: Sequence[SealedDraw], settings: Settings) -> AuditResult:
    """Attack and score the draws and the controls, and return the result."""
    controls = control_draws(settings, draws[0].specs, len(draws))
    # Pairs come first: the caller's function answers them, and if it raises, no attack has run in vain.
    pairs = attack_with_pairs(draws, settings, subject.spec)
    audited = [score_draw(draw, settings, subject.spec) for draw in draws]
    scored = []
    for draw in controls:
        of_control = settings
        if draw.set_name in TARGETED:
            of_control = replace(settings, public=public_of_controls(settings, subject.spec))
        scored.append(score_draw(draw, of_control, subject.spec))
    report = make_report(subject, audited, scored, settings)
    return AuditResult(report, pictures_of(report, audited[0]), tuple(pairs))


def _draw(
    settings: Settings,
    specs: Sequence[SchemeSpec],
    index: int,
    plain: Images,
    labels: Int64Array,
    sealed: AnyArray,
    function: FunctionUnderAudit | None = None,
    key: bytes = bytes(SEED_BYTES),
) -> SealedDraw:
    """Return draw `index` of the audited scheme."""
    rows, pool_rows = draw_rows(settings, len(plain), index, max(*settings.sizes, settings.known_pairs))
    opened = None if function is None else function.opened(sealed, key)
    if opened is not None:
        require_opened(opened, plain, load(specs[0]).tolerance, f"draw {index + 1}")
    return SealedDraw(
        name=f"draw-{index}",
        set_name=f"audit-{index + 1}",
        specs=tuple(specs),
        plain=plain,
        labels=labels,
        sealed=sealed,
        rows=rows,
        pool_rows=pool_rows,
        opened=None if opened is None else opened[rows],
        oracle=None if function is None else lambda images: function.sealed(images, key),
    )
