"""The attacks, by name. Adding one: a file beside this one, a line in ATTACKS and a row in ABOUT."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from coordinator.adversary.contract import Attack, Guess, Knowledge
from coordinator.adversary.decode import as_is, edge_guided, leading_bit, minimum_difference, reidentify
from coordinator.adversary.pairs import chosen_plaintext, known_pairs
from coordinator.adversary.recover import jigsaw, moment_matching, pooled_key_recovery
from coordinator.adversary.seeds import brute_force


def _when_asked(module: str) -> Attack:
    """An attack whose module is imported when it is first run: torch takes seconds, in every worker anew."""

    def attack(knowledge: Knowledge) -> Guess:
        found: Attack = importlib.import_module(f"coordinator.adversary.{module}").attack
        return found(knowledge)

    return attack


ATTACKS: dict[str, Attack] = {
    "as_is": as_is.attack,
    "leading_bit": leading_bit.attack,
    "edge_guided": edge_guided.attack,
    "minimum_difference": minimum_difference.attack,
    "brute_force": brute_force.attack,
    "jigsaw": jigsaw.attack,
    "pooled_key_recovery": pooled_key_recovery.attack,
    "moment_matching": moment_matching.attack,
    "gan": _when_asked("networks.gan"),
    "sia_gan": _when_asked("networks.sia_gan"),
    "itn": _when_asked("networks.itn"),
    "reidentify": reidentify.attack,
    "learned_stem": _when_asked("training.learned_stem"),
    "weights": _when_asked("training.weights"),
    "known_pairs": known_pairs.attack,
    "chosen_plaintext": chosen_plaintext.attack,
    "updates": _when_asked("training.updates"),
}


@dataclass(frozen=True)
class About:
    """One line of the list of attacks.

    tier: the least knowledge (T0 one ciphertext, T1 a pool under one key, T2 public plain images too, T3 known
    pairs, T4 chosen plaintexts). needs, breaks: in words. uses_pool: whether more images help it, so that it is
    worth running at several pool sizes. in_suite: whether the suite runs it: what it needs is what a cloud
    holds, and its guess is no copy of a candidate. by_name: whether it runs only where it is named: it trains
    networks for hours, and needs thousands of ciphertexts or public images. study: whether it is given what the cloud
    observed of a training.
    """

    tier: str
    needs: str
    breaks: str
    source: str
    uses_pool: bool = False
    in_suite: bool = True
    by_name: bool = False
    study: bool = False


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
    "jigsaw": About("T0", _ONE, "etc in colour, block_pixel_shuffle", "arXiv 2202.00806"),
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
    "gan": About(
        "T2",
        "thousands of ciphertexts under one key, public plain images, minutes to hours",
        "le",
        "arXiv 2010.06198",
        uses_pool=True,
        by_name=True,
    ),
    "sia_gan": About(
        "T2",
        "thousands of labelled ciphertexts under one key, public plain images, a GPU",
        "by its paper le, pe, ele, etc",
        "Madono 2021, IEEE Access 9",
        uses_pool=True,
        by_name=True,
    ),
    "itn": About(
        "T2",
        f"{_ONE}, thousands of public plain images, a GPU",
        "by its paper none",
        "arXiv 2010.06198",
        by_name=True,
    ),
    "reidentify": About(
        "T2",
        f"{_ONE} and a gallery that may hold its image",
        "nothing: it links ciphertexts to images one has",
        "ours",
        in_suite=False,
    ),
    "learned_stem": About(
        "T2",
        "labelled ciphertexts under one key and a study's public model, minutes",
        "block_pixel_shuffle, value_shuffle, whatever the stem mode",
        "ours",
        uses_pool=True,
        in_suite=False,
        by_name=True,
        study=True,
    ),
    "weights": About(
        "T5",
        "a study's shared weights, its public ones, and ciphertexts",
        "block_pixel_shuffle, value_shuffle where the stem learnt on them; orthogonal where it was carried",
        "ours",
        uses_pool=True,
        study=True,
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
    "updates": About(
        "T5",
        "replies of a training with few local images and steps",
        "no scheme: plain images under the stems private and plain, ciphertexts under learn",
        "ours, after arXiv 2112.14087, 2003.14053",
        in_suite=False,
    ),
}
