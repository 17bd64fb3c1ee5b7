"""Ciphers: a scheme under one key.

One table for all images, one matrix for all blocks, noise for every row, or a key for every row.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np

from crypto.arrays import AnyArray, ArrayOrTensor, Float32Array, require_images
from crypto.cores import cores
from crypto.kernels.blocks import from_blocks, to_blocks
from crypto.kernels.table import Table

if TYPE_CHECKING:
    import torch

#: Images that are encrypted with a matrix at a time: float32 blocks of a few images are in memory, not of all.
_MATRIX_CHUNK = 16
_MID_GRAY = 127.5


class Cipher(Protocol):
    """A scheme under one key, its tables built.

    It takes and returns NumPy arrays or torch tensors; a tensor stays on its device.
    """

    def encrypt(self, images: ArrayOrTensor, first: int = 0, out: AnyArray | None = None) -> ArrayOrTensor:
        """Encrypt images.

        Args:
            images: uint8 [n, *image_shape].
            first: Row of the first image in its set. It matters where every row has a key of its own.
            out: Array for the result of NumPy images: contiguous, of the result's shape and dtype.

        Returns:
            The sealed images [n, *sealed_shape].
        """

    def decrypt(self, images: ArrayOrTensor, first: int = 0) -> ArrayOrTensor:
        """Decrypt sealed images [n, *sealed_shape] to uint8 [n, *image_shape]."""


class Conversion(Protocol):
    """A function from images to images, for arrays and tensors alike."""

    def __call__(self, images: ArrayOrTensor, /) -> ArrayOrTensor:
        """Return the converted images."""


class NeverPickled:
    """A cipher: its tables are its key. Pickling and copying raise TypeError."""

    def _refuse(self, *_: object) -> NoReturn:
        raise TypeError(
            "a cipher is neither pickled nor copied: pass the key file's path and the spec instead"
        )

    __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = _refuse


class TableCipher(NeverPickled):
    """A cipher that applies one table to every image."""

    def __init__(
        self,
        table: Table,
        before: Conversion | None = None,
        after: Conversion | None = None,
    ) -> None:
        """Build the tables of both directions.

        Args:
            table: The table.
            before: Turns plain images into those that the table takes, where the sealed shape is not the plain one.
            after: The inverse of `before`.
        """
        # Numba takes a quarter of a second to load, and most commands encrypt nothing.
        from crypto.kernels.executors import prepare

        self._tables = table, table.inverse()
        self._prepared = prepare(self._tables[0]), prepare(self._tables[1])
        self._before, self._after = before, after

    def encrypt(
        self,
        images: ArrayOrTensor,
        first: int = 0,  # noqa: ARG002 - one key serves all rows
        out: AnyArray | None = None,
    ) -> ArrayOrTensor:
        """Encrypt uint8 [n, *image_shape] to uint8 [n, *sealed_shape], whatever the row."""
        return self._apply(0, self._before(images) if self._before else images, out)

    def decrypt(
        self,
        images: ArrayOrTensor,
        first: int = 0,  # noqa: ARG002 - one key serves all rows
    ) -> ArrayOrTensor:
        """Decrypt uint8 [n, *sealed_shape] to uint8 [n, *image_shape]."""
        plain = self._apply(1, images)
        return self._after(plain) if self._after else plain

    def _apply(self, direction: int, images: ArrayOrTensor, out: AnyArray | None = None) -> ArrayOrTensor:
        """Apply the table (0) or its inverse (1)."""
        from crypto.kernels.executors import apply_torch, run

        if isinstance(images, np.ndarray):
            return run(self._tables[direction], self._prepared[direction], images, out)
        return apply_torch(self._tables[direction], images)


class MatrixCipher(NeverPickled):
    """A cipher that multiplies every flattened block of images [h, w, c], centred at mid-gray, by one matrix.

    Sealed images are float32 in units of gray levels.
    """

    def __init__(self, shape: tuple[int, int, int], block: int, matrix: Float32Array) -> None:
        """Take the image shape, the block side M in pixels and an orthogonal matrix float32 [M²c, M²c]."""
        self._shape, self._block, self._matrix = shape, block, matrix

    def encrypt(
        self,
        images: ArrayOrTensor,
        first: int = 0,  # noqa: ARG002 - one key serves all rows
        out: AnyArray | None = None,
    ) -> ArrayOrTensor:
        """Encrypt uint8 [n, h, w, c] to float32 [n, h, w, c]."""
        require_images(images, self._shape, "uint8")
        if isinstance(images, np.ndarray):
            return _multiplied(images, self._block, self._matrix, out)
        return _multiplied_torch(images, self._block, self._matrix)

    def decrypt(
        self,
        images: ArrayOrTensor,
        first: int = 0,  # noqa: ARG002 - one key serves all rows
    ) -> ArrayOrTensor:
        """Decrypt float32 [n, h, w, c] to uint8 [n, h, w, c], rounded to whole levels."""
        require_images(images, self._shape, "float32")
        if isinstance(images, np.ndarray):
            return np.rint(_multiplied(images, self._block, self._matrix.T)).clip(0, 255).astype(np.uint8)
        return _multiplied_torch(images, self._block, self._matrix.T).round().clamp(0, 255).byte()


def _multiplied(
    images: AnyArray, block: int, matrix: Float32Array, out: AnyArray | None = None
) -> Float32Array:
    """Return images [n, h, w, c] with every centred block multiplied by a matrix [M²c, M²c]: float32."""
    n, height, width, _ = images.shape
    result = np.empty(images.shape, np.float32) if out is None else out
    for i in range(0, n, _MATRIX_CHUNK):
        chunk = slice(i, i + _MATRIX_CHUNK)
        blocks = to_blocks(images[chunk], block).astype(np.float32) - np.float32(_MID_GRAY)
        flat = blocks.reshape(-1, matrix.shape[0]) @ matrix + np.float32(_MID_GRAY)
        result[chunk] = from_blocks(flat.reshape(blocks.shape), height, width)
    return result


def _multiplied_torch(images: torch.Tensor, block: int, matrix: Float32Array) -> torch.Tensor:
    """Return what `_multiplied` does, on the images' device."""
    import torch

    n, height, width, channels = images.shape
    split = (n, height // block, block, width // block, block, channels)
    blocks = images.float().sub(_MID_GRAY).reshape(split).transpose(2, 3).reshape(-1, matrix.shape[0])
    product = blocks @ torch.tensor(matrix, device=images.device) + _MID_GRAY
    parts = product.reshape(n, split[1], split[3], block, block, channels).transpose(2, 3)
    return parts.reshape(images.shape)


class RowNoiseCipher(NeverPickled):
    """A cipher that seals to float32 and adds noise of its own to every row. The key takes it off again."""

    def __init__(self, cipher: Cipher, noise_of_row: Callable[[int], Float32Array]) -> None:
        """Take the cipher without noise, and the function that draws a row's noise, float32 [*sealed_shape]."""
        self._cipher, self._noise_of_row = cipher, noise_of_row

    def encrypt(self, images: ArrayOrTensor, first: int = 0, out: AnyArray | None = None) -> ArrayOrTensor:
        """Encrypt uint8 [n, *image_shape] to float32 [n, *sealed_shape]; image i gets the noise of row first + i."""
        sealed = self._cipher.encrypt(images, first, out)
        for i in range(len(images)):
            sealed[i] += self._noise_like(sealed, first + i)
        return sealed

    def decrypt(self, images: ArrayOrTensor, first: int = 0) -> ArrayOrTensor:
        """Decrypt float32 [n, *sealed_shape] to uint8 [n, *image_shape], for the same rows."""
        clean = images.copy() if isinstance(images, np.ndarray) else images.clone()
        for i in range(len(images)):
            clean[i] -= self._noise_like(clean, first + i)
        return self._cipher.decrypt(clean, first)

    def _noise_like(self, images: ArrayOrTensor, row: int) -> ArrayOrTensor:
        """Return a row's noise as an array, or as a tensor on the images' device."""
        noise = self._noise_of_row(row)
        if isinstance(images, np.ndarray):
            return noise
        import torch

        return torch.as_tensor(noise, device=images.device)


class RowCipher(NeverPickled):
    """A cipher with a key of its own for every row."""

    def __init__(self, cipher_of_row: Callable[[int], Cipher]) -> None:
        """Take the function that builds the cipher of a row."""
        self._cipher_of_row = cipher_of_row

    def encrypt(self, images: ArrayOrTensor, first: int = 0, out: AnyArray | None = None) -> ArrayOrTensor:
        """Encrypt uint8 [n, *image_shape] to [n, *sealed_shape]; image i is sealed as row first + i."""
        if not len(images):
            return self._cipher_of_row(first).encrypt(images)
        sealed = _each(images, lambda i, image: self._cipher_of_row(first + i).encrypt(image))
        if out is None or not isinstance(sealed, np.ndarray):
            return sealed
        np.copyto(out, sealed, casting="no")
        return out

    def decrypt(self, images: ArrayOrTensor, first: int = 0) -> ArrayOrTensor:
        """Decrypt [n, *sealed_shape] to uint8 [n, *image_shape], for the same rows."""
        if not len(images):
            return self._cipher_of_row(first).decrypt(images)
        return _each(images, lambda i, image: self._cipher_of_row(first + i).decrypt(image))


def _each(images: ArrayOrTensor, apply: Callable[[int, ArrayOrTensor], ArrayOrTensor]) -> ArrayOrTensor:
    """Return apply(i, images[i : i + 1]) of every image, put together; images go to all cores."""
    if len(images) == 1:
        return apply(0, images)
    with ThreadPoolExecutor(cores()) as threads:
        parts = list(threads.map(lambda i: apply(i, images[i : i + 1]), range(len(images))))
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)
