"""Settings files: YAML → one frozen, validated object. An unknown key is an error that names the known ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from crypto.errors import CipherwardError


class Settings(BaseModel):
    """Frozen, and closed: keys that it does not know are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T", bound=Settings)
#: Where a value may be of several kinds, pydantic names the first of them in an error's place.
_KINDS = ("bool", "int", "str")


def build(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """The settings object of `values`; raises CipherwardError for the first thing that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields)
        if first["type"] == "extra_forbidden":
            raise CipherwardError(f"{where}: unknown key {key!r}", f"known: {known}") from None
        if first["type"] == "missing":
            raise CipherwardError(f"{where}: key {key!r} is missing", f"known: {known}") from None
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, CipherwardError):
            raise cause from None
        said = str(first["msg"]).removeprefix("Value error, ")
        if first["loc"] and first["loc"][-1] in _KINDS:
            key, said = key.rpartition(".")[0], "Input should be true or false, a whole number, or a word"
        given = first["input"]
        hint = f"it is {given!r}" if isinstance(given, bool | int | float | str) else ""
        raise CipherwardError(f"{where}: {key + ': ' if key else ''}{said}", hint) from None


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file; raises CipherwardError naming the file."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise CipherwardError(f"no {what} at {path}", "name a YAML file that is there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CipherwardError(
            f"cannot read the {what} {path}: {type(error).__name__}",
            "name a YAML file that is yours to read",
        ) from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        raise CipherwardError(f"{path} is not YAML (line {line})", "each line is `key: value`") from None
    if not isinstance(values, dict):
        raise CipherwardError(f"{path} holds no settings", "each line is `key: value`")
    return values
