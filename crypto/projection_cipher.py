"""A cipher that multiplies the rows of every block by a matrix of the block's place, and moves the blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crypto.arrays import AnyArray, ArrayOrTensor, Float32Array, Float64Array, Int64Array, require_images
from crypto.cipher import NeverPickled
from crypto.kernels.blocks import from_blocks, to_blocks

if TYPE_CHECKING:
    import torch

#: Images that are encrypted at a time: float64 blocks of a few images are in memory, not of all.
_CHUNK = 16


class ProjectionCipher(NeverPickled):
    """A cipher for images [h, w, c]: every row of a block, M·c values, is multiplied by the matrix of its place.

    Then the blocks change places. Sealed images are float32. Products are taken in float64, so that a matrix with
    small singular values can still be undone.
    """

    def __init__(
        self, shape: tuple[int, int, int], block: int, matrices: Float64Array, order: Int64Array
    ) -> None:
        """Take the parts of the key.

        Args:
            shape: Of an image, (h, w, c).
            block: Side M of a block in pixels.
            matrices: float64 [N, M·c, M·c], one for each place of the plain image, or [1, M·c, M·c], one for all.
            order: int64 [N]: block i of the result is block order[i] of the image.
        """
        self._shape, self._block, self._order = shape, block, order
        self._matrices, self._inverses = matrices, np.linalg.inv(matrices)

    def encrypt(
        self,
        images: ArrayOrTensor,
        first: int = 0,  # noqa: ARG002 - one key serves all rows
        out: AnyArray | None = None,
    ) -> ArrayOrTensor:
        """Encrypt uint8 [n, h, w, c] to float32 [n, h, w, c]."""
        require_images(images, self._shape, "uint8")
        if not isinstance(images, np.ndarray):
            return self._to_torch(self.encrypt(images.cpu().numpy()), images)
        sealed: Float32Array = np.empty(images.shape, np.float32) if out is None else out
        for chunk in self._chunks(images):
            sealed[chunk] = self._whole((self._rows(images[chunk]) @ self._matrices)[:, self._order])
        return sealed

    def decrypt(
        self,
        images: ArrayOrTensor,
        first: int = 0,  # noqa: ARG002 - one key serves all rows
    ) -> ArrayOrTensor:
        """Decrypt float32 [n, h, w, c] to uint8 [n, h, w, c], rounded to whole levels."""
        require_images(images, self._shape, "float32")
        if not isinstance(images, np.ndarray):
            return self._to_torch(self.decrypt(images.cpu().numpy()), images)
        plain = np.empty(images.shape, np.uint8)
        for chunk in self._chunks(images):
            plain[chunk] = np.rint(self.opened(images[chunk])).clip(0, 255)
        return plain

    def opened(self, images: AnyArray) -> Float64Array:
        """Return decrypted images float64 [n, h, w, c], neither rounded nor clipped, of sealed ones in memory."""
        rows = self._rows(images)
        in_place = np.empty_like(rows)
        in_place[:, self._order] = rows
        return self._whole(in_place @ self._inverses)

    def _rows(self, images: AnyArray) -> Float64Array:
        """Return the rows of the blocks of images, float64 [n, N, M, M·c]."""
        blocks = to_blocks(images, self._block).astype(np.float64)
        return blocks.reshape(*blocks.shape[:2], self._block, -1)

    def _whole(self, rows: Float64Array) -> Float64Array:
        """Return images of rows [n, N, M, M·c]: the inverse of `_rows`."""
        height, width, channels = self._shape
        return from_blocks(rows.reshape(*rows.shape[:2], -1, channels), height, width)

    @staticmethod
    def _chunks(images: AnyArray) -> list[slice]:
        return [slice(i, i + _CHUNK) for i in range(0, len(images), _CHUNK)]

    @staticmethod
    def _to_torch(result: AnyArray, like: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.as_tensor(result, device=like.device)
