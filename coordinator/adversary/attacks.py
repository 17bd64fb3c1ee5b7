"""The attacks, by name. Adding one: a file beside this one, a line in ATTACKS and a row in ABOUT."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.adversary import (
    as_is,
    brute_force,
    chosen_plaintext,
    edge_guided,
    known_pairs,
    leading_bit,
    minimum_difference,
    moment_matching,
    pooled_key_recovery,
    reidentify,
)
from coordinator.adversary.knowledge import Attack

ATTACKS: dict[str, Attack] = {
    "as_is": as_is.attack,
    "leading_bit": leading_bit.attack,
    "edge_guided": edge_guided.attack,
    "minimum_difference": minimum_difference.attack,
    "brute_force": brute_force.attack,
    "pooled_key_recovery": pooled_key_recovery.attack,
    "moment_matching": moment_matching.attack,
    "reidentify": reidentify.attack,
    "known_pairs": known_pairs.attack,
    "chosen_plaintext": chosen_plaintext.attack,
}


@dataclass(frozen=True)
class About:
    """One line of the list of attacks.

    tier: the least knowledge (T0 one ciphertext, T1 a pool under one key, T2 public plain images too, T3 known
    pairs, T4 chosen plaintexts). needs, breaks: in words. uses_pool: whether more images help it, so that it is
    worth running at several pool sizes. in_suite: whether the suite runs it: what it needs is what a cloud
    holds, and its guess is no copy of a candidate.
    """

    tier: str
    needs: str
    breaks: str
    source: str
    uses_pool: bool = False
    in_suite: bool = True


_ONE = "one ciphertext"
ABOUT: dict[str, About] = {
    "as_is": About("T0", _ONE, "plain", "the control of every audit"),
    "leading_bit": About("T0", _ONE, "sign flips of single values; no shuffle", "arXiv 2004.13263"),
    "edge_guided": About("T0", _ONE, "what leading_bit breaks, and no more", "after arXiv 2004.13263"),
    "minimum_difference": About(
        "T0", _ONE, "sign flips and colour orders of single pixels, in part", "arXiv 2004.13263"
    ),
    "brute_force": About(
        "T0", f"{_ONE}, a key from a small seed", "block_pixel_shuffle under a weak seed", "ours"
    ),
    "pooled_key_recovery": About(
        "T1",
        "ciphertexts under one shared key",
        "every scheme of one key but orthogonal",
        "ours, after arXiv 2202.00806",
        uses_pool=True,
    ),
    "moment_matching": About(
        "T2", "ciphertexts under one key, public plain images", "orthogonal", "ours", uses_pool=True
    ),
    "reidentify": About(
        "T2",
        f"{_ONE} and a gallery that may hold its image",
        "nothing: it links ciphertexts to images one has",
        "ours",
        in_suite=False,
    ),
    "known_pairs": About(
        "T3",
        "plain images and their ciphertexts under the key",
        "every scheme with a shared key",
        "textbook",
        in_suite=False,
    ),
    "chosen_plaintext": About(
        "T4",
        "somebody who seals images of one's choice",
        "every scheme with a shared key",
        "textbook",
        in_suite=False,
    ),
}
