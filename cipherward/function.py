"""The function under audit: every call of it is checked, so that a fault of it is named and not measured.

`encrypt(images, key)` takes plain images uint8 and a key of random bytes, and returns their ciphertexts: one image
each, of the same shape, as bytes or float32. It must give the same ciphertexts for the same images and key. A set is
encrypted in one call, so that a scheme may number its images.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError
from crypto.plural import agreeing, counted
from crypto.scheme import MIN_KEY_SPACE_BITS

#: `encrypt(images, key)` and `decrypt(ciphertexts, key)`.
Function = Callable[[Any, bytes], Any]
#: Images on which keys are compared. Chosen by hand: few, because every key encrypts them once more.
_COMPARED = 16
#: How a byte of the key is changed to see whether it does anything. One change may leave a rank as it was.
_MASKS = (0xA5, 0x5A, 0xFF)
#: Bytes of a key of more than these are looked at with one image first. Chosen by hand.
_LONG_KEY = 64
#: How an image is changed to see whether the ciphertext at its place is its own: the negative, a dark image, noise.
_CHANGES: tuple[Callable[[Images], Images], ...] = (
    lambda image: 255 - image,
    lambda image: image // 4,
    lambda image: np.random.default_rng(0).integers(0, 256, image.shape, np.uint8),
)


@dataclass(frozen=True)
class Examined:
    """What a look at a scheme shows without an attack.

    Attributes:
        defects: What its keys do wrong whatever an attack finds, one sentence each.
        weakness: A sentence on bytes of the key that do nothing; empty if all do something.
        used_key_bytes: How many bytes of a key do something.
    """

    defects: tuple[str, ...]
    weakness: str
    used_key_bytes: int


@dataclass(frozen=True)
class FunctionUnderAudit:
    """A scheme as a Python function.

    Attributes:
        encrypt: The function.
        decrypt: Its inverse, if the caller gave one.
        key_bytes: Bytes of a key.
        is_flat: Whether the function takes images [n, h, w] without an axis of channels.
    """

    encrypt: Function
    decrypt: Function | None
    key_bytes: int
    is_flat: bool

    @property
    def name(self) -> str:
        """The function's name, for messages and the report."""
        return str(getattr(self.encrypt, "__name__", type(self.encrypt).__name__)).strip("<>")

    def new_key(self) -> bytes:
        """Return a fresh key from the operating system's generator."""
        return secrets.token_bytes(self.key_bytes)

    def sealed(self, images: Images, key: bytes) -> AnyArray:
        """Encrypt images uint8 [n, h, w, c]; return the ciphertexts [n, h, w, c], read-only.

        Raises:
            CipherwardError: If the function raises, changes its input, or returns something else than ciphertexts of
                the same shape.
        """
        given = self._given(images)
        result = _called(self.encrypt, "encrypt", given, key)
        if not np.array_equal(given, self._given(images)):
            raise CipherwardError(
                "encrypt changes the images that it is given",
                "let it work on a copy: images = images.copy()",
            )
        _require_ciphertexts(result, given)
        require_no_bytes_as_reals(result, "encrypt")
        # A copy: the function may keep its own. In the order of C: what an attack reads is no matter of strides.
        sealed: AnyArray = np.array(result, order="C").reshape(images.shape)
        sealed.setflags(write=False)
        return sealed

    def require_deterministic(self, images: Images, key: bytes, sealed: AnyArray) -> None:
        """Raise CipherwardError if the function encrypts the same images otherwise under the same key."""
        if not np.array_equal(self.sealed(images, key), sealed):
            raise CipherwardError(
                "encrypt is not deterministic: the same images and key gave other ciphertexts",
                "derive all randomness from the key, and a nonce of an image from its number or its content",
            )

    def opened(self, sealed: AnyArray, key: bytes) -> Images | None:
        """Return ciphertexts opened by `decrypt`, uint8 [n, h, w, c]; None without one.

        Raises:
            CipherwardError: If it raises, or returns something else than images of the same shape.
        """
        if self.decrypt is None:
            return None
        given = self._given(sealed)
        result = _called(self.decrypt, "decrypt", given, key)
        if not isinstance(result, np.ndarray) or result.dtype != np.uint8 or result.shape != given.shape:
            raise CipherwardError(
                f"decrypt returned {_described(result)}, not images of uint8 {list(given.shape)}",
                "it takes what encrypt returned, and returns the plain images",
            )
        return np.array(result, order="C").reshape(sealed.shape)

    def _is_opened_by(self, other_key: bytes, sealed: AnyArray, plain: Images) -> bool:
        """Return whether a key that did not encrypt the ciphertexts opens them. It may raise: that is no fault."""
        try:
            opened = self.opened(sealed, other_key)
        except CipherwardError:
            return False
        return opened is not None and np.array_equal(opened, plain)

    def _require_own_rows(self, some: Images, key: bytes, sealed: AnyArray) -> None:
        """Raise CipherwardError if an image changes and the ciphertext at its place does not."""
        for row in sorted({0, len(some) // 2, len(some) - 1}):
            # A scheme may give an image and its negative one ciphertext. It gives other images others.
            if not any(self._changes(change, row, some, key, sealed) for change in _CHANGES):
                raise CipherwardError(
                    f"encrypt returns something else than the ciphertext of image {row} at place {row}: it stays the "
                    "same when the image becomes its negative, dark or noise",
                    "return one ciphertext for each image, in the order of the images",
                )

    def _changes(
        self, change: Callable[[Images], Images], row: int, some: Images, key: bytes, sealed: AnyArray
    ) -> bool:
        """Return whether the ciphertext at the place of a changed image is another."""
        changed = some.copy()
        changed[row] = change(some[row])
        return not np.array_equal(self.sealed(changed, key)[row], sealed[row])

    def _unused_key_bytes(self, some: Images, key: bytes, sealed: AnyArray) -> int:
        """Return how many bytes of a key change no ciphertext of these images, each changed alone.

        A key may have as many bytes as a picture. Of a long one, one image shows that most bytes do something. All
        images are encrypted for the others alone.
        """
        is_long = len(key) > _LONG_KEY
        one = self.sealed(some[:1], key) if is_long else sealed

        def does_nothing(place: int) -> bool:
            others = [key[:place] + bytes([key[place] ^ mask]) + key[place + 1 :] for mask in _MASKS]
            if is_long and not all(np.array_equal(self.sealed(some[:1], other), one) for other in others):
                return False
            return all(np.array_equal(self.sealed(some, other), sealed) for other in others)

        return sum(does_nothing(place) for place in range(len(key)))

    def _given(self, images: AnyArray) -> AnyArray:
        """Return a copy of images in the form that the caller's own have."""
        return (images[..., 0] if self.is_flat else images).copy()

    def examine(self, images: Images, keys: Sequence[bytes]) -> Examined:
        """Return what is wrong with the scheme whatever an attack finds.

        Args:
            images: Plain images, uint8 [n, h, w, c]; a few of them with texture are used.
            keys: Fresh keys, at least two.

        Raises:
            CipherwardError: If ciphertexts do not stand at their images' places.
        """
        some = images[images.reshape(len(images), -1).std(1) > 0][:_COMPARED]
        if not len(some):
            return Examined((), "", self.key_bytes)
        sealed = [self.sealed(some, key) for key in keys]
        self._require_own_rows(some, keys[0], sealed[0])
        result = key_defects(sealed)
        # Bytes of a key do nothing where nothing is encrypted. That is said by whoever compares all ciphertexts.
        is_plain = bool(plain_defects(some, sealed[0]))
        weakness, unused = "", 0 if result or is_plain else self._unused_key_bytes(some, keys[0], sealed[0])
        if unused:
            weakness = (
                f"{unused} of the {self.key_bytes} bytes of a key {agreeing(unused, 'does', 'do')} nothing: "
                "changed alone, each gives the same "
                f"ciphertexts of {counted(len(some), 'image')}"
            )
        if unused and 8 * (self.key_bytes - unused) < MIN_KEY_SPACE_BITS:
            result.append(weakness)
        if not any("key" in d for d in result) and self._is_opened_by(keys[1], sealed[0], some):
            result.append(
                "decrypt opens ciphertexts under any key: a fresh key that did not encrypt them opened them"
            )
        bits = 8 * self.key_bytes
        if bits < MIN_KEY_SPACE_BITS and not is_plain and not any("key" in d for d in result):
            result.append(
                f"a key has {bits} bits, so all keys can be tried (at least {MIN_KEY_SPACE_BITS} are needed)"
            )
        return Examined(tuple(result), weakness, self.key_bytes - unused)


def require_opened(opened: Images, plain: Images, tolerance: float, where: str) -> None:
    """Raise CipherwardError unless decryption gave the plain images back.

    The control "true key" asks the same of the scored rows, but hours later, and then there is no verdict.

    Args:
        opened: What `decrypt` returned, uint8 [n, h, w, c].
        plain: The images, of that shape.
        tolerance: The largest error, in gray levels.
        where: The draw, for the message.
    """
    error = np.abs(opened.astype(np.int16) - plain).reshape(len(plain), -1).max(1)
    lost = int((error > tolerance).sum())
    if lost:
        raise CipherwardError(
            f"decrypt does not open {lost} of {counted(len(plain), 'ciphertext')} in {where}: pixels differ from the "
            f"plain image by up to {counted(int(error.max()), 'gray level')}",
            "mend it; or leave decrypt out, if what the scheme loses is meant",
        )


def plain_defects(plain: Images, sealed: AnyArray) -> list[str]:
    """Return a sentence if ciphertexts are the plain images themselves."""
    same = sum(np.array_equal(a, b) for a, b in zip(plain, sealed, strict=True))
    return (
        [
            f"{same} of {counted(len(plain), 'ciphertext')} "
            f"{agreeing(same, 'is the plain image', 'are the plain images')}, unchanged"
        ]
        if same
        else []
    )


def key_defects(sealed: Sequence[AnyArray]) -> list[str]:
    """Return a sentence if the same images have the same ciphertexts under several fresh keys.

    Args:
        sealed: The ciphertexts of the same images, none of them flat, under each key. Without images, nothing shows.
    """
    contents = [np.ascontiguousarray(ciphertexts).tobytes() for ciphertexts in sealed]
    if len(contents) < 2 or not contents[0] or len(set(contents)) == len(contents):
        return []
    if len(set(contents)) == 1:
        return [f"the key is ignored: {len(contents)} fresh keys give the same ciphertexts"]
    return [
        f"few keys differ in what they do: of {len(contents)} fresh ones, two give the same ciphertexts"
    ]


def _called(function: Function, name: str, images: AnyArray, key: bytes) -> Any:
    """Return what a function of the caller's returns; raise CipherwardError with its own error if it fails."""
    try:
        return function(images, key)
    except Exception as error:
        text = " ".join(str(error).split())
        raise CipherwardError(
            f"{name} raised {type(error).__name__}: {text:.200}",
            f"it is called as {name}(images, key): uint8 {list(images.shape)} and {len(key)} bytes",
        ) from error


def _require_ciphertexts(result: object, given: AnyArray) -> None:
    """Raise CipherwardError unless a result is one ciphertext for each image, of its shape."""
    expected = f"uint8 or float32 {list(given.shape)}"
    if not isinstance(result, np.ndarray):
        raise CipherwardError(
            f"encrypt returned {_described(result)}, not a NumPy array",
            f"return {expected}, one ciphertext an image",
        )
    if result.shape != given.shape:
        raise CipherwardError(
            f"encrypt returned {_described(result)} for images of {list(given.shape)}",
            "the suite audits ciphertexts of the plain shape; reshape or pad them, or audit that form of the scheme",
        )
    if result.dtype not in (np.uint8, np.float32):
        raise CipherwardError(
            f"encrypt returned {_described(result)}: the suite audits bytes and float32",
            f"return {expected}: round to bytes, or cast with .astype(np.float32) if the values are real",
        )
    if not np.isfinite(result).all():
        count = int((~np.isfinite(result)).sum())
        raise CipherwardError(
            f"encrypt returned {counted(count, 'value that is', 'values that are')} NaN or infinite",
            "ciphertexts are finite numbers",
        )


def require_no_bytes_as_reals(sealed: AnyArray, where: str) -> None:
    """Raise CipherwardError if float32 ciphertexts are bytes: attacks on bytes would not be tried on them."""
    if sealed.dtype != np.float32 or not sealed.size:
        return
    if ((sealed >= 0) & (sealed <= 255) & (sealed == np.round(sealed))).all():
        raise CipherwardError(
            f"{where}: the float32 values are whole numbers from 0 to 255, so they are bytes",
            "hand them over as bytes, .astype(numpy.uint8): most attacks are on bytes",
        )


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
