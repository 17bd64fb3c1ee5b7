"""The hospital's policy: what it accepted of a study, and how a received plan is compared with it.

`cipherward-party accept` makes HOSPITAL/policy.yaml from a plan, after it showed it (parties/agent/accept.py). The
client obeys no plan that differs (parties/training/guard.py). The comparison is closed: it covers every setting of a
plan, except for those in `COORDINATOR_ONLY` and `IGNORED`. A setting that a later version adds is refused until the
policy has it too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from coordinator.exchange.plan import Plan
from coordinator.exchange.privacy import Privacy
from coordinator.exchange.settings import Settings, build
from coordinator.exchange.statement import Statement, plan_digest
from crypto.errors import CipherwardError
from crypto.files import sha256_file
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from crypto.spec import SchemeSpec, spec_without_nonce
from parties.training.privacy_ledger import STATE_IMAGES, Budget

#: Settings that only the coordinator's own work depends on: who is waited for, what is kept, attacked and measured.
COORDINATOR_ONLY = frozenset(
    {
        *(
            "server_lr",
            "malicious",
            "max_update_norm",
            "quorum",
            "deadline_s",
            "grace_s",
            "retries",
            "keep_updates",
        ),
        *("baseline", "wrong_keys", "attacks", "pools", "draws", "audit_rows", "gallery", "budget_s"),
    }
)
#: Settings about plain images. A hospital has its own in party.yaml, and never reads those of a message.
IGNORED = frozenset(
    {
        *("source", "images", "counts", "partition", "alpha"),
        *("labels", "groups", "class_list", "window", "fit", "background"),
    }
)
#: Settings of a policy that bound what a hospital answers. Changing them does not make it another study.
LIMITS = ("trainings", "evaluations", "test_reads", "budget_epsilon", "budget_delta", "budget_unit")
#: Settings of a policy that are no part of its digest: another place of a file, another setting of the coordinator's
#: work or a newer manifest start no count of answers anew, and make no stem another's.
_UNNAMED = frozenset({*LIMITS, "weights_file", "plan_sha256", "manifest_sha256"})
#: A hospital answers so many times the training messages and evaluations that a run without interruption needs. A
#: round that is resumed after other hospitals answered in it may have other weights, and is then another request.
_SPARE = 2


class Policy(Settings):
    """The content of policy.yaml. Settings without a comment are those of the plan, and must be equal.

    No setting has a default: a policy of an earlier version, which does not say something, is refused by name.
    """

    version: Literal[1]
    study: str
    # The whole plan that was accepted, the coordinator's own settings included (`plan_digest`).
    plan_sha256: str
    # The study manifest that the hospital agreed to; "" before `cipherward-party agree`.
    manifest_sha256: str
    parties: int
    train: Literal["federated"]
    seed: int

    # how the hospital's own images are sealed
    image_size: int
    channels: int
    scheme: str
    block: int
    key_scope: str
    scheme_options: dict[str, bool | int | str]
    # The hospital's own classes.
    classes: list[str]

    # what is trained, and what is sent
    model: str
    model_args: dict[str, bool | int | float | str]
    # Name of the plan's file of public weights; the hospital's own file, and its SHA-256. "" if there is none.
    weights: str
    weights_file: str
    weights_sha256: str
    stem: str
    stem_frozen: bool
    positions: str
    share: str
    lora_rank: int
    lora_alpha: float
    lora_blocks: int
    lora_layers: tuple[str, ...]
    wire: str

    # how it is trained
    strategy: str
    proximal_mu: float
    rounds: int
    least_batch: int = Field(ge=1)
    least_local_epochs: int = Field(ge=1)
    most_local_epochs: int = Field(ge=1)
    # Steps of the optimizer in a round.
    least_local_steps: int = Field(ge=1)
    most_local_steps: int = Field(ge=1)
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    warmup_steps: int
    layer_decay: float
    stem_lr_scale: float
    position_lr_scale: float
    frozen_rounds: int
    clip: float
    label_smoothing: float
    class_weights: str
    precision: str
    compile: bool
    augment: str
    mixup: float

    # How updates are protected. The budget is the hospital's own, over all its trainings; 0: it has none. Its unit
    # says whom it protects; "" without a budget.
    privacy: Privacy
    budget_epsilon: float = Field(ge=0)
    budget_delta: float = Field(ge=0, lt=1)
    budget_unit: Literal["", "patient", "image"]

    # How many different messages are answered in all; a message that is sent again is not counted again.
    trainings: int = Field(ge=0)
    evaluations: int = Field(ge=0)
    test_reads: int = Field(ge=0)

    @model_validator(mode="after")
    def _check_unit(self) -> Policy:
        # Here, so that no message is answered under such a policy, whoever wrote it.
        if bool(self.budget_unit) != bool(self.budget_epsilon):
            raise CipherwardError(
                f"a policy says budget_epsilon {self.budget_epsilon:g} and budget_unit {self.budget_unit!r}",
                "a budget has a unit, patient or image; without a budget the unit is empty",
                "the budget_epsilon and the budget_unit of this hospital's policy do not go together",
            )
        if self.privacy.is_on and self.privacy.unit == "image" and self.budget_unit == "patient":
            raise CipherwardError(
                f"this hospital's own privacy budget of epsilon {self.budget_epsilon:g} is for each patient, and the "
                f"plan {self.study} protects single images: no bound of a patient follows from that",
                f"ask for a plan with privacy.unit patient; or {STATE_IMAGES}",
                f"this hospital's own budget is for patients, and the plan {self.study} protects single images",
            )
        return self

    @property
    def budget(self) -> Budget:
        """The hospital's own privacy budget."""
        return Budget(self.budget_epsilon, self.budget_delta, self.budget_unit)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of what the hospital accepted, without `_UNNAMED`: it names the study in the hospital."""
        text = self.model_dump_json(exclude=set(_UNNAMED))
        return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()

    def describe(self) -> SchemeSpec:
        """Return the description of the scheme that the hospital's images are sealed with."""
        shape = (self.image_size, self.image_size, self.channels)
        return describe(self.scheme, shape, self.block, self.key_scope, self.scheme_options)

    def adopt(self, plan: Plan) -> Plan:
        """Return an accepted plan as the hospital uses it: with its own weights file, and without images."""
        weights = self.weights_file if plan.weights else ""
        return plan.model_copy(update={"weights": weights, "images": ""})


@dataclass(frozen=True)
class Difference:
    """A setting in which a plan, a message or a sealed set differs from what the hospital accepted.

    Attributes:
        field: the setting.
        stated: its value as it was stated.
        accepted: what the hospital accepts, or has.
        who: who stated it.
        whose: what the accepted value is.
    """

    field: str
    stated: Any
    accepted: Any
    who: str = "the coordinator's plan"
    whose: str = "this hospital accepted"

    def __str__(self) -> str:
        return (
            f"{self.who} says {self.field} {_short(self.stated)}; "
            f"{self.whose} {self.field} {_short(self.accepted)}"
        )


def _short(value: Any) -> str:
    """Return a value as one short line of printable characters."""
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def bound_as_budget(privacy: Privacy) -> Budget:
    """Return a plan's bound as a hospital's budget, in the plan's unit; no budget without a bound."""
    return Budget(*privacy.bound, privacy.unit) if privacy.is_on else Budget(0.0, 0.0, "")


def make_policy(
    plan: Plan,
    classes: Sequence[str],
    images: int,
    weights_file: Path | None = None,
    budget: Budget | None = None,
) -> Policy:
    """Return the policy that accepts exactly this plan.

    Args:
        plan: the study's plan, as the hospital got it.
        classes: the hospital's classes.
        images: the number of its training images.
        weights_file: the hospital's own copy of the plan's public weights.
        budget: the hospital's own over all its trainings. None: the plan's bound.

    Raises:
        CipherwardError: if the plan is not one of a federation, has a setting that policies do not know, or protects
            images where the budget is for patients.
    """
    if plan.train != "federated":
        raise CipherwardError(
            f"the plan trains {plan.train}: no hospital takes part in that training, so there is nothing to accept",
            "hand over sealed sets to the provider, or set train to federated",
        )
    steps = plan.steps_per_round(images)
    if budget is None:
        budget = bound_as_budget(plan.privacy)
    values: dict[str, Any] = {
        name: getattr(plan, name) for name in Policy.model_fields if name in type(plan).model_fields
    }
    values |= {
        "version": 1,
        "plan_sha256": plan_digest(plan),
        "manifest_sha256": "",
        "classes": list(classes),
        "weights": Path(plan.weights).name,
        "weights_file": "" if weights_file is None else str(weights_file),
        "weights_sha256": "" if weights_file is None else sha256_file(weights_file),
        "least_batch": plan.batch,
        "least_local_epochs": plan.local_epochs,
        "most_local_epochs": plan.local_epochs,
        "least_local_steps": steps,
        "most_local_steps": steps,
        "trainings": _SPARE * plan.rounds,
        "evaluations": _SPARE * plan.rounds,
        "test_reads": 1,
        "budget_epsilon": budget.epsilon,
        "budget_delta": budget.delta,
        "budget_unit": budget.unit,
    }
    policy = build(Policy, values, "the plan")
    if difference := find_difference(policy, plan):
        raise CipherwardError(
            f"a policy cannot hold the plan's {difference.field}",
            "use the version that the plan was made for",
        )
    return policy


def find_difference(policy: Policy, plan: Plan) -> Difference | None:
    """Return the first setting of a plan that the policy does not accept, or None."""
    for name in type(plan).model_fields:
        if name in COORDINATOR_ONLY or name in IGNORED:
            continue
        stated, accepted = getattr(plan, name), getattr(policy, name, None)
        if name == "weights":
            stated = Path(stated).name
        elif name == "batch":
            if stated >= policy.least_batch:
                continue
            accepted = f"of at least {policy.least_batch}"
        elif name == "local_epochs":
            if policy.least_local_epochs <= stated <= policy.most_local_epochs:
                continue
            accepted = f"from {policy.least_local_epochs} to {policy.most_local_epochs}"
        elif name not in Policy.model_fields:
            return Difference(name, stated, "nothing: its policy does not know this setting")
        if type(stated) is not type(accepted) or stated != accepted:
            return Difference(name, stated, accepted)
    return None


def find_step_difference(policy: Policy, plan: Plan, images: int) -> Difference | None:
    """Return the difference if the optimizer would take more or fewer steps in a round than accepted, or None."""
    steps = plan.steps_per_round(images)
    if policy.least_local_steps <= steps <= policy.most_local_steps:
        return None
    accepted = f"from {policy.least_local_steps} to {policy.most_local_steps}"
    return Difference("local_steps", steps, accepted, "the coordinator's plan, on this hospital's images,")


def find_set_difference(sealed: SealedDataset, spec: SchemeSpec, who: str) -> Difference | None:
    """Return the first field in which a sealed set's scheme differs from a spec, nonces left out, or None.

    who: who states the spec.
    """
    own, stated = spec_without_nonce(sealed.spec), spec_without_nonce(spec)
    for name, value in own.items():
        if value != stated[name]:
            field, whose = "scheme" if name == "name" else name, f"the sealed set {sealed.folder.name} has"
            return Difference(field, stated[name], value, who, whose)
    return None


def find_statement_difference(sealed: SealedDataset, split: str, statement: Statement) -> Difference | None:
    """Return the first fact in which a hospital's sealed set differs from what the hospital stated, or None."""
    who, whose = "this hospital's statement", f"the sealed set {split} has"
    facts = statement.sets.of(split)
    pairs = {
        "key_id": (statement.key_id, sealed.key_id),
        "images": (facts.images, len(sealed)),
        "digest": (facts.digest, sealed.digest),
    }
    for field, (stated, present) in pairs.items():
        if stated != present:
            return Difference(field, stated, present, who, whose)
    return None
