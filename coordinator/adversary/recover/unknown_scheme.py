"""Ciphertexts of a scheme that nobody named (T1): every key recovery is tried on them.

A recovery takes ciphertexts for those of its own scheme, or for those of a textbook's cipher that is no scheme here
(textbook/): one keystream for all images, one substitution of gray levels, one order of rows and one of columns, one
order of all pixels, such an order and a keystream or a substitution, an order for each bit plane or of all bits, and
any of these but the last over which values were chained. Where the unknown scheme is of the same form, the key opens
them; where it is not, what it opens is no picture. An adversary who must choose can see which is which without any
truth, in two things:

- the fits of the recovery: how well what it found explains what it measured (`contract.Fit`);
- how much neighbouring pixels of the opened pictures agree: the median correlation of a pixel with its neighbour.

Of the recoveries whose fits are sound, the one whose pictures agree most is chosen. If no fit is sound, the one whose
pictures agree most is chosen nevertheless, and its poor fit makes the guess uncertain.

The choice can be wrong: `block_pixel` explains almost anything on pictures of few blocks, and what it opens is
smoother than a true picture. So the guess of every recovery is kept beside the chosen one.

A scheme of another form than these withstands this for want of an attack, not by its strength. Whoever
reports such a guess says so.

Source: ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.adversary.contract import Ciphertexts, Fit, Guess, Knowledge, Recovered
from coordinator.adversary.opened import Key, key_arrays, open_images
from coordinator.adversary.recover.methods import METHODS
from coordinator.adversary.recover.neighbour_agreement import neighbour_agreement
from coordinator.adversary.stopwatch import Stopwatch
from coordinator.adversary.textbook import (
    bit_order,
    chained,
    keystream,
    line_order,
    order_and_keystream,
    order_and_table,
    pixel_order,
    plane_orders,
    substitution,
)
from coordinator.adversary.time_budget import TimeLeft, until
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Rows
from crypto.errors import CipherwardError
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec

#: The schemes that ciphertexts are taken for, with their options, in the order in which equal pictures are decided.
MODELS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("block_pixel_shuffle", {}),
    ("value_shuffle", {}),
    ("etc", {}),
    ("le", {}),
    ("block_pixel", {}),
    ("pe", {}),
    ("pe", {"colour_shuffle": True}),
    ("ele", {}),
)
#: Ciphers of textbooks that are no schemes here, and how their keys are recovered. They know no blocks.
TEXTBOOK: Mapping[str, Callable[[Ciphertexts, Rows, TimeLeft], Key | None]] = {
    "keystream": keystream.recover,
    "substitution": substitution.recover,
    "line_order": line_order.recover,
    "pixel_order": pixel_order.recover,
    "order_and_keystream": order_and_keystream.recover,
    "order_and_table": order_and_table.recover,
    "plane_orders": plane_orders.recover,
    "bit_order": bit_order.recover,
    "chained": chained.recover,
}
#: Those that are tried on gray pictures alone.
GRAY_ONLY = ("bit_order",)
#: Those whose recovery takes up to a minute on ciphertexts of another scheme. They are tried only if none of the
#: others is sound: on ciphertexts of the three schemes, none of the others was (phantoms at 64 and CIFAR-10 at 32
#: pixels, 10 and 100 images). The quickest comes first.
SLOW = (
    "pixel_order",
    "block_pixel",
    "pe",
    "ele",
    "order_and_keystream",
    "order_and_table",
    "plane_orders",
    "bit_order",
    "chained",
)
#: Schemes that know no blocks: one side of a block is enough to try them.
_WITHOUT_BLOCKS = ("pe",)
#: Characters of an error that a trial keeps.
_ERROR_CHARACTERS = 300
#: What a recovery says that found nothing to begin with, such as a pool of images of one gray.
NOTHING = "nothing identifiable"
#: Images that are opened to compare the recoveries. Chosen by hand.
_COMPARED = 16
#: Least correlation of neighbouring pixels of a picture. Right pictures had .79 to .91 (phantoms at 64 pixels and
#: CIFAR-10 at 32). Noise and values under a permutation for each image had at most .1, whatever the recovery's own
#: fit; ciphertexts of block_pixel taken for pe had .45 with a sound fit.
AGREEMENT_LEAST = 0.5


@dataclass(frozen=True)
class Candidate:
    """One thing that ciphertexts can be taken for.

    Attributes:
        name: Of its recovery in reports, such as etc_recovery/8 for blocks of 8 pixels.
        spec: The scheme that the recovery is told; for a textbook's cipher, one with the images' shape.
        recover: Its recovery.
        slowness: 0, or its place in `SLOW`, counted from 1.
        is_textbook: Whether it is a cipher of a textbook, and no scheme here.
        none_is_failure: See `Method`.
    """

    name: str
    spec: SchemeSpec
    recover: Callable[[Ciphertexts, Rows, TimeLeft], Key | None]
    slowness: int = 0
    is_textbook: bool = False
    none_is_failure: bool = False

    @property
    def is_slow(self) -> bool:
        """Whether it is tried only if no other is sound."""
        return self.slowness > 0


@dataclass(frozen=True)
class Trial:
    """What one recovery made of the ciphertexts.

    Attributes:
        candidate: What the ciphertexts were taken for.
        guess: Its guess. It is idle if the recovery was not tried, because another is sound already, or found nothing
            in the pool to begin with.
        agreement: How much neighbouring pixels of what it opens agree; -1 if it opens nothing.
        seconds: How long it took.
        error: Why it crashed. Ciphertexts of another scheme may have what a recovery never meets; but a recovery that
            crashed did not fail at them, and nobody may say so.
    """

    candidate: Candidate
    guess: Guess
    agreement: float
    seconds: float
    error: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether it opens pictures, and no fit is poor."""
        return self.guess.key is not None and not self.guess.is_uncertain


def try_candidates(knowledge: Knowledge, candidates: Sequence[Candidate]) -> list[Trial]:
    """Try key recoveries on the pool, and open the rows to guess with what each of them finds.

    Each has an equal share of the time that is left when its turn comes.

    Args:
        knowledge: What the adversary holds. Of the pool's scheme, the shape of the images is used and nothing else.
        candidates: What the ciphertexts are taken for; see `candidates_of`.
    """
    order = sorted(candidates, key=lambda candidate: candidate.slowness)
    trials: list[Trial] = []
    for done, candidate in enumerate(order):
        stopwatch, error = Stopwatch(), ""
        if candidate.is_slow and any(trial.is_sound for trial in trials):
            guess, agreement = _sealed(knowledge, "not tried: another recovery is sound", idle=True), -1.0
        else:
            deadline = time.monotonic() + knowledge.budget.left() / (len(order) - done)
            try:
                with stopwatch:
                    guess, agreement = _try_candidate(knowledge, candidate, deadline)
            except Exception as crash:
                error = " ".join(f"{type(crash).__name__}: {crash}".split())[:_ERROR_CHARACTERS]
                guess, agreement = _sealed(knowledge, f"crashed: {error}"), -1.0
        trials.append(Trial(candidate, guess, agreement, stopwatch.seconds, error))
    return trials


def choose(trials: Sequence[Trial]) -> Trial:
    """Return the trial that an adversary without any truth believes: the sound one whose pictures agree most."""
    return max(trials, key=lambda trial: (trial.is_sound, trial.agreement))


def candidates_of(specs: Sequence[SchemeSpec]) -> list[Candidate]:
    """Return all that ciphertexts can be taken for: the schemes of `models_of`, then the ciphers of textbooks.

    Real numbers are taken for nothing, and pictures in colour for nothing of GRAY_ONLY.

    Args:
        specs: The shape of the images, and each side of a block to try.
    """
    if load(specs[0]).sealed_dtype != np.uint8:
        return []
    schemes = [
        Candidate(
            model_name(model),
            model,
            METHODS[model.name].recover,
            slowness=_slowness(model.name),
            none_is_failure=METHODS[model.name].none_is_failure,
        )
        for model in models_of(specs)
    ]
    # Guesses may be shifted by whole blocks: by small ones, where no block means anything.
    finest = min(specs, key=lambda spec: spec.block)
    return schemes + [
        Candidate(f"{name}_recovery", finest, recover, slowness=_slowness(name), is_textbook=True)
        for name, recover in TEXTBOOK.items()
        if finest.image_shape[2] == 1 or name not in GRAY_ONLY
    ]


def _slowness(name: str) -> int:
    return SLOW.index(name) + 1 if name in SLOW else 0


def models_of(specs: Sequence[SchemeSpec]) -> list[SchemeSpec]:
    """Return the schemes that ciphertexts can be taken for, in the order of `MODELS`.

    Left out are those that cannot seal such images or seal them to another shape, and options that change nothing.
    Real numbers are taken for none.

    Args:
        specs: The shape of the images, and each side of a block to try.
    """
    result: list[SchemeSpec] = []
    if load(specs[0]).sealed_dtype != np.uint8:
        return result
    for name, options in MODELS:
        if options and specs[0].image_shape[2] == 1:
            continue  # the options are about colours
        for spec in specs[:1] if name in _WITHOUT_BLOCKS else specs:
            try:
                model = describe(name, spec.image_shape, spec.block, options=options)
            except CipherwardError:
                continue
            if load(model).sealed_shape == spec.image_shape:
                result.append(model)
    return result


def model_name(model: SchemeSpec) -> str:
    """Return the name of a model's recovery, such as etc_recovery/8 for blocks of 8 pixels."""
    colours = "_colours" if model.options.get("colour_shuffle") is True else ""
    block = "" if model.name in _WITHOUT_BLOCKS else f"/{model.block}"
    return f"{model.name}{colours}_recovery{block}"


def _try_candidate(knowledge: Knowledge, candidate: Candidate, deadline: float) -> tuple[Guess, float]:
    """Return the guess of one recovery, and how much neighbouring pixels of it agree."""
    pool_rows = np.asarray(knowledge.pool_rows, np.int64)
    pool = MemoryPool(candidate.spec, knowledge.pool.images(pool_rows))
    recovered = candidate.recover(pool, np.arange(len(pool_rows)), until(deadline))
    late = ["truncated: out of time"] if time.monotonic() >= deadline else []
    if recovered is None:
        return _sealed(knowledge, "; ".join([NOTHING, *late]), idle=not candidate.none_is_failure), -1.0
    return _opened(knowledge, recovered, late)


def _opened(knowledge: Knowledge, recovered: Key, late: Sequence[str]) -> tuple[Guess, float]:
    """Return the guess that a recovered key makes, and how much neighbouring pixels of it agree."""
    rows = np.asarray(knowledge.rows, np.int64)
    images = open_images(knowledge.pool.spec, knowledge.pool.images(rows), recovered)
    agreement = neighbour_agreement(images[:_COMPARED])
    fit = Fit(agreement, AGREEMENT_LEAST, "the correlation of neighbouring pixels")
    said = recovered.notes if isinstance(recovered, Recovered) else ()
    notes = [*said, *(n for n in late if not any("truncated" in note for note in said))]
    return Guess(images, key_arrays(recovered), "; ".join(notes), fits=(*recovered.fits, fit)), agreement


def _sealed(knowledge: Knowledge, note: str, *, idle: bool = False) -> Guess:
    """Return the guess that the ciphertext is the picture, because there is no key."""
    rows = np.asarray(knowledge.rows, np.int64)
    return Guess(open_images(knowledge.pool.spec, knowledge.pool.images(rows), None), note=note, idle=idle)
