"""NeuraCrypt: a secret random network over patches (Yala et al. 2021). Its ciphertexts cannot be inverted.

Source: arXiv 2106.02484, of which we could read the abstract; the steps are those of the authors' program
(github.com/yala/NeuraCrypt, `PrivateEncoder`) and its README. An image [h, w, c] uint8, patches of M×M, V = M²c
values and inner width W:

1. values are normalised as by the authors: v/255, less .2023, over .2576;
2. patch embedding and ReLU: V → W;
3. `depth` inner layers W → W, each with batch normalisation and ReLU;
4. a random position embedding is added to each patch's vector, then ReLU;
5. a last layer W → V;
6. the tokens are put in a fresh random order for every image (`shuffle`).

Weights and biases are uniform within ±1/√(inputs), PyTorch's default, which the authors use; positions are standard
Gaussians. The authors' depth is 4 ("depth 7" in the paper, which counts the other three layers), their width 2048 and
their patch 16. Their challenge also has depths 0 and 44, and a form without the order.

Where this differs:

- the authors' tokens have as many values as the inner width. Here they have V, the patch's, so that sealed images
  have the plain shape (their program has that ratio as `width_factor`). An adversary sees fewer values;
- batch normalisation takes its statistics over the patches of one image. In the authors' program it takes them over
  a batch of up to 256 images, so that a ciphertext depends on its neighbours, which no sealed set here allows;
- everything is drawn from the hospital's key. The order of a row comes from a sub-key that covers the nonce.

An image of 224×224 takes a third of a second on one core, and drawing a key four seconds.

Tokens are stored as 127.5·(1 + token), float32, so that a model's normalised input is the token.

The holder of the key has no inverse either: this program has none, and `is_invertible` says so. `unseal` refuses, and
the control of the true key seals the plain images again.

Published attack: Carlini et al., "NeuraCrypt is not private" (arXiv 2108.07256), which solved the authors' challenge
of saying which ciphertext is of which image. Ours is coordinator/adversary/pairs/match_tokens.py. Ours too are two
that open pictures: with public images (coordinator/adversary/recover/token_moments.py) and from known pairs
(coordinator/adversary/pairs/token_regression.py).

Key space, counted by us: 8 bits for each weight, bias and position. Networks whose inner units change places do the
same, and are not counted twice in `distinct_bits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from crypto.arrays import AnyArray, Float32Array, Int64Array, Parts
from crypto.encoder_cipher import EncoderCipher, EncoderNetwork
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.spec import SchemeSpec, log2_factorial
from crypto.symmetry import EVERY_MOVE

#: Bits that count of a parameter: as in `orthogonal`.
_BITS = 8
#: What the authors normalise chest X-rays by.
MEAN, DEVIATION = 0.2023, 0.2576


class NeuraCrypt:
    """NeuraCrypt with the parameters of a spec."""

    version = 2
    source = "Yala 2021, arXiv 2106.02484"
    sealed_dtype = np.dtype(np.float32)
    orbit = EVERY_MOVE
    is_invertible = False
    weakness = (
        "with its default options, its ciphertexts open to pictures with public images of the same kind "
        "(moment_matching); with these, a width of 256 or a depth of 0, they name their images to whoever holds "
        "these, without a pair (match_tokens, which is no part of an audit; arXiv 2108.07256)"
    )
    #: Rounding of float32 on another machine, in gray levels; tokens differ by about 60.
    sealing_tolerance = 0.05
    row_noise = True
    row_part = "order"
    #: A narrow network leaves as little of an image in its place as a wide one.
    comparison_options: ClassVar[Mapping[str, Any]] = {"depth": 1, "width": 64}
    options: ClassVar[Mapping[str, Sequence[Any]]] = {
        "depth": (4, 0, 1, 2, 8, 44),
        "width": (2048, 16, 64, 256, 1024),
        "shuffle": (True, False),
    }

    def __init__(self, spec: SchemeSpec) -> None:
        self.spec = spec
        self.depth, self.width = int(spec.options["depth"]), int(spec.options["width"])
        self.values = spec.block**2 * spec.image_shape[2]
        self.moves_blocks = bool(spec.options["shuffle"])
        if self.depth and spec.blocks < 2:
            raise CipherwardError(
                "neuracrypt: one patch has no spread that a layer could be normalised by",
                "choose smaller blocks, or --option depth=0",
            )

    def parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return the network, float32: embed [V, W], embed_bias [W], and so on (`EncoderNetwork`)."""
        width, values = self.width, self.values
        layers = [self._layer(sub, f"layer/{i}", width, width) for i in range(self.depth)]
        embed, embed_bias = self._layer(sub, "embed", values, width)
        mix, mix_bias = self._layer(sub, "mix", width, values)
        positions = sub.normals("positions", self.spec.blocks * width)
        return {
            "embed": embed,
            "embed_bias": embed_bias,
            "layers": np.array([weights for weights, _ in layers], np.float32).reshape(-1, width, width),
            "layer_biases": np.array([biases for _, biases in layers], np.float32).reshape(-1, width),
            "positions": positions.astype(np.float32).reshape(-1, width),
            "mix": mix,
            "mix_bias": mix_bias,
        }

    @staticmethod
    def _layer(sub: SecretKey, label: str, inputs: int, outputs: int) -> tuple[Float32Array, Float32Array]:
        """Return weights [inputs, outputs] and biases [outputs] of a layer, uniform within ±1/√inputs."""
        drawn = (2 * sub.uniforms(label, (inputs + 1) * outputs) - 1) / np.sqrt(inputs)
        weights = drawn.astype(np.float32).reshape(inputs + 1, outputs)
        return weights[:-1], weights[-1]

    def row_parts(self, sub: SecretKey) -> dict[str, AnyArray]:
        """Return order int64 [N] of one row: token i of the result is that of patch order[i]."""
        blocks = self.spec.blocks
        return {"order": sub.permutation("order", blocks) if self.moves_blocks else np.arange(blocks)}

    def cipher(self, parts: Parts) -> EncoderCipher:
        """Return the cipher of one row, that these parts make."""
        return self.noisy_cipher(parts, lambda _: parts["order"])

    def noisy_cipher(self, parts: Parts, order_of_row: Callable[[int], Int64Array]) -> EncoderCipher:
        """Return the cipher of all rows, from the network and the order of each row."""
        network = EncoderNetwork(
            embed=(parts["embed"], parts["embed_bias"]),
            layers=(parts["layers"], parts["layer_biases"]),
            positions=parts["positions"],
            mix=(parts["mix"], parts["mix_bias"]),
            mean=MEAN,
            deviation=DEVIATION,
        )
        return EncoderCipher(self.spec.name, self.spec.image_shape, self.spec.block, network, order_of_row)

    @property
    def parameters(self) -> int:
        """Number of weights, biases and positions."""
        inner = self.depth * (self.width + 1) * self.width
        ends = (self.values + 1) * self.width + (self.width + 1) * self.values
        return inner + ends + self.spec.blocks * self.width

    def formula_bits(self) -> float:
        """Return 8 bits for each parameter."""
        return float(_BITS * self.parameters)

    def distinct_bits(self) -> float:
        """Return the formula's bits, less those of the orders of the inner units of every layer."""
        return self.formula_bits() - (self.depth + 1) * log2_factorial(self.width)
