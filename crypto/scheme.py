"""The schemes, by name. Adding one: a file in crypto/schemes, a line in SCHEMES, a vector file.

A scheme's class says what its key consists of (`parts`) and how those make a cipher. It also declares what everybody
may know of the scheme. Which key that is, the hospital's or one for every image, is decided here for all schemes
alike.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from crypto.arrays import AnyArray, Images, Parts
from crypto.cipher import Cipher, RowCipher
from crypto.errors import CipherwardError, not_invertible, unknown
from crypto.key import KEY_BYTES, SecretKey
from crypto.schemes.block_pixel import BlockPixel
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle
from crypto.schemes.block_projection import BlockProjection
from crypto.schemes.ele import Ele
from crypto.schemes.etc import Etc
from crypto.schemes.le import Le
from crypto.schemes.neuracrypt import NeuraCrypt
from crypto.schemes.noise import Noise
from crypto.schemes.noisy_orthogonal import NoisyOrthogonal
from crypto.schemes.orthogonal import Orthogonal
from crypto.schemes.patch_shuffle import PatchShuffle
from crypto.schemes.pe import Pe
from crypto.schemes.permuted import Permuted
from crypto.schemes.plain import Plain
from crypto.schemes.sub_block_etc import SubBlockEtc
from crypto.schemes.value_shuffle import ValueShuffle
from crypto.spec import SchemeSpec
from crypto.symmetry import Orbit
from crypto.unit_layout import UnitLayout


class Algorithm(Protocol):
    """What a scheme's class holds.

    Besides these members, the class may declare the following; `Scheme` has the defaults.

    - `options`: option name → allowed values, the default first.
    - `sealed_shape`, `sealed_dtype`: where they are not those of plain images; with another shape also
      `picture(sealed)`, which brings sealed images back to the plain shape.
    - `tolerance`: largest error of the round trip in gray levels; 0 by default.
    - `row_keys`: True if every row has a key of its own whatever the scope.
    - `row_noise`: True if every row gets noise beside a shared key; `row_parts(sub)` draws it as the part `noise`,
      or the part that `row_part` names, and `noisy_cipher(parts, noise_of_row)` makes the cipher of all rows.
      `noise_sigma` is the standard deviation of Gaussian noise.
    - `orbit`: the moves that a recovered picture is right up to; shifts by whole blocks by default.
    - `kept`, `invariants(images)`, `invariant_tolerance`: what the scheme leaves unchanged under any key, in words
      and as rows [n, d] of plain or sealed images, equal to within the tolerance. By default nothing is known.
    - `carries_stem`: True if a Vision Transformer's stem can be carried into the key's coordinates, because all
      blocks of an image go through one linear map.
    - `moves_blocks`: True if whole blocks change places.
    - `unit_layout`: which units the key moves, for a scheme that is a table of units.
    - `distinct_bits()`: log2 of the number of keys that differ in what they do, where the formula counts keys that do
      the same more than once.
    - `is_control`: True for a control of audits, whose key space `require_key_space` does not ask for.
    - `comparison_options`: options of the fresh keys that a sealed set is compared with, if the defaults are slow.
    - `weakness`: what attacks found that are no part of an audit, in words; reports cite it.
    - `is_invertible`: False if no key opens its ciphertexts. Its cipher's `decrypt` then raises CipherwardError.
    - `sealing_tolerance`: largest difference of two sealings of one image under one key, which rounding makes on
      different machines; 0 by default.
    """

    version: int
    source: str

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Draw the key's permutations and masks from a sub-key, by the paper's names."""

    def cipher(self, parts: Parts) -> Cipher:
        """Return the cipher that these parts make."""

    def formula_bits(self) -> float:
        """Return log2 of the key space that the scheme's paper claims."""


SCHEMES: dict[str, Callable[[SchemeSpec], Algorithm]] = {
    "block_pixel_shuffle": BlockPixelShuffle,
    "block_pixel": BlockPixel,
    "value_shuffle": ValueShuffle,
    "le": Le,
    "pe": Pe,
    "etc": Etc,
    "sub_block_etc": SubBlockEtc,
    "ele": Ele,
    "orthogonal": Orthogonal,
    "noisy_orthogonal": NoisyOrthogonal,
    "block_projection": BlockProjection,
    "neuracrypt": NeuraCrypt,
    "patch_shuffle": PatchShuffle,
    "plain": Plain,
    "noise": Noise,
    "permuted": Permuted,
}

#: Bits of distinct keys below which nothing is sealed. Trying 2^80 keys is beyond reach today; 2^64 is not.
MIN_KEY_SPACE_BITS = 80


@dataclass(frozen=True)
class Scheme:
    """An encryption algorithm with its public parameters set. Make one with `load`."""

    spec: SchemeSpec
    algorithm: Algorithm

    @property
    def sealed_shape(self) -> tuple[int, int, int]:
        """Shape [h, w, c] of a sealed image."""
        shape: tuple[int, int, int] = getattr(self.algorithm, "sealed_shape", self.spec.image_shape)
        return shape

    @property
    def sealed_dtype(self) -> np.dtype[Any]:
        """Dtype of sealed images."""
        return np.dtype(getattr(self.algorithm, "sealed_dtype", np.uint8))

    @property
    def tolerance(self) -> float:
        """Largest error of decrypt(encrypt(x)) in gray levels; 0 where exact."""
        return float(getattr(self.algorithm, "tolerance", 0.0))

    @property
    def weakness(self) -> str | None:
        """What attacks found that are no part of an audit, in words; None if nothing is known."""
        weakness: str | None = getattr(self.algorithm, "weakness", None)
        return weakness

    @property
    def is_invertible(self) -> bool:
        """Whether the key opens ciphertexts. If not, they can only be sealed again from the plain images."""
        return is_invertible(self.spec.name)

    def require_invertible(self, hint: str) -> None:
        """Raise CipherwardError with this hint if no key opens the ciphertexts."""
        if not self.is_invertible:
            raise not_invertible(self.spec.name, hint)

    @property
    def sealing_tolerance(self) -> float:
        """Largest difference that rounding makes between two sealings of one image under one key; 0 where exact."""
        return float(getattr(self.algorithm, "sealing_tolerance", 0.0))

    @property
    def row_keys(self) -> bool:
        """Whether every image has a key of its own."""
        return _has_row_keys(self.spec)

    @property
    def is_each_alone(self) -> bool:
        """Whether every image is attacked and registered by itself: it has a key of its own, and is no control.

        Controls whose every image has a key are treated as one pool, as what they stand for is.
        """
        return self.spec.key_scope == "image" or (self.row_keys and not self.is_control)

    @property
    def draws_by_row(self) -> bool:
        """Whether anything is drawn for each row: its key, or noise beside a shared key."""
        return _has_nonce(self.spec)

    @property
    def noise_sigma(self) -> float:
        """Standard deviation in gray levels of the noise that knowing the matrix does not take off; 0 for none."""
        return float(getattr(self.algorithm, "noise_sigma", 0.0))

    @property
    def orbit(self) -> Orbit:
        """The moves that a recovered picture is right up to (docs/suite.md has the table)."""
        orbit: Orbit = getattr(self.algorithm, "orbit", Orbit(shifts=True))
        return orbit

    @property
    def kept(self) -> str | None:
        """What the scheme leaves of an image, in words; None if that is not known."""
        return kept_by(self.spec.name)

    @property
    def invariant_tolerance(self) -> float:
        """Largest difference that rounding makes between the invariants of an image and its ciphertext."""
        return float(getattr(self.algorithm, "invariant_tolerance", 0.0))

    @property
    def moves_blocks(self) -> bool:
        """Whether whole blocks change places."""
        return bool(getattr(self.algorithm, "moves_blocks", False))

    @property
    def unit_layout(self) -> UnitLayout | None:
        """Which units the key moves; None for a scheme that is no table of units, or does not declare it."""
        layout: UnitLayout | None = getattr(self.algorithm, "unit_layout", None)
        return layout

    def require_kept(self) -> None:
        """Raise CipherwardError if it is not known what the scheme leaves of an image."""
        if self.kept is None:
            raise CipherwardError(
                f"it is not known what {self.spec.name} leaves of an image",
                "declare kept and invariants in the scheme's class (crypto/schemes)",
            )

    def invariants(self, images: AnyArray) -> AnyArray:
        """Return the invariants [n, d] of plain or sealed images: equal for an image and its ciphertext.

        Raises:
            CipherwardError: If it is not known what the scheme leaves of an image.
        """
        self.require_kept()
        invariants: Callable[[AnyArray], AnyArray] = self.algorithm.invariants  # type: ignore[attr-defined] # optional
        return invariants(images)

    def parts(self, key: SecretKey, row: int = 0) -> dict[str, AnyArray]:
        """Draw the parts of a key; where every image has a key of its own, those of a row."""
        if not _has_row_noise(self.spec.name):
            return self.algorithm.parts(sub_key(self.spec, key, row))
        return {**self.algorithm.parts(self._matrix_key(key, row)), **self._row_parts(key, row)}

    def _matrix_key(self, key: SecretKey, row: int) -> SecretKey:
        """Return the key of what the rows of a scheme with noise share. The nonce is not in it."""
        if self.row_keys:
            return sub_key(self.spec, key, row)
        return key.derive("scheme", without_nonce(self.spec).canonical(), "")

    def _row_parts(self, key: SecretKey, row: int) -> dict[str, AnyArray]:
        """Draw what a row gets beside the shared key."""
        row_parts: Callable[[SecretKey], dict[str, AnyArray]] = self.algorithm.row_parts  # type: ignore[attr-defined] # optional
        return row_parts(sub_key(self.spec, key, row))

    @property
    def has_row_noise(self) -> bool:
        """Whether every row gets noise of its own beside a shared key."""
        return _has_row_noise(self.spec.name) and not self.row_keys

    def cipher(self, key: SecretKey) -> Cipher:
        """Return the scheme under a key, its tables built."""
        if self.has_row_noise:
            noisy_cipher: Callable[..., Cipher] = self.algorithm.noisy_cipher  # type: ignore[attr-defined] # optional
            shared = self.algorithm.parts(self._matrix_key(key, 0))
            part = getattr(self.algorithm, "row_part", "noise")
            return noisy_cipher(shared, lambda row: self._row_parts(key, row)[part])
        if self.row_keys:
            return RowCipher(lambda row: self.algorithm.cipher(self.parts(key, row)))
        return self.algorithm.cipher(self.parts(key))

    def picture(self, sealed: AnyArray) -> Images:
        """Return sealed images [n, *sealed_shape] as pictures uint8 [n, *image_shape], without any key.

        NaN, which only a hostile set holds, is mid-gray.
        """
        if hasattr(self.algorithm, "picture"):
            sealed = self.algorithm.picture(sealed)
        if sealed.dtype == np.uint8:
            return sealed
        values: AnyArray = np.nan_to_num(np.rint(sealed).clip(0, 255), copy=False, nan=128.0)
        return values.astype(np.uint8)

    def formula_bits(self) -> float:
        """Return log2 of the key space that the scheme's paper claims."""
        return self.algorithm.formula_bits()

    def distinct_bits(self) -> float:
        """Return log2 of the number of keys that differ in what they do to an image: at most the formula's."""
        distinct: Callable[[], float] = getattr(
            self.algorithm, "distinct_bits", self.algorithm.formula_bits
        )
        return distinct()

    def effective_bits(self) -> float:
        """Return min(distinct keys, 256): however large the formula's key space, the key has 32 bytes."""
        return min(self.distinct_bits(), 8.0 * KEY_BYTES)

    @property
    def is_control(self) -> bool:
        """Whether it is a control of audits (`plain`, `noise`, `permuted`), which hides nothing or needs no key."""
        return bool(getattr(self.algorithm, "is_control", False))

    def require_key_space(self) -> None:
        """Raise CipherwardError if all keys of these settings can be tried.

        Controls are left out. Their number bounds brute force only: a scheme above the floor may still be broken.
        """
        bits = self.distinct_bits()
        if self.is_control or bits >= MIN_KEY_SPACE_BITS:
            return
        size, block = "×".join(map(str, self.spec.image_shape)), self.spec.block
        options = "".join(
            f", {name} {value}" for name, value in self.spec.options.items() if name != "nonce"
        )
        raise CipherwardError(
            f"{self.spec.name} with blocks of {block} on images of {size}{options} has 2^{bits:.1f} keys: "
            f"all of them can be tried (at least 2^{MIN_KEY_SPACE_BITS} are needed)",
            "choose another block or image size, other options, or another scheme",
        )


def kept_by(name: str) -> str | None:
    """Return what a scheme leaves of an image, in words; None if that is not known."""
    kept: str | None = getattr(SCHEMES.get(name), "kept", None)
    return kept


def is_invertible(name: str) -> bool:
    """Return whether the key of a scheme opens its ciphertexts."""
    return bool(getattr(SCHEMES.get(name), "is_invertible", True))


def comparison_options(name: str) -> dict[str, Any]:
    """Return the options of fresh keys that a sealed set is compared with; those left out take their defaults."""
    return dict(getattr(SCHEMES.get(name), "comparison_options", {}))


def carries_stem(name: str) -> bool:
    """Return whether a Vision Transformer's stem can be carried into the coordinates of a scheme's keys."""
    return bool(getattr(SCHEMES.get(name), "carries_stem", False))


def stem_carriers() -> list[str]:
    """Return the names of the schemes that a stem can be carried for, in alphabetical order."""
    return sorted(name for name in SCHEMES if carries_stem(name))


def always_has_row_keys(name: str) -> bool:
    """Return whether a scheme has a key for every image whatever the key scope."""
    return bool(getattr(SCHEMES.get(name), "row_keys", False))


def sub_key(spec: SchemeSpec, key: SecretKey, row: int = 0) -> SecretKey:
    """Derive the key that a scheme's parts are drawn from: HKDF over every field of the spec, and the row.

    The context is three strings: `scheme`, the spec's canonical JSON (`SchemeSpec.canonical`: name, version, image
    shape, block, key scope and all options, the nonce among them where there is one) and the row in decimal. The row
    is empty where one key serves all images and no noise is drawn for each. So sealings that differ in any field
    share no part of a key, except that the matrix under a scheme's noise leaves the nonce out: what one
    of them gives away opens no other.

    The party is not in it: party keys are generated independently, and a key derived from a shared one would be
    no party key.
    """
    return key.derive("scheme", spec.canonical(), str(row) if _has_nonce(spec) else "")


def without_nonce(spec: SchemeSpec) -> SchemeSpec:
    """Return a spec without its nonce, if it has one."""
    return replace(spec, options={k: v for k, v in spec.options.items() if k != "nonce"})


def _has_row_noise(name: str) -> bool:
    return bool(getattr(SCHEMES.get(name), "row_noise", False))


def _has_nonce(spec: SchemeSpec) -> bool:
    return _has_row_keys(spec) or _has_row_noise(spec.name)


def _has_row_keys(spec: SchemeSpec) -> bool:
    return spec.key_scope == "image" or always_has_row_keys(spec.name)


def describe(
    name: str,
    image_shape: tuple[int, int, int],
    block: int,
    key_scope: str = "consortium",
    options: Mapping[str, Any] | None = None,
) -> SchemeSpec:
    """Return the spec of a new sealing under a known scheme, with a fresh nonce where the scheme needs one.

    Args:
        name: A name in SCHEMES.
        image_shape: (height, width, channels) of the plain images.
        block: Side of a block in pixels.
        key_scope: `consortium`, `party` or `image`.
        options: The scheme's options; those left out take their defaults.

    Raises:
        CipherwardError: For an unknown scheme, scope or option, and for settings that do not go together.
    """
    algorithm_class = _class_of(name)
    settings = dict(options or {})
    allowed = _allowed_options(algorithm_class)
    for option in settings:
        if option not in allowed:
            raise unknown(f"option of {name}", option, sorted(allowed))
    complete = {option: settings.get(option, values[0]) for option, values in allowed.items()}
    version = _version(algorithm_class)
    return load(renewed(SchemeSpec(name, version, image_shape, block, key_scope, complete))).spec


def renewed(spec: SchemeSpec) -> SchemeSpec:
    """Return the spec of another sealing under the same settings: with a fresh nonce where there is one."""
    nonce = {"nonce": secrets.token_hex(16)} if _has_nonce(spec) else {}
    return replace(spec, options={**without_nonce(spec).options, **nonce})


def load(spec: SchemeSpec) -> Scheme:
    """Return the scheme that a spec names.

    Raises:
        CipherwardError: For an unknown name, another version, and options that are missing, unknown or wrong.
    """
    algorithm_class = _class_of(spec.name)
    version = _version(algorithm_class)
    if version != spec.version:
        raise CipherwardError(
            f"{spec.name} version {spec.version} was asked for; this program has {version}",
            "open the set with the program version that sealed it, or seal it again",
        )
    options = dict(spec.options)
    nonce = options.pop("nonce", None)
    if _has_nonce(spec) and not re.fullmatch(r"[0-9a-f]{32}", str(nonce)):
        what = "a key" if _has_row_keys(spec) else "noise"
        raise CipherwardError(
            f"{spec.name} with {what} for every image needs a nonce, or two sealings would share their masks",
            "describe the scheme anew: crypto.scheme.renewed draws one for each sealing",
        )
    allowed = _allowed_options(algorithm_class)
    if options.keys() != allowed.keys():
        odd = sorted(options.keys() ^ allowed.keys())
        raise CipherwardError(
            f"{spec.name} has the options {sorted(allowed)}; {odd} do not fit",
            "give each of its options once, and no other",
        )
    for option, value in options.items():
        _require_allowed(spec.name, option, value, allowed[option])
    return Scheme(spec, algorithm_class(spec))


def _require_allowed(name: str, option: str, value: object, values: Sequence[Any]) -> None:
    # The type counts: True, 1 and 1.0 are equal, but make different manifests.
    if type(value) is not type(values[0]) or value not in values:
        known = f"{values[0]} to {values[-1]}" if isinstance(values, range) else ", ".join(map(str, values))
        raise CipherwardError(f"{name}: {option} cannot be {value!r}", f"allowed: {known}")


def _class_of(name: str) -> Callable[[SchemeSpec], Algorithm]:
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return SCHEMES[name]


def _version(algorithm_class: Callable[[SchemeSpec], Algorithm]) -> int:
    return int(getattr(algorithm_class, "version", 0))


def _allowed_options(algorithm_class: Callable[[SchemeSpec], Algorithm]) -> Mapping[str, Sequence[Any]]:
    allowed: Mapping[str, Sequence[Any]] = getattr(algorithm_class, "options", {})
    return allowed
