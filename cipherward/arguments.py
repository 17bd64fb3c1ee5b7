"""What a caller hands over, as the audit uses it: images, ciphertexts, labels and settings, each checked."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cipherward.folder import read_stack
from cipherward.function import require_no_bytes_as_reals
from cipherward.settings import Settings
from coordinator.exchange.audit.suite1 import TEXTURE
from crypto.arrays import AnyArray, Images, Int64Array
from crypto.errors import CipherwardError
from crypto.plural import agreeing, counted
from crypto.scheme import load
from crypto.spec import SchemeSpec
from parties.scoring.measures import is_flat

#: How many times less than the images' real ciphertexts may spread, and how far from zero gray levels may lie. Both
#: only tell scales apart: orthogonal blocks spread as the images do.
_SPREAD, _FAR = 10.0, 1020.0
#: Values that are looked at for levels, the values of a byte, and the part of their range within which two are one.
#: Levels of bytes are .004 of it apart, and float32 rounds to 10^-7.
_SAMPLED, _BYTES, _SAME_LEVEL = 1 << 20, 256, 1e-5
#: Of so many ciphertexts one may be flat. Guesses of which one in four is flat get no figures (docs/suite.md).
_FLAT_PART = 8


def as_settings(values: dict[str, Any]) -> Settings:
    """Return the settings. Raise CipherwardError for one that is unknown, or public images that cannot be read."""
    known = Settings.__dataclass_fields__
    for name in values:
        if name not in known:
            raise CipherwardError(f"there is no setting {name!r}", f"known: {', '.join(sorted(known))}")
    several: dict[str, Any] = {
        name: _as_tuple(values[name]) for name in ("sizes", "attacks") if name in values
    }
    if isinstance(values.get("public"), str | os.PathLike):
        several["public"] = read_stack(values["public"])[0]
    return Settings(**{**values, **several})


def _as_tuple(value: Any) -> tuple[Any, ...]:
    """Return several values as a tuple, and one alone as a tuple of one."""
    is_one = isinstance(value, str) or not isinstance(value, Iterable)
    return (value,) if is_one else tuple(value)


def require_dtype(sealed: AnyArray, spec: SchemeSpec, what: str) -> None:
    """Raise CipherwardError unless ciphertexts have the type of those of the scheme that attacks are told."""
    expected = load(spec).sealed_dtype
    if sealed.dtype != expected:
        raise CipherwardError(
            f"{what} gave {sealed.dtype} where {np.dtype(expected)} was expected",
            "ciphertexts have one type in all draws, and with `family` the type of that scheme's",
        )


def as_images(stack: AnyArray) -> tuple[Images, bool]:
    """Return plain images uint8 [n, h, w, c], and whether they came without an axis of channels."""
    described = f"{stack.dtype} {list(stack.shape)}"
    if stack.dtype != np.uint8:
        raise CipherwardError(
            f"the images are {described}, not uint8",
            "bring them to bytes: (255 * images).round().astype(np.uint8)",
        )
    is_flat = stack.ndim == 3
    images = stack[..., None] if is_flat else stack
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise CipherwardError(
            f"the images are {described}",
            "hand over [n, height, width] or [n, height, width, 1 or 3], images first",
        )
    return np.ascontiguousarray(images), is_flat


def as_ciphertexts(sealed: AnyArray, plain: Images, where: str) -> AnyArray:
    """Return ciphertexts [n, h, w, c] of the plain images' shape."""
    shaped = sealed[..., None] if sealed.ndim == 3 and plain.shape[3] == 1 else sealed
    if shaped.shape != plain.shape or shaped.dtype not in (np.uint8, np.float32):
        raise CipherwardError(
            f"{where} is {sealed.dtype} {list(sealed.shape)}, and the images are {list(plain.shape)}",
            "hand over one ciphertext for each image, uint8 or float32 of the plain shape, in the images' order",
        )
    if not np.isfinite(shaped).all():
        raise CipherwardError(
            f"{where} has values that are NaN or infinite", "ciphertexts are finite numbers"
        )
    require_no_bytes_as_reals(shaped, where)
    require_gray_levels(shaped, plain, where)
    return np.ascontiguousarray(shaped)


def require_gray_levels(sealed: AnyArray, plain: Images, where: str) -> None:
    """Raise CipherwardError if real ciphertexts are on another scale than gray levels, on which all is measured.

    Args:
        sealed: Ciphertexts, uint8 or float32.
        plain: Their images, uint8.
        where: What gave them.
    """
    if sealed.dtype == np.uint8:
        return
    spread, middle = float(sealed.std(dtype=np.float64)), float(sealed.mean(dtype=np.float64))
    if plain.std() / _SPREAD <= spread <= _FAR and abs(middle) <= _FAR:
        return
    low, high = float(sealed.min()), float(sealed.max())
    raise CipherwardError(
        f"{where} gave real numbers from {low:.4g} to {high:.4g}, mostly within {spread:.2g} of {middle:.4g}, and "
        "the suite measures in gray levels, 0 to 255",
        "bring ciphertexts to the scale of the images: 255 * x for images in [0, 1], 127.5 * (x + 1) for [-1, 1]",
    )


def require_form(sealed: AnyArray, plain: Images, where: str, *, is_family: bool) -> None:
    """Raise CipherwardError if ciphertexts have a form in which attacks or measures would pass them by.

    Args:
        sealed: Ciphertexts, uint8 or float32.
        plain: Their images, uint8.
        where: What gave them.
        is_family: Whether they are those of a scheme of this program: its own recovery takes them as they are.
    """
    if sealed.dtype == np.float32 and not is_family:
        _require_many_levels(sealed, where)
    _require_contrast(sealed, plain, where)


def _require_many_levels(sealed: AnyArray, where: str) -> None:
    """Raise CipherwardError if real ciphertexts take so few values that they are bytes on a scale of their own."""
    levels = [_levels(sealed[..., channel]) for channel in range(sealed.shape[3])]
    if 0 in levels:
        return
    raise CipherwardError(
        f"{where}: the float32 values of a channel are {max(levels)} levels, up to rounding, so they are bytes on "
        "another scale",
        "hand over the bytes, .round().astype(numpy.uint8) of gray levels from 0 to 255: most attacks are on bytes",
    )


def _levels(values: AnyArray) -> int:
    """Return how many values there are, up to rounding; 0 if they are more than bytes have."""
    flat = values.ravel()
    sample = np.sort(flat[:: max(1, flat.size // _SAMPLED)].astype(np.float64))
    # What rounding makes of one level lies close together. Real numbers fill their range.
    close = _SAME_LEVEL * (sample[-1] - sample[0])
    ends = np.append(np.flatnonzero(np.diff(sample) > close), len(sample) - 1)
    widths = sample[ends] - sample[np.append(0, ends[:-1] + 1)]
    return len(ends) if len(ends) <= _BYTES and widths.max() <= close else 0


def _require_contrast(sealed: AnyArray, plain: Images, where: str) -> None:
    """Raise CipherwardError if many ciphertexts count as flat, which says nothing: guesses of them get no figures."""
    pictures = sealed if sealed.dtype == np.uint8 else np.rint(sealed).clip(0, 255).astype(np.uint8)
    flat = is_flat(pictures)[~is_flat(plain)]
    if flat.sum() * _FLAT_PART <= len(flat):
        return
    raise CipherwardError(
        f"{where}: {int(flat.sum())} of {counted(len(flat), 'ciphertext')} "
        f"{agreeing(int(flat.sum()), 'differs', 'differ')} from one gray by {TEXTURE:.0f} gray levels or "
        "less, where nothing is measured, though somebody may see the picture in them",
        "spread ciphertexts over the gray levels from 0 to 255, as the images are",
    )


def as_labels(labels: Sequence[int] | Int64Array | None, images: int) -> Int64Array:
    """Return the class of each image, int64 [n]; all of one class where none is known."""
    if labels is None:
        return np.zeros(images, np.int64)
    try:
        classes = np.asarray(labels)
    except ValueError:  # lists of several lengths
        classes = np.empty(0)
    if classes.shape != (images,) or not np.issubdtype(classes.dtype, np.integer):
        raise CipherwardError(
            f"the labels are {classes.dtype} {list(classes.shape)}, for {counted(images, 'image')}",
            "one whole number an image",
        )
    return classes.astype(np.int64)
