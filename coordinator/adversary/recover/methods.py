"""How the key of each scheme is recovered from ciphertexts: one row a scheme.

`orthogonal`, `noisy_orthogonal` and `block_projection` have no row: no recovery from ciphertexts alone is known for
them (moment_matching.py needs public images). Neither has `neuracrypt`, whose key opens nothing.
The controls plain, noise and permuted are treated as block_pixel_shuffle.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.adversary.contract import Recovery
from coordinator.adversary.recover import (
    block_pixel,
    block_pixel_shuffle,
    ele,
    etc,
    le,
    patch_shuffle,
    pe,
    sub_block_etc,
    value_shuffle,
)


@dataclass(frozen=True)
class Method:
    """How one scheme's key is recovered.

    Attributes:
        recover: The recovery from a pool of ciphertexts.
        is_puzzle: Whether the scheme moves whole blocks, so that one image alone is a jigsaw puzzle.
        least_images: With fewer images than this nothing is tried.
        none_is_failure: Whether the recovery failed where it returns no key. Others return none of a pool that holds
            nothing to begin with, as where all images are of one gray, and that is no failure.
    """

    recover: Recovery
    is_puzzle: bool = False
    least_images: int = 1
    none_is_failure: bool = False


METHODS: dict[str, Method] = {
    "block_pixel_shuffle": Method(block_pixel_shuffle.recover, is_puzzle=True),
    "value_shuffle": Method(value_shuffle.recover, is_puzzle=True),
    "block_pixel": Method(block_pixel.recover, least_images=block_pixel.LEAST_IMAGES),
    "etc": Method(etc.recover, is_puzzle=True),
    "sub_block_etc": Method(sub_block_etc.recover, is_puzzle=True),
    "le": Method(le.recover),
    "ele": Method(ele.recover, least_images=ele.LEAST_IMAGES),
    "pe": Method(pe.recover, none_is_failure=True),
    "patch_shuffle": Method(patch_shuffle.recover, is_puzzle=True),
    "plain": Method(block_pixel_shuffle.recover, is_puzzle=True),
    "noise": Method(block_pixel_shuffle.recover, is_puzzle=True),
    "permuted": Method(block_pixel_shuffle.recover, is_puzzle=True),
}
