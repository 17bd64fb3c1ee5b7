"""Known and chosen plaintext: what pairs of images and ciphertexts give away. They are told apart from the verdict.

A verdict of the suite is about ciphertexts alone. Whoever has pairs under the key, or gets images of their choice
encrypted, has more. The attacks are textbook (coordinator/adversary/pairs). For an unknown scheme, the pairs are
tried under every scheme of this program: a key counts that opens the pairs themselves, which the adversary can check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cipherward.attacking import Attempt
from cipherward.draws import SealedDraw
from cipherward.scoring import Scorer
from cipherward.settings import Settings
from coordinator.adversary.contract import Guess, Knowledge
from coordinator.adversary.opened import Key, open_images, open_rows
from coordinator.adversary.pairs import chosen_plaintext, known_pairs
from coordinator.adversary.pairs.bit_order import solve_bits
from coordinator.adversary.pairs.moved_and_chained import (
    solve_chained,
    solve_moved_keystream,
    solve_moved_substitution,
)
from coordinator.adversary.recover.neighbour_agreement import colour_agreement
from coordinator.adversary.recover.unknown_scheme import models_of
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.audit.suite1 import draws_needed
from coordinator.exchange.audit.suite2 import SUITE, breaking_measures
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import AnyArray, Images
from crypto.errors import CipherwardError
from crypto.plural import counted
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec

KNOWN, CHOSEN = "known_pairs", "chosen_plaintext"
_NOTHING = (
    "no scheme of this program gives these pairs, and no keystream, substitution or order of pixels or bits"
)
_STREAM = "as one keystream for all images"
#: How many random images are encrypted to find a cipher of a textbook: 2 give a keystream, 8 an order of pixels, 40
#: one of bits.
_CHOSEN = (2, 8, 40)


@dataclass(frozen=True)
class PairsFinding:
    """What one attack with pairs reached over all draws.

    Attributes:
        attack: known_pairs or chosen_plaintext.
        pairs: How many pairs it had, the most over the draws.
        broken: In how many draws it found a key by which K, R or V broke the scheme.
        draws: How many draws there were.
        note: What the attack says of the first draw.
    """

    attack: str
    pairs: int
    broken: int
    draws: int
    note: str

    @property
    def is_break(self) -> bool:
        """Whether the scheme is broken in as many draws as the suite asks for."""
        return self.broken >= draws_needed(self.draws)

    def __str__(self) -> str:
        word = "broken" if self.is_break else "not broken"
        note = f" ({self.note})" if self.note else ""
        draws = counted(self.draws, "draw")
        return (
            f"{self.attack}: {word} with {counted(self.pairs, 'pair')}, in {self.broken} of {draws}{note}"
        )


def attack_with_pairs(
    draws: Sequence[SealedDraw], settings: Settings, audited: SchemeSpec
) -> list[PairsFinding]:
    """Run the attacks with pairs that the settings ask for.

    Raises:
        CipherwardError: If images of the attack's choice are asked for, and nobody encrypts them.
    """
    findings = []
    for name in (KNOWN, CHOSEN):
        if settings.known_pairs if name == KNOWN else settings.chosen_plaintext:
            results = [_attack_draw(name, draw, settings, audited) for draw in draws]
            findings.append(
                PairsFinding(
                    attack=name,
                    pairs=max(pairs for pairs, _, _ in results),
                    broken=sum(is_broken for _, _, is_broken in results),
                    draws=len(draws),
                    note=results[0][1],
                )
            )
    return findings


def _attack_draw(
    name: str, draw: SealedDraw, settings: Settings, audited: SchemeSpec
) -> tuple[int, str, bool]:
    """Return how many pairs an attack had on a draw, what it says, and whether it broke the scheme."""
    pairs, guess, spec = 0, None, draw.spec
    for model in [spec] if settings.family else _models(draw.specs):
        try:
            plain, sealed = _pairs(name, draw, model, settings)
            key, note = known_pairs.solve(model, plain, sealed)
        except (ValueError, IndexError, np.linalg.LinAlgError):
            continue  # ciphertexts of another scheme may have what the solver never meets
        pairs = max(pairs, len(plain))
        if key is not None and _opens(model, key_opens=open_images(model, sealed, key), plain=plain):
            told = next((t for t in draw.specs if t.block == model.block), spec)
            knowledge = Knowledge(MemoryPool(told, draw.sealed), draw.pool_rows, draw.rows)
            words = [f"as {model.name}, blocks of {model.block}", note]
            guess, spec = open_rows(knowledge, key, "; ".join(filter(None, words))), told
            break
    if guess is None and not settings.family:
        guess, used = _try_textbook(name, draw, settings)
        pairs = max(pairs, used)
    if guess is None:
        # The ciphertext as it is may name its image: that is no merit of pairs, and the suite's verdict tells it.
        return pairs, _NOTHING, False
    attempt = Attempt(name, ATTACKS[name], spec, pairs, guess, 0.0, ATTACKS[name].tier.name)
    figures = Scorer(draw, settings, audited).figures(attempt)
    assert figures is not None
    return pairs, guess.note, bool(breaking_measures(figures, SUITE))


def _try_textbook(name: str, draw: SealedDraw, settings: Settings) -> tuple[Guess | None, int]:
    """Return the guess of a cipher of a textbook, and how many pairs were used.

    None if the pairs are of none. Where images are chosen, two are, and more if those tell nothing, or leave the
    order of pixels open. Of two keys, as one pair has them, the one is taken whose opened pictures agree more.
    """
    if name == KNOWN:
        return _solve_textbook(draw, *draw.known(settings.known_pairs))
    assert draw.oracle is not None
    guess, used = None, 0
    for count in _CHOSEN:
        plain = np.random.default_rng(0).integers(0, 256, (count, *draw.plain.shape[1:]), np.uint8)
        guess, used = _solve_textbook(draw, plain, draw.oracle(plain))
        if guess is not None and not guess.is_uncertain:
            break
    return guess, used


def _solve_textbook(draw: SealedDraw, plain: Images, sealed: AnyArray) -> tuple[Guess | None, int]:
    """Return the guess of the textbook's cipher that these pairs are of, or None, and how many pairs were used."""
    if sealed.dtype != np.uint8 or sealed.shape != plain.shape or not len(plain):
        return None, 0
    knowledge = Knowledge(MemoryPool(draw.spec, draw.sealed), draw.pool_rows, draw.rows)
    keys: list[tuple[Key, str]] = [(key, _STREAM) for key in known_pairs.solve_keystream(plain, sealed)]
    if (levels := known_pairs.solve_substitution(plain, sealed)) is not None:
        keys.append((levels, "as one substitution of gray levels for all images"))
    if not keys:
        keys = [
            (key, f"as one order of pixels and {_STREAM[3:]}")
            for key in solve_moved_keystream(plain, sealed)
        ]
    if not keys and (moved := solve_moved_substitution(plain, sealed)) is not None:
        keys = [(moved, "as one order of pixels and one substitution of gray levels for all images")]
    if not keys:
        keys = [
            (key, "as values chained to the ciphertext before them") for key in solve_chained(plain, sealed)
        ]
    if not keys and (bits := solve_bits(plain, sealed)) is not None:
        keys = [(bits, f"as one order of all bits and {_STREAM[3:]}")]
    guesses = [open_rows(knowledge, key, words) for key, words in keys]
    return max(guesses, key=lambda guess: colour_agreement(guess.images), default=None), len(plain)


def _models(specs: Sequence[SchemeSpec]) -> list[SchemeSpec]:
    """Return the schemes that pairs are tried under: at last any permutation and inversion of all values.

    Real numbers are tried as keyed orthogonal blocks.
    """
    if load(specs[0]).sealed_dtype != np.uint8:
        return list(specs)
    height, width, _ = shape = specs[0].image_shape
    return [*models_of(specs), *([describe("block_pixel", shape, height)] if height == width else [])]


def _opens(model: SchemeSpec, key_opens: Images, plain: Images) -> bool:
    """Return whether a key opens the pairs that it was found from, within the scheme's rounding."""
    error = np.abs(key_opens.astype(np.int16) - plain)
    # Units that are equal in all pairs are interchangeable, and give the same pictures.
    return bool(np.median(error) <= load(model).tolerance and (error <= load(model).tolerance).mean() > 0.5)


def _pairs(name: str, draw: SealedDraw, model: SchemeSpec, settings: Settings) -> tuple[Images, AnyArray]:
    if name == KNOWN:
        return draw.known(settings.known_pairs)
    if draw.oracle is None:
        raise CipherwardError(
            "chosen_plaintext needs a function that encrypts",
            "hand over the function: ciphertexts answer nothing",
        )
    plain = chosen_plaintext.queries(model)
    return plain, draw.oracle(plain)
