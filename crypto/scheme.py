"""The schemes, by name. Adding one: a file in crypto/schemes, a line in SCHEMES, a vector file.

A scheme file says what its key consists of (`parts`) and how those make a cipher. Which key that is, the
hospital's, or one for every image, is decided here for all schemes alike.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from crypto.cipher import Cipher, RowCipher
from crypto.errors import CipherwardError, unknown
from crypto.key import KEY_BYTES, SecretKey
from crypto.schemes.block_pixel import BlockPixel
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle
from crypto.schemes.ele import Ele
from crypto.schemes.etc import Etc
from crypto.schemes.le import Le
from crypto.schemes.noise import Noise
from crypto.schemes.orthogonal import Orthogonal
from crypto.schemes.pe import Pe
from crypto.schemes.permuted import Permuted
from crypto.schemes.plain import Plain
from crypto.schemes.value_shuffle import ValueShuffle
from crypto.spec import SchemeSpec


class Algorithm(Protocol):
    """What a scheme file holds. Besides these, it may declare:

    options: name → allowed values, the first being the default; tolerance: largest error of the round trip in
    gray levels (0 where exact); sealed_shape and sealed_dtype where they are not the plain ones, and
    picture(sealed) where another shape has to be brought back; row_keys: True where every row has a key of its
    own whatever the scope.
    """

    version: int
    source: str

    def parts(self, sub: SecretKey) -> dict[str, np.ndarray]:
        """The key's permutations and masks, by the paper's names, drawn from a sub-key."""

    def cipher(self, parts: Mapping[str, np.ndarray]) -> Cipher:
        """The cipher that these parts make."""

    def formula_bits(self) -> float:
        """log2 of the key space that the scheme's paper claims."""


SCHEMES: dict[str, Callable[[SchemeSpec], Algorithm]] = {
    "block_pixel_shuffle": BlockPixelShuffle,
    "block_pixel": BlockPixel,
    "value_shuffle": ValueShuffle,
    "le": Le,
    "pe": Pe,
    "etc": Etc,
    "ele": Ele,
    "orthogonal": Orthogonal,
    "plain": Plain,
    "noise": Noise,
    "permuted": Permuted,
}


@dataclass(frozen=True)
class Scheme:
    """An encryption algorithm with its public parameters set."""

    spec: SchemeSpec
    algorithm: Algorithm

    @property
    def sealed_shape(self) -> tuple[int, int, int]:
        return getattr(self.algorithm, "sealed_shape", self.spec.image_shape)

    @property
    def sealed_dtype(self) -> np.dtype:
        return np.dtype(getattr(self.algorithm, "sealed_dtype", np.uint8))

    @property
    def tolerance(self) -> float:
        """Largest error of decrypt(encrypt(x)) in gray levels; 0 where exact."""
        return float(getattr(self.algorithm, "tolerance", 0.0))

    @property
    def row_keys(self) -> bool:
        """Whether every image has a key of its own."""
        return _row_keys(self.spec)

    def parts(self, key: SecretKey, row: int = 0) -> dict[str, np.ndarray]:
        """The parts of a key; where every image has a key of its own, those of a row."""
        return self.algorithm.parts(sub_key(self.spec, key, row))

    def cipher(self, key: SecretKey) -> Cipher:
        """The scheme under a key, its tables built."""
        if self.row_keys:
            return RowCipher(lambda row: self.algorithm.cipher(self.parts(key, row)))
        return self.algorithm.cipher(self.parts(key))

    def picture(self, sealed: np.ndarray) -> np.ndarray:
        """[n, *sealed_shape] → uint8 [n, *image_shape]: ciphertext as pictures of the plain shape, keyless."""
        if hasattr(self.algorithm, "picture"):
            sealed = self.algorithm.picture(sealed)
        return sealed if sealed.dtype == np.uint8 else np.rint(sealed).clip(0, 255).astype(np.uint8)

    def formula_bits(self) -> float:
        """log2 of the key space that the scheme's paper claims."""
        return self.algorithm.formula_bits()

    def effective_bits(self) -> float:
        """min(formula, 256): however large the formula's key space, the key has 32 bytes."""
        return min(self.formula_bits(), 8.0 * KEY_BYTES)


def sub_key(spec: SchemeSpec, key: SecretKey, row: int = 0) -> SecretKey:
    """The key that a scheme's parts are drawn from: HKDF over scheme, version, scope, nonce and row.

    The party is not in it: party keys are generated independently, and a key derived from a shared one would be
    no party key. Nonce and row are empty where one key serves all images.
    """
    nonce, place = (str(spec.options["nonce"]), str(row)) if _row_keys(spec) else ("", "")
    return key.derive(spec.name, str(spec.version), spec.key_scope, nonce, place)


def _row_keys(spec: SchemeSpec) -> bool:
    return spec.key_scope == "image" or bool(getattr(SCHEMES[spec.name], "row_keys", False))


def describe(
    name: str,
    image_shape: tuple[int, int, int],
    block: int,
    key_scope: str = "consortium",
    options: Mapping[str, Any] | None = None,
) -> SchemeSpec:
    """The spec of a new sealing under a known scheme, options filled in, with a fresh nonce where it wants one.

    Raises CipherwardError for an unknown scheme, scope or option, and for settings that do not go together.
    """
    kind = _known(name)
    given = dict(options or {})
    allowed: Mapping[str, Sequence[Any]] = getattr(kind, "options", {})
    for option in given:
        if option not in allowed:
            raise unknown(f"option of {name}", option, sorted(allowed))
    chosen = {option: given.get(option, values[0]) for option, values in allowed.items()}
    version = int(getattr(kind, "version", 0))
    return load(renewed(SchemeSpec(name, version, image_shape, block, key_scope, chosen))).spec


def renewed(spec: SchemeSpec) -> SchemeSpec:
    """The spec of another sealing under the same settings: with a fresh nonce where there is one."""
    options = {k: v for k, v in spec.options.items() if k != "nonce"}
    if _row_keys(spec):
        options["nonce"] = secrets.token_hex(16)
    return replace(spec, options=options)


def load(spec: SchemeSpec) -> Scheme:
    """The scheme that a spec names.

    Raises CipherwardError for an unknown name, another version, and options that are missing, unknown or wrong.
    """
    kind = _known(spec.name)
    version = int(getattr(kind, "version", 0))
    if version != spec.version:
        raise CipherwardError(
            f"{spec.name} version {spec.version} was asked for; this program has {version}",
            "open the set with the program version that sealed it, or seal it again",
        )
    options = dict(spec.options)
    nonce = options.pop("nonce", None)
    if _row_keys(spec) and not re.fullmatch(r"[0-9a-f]{32}", str(nonce)):
        raise CipherwardError(
            f"{spec.name} with a key for every image needs a nonce, or two sealings would share their masks"
        )
    allowed: Mapping[str, Sequence[Any]] = getattr(kind, "options", {})
    if options.keys() != allowed.keys():
        odd = sorted(options.keys() ^ allowed.keys())
        raise CipherwardError(f"{spec.name} has the options {sorted(allowed)}; {odd} do not fit")
    for option, value in options.items():
        _must_be_allowed(spec.name, option, value, allowed[option])
    return Scheme(spec, kind(spec))


def _must_be_allowed(name: str, option: str, value: Any, values: Sequence[Any]) -> None:
    # The type counts: True, 1 and 1.0 are equal, but make different manifests.
    if type(value) is not type(values[0]) or value not in values:
        known = f"{values[0]} to {values[-1]}" if isinstance(values, range) else ", ".join(map(str, values))
        raise CipherwardError(f"{name}: {option} cannot be {value!r}", f"allowed: {known}")


def _known(name: str) -> Callable[[SchemeSpec], Algorithm]:
    if name not in SCHEMES:
        raise unknown("scheme", name, SCHEMES)
    return SCHEMES[name]
