"""Settings files: YAML, read into one frozen, validated object. The error for an unknown key lists the known keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from crypto.errors import CipherwardError, similar_to


class Settings(BaseModel):
    """Base of all settings: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T", bound=Settings)
#: If a value may have several types, pydantic ends the place of an error with the first of them.
_TYPE_NAMES = ("bool", "int", "str")
#: The values that a setting may have, as pydantic lists them: 'learn', 'private' or 'plain'.
_QUOTED = re.compile(r"'([^']*)'")
#: How deep the values of a YAML file may be nested. Settings are nested three deep at most.
_YAML_DEPTH = 50


def build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a settings object.

    Args:
        kind: the class of the settings.
        values: the settings by name.
        where: where they come from, such as the file's path; it begins every message.

    Raises:
        CipherwardError: for the first setting that is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(error.errors()[0], kind, where) from None


def _explain(first: ErrorDetails, kind: type[Settings], where: str) -> CipherwardError:
    """Return the error for one of pydantic's findings. kind: the class of the settings."""
    known = ", ".join(kind.model_fields)
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return CipherwardError(
            f"{where}: unknown key {key!r}", f"{similar_to(key, _all_names(kind))}known: {known}"
        )
    if first["type"] == "missing":
        return CipherwardError(f"{where}: key {key!r} is missing", f"known: {known}")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, CipherwardError):
        return cause
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["loc"] and first["loc"][-1] in _TYPE_NAMES:
        key = key.rpartition(".")[0]
        message = "Input should be true or false, a whole number, or a word"
    value = first["input"]
    hint = f"it is {value!r}" if isinstance(value, bool | int | float | str) else ""
    if first["type"] == "literal_error" and isinstance(value, str):
        hint = similar_to(value, _QUOTED.findall(str(first.get("ctx", {}).get("expected", "")))) + hint
    return CipherwardError(f"{where}: {key + ': ' if key else ''}{message}", hint)


def _all_names(kind: type[BaseModel]) -> Iterator[str]:
    """Yield the names of all settings, those in a block as `block.name`."""
    for name, field in kind.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from (f"{name}.{inner}" for inner in _all_names(field.annotation))


def load_yaml(text: str) -> Any:
    """Return what a YAML text holds: the same as `yaml.safe_load`, in a tenth of the time.

    A hospital reads its settings and its policy for every message of a training. PyYAML's parser in Python took half
    of a small round for that, so libyaml's takes its place where PyYAML was built with it.

    Raises:
        yaml.YAMLError: If the text is no YAML, or nested too deep: libyaml would end the process.
    """
    try:
        return _load_shallow(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return _load_shallow(text, yaml.SafeLoader)  # its errors name the line


def _load_shallow(text: str, loader: Any) -> Any:
    """Return what a YAML text holds. Raise yaml.YAMLError if it is none, or nested too deep."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _YAML_DEPTH:
            mark: Any = event.start_mark  # libyaml has marks of its own
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=mark)
    return yaml.load(text, Loader=loader)  # a SafeLoader, in Python or in C


def dump_yaml(values: Mapping[str, Any], allow_unicode: bool = False) -> str:
    """Return settings as a YAML text, in their order, by libyaml where PyYAML was built with it.

    Digests are of other texts: line breaks may differ between the two.
    """
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(dict(values), Dumper=dumper, sort_keys=False, allow_unicode=allow_unicode)
    return text


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Args:
        path: the file.
        what: what it holds, such as "plan"; the messages name it.

    Raises:
        CipherwardError: if the file cannot be read or holds no mapping.
    """
    try:
        values = load_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CipherwardError(f"no {what} at {path}", "name a YAML file that exists") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CipherwardError(
            f"cannot read the {what} {path}: {type(error).__name__}",
            "name a YAML file that you may read",
        ) from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise CipherwardError(f"{path} is not YAML (line {line})", "each line is `key: value`") from None
    if not isinstance(values, dict):
        raise CipherwardError(f"{path} holds no settings", "each line is `key: value`")
    return values


def nest(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with every `block.name` moved into its block, so that --set privacy.epsilon=8 works."""
    nested = {name: value for name, value in values.items() if "." not in name}
    for name, value in values.items():
        block, dot, rest = name.partition(".")
        if dot and isinstance(nested.get(block) or {}, dict):
            nested[block] = {**(nested.get(block) or {}), rest: value}
        elif dot:
            nested[name] = value
    return nested
