"""The plan's `privacy` block: differential privacy of what a hospital sends (DP-SGD, Abadi et al. 2016).

    privacy: {epsilon: 8, delta: 1.0e-4, max_grad_norm: 1, unit: image}

The plan proposes; a hospital's policy holds what it accepted, and its own budget. How they are
kept is in parties/training: private_training.py, privacy_ledger.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from coordinator.exchange.settings import Settings
from crypto.errors import CipherwardError
from crypto.plural import counted
from crypto.secure_sum.fixed_point import FixedPoint

#: How epsilon and noise are computed: numerical composition of privacy loss random variables (Gopi et al. 2021).
ACCOUNTANT = "PRV"
#: The least epsilon of a plan, or of a hospital's budget. At 0.1 the noise of 1,000 steps takes up to a minute and
#: 2 GB to compute, and both grow with 1 / epsilon. No training learns anything under so much noise.
LEAST_EPSILON = 0.1
#: What leaves a hospital, or may be read off it, and is not covered by epsilon.
OUTSIDE = (
    "evaluations: each hospital's figures and tables on its validation and test images",
    "the number of images, their labels and the sealed images themselves, where they were handed over",
    "the seconds that an answer takes",
)


class Privacy(Settings):
    """What one patient, or one image, can change at most in everything that a training sends.

    Neighbouring data sets differ by one unit that is added or removed.

    Attributes:
        epsilon: the bound epsilon over all rounds of the training. None: no differential privacy.
        delta: the probability delta that the bound does not hold; below 1 / units of every hospital.
        max_grad_norm: each unit's gradient is scaled down to this Euclidean norm in every step.
        unit: what the bound protects: all images of one patient, or a single image.
        public_class_counts: whether the number of images of each class is public, so that the loss may depend on it.
        secure_aggregation: the cloud learns sums of updates only. None: under stem private and plain, with three or
            more hospitals and a strategy that averages.
        min_sum: how many hospitals' updates a sum holds at least. None: those of all hospitals. With fewer, a cloud
            that sends nearly the same model in two rounds, and leaves a hospital out once, subtracts the two sums.
        sum_clip: the largest magnitude of one value of an update that is summed.
    """

    epsilon: float | None = None
    delta: float | None = None
    # Far below, float32 rounds to more than the norm, on which the bound rests; far above, noise is no number.
    max_grad_norm: float = Field(default=1.0, ge=1e-6, le=1e6)
    unit: Literal["patient", "image"] = "patient"
    public_class_counts: bool = False
    secure_aggregation: bool | None = None
    min_sum: int | None = Field(default=None, ge=3)
    sum_clip: float = Field(default=1.0, ge=1e-6)

    @model_validator(mode="after")
    def _check(self) -> Privacy:
        if self.epsilon is None:
            # Whoever set one of these takes patients for protected.
            if unused := self._changed("delta", "unit", "max_grad_norm", "public_class_counts"):
                raise CipherwardError(
                    f"privacy: {unused[0]} says nothing without epsilon",
                    f"set privacy.epsilon and privacy.delta, or leave {', '.join(unused)} out",
                )
            return self
        if self.epsilon <= 0:
            raise CipherwardError(
                f"privacy: epsilon {self.epsilon:g} is no bound that a training can keep",
                "set privacy.epsilon above 0, such as 8; or leave the block out",
            )
        if self.epsilon < LEAST_EPSILON:
            raise CipherwardError(
                f"privacy: epsilon {self.epsilon:g} is below {LEAST_EPSILON:g}, the least that noise is computed for",
                f"set privacy.epsilon to {LEAST_EPSILON:g} or more, such as 8",
            )
        if self.delta is None or not 0 < self.delta < 1:
            raise CipherwardError(
                "privacy: epsilon needs delta, the probability that the bound does not hold",
                "set privacy.delta above 0 and below 1 / the number of patients of each hospital, such as 1.0e-5",
            )
        return self

    def _changed(self, *names: str) -> list[str]:
        """Return those of the settings that have another value than their default."""
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) != fields[name].default]

    def require_sums(self) -> None:
        """Raise CipherwardError if a setting of secure aggregation is stated, for a plan that sums nothing securely.

        A `min_sum` above the number of hospitals would otherwise switch off what it is to strengthen.
        """
        if unused := self._changed("min_sum", "sum_clip"):
            raise CipherwardError(
                f"privacy: {unused[0]} says nothing without secure aggregation, and this plan has none",
                f"set privacy.secure_aggregation to true, which says what rules it out; or drop {', '.join(unused)}",
            )

    @property
    def is_on(self) -> bool:
        """Whether updates are protected by differential privacy."""
        return self.epsilon is not None

    @property
    def bound(self) -> tuple[float, float]:
        """(epsilon, delta) of a block that is on."""
        if self.epsilon is None or self.delta is None:
            raise ValueError("differential privacy is off")
        return self.epsilon, self.delta

    def least_sum(self, parties: int) -> int:
        """Return how many of the study's hospitals must answer in every exchange of a secure sum."""
        return max(2 * parties // 3 + 1, self.min_sum or parties)

    def __str__(self) -> str:
        if not self.is_on:
            return "no differential privacy"
        counts = ", class counts public" if self.public_class_counts else ""
        return (
            f"epsilon {self.epsilon:g}, delta {self.delta:g} for each {self.unit}, "
            f"gradients of norm {self.max_grad_norm:g} at most{counts}"
        )

    def __repr__(self) -> str:
        return str(self)


def require_compatible(
    privacy: Privacy, train: str, precision: str, compiles: bool, class_weights: str
) -> None:
    """Raise CipherwardError if a setting of the plan would break the bound, or could not keep it.

    Args:
        privacy: the plan's block.
        train: the plan's setting; so are the others.
        precision: of the training.
        compiles: whether the model is compiled.
        class_weights: how the loss weighs classes.
    """
    if not privacy.is_on:
        return
    hint = "change that setting, or leave the block privacy out"
    if train == "central":
        reason = "train central: the provider holds all sealed images, and no hospital adds noise"
    elif precision != "float32":
        reason = "precision bfloat16: a norm in bfloat16 is not the norm of what is sent"
    elif compiles:
        reason = "compile: gradients of single images are taken layer by layer, not of a compiled model"
    elif class_weights != "none" and not privacy.public_class_counts:
        reason = "class_weights balanced: the weights depend on the hospital's private class counts"
        hint = "set class_weights to none; or set privacy.public_class_counts, if these counts are public"
    else:
        return
    raise CipherwardError(f"privacy does not go with {reason}", hint)


#: Strategies that need no update alone, only their mean.
MEAN_STRATEGIES = frozenset({"fedavg", "fedprox", "fedadam"})


def sums_securely(privacy: Privacy, train: str, stem: str, strategy: str, parties: int) -> bool:
    """Return whether a plan protects its updates by secure aggregation.

    If the plan does not say it, it does under stem private and plain, with three or more hospitals and a strategy
    that averages. Under stem learn the updates show ciphertext only, which the cloud may hold anyway.

    Args:
        privacy: the plan's block.
        train: the plan's setting; so are the others.
        stem: the stem mode.
        strategy: how updates are aggregated.
        parties: the number of hospitals.
    """
    if privacy.secure_aggregation is not None:
        return privacy.secure_aggregation
    enough = train == "federated" and parties >= (privacy.min_sum or 3)
    return enough and stem != "learn" and strategy in MEAN_STRATEGIES


def require_summable(privacy: Privacy, train: str, strategy: str, parties: int, quorum: int) -> None:
    """Raise CipherwardError if updates are to be summed securely, and another setting of the plan rules it out.

    Args:
        privacy: the plan's block.
        train: the plan's setting; so are the others.
        strategy: how updates are aggregated.
        parties: the number of hospitals.
        quorum: replies that a round needs; 0: all.
    """
    least = privacy.least_sum(parties)
    if train != "federated":
        reason = "train central: no hospital sends an update"
    elif strategy not in MEAN_STRATEGIES:
        reason = f"strategy {strategy}: it needs each update, and secure aggregation gives the sum alone"
    elif parties < (privacy.min_sum or 3):
        reason = f"{counted(parties, 'hospital')}: a sum of so few gives an update away"
    elif 0 < quorum < least:
        reason = (
            f"a quorum of {quorum}: a sum holds the updates of at least {least} of {parties} hospitals here "
            "(privacy.min_sum, and more than two thirds)"
        )
    else:
        FixedPoint(
            privacy.sum_clip, parties
        )  # it refuses a clip that leaves too few bits, before a round would
        return
    raise CipherwardError(
        f"privacy: secure_aggregation does not go with {reason}",
        "change that setting, or set privacy.secure_aggregation to false: then the cloud sees each update",
    )
