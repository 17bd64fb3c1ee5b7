"""A cipher that runs every patch through a secret network. No key opens what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from crypto.arrays import AnyArray, ArrayOrTensor, Float32Array, Int64Array, require_images
from crypto.cipher import NeverPickled
from crypto.errors import not_invertible
from crypto.kernels.blocks import from_blocks, to_blocks

if TYPE_CHECKING:
    import torch

#: What batch normalisation adds to a variance.
_EPSILON = np.float32(1e-5)
_HALF_RANGE = np.float32(127.5)


@dataclass(frozen=True, repr=False)  # its weights are the key
class EncoderNetwork:
    """A random network over patches of V values, of inner width W, for images of N patches. All are float32.

    Attributes:
        embed: [V, W] and [W], weights and biases of the patch embedding.
        layers: [D, W, W] and [D, W], of the inner layers.
        positions: [N, W], added to the patches before the last layer.
        mix: [W, V] and [V], of the last layer.
        mean: Mean that is taken off a value, in units of the range 0 to 1.
        deviation: Standard deviation that a value is then divided by.
    """

    embed: tuple[Float32Array, Float32Array]
    layers: tuple[Float32Array, Float32Array]
    positions: Float32Array
    mix: tuple[Float32Array, Float32Array]
    mean: float
    deviation: float

    def tokens(self, patches: AnyArray) -> Float32Array:
        """Return the tokens of one image's patches uint8 [N, V]: float32 [N, V]."""
        tokens: Float32Array = self.vectors(patches) @ self.mix[0] + self.mix[1]
        return tokens

    def vectors(self, patches: AnyArray) -> Float32Array:
        """Return what the last layer is given of one image's patches uint8 [N, V]: float32 [N, W]."""
        inputs = (patches.astype(np.float32) / 255 - np.float32(self.mean)) / np.float32(self.deviation)
        hidden = np.maximum(inputs @ self.embed[0] + self.embed[1], 0)
        for weights, biases in zip(*self.layers, strict=True):
            outputs = hidden @ weights + biases
            spread = np.sqrt(outputs.var(0) + _EPSILON)
            hidden = np.maximum((outputs - outputs.mean(0)) / spread, 0)
        vectors: Float32Array = np.maximum(hidden + self.positions, 0)
        return vectors


class EncoderCipher(NeverPickled):
    """A cipher for images [h, w, c] that replaces each patch by its token, and puts the tokens in another order.

    A token has as many values as its patch, and takes its place. Sealed images are float32; a token's 0 is mid-gray.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int, int],
        block: int,
        network: EncoderNetwork,
        order_of_row: Callable[[int], Int64Array],
    ) -> None:
        """Take the scheme's name, the image shape, the block side, the network and what draws a row's order, [N]."""
        self._name, self._shape, self._block = name, shape, block
        self._network, self._order_of_row = network, order_of_row

    def encrypt(self, images: ArrayOrTensor, first: int = 0, out: AnyArray | None = None) -> ArrayOrTensor:
        """Encrypt uint8 [n, h, w, c] to float32 [n, h, w, c]; image i gets the order of row first + i."""
        require_images(images, self._shape, "uint8")
        if not isinstance(images, np.ndarray):
            return self._to_torch(self.encrypt(images.cpu().numpy(), first), images)
        sealed: Float32Array = np.empty(images.shape, np.float32) if out is None else out
        height, width, channels = self._shape
        for i in range(len(images)):  # one by one: the statistics of a layer are those of one image
            patches = to_blocks(images[i : i + 1], self._block)[0]
            tokens = self._network.tokens(patches.reshape(len(patches), -1))[self._order_of_row(first + i)]
            whole = tokens.reshape(1, len(tokens), -1, channels) * _HALF_RANGE + _HALF_RANGE
            sealed[i : i + 1] = from_blocks(whole, height, width)
        return sealed

    def decrypt(
        self,
        images: ArrayOrTensor,  # noqa: ARG002 - refused whatever they are
        first: int = 0,  # noqa: ARG002
    ) -> NoReturn:
        """Raise CipherwardError: no key opens what a network returned."""
        raise not_invertible(self._name, "keep the plain images")

    @staticmethod
    def _to_torch(result: AnyArray, like: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.as_tensor(result, device=like.device)
