"""Accept a study: make the hospital's policy from a plan, show it in plain English, and write it once confirmed.

The plan is a proposal. What is accepted is bound to what this hospital has: its sets must be sealed as the plan says,
and the public weights are the hospital's own file, whose digest the policy records.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from coordinator.exchange.plan import Plan, require_rounds
from coordinator.exchange.privacy import sums_securely
from crypto.byte_size import size
from crypto.errors import CipherwardError
from crypto.plural import agreeing, counted
from parties.agent.budget import choose_budget, require_budget
from parties.sealing.place import Place
from parties.training.policy import LIMITS, Policy, find_set_difference, make_policy
from parties.training.policy_file import read_policy, save_policy, stem_path

_STEMS = {
    "learn": "learn: the key stays closed, and the first layer learns to read ciphertext",
    "learn, augmented": "learn: the key is opened to alter images and seal them again in memory, and the first layer "
    "learns to read ciphertext",
    "private": "private: the key is opened for training, and the first layer never leaves this hospital",
    "plain": "plain: the key is opened for training, and the first layer is sent in plain coordinates",
}
_SCOPES = {
    "consortium": "one key for all hospitals",
    "party": "a key of this hospital's own",
    "image": "a key for every image",
}
_SHARES = {
    "all": "all weights",
    "head": "the last layer",
    "lora": "the last layer and adapters of rank {rank} in {layers} of {blocks}",
}


def propose(
    place: Place,
    plan: Plan,
    weights: Path | None = None,
    budget_epsilon: float | None = None,
    log: Callable[[str], None] = lambda _: None,
    budget_delta: float | None = None,
    budget_unit: Literal["patient", "image"] | None = None,
    most_parameters: int | None = None,
) -> Policy:
    """Return the policy that accepts a plan in this hospital. Nothing is written.

    Args:
        place: the hospital. Its train, val and test sets must be sealed.
        plan: the study's plan.
        weights: the hospital's own file of the plan's public weights; by default the file of that name in the
            hospital's folder. The plan's own path is never opened.
        budget_epsilon: the hospital's own privacy budget over all its trainings; 0: none. By default that of its
            present policy, and if it has none, the plan's.
        log: gets the line that says how large the model is, and the one that says how many tensors of the encoder the
            weights file gave.
        budget_delta: the delta of `budget_epsilon`. By default that of the present policy, and if it has none, 1e-5.
        budget_unit: whom the budget protects. By default as in the present policy, and if it has none, as the plan
            says.
        most_parameters: the most parameters that the model may have. By default 400 million.

    Raises:
        CipherwardError: if the sets were not sealed as the plan says, if the plan's model cannot be built or is too
            large, if weights that the hospital needs are not here or do not fit the model, if the hospital keeps
            stems of another study of that name, or if the training would exceed the hospital's privacy budget or
            protects a smaller unit.
    """
    require_rounds(plan)
    sets = {split: place.sealed(split) for split in ("train", "val", "test")}
    for split, sealed in sets.items():
        if difference := find_set_difference(sealed, plan.describe(), "the plan"):
            raise CipherwardError(
                f"the plan says {difference.field} {difference.stated}, and this hospital's set {split} was sealed "
                f"with {difference.field} {difference.accepted}",
                "ask for the plan of your study, or seal with the plan's settings",
            )
        if sealed.classes != sets["train"].classes:
            raise CipherwardError(f"the classes of {split} are not those of train", "seal the sets again")
    train = sets["train"]
    budget = choose_budget(place, plan, budget_epsilon, budget_delta, budget_unit)
    _require_size(plan, len(train.classes), most_parameters, log)
    own_weights = _find_weights(place, plan, weights)
    if own_weights is not None:
        from coordinator.model.vit import build_model  # torch takes seconds to load

        build_model(plan.model_copy(update={"weights": str(own_weights)}), len(train.classes), log=log)
    policy = make_policy(plan, train.classes, len(train), own_weights, budget)
    require_budget(place, plan, policy, train)
    if plan.stem == "private" and not plan.stem_frozen:
        stem_path(place, policy)  # reports stems of another study with this name
    return policy


def _require_size(plan: Plan, classes: int, most: int | None, log: Callable[[str], None]) -> None:
    """Refuse a model that could use up this machine's memory. It is the coordinator's word until it is built."""
    from coordinator.model.model_size import (
        MOST_PARAMETERS,
        count_parameters,
    )  # torch takes seconds to load

    count, most = count_parameters(plan, classes), MOST_PARAMETERS if most is None else most
    about = f"{count:,} parameters: {size(4 * count)} of weights, and a training takes at least {size(16 * count)}"
    if count > most:
        raise CipherwardError(
            f"the plan's model {plan.model} has {about}; this hospital accepts at most {most:,}",
            f"ask for a smaller model; or, if this machine has the memory: --max-parameters {count}",
        )
    log(f"the model has {about} of memory")


def _find_weights(place: Place, plan: Plan, weights: Path | None) -> Path | None:
    """Return the hospital's own file of the plan's public weights, or None if none is needed."""
    if not plan.weights:
        if weights is not None:
            raise CipherwardError("the plan starts from no public weights", "leave --weights out")
        return None
    if weights is not None and not weights.is_file():
        raise CipherwardError(
            f"no weights file at {weights}", "name this hospital's copy of the public weights"
        )
    own = weights or place.folder / Path(plan.weights).name
    if own.is_file():
        return own.expanduser().resolve()
    if plan.share == "all" and plan.stem != "private":
        return None  # the coordinator's weights replace every value
    raise CipherwardError(
        f"share {plan.share}, stem {plan.stem}: this hospital starts from the public weights "
        f"{Path(plan.weights).name}, and has no such file",
        "name its own copy with --weights FILE, or put it into the hospital's folder",
    )


def _but_the_stem(policy: Policy) -> str:
    """Return which of all weights are not sent."""
    return " but the first layer" if policy.stem == "private" and policy.share == "all" else ""


def explain(policy: Policy) -> list[tuple[str, str]]:
    """Return what a policy accepts, as rows of a table: what it is about, and what is accepted."""
    kind = "gray" if policy.channels == 1 else "colour"
    options = ", ".join(f"{k} {v}" for k, v in policy.scheme_options.items())
    share = _SHARES.get(policy.share, policy.share).format(
        rank=policy.lora_rank,
        layers=", ".join(policy.lora_layers),
        blocks=f"the last {agreeing(policy.lora_blocks, 'block', f'{policy.lora_blocks} blocks')}"
        if policy.lora_blocks
        else "all blocks",
    )
    proximal = f", proximal term {policy.proximal_mu}" if policy.strategy == "fedprox" else ""
    args = ", ".join(f"{k} {v}" for k, v in policy.model_args.items())
    weights = policy.weights_file or policy.weights or "none: from scratch"
    rates = ("lr", "layer_decay", "stem_lr_scale", "position_lr_scale", "frozen_rounds", "warmup_steps")
    rest = (
        *rates,
        "momentum",
        "weight_decay",
        "clip",
        "label_smoothing",
        "class_weights",
        "mixup",
        "positions",
    )
    augments = policy.stem == "learn" and policy.augment != "none"
    stem = "learn, augmented" if augments else policy.stem
    rows = [
        ("study", f"{policy.study}, {counted(policy.parties, 'hospital')}"),
        ("images", f"sealed: {policy.image_size}×{policy.image_size}, {kind}; "
                   f"{counted(len(policy.classes), 'class', 'classes')}"),
        ("encryption", f"{policy.scheme}, blocks of {policy.block}{', ' + options if options else ''}"),
        ("key", _SCOPES.get(policy.key_scope, policy.key_scope)),
        ("first layer", _STEMS.get(stem, stem) + ("; frozen" if policy.stem_frozen else "")),
        ("what is sent", f"{share}{_but_the_stem(policy)}, as {policy.wire}, after every round"),
        ("model", f"{policy.model}{' with ' + args if args else ''}"),
        ("public weights", weights),
        ("their SHA-256", policy.weights_sha256 or "not needed in this hospital"),
        ("training", f"{counted(policy.rounds, 'round')}, {policy.strategy}{proximal}"),
        ("a round", f"{_span(policy.least_local_epochs, policy.most_local_epochs)} "
                    f"{agreeing(policy.most_local_epochs, 'pass', 'passes')} over the images, "
                    f"{_span(policy.least_local_steps, policy.most_local_steps)} "
                    f"{agreeing(policy.most_local_steps, 'step', 'steps')}, batches of at least "
                    f"{policy.least_batch}"),
        ("optimizer", f"{policy.optimizer}, {policy.precision}"),
        ("augmentation", policy.augment),
        ("updates", _describe_updates(policy)),
        ("privacy", str(policy.privacy)),
        ("privacy budget", _describe_budget(policy)),
        ("answers", f"at most {counted(policy.trainings, 'training')}, "
                    f"{counted(policy.evaluations, 'evaluation')} on val, and "
                    f"{policy.test_reads} on test"),
        ("the whole plan", f"SHA-256 {policy.plan_sha256}"),
        ("also fixed", ", ".join(f"{name} {getattr(policy, name)}" for name in (*rest, "seed", "compile"))),
    ]  # fmt: skip
    # The plan's words come from outside: nothing in them may steer a terminal.
    return [(name, "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)) for name, text in rows]


def _describe_updates(policy: Policy) -> str:
    """Return in words whether the cloud sees this hospital's updates, or sums of them only."""
    if not sums_securely(policy.privacy, policy.train, policy.stem, policy.strategy, policy.parties):
        shown = "which shows ciphertext" if policy.stem == "learn" else "which can give plain images"
        return f"sent as they are: the cloud sees each update of this hospital, {shown}"
    least = policy.privacy.least_sum(policy.parties)
    missing = policy.parties - least
    absent = f"{missing} may be missing" if missing else "none may be missing"
    # A cloud that sends nearly the same model twice, and leaves a hospital out once, subtracts.
    alone = "never this hospital's update alone"
    if missing:
        alone = "sums over other hospitals in two rounds can still give one update away"
    return (
        f"summed securely: the cloud learns sums of at least {least} of {policy.parties} hospitals ({absent}), "
        f"{alone}; values beyond ±{policy.privacy.sum_clip:g} are clipped"
    )


def _describe_budget(policy: Policy) -> str:
    """Return this hospital's own privacy budget in words."""
    if not policy.budget_epsilon:
        return "none of this hospital's own"
    budget = policy.budget
    return (
        f"epsilon {budget.epsilon:g} at delta {budget.delta:g} over all studies of this hospital, "
        f"for each {budget.unit}"
    )


def _span(least: int, most: int) -> str:
    """Return a range of numbers in words."""
    return str(least) if least == most else f"{least} to {most}"


def accept(
    place: Place, policy: Policy, confirm: Callable[[list[tuple[str, str]], dict[str, str]], bool]
) -> bool:
    """Write a policy if it is confirmed. Return whether a new one was written.

    A policy of the same study that the hospital accepted already stays as it is, with the limits that the hospital
    may have changed and the manifest that it agreed to. If only the coordinator's own settings are others, the limits
    stay; the manifest names another plan then, and must be agreed on again.

    Args:
        place: the hospital.
        policy: as `propose` returned it.
        confirm: gets the rows of the table and, by row, what the present policy says instead; returns the answer.

    Raises:
        CipherwardError: if it is not confirmed.
    """
    before: dict[str, str] = {}
    # A policy that cannot be used (of an earlier version, or open to others) is replaced like any other.
    with contextlib.suppress(CipherwardError):
        present = read_policy(place)
        is_same_study = present.digest == policy.digest and present.weights_file == policy.weights_file
        budget = {f"budget_{name}": value for name, value in asdict(policy.budget).items()}
        is_same_budget = present == present.model_copy(update=budget)
        if is_same_study and present.plan_sha256 == policy.plan_sha256 and is_same_budget:
            return False
        if is_same_study:
            kept = {name: getattr(present, name) for name in LIMITS}
            if present.plan_sha256 == policy.plan_sha256:
                kept["manifest_sha256"] = present.manifest_sha256
            policy = policy.model_copy(update=kept | budget)
        before = dict(explain(present))
    rows = explain(policy)
    if not confirm(rows, {name: before[name] for name, text in rows if before.get(name, text) != text}):
        raise CipherwardError("the plan was not accepted, and nothing was written", "")
    save_policy(place, policy)
    return True
