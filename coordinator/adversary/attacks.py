"""The attacks, by name. Adding one: a file beside this one, a line in ATTACKS and a row in ABOUT."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.adversary import as_is, leading_bit, pooled_key_recovery
from coordinator.adversary.knowledge import Attack

ATTACKS: dict[str, Attack] = {
    "as_is": as_is.attack,
    "leading_bit": leading_bit.attack,
    "pooled_key_recovery": pooled_key_recovery.attack,
}


@dataclass(frozen=True)
class About:
    """One line of the list of attacks.

    tier: the least knowledge (T0 one ciphertext, T1 a pool under one key). needs, breaks: in words.
    uses_pool: whether more images help it, so that it is worth running at several pool sizes.
    """

    tier: str
    needs: str
    breaks: str
    source: str
    uses_pool: bool


ABOUT: dict[str, About] = {
    "as_is": About("T0", "one ciphertext", "plain", "the control of every audit", False),
    "leading_bit": About(
        "T0", "one ciphertext", "sign flips of single values; no shuffle", "arXiv 2004.13263", False
    ),
    "pooled_key_recovery": About(
        "T1",
        "ciphertexts under one shared key",
        "block_pixel_shuffle",
        "ours, after arXiv 2202.00806",
        True,
    ),
}
