"""Build a plan's model before anything is sealed or started, so that a wrong name or weights file costs no time."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.exchange.plan import Plan
from coordinator.model.vit import build_model, input_shape

#: Outputs of the head that is built for the check. The classes are not known yet, and the encoder needs none.
_CLASSES = 2


def check_model(plan: Plan, log: Callable[[str], None] = lambda _: None) -> None:
    """Build the model that a plan describes, and drop it.

    Args:
        plan: all settings. Its weights file is read, if it names one.
        log: gets the line that says how many tensors the weights file gave.

    Raises:
        CipherwardError: if there is no such network, if its arguments do not fit the images, or if a tensor of its
            encoder is not in the weights file.
    """
    build_model(plan, _CLASSES, log=log)
    if plan.baseline and input_shape(plan) != input_shape(plan, plain=True):
        build_model(plan, _CLASSES, plain=True)
