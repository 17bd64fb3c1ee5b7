"""Attack one draw: the attacks of the suite at each pool size.

An attack gets ciphertexts, the shape of the images and the side of a block. It gets no key, no plain image of the
draw and no way to encrypt. Its code runs in this process, so that is a promise of our code and not of the kernel;
`cipherward-party audit` confines the attacks to a process without a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from cipherward.draws import SealedDraw
from cipherward.settings import Settings
from coordinator.adversary.contract import Budget, Guess, Knowledge, Tier
from coordinator.adversary.opened import open_rows
from coordinator.adversary.recover.unknown_scheme import (
    Candidate,
    Trial,
    candidates_of,
    choose,
    try_candidates,
)
from coordinator.adversary.registry import ATTACKS, AttackInfo
from coordinator.adversary.run.cell import one_thread
from coordinator.adversary.run.small_run import load_compiled, load_recovery
from coordinator.adversary.stopwatch import Stopwatch
from coordinator.exchange.audit.control_sets import LARGEST_POOL_ONLY, PREFIX, meets
from coordinator.exchange.pool import MemoryPool
from crypto.arrays import Images
from crypto.scheme import load
from crypto.spec import SchemeSpec

Result = TypeVar("Result")
RECOVERY = "pooled_key_recovery"
#: The ciphertext as it is, and the same looked at image by image: nobody said that one key turned them all alike.
AS_IS, AS_IS_EACH = "as_is", "as_is_each"
#: Characters of an error that a finding keeps.
_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class Attempt:
    """One attack at one pool size on one draw, and what became of it.

    Attributes:
        name: The attack's name in the report.
        info: The attack's row in the registry.
        spec: The scheme under whose blocks the guess is scored.
        size: The pool size.
        guess: The guess; None if the attack crashed.
        seconds: The time that it took.
        tier: The tier of knowledge that it used.
        error: Why it crashed.
        choice: Which recovery was chosen, where all were tried.
        unfinished: Of all recoveries, those that did not come to an end, and why. If the chosen one breaks nothing,
            one of them might have.
        is_sound: Whether the chosen recovery believes what it found.
    """

    name: str
    info: AttackInfo
    spec: SchemeSpec
    size: int
    guess: Guess | None
    seconds: float
    tier: str
    error: str = ""
    choice: str = ""
    unfinished: str = ""
    is_sound: bool = False

    def __str__(self) -> str:
        note = "; ".join(filter(None, [self.choice, self.guess.note if self.guess else self.error]))
        return f"{self.name} at {self.size}: {self.seconds:.2f} s" + (f" ({note})" if note else "")


def attack_draw(draw: SealedDraw, settings: Settings) -> Iterator[Attempt]:
    """Yield what every attack makes of a draw at every pool size. An attack that fails is a finding."""
    for name in settings.attacks:
        if not meets(name, draw.set_name):
            continue
        tries_models = name == RECOVERY and not settings.family
        for size in _sizes(ATTACKS[name], draw, settings, tries_models=tries_models):
            run = _try_recoveries if tries_models else _run_attack
            attempts = run(name, draw, size, settings)
            settings.log(f"{draw.name} {draw.set_name}: {attempts[0]}")
            yield from attempts
            if name == AS_IS and not settings.family:
                yield from (replace(attempt, name=AS_IS_EACH) for attempt in attempts)


def _sizes(info: AttackInfo, draw: SealedDraw, settings: Settings, *, tries_models: bool) -> list[int]:
    """Return the pool sizes of an attack on a draw.

    Where every key recovery is tried, controls are attacked at the largest pool only: many attacks for one.
    """
    if not info.uses_pool or load(draw.spec).is_each_alone:
        return [1]
    is_control = draw.set_name.startswith(PREFIX)
    sizes = [n for n in settings.sizes if n <= len(draw.pool_rows)] or [len(draw.pool_rows)]
    return sizes[-1:] if draw.set_name in LARGEST_POOL_ONLY or (tries_models and is_control) else sizes


def _run_attack(name: str, draw: SealedDraw, size: int, settings: Settings) -> list[Attempt]:
    """Run one attack of the suite as the suite runs it."""
    info = ATTACKS[name]
    knowledge = _knowledge(info, draw, size, settings)

    def attack(knowledge: Knowledge) -> Guess:
        guess = info.attack(knowledge)
        expected = (len(draw.rows), *draw.plain.shape[1:])
        if guess.images.dtype != np.uint8 or guess.images.shape != expected:
            raise TypeError(f"the guess is {guess.images.dtype} {guess.images.shape}, not uint8 {expected}")
        return guess

    if name == RECOVERY:
        with one_thread():
            load_compiled(name, draw.spec)
    guess, seconds, error = _timed(attack, knowledge, settings)
    tier = info.tier if guess is None else info.tier_used(knowledge)
    return [Attempt(name, info, draw.spec, size, guess, seconds, tier.name, error)]


def _try_recoveries(name: str, draw: SealedDraw, size: int, settings: Settings) -> list[Attempt]:
    """Run every key recovery on the ciphertexts of an unknown scheme.

    The first attempt is the one that an adversary without any truth would choose, under the name of the suite's
    attack. Behind it, each recovery has its own.
    """
    info, candidates = ATTACKS[name], candidates_of(draw.specs)
    knowledge = _knowledge(info, draw, size, settings)
    tier = info.tier_used(knowledge).name
    if not candidates:
        note = (
            f"no key recovery of the suite takes ciphertexts of {draw.sealed.dtype} {draw.spec.image_shape}"
        )
        return [
            Attempt(name, info, draw.spec, size, open_rows(knowledge, None, note, idle=True), 0.0, tier)
        ]
    _load_recoveries(name, candidates)
    trials, seconds, error = _timed(lambda given: try_candidates(given, candidates), knowledge, settings)
    if trials is None:
        return [Attempt(name, info, draw.spec, size, None, seconds, tier, error)]
    told = {spec.block: spec for spec in draw.specs}

    def attempt(label: str, trial: Trial, took: float) -> Attempt:
        spec, guess = told.get(trial.candidate.spec.block, draw.spec), None if trial.error else trial.guess
        return Attempt(label, info, spec, size, guess, took, tier, trial.error)

    chosen = choose(trials)
    first = replace(
        attempt(name, chosen, seconds),
        choice=f"chosen: {chosen.candidate.name}",
        unfinished=_unfinished(trials, chosen),
        is_sound=chosen.is_sound,
    )
    return [first, *(attempt(trial.candidate.name, trial, trial.seconds) for trial in trials)]


def _load_recoveries(name: str, candidates: Sequence[Candidate]) -> None:
    """Let Numba compile or load what key recoveries call, so that their seconds are those of the attack.

    Not of the slow ones: they are rarely tried, and compiling is a small part of their time.
    """
    with one_thread():
        for candidate in candidates:
            if candidate.is_textbook:
                load_recovery(candidate.name, candidate.recover)
            elif not candidate.is_slow:
                load_compiled(name, candidate.spec)


def _unfinished(trials: list[Trial], chosen: Trial) -> str:
    """Return which of the other recoveries did not come to an end, in words; empty if all did."""
    others = [trial for trial in trials if trial is not chosen]
    late = [trial.candidate.name for trial in others if "truncated" in trial.guess.note]
    crashed = [trial.candidate.name for trial in others if trial.error]
    words = [f"out of time in {', '.join(late)}"] if late else []
    return "; ".join(words + ([f"a crash in {', '.join(crashed)}"] if crashed else []))


def _timed(
    run: Callable[[Knowledge], Result], knowledge: Knowledge, settings: Settings
) -> tuple[Result | None, float, str]:
    """Return the result of an attack on one thread, its seconds, and why it crashed. Its clock starts here."""
    stopwatch = Stopwatch()
    try:
        with one_thread(), stopwatch:
            result = run(replace(knowledge, budget=Budget(settings.budget_s)))
        return result, stopwatch.seconds, ""
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:_ERROR_CHARACTERS]
        return None, stopwatch.seconds, text


def _knowledge(info: AttackInfo, draw: SealedDraw, size: int, settings: Settings) -> Knowledge:
    """Return what an attack is given at a pool size."""
    return Knowledge(
        MemoryPool(draw.spec, draw.sealed),
        draw.pool_rows[:size],
        draw.rows,
        public=_public(draw, settings) if info.tier >= Tier.T2 else None,
        labels=draw.labels,
    )


def _public(draw: SealedDraw, settings: Settings) -> Images | None:
    """Return the public images for an attack on a draw: the caller's, if they have the draw's shape."""
    public = settings.public
    return public if public is not None and public.shape[1:] == draw.plain.shape[1:] else None
