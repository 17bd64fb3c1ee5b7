"""The reference of the plan: every setting with its type, default, who states it and what it means.

Types, bounds and defaults come from the Plan model, and who states a setting from the hospital's policy. The meanings
stand here: a setting without one is an error, and so is a meaning without a setting.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from benchmarks.pages.markdown import table
from benchmarks.reference.meanings import GROUPS, INTRO
from coordinator.exchange.plan import Plan
from parties.training.policy import COORDINATOR_ONLY, IGNORED

_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_BOUNDS = {
    annotated_types.Ge: ("ge", "at least"),
    annotated_types.Gt: ("gt", "above"),
    annotated_types.Le: ("le", "at most"),
    annotated_types.Lt: ("lt", "below"),
}


def settings_of(model: type[BaseModel], block: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting of a model with its name; those in a block as `block.name`."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from settings_of(kind, f"{name}.")
        else:
            yield block + name, field


def plan_page() -> list[str]:
    """Return the lines of docs/reference/plan.md.

    Raises:
        ValueError: If a setting has no meaning in meanings.py, or a meaning no setting.
    """
    fields = dict(settings_of(Plan))
    described = {name for meanings in GROUPS.values() for name in meanings}
    if described != set(fields):
        raise ValueError(
            "benchmarks/reference/meanings.py and the Plan model differ: "
            + ", ".join(sorted(described ^ set(fields)))
        )
    lines = [INTRO]
    for title, meanings in GROUPS.items():
        rows = [
            [f"`{name}`", describe_type(fields[name]), _default(fields[name]), who_states(name), meaning]
            for name, meaning in meanings.items()
        ]
        lines += [f"## {title}", "", *table(["setting", "values", "default", "who", "meaning"], rows)]
    return lines


def who_states(name: str) -> str:
    """Return who decides on a setting: "policy", "coordinator" or "hospital"."""
    name = name.partition(".")[0]
    return "coordinator" if name in COORDINATOR_ONLY else "hospital" if name in IGNORED else "policy"


def describe_type(field: FieldInfo) -> str:
    """Return the values of a setting in words: its type, its choices, and its bounds."""
    text = _type_words(field.annotation)
    bounds = [
        f"{words} {getattr(rule, attribute):g}"
        for rule in field.metadata
        for kind, (attribute, words) in _BOUNDS.items()
        if isinstance(rule, kind)
    ]
    return ", ".join([text, *bounds])


def _type_words(kind: Any) -> str:
    """Return a type in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (typing.Union, types.UnionType):
        words = [_type_words(each) for each in inner if each is not type(None)]
        return " or ".join(words) + (" or nothing" if type(None) in inner else "")
    if origin is tuple:
        each = _type_words(inner[0])
        return f"list of {each}s" if inner[-1] is Ellipsis else f"{len(inner)} {each}s"
    if origin is dict:
        return "names and values"
    return _NAMES[kind]


def _default(field: FieldInfo) -> str:
    """Return a setting's default as it is written in YAML; what is required has none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
