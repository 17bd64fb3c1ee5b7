"""Settings files: YAML, read into one frozen, validated object. The error for an unknown key lists the known keys."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from crypto.errors import CipherwardError, similar_to
from crypto.files import folder_hint


class Settings(BaseModel):
    """Base of all settings: frozen. Unknown keys, numbers that are not finite and impossible text are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _have_text_that_can_be_written(cls, value: object) -> object:
        """Refuse a null character, which no file name holds, and half of a surrogate pair, which no UTF-8 holds."""
        if any("\0" in text or _SURROGATE.search(text) for text in _texts_in(value)):
            raise ValueError("Input has a null character, or half of a character")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _have_numbers_that_are_no_switches(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false for a number: YAML reads yes, no, on and off as them, and they would be 1 and 0."""
        inner = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(item, bool) for item in inner):
            types = {*_types_in(cls.model_fields[str(info.field_name)].annotation)}
            if bool not in types and types & {int, float}:
                raise ValueError("Input should be a number, and it is yes or no, on or off, true or false")
        return value


T = TypeVar("T", bound=Settings)
#: torch takes no seed of more than 64 bits.
MAX_SEED = 10**18
#: The shares of a Dirichlet partition are even long before this; far above, NumPy's are no numbers.
MAX_ALPHA = 1e6
#: Far above every rate, decay or scale: at 3.4e38 float32 is infinite, and torch fails in the middle of a round.
MAX_RATE = 1e30
#: If a value may have several types, pydantic ends the place of an error with the first of them.
_TYPE_NAMES = ("bool", "int", "str")
#: The values that a setting may have, as pydantic lists them: 'learn', 'private' or 'plain'.
_QUOTED = re.compile(r"'([^']*)'")
_SURROGATE = re.compile("[\ud800-\udfff]")
#: How deep the values of a YAML file may be nested. Settings are nested three deep at most.
_YAML_DEPTH = 50
_TOO_DEEP = "nested too deep"
#: How many values a YAML file may hold, each alias counted as what it stands for. Half a kilobyte of aliases of
#: aliases stands for a billion, and merge keys (`<<`) write them all out. A thousand classes are a thousand.
_MOST_VALUES = 1_000_000
#: Bytes of a file of settings, at most. The longest of ours, with a thousand classes, has a thousandth.
_MOST_BYTES = 1 << 24
#: Characters of a wrong value that a message shows.
_SHOWN = 40
#: First and last line of a file of settings that a command writes. Half of a YAML file is YAML, too, and the settings
#: that it lost would have their defaults in silence. Files without the first line are read as they are, and whoever
#: edits one may append to it.
_BEGIN, _END = "# settings, whole down to the line: # end", "# end"
#: Whole numbers with a zero before them, which YAML 1.1 reads in base 8, and numbers with colons, in base 60.
_ODD_NUMBER = re.compile(r"[-+]?0[0-7_]*[0-7]|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
#: What PyYAML raises beside its own errors for a value that is not of the type it looks like: 2026-13-45, `!!bool x`,
#: a whole number of thousands of digits.
_VALUE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, OverflowError)


def _texts_in(value: object) -> Iterator[str]:
    """Yield the text that a setting holds, in lists and blocks, too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts_in(key)
            yield from _texts_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts_in(inner)


def _types_in(annotation: object) -> Iterator[type]:
    """Yield the types that an annotation names, those of a literal's values, too."""
    for inner in get_args(annotation):
        yield from _types_in(inner)
    if isinstance(annotation, type):
        yield annotation
    elif isinstance(annotation, (int, float, str)):
        yield type(annotation)


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
        raise _explain(error.errors(), kind, where) from None


def _explain(findings: Sequence[ErrorDetails], kind: type[Settings], where: str) -> CipherwardError:
    """Return the error for the first of pydantic's findings. kind: the class of the settings."""
    first = findings[0]
    known = ", ".join(kind.model_fields)
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return CipherwardError(
            f"{where}: unknown key {key!r}", f"{similar_to(key, _all_names(kind))}known: {known}"
        )
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        where_in = ".".join(str(part) for part in first["loc"][:-1])
        return CipherwardError(
            f"{where}: {where_in} has too few values: number {first['loc'][-1] + 1} is missing",
            _shown(list(first["input"])),
        )
    if first["type"] == "missing":
        others = [
            str(f["loc"][0]) for f in findings if f["type"] == "extra_forbidden" and len(f["loc"]) == 1
        ]
        of_another = f"; or it is another kind of file, with keys unknown here: {', '.join(others)}"
        return CipherwardError(
            f"{where}: key {key!r} is missing", f"add a line `{key}: VALUE`{of_another if others else ''}"
        )
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, CipherwardError):
        return cause
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["loc"] and first["loc"][-1] in _TYPE_NAMES:
        key = key.rpartition(".")[0]
        message = "Input should be true or false, a whole number, or a word"
    if first["type"] == "model_type":
        message = "Input should be a block of settings, each `key: value` in a line of its own"
    value = first["input"]
    # The settings contradict one another: all of them, cut short, would show nothing.
    hint = (
        _shown(value) if key else "change one of the settings that it names; docs/training.md explains each"
    )
    if first["type"] == "literal_error" and isinstance(value, str):
        hint = similar_to(value, _QUOTED.findall(str(first.get("ctx", {}).get("expected", "")))) + hint
    return CipherwardError(f"{where}: {key + ': ' if key else ''}{message}", hint)


def _shown(value: object) -> str:
    """Return the hint that shows a wrong value. A line without a value gives None, no word of YAML."""
    if value is None:
        return "it is empty: give it a value, or leave the line out"
    if isinstance(value, bool | int | float | str):
        return f"it is {value!r}"
    text = str(value)
    return f"it is {text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'}"


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
        yaml.YAMLError: If the text is no YAML, if a value is not of the type it looks like, if a list or a mapping
            holds itself, if there are too many values, and if they are nested too deep, where libyaml would end the
            process.
    """
    try:
        return _load_shallow(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, *_VALUE_ERRORS):
        return _load_shallow(text, _MarkingLoader)  # its errors name the line


class _MarkingLoader(yaml.SafeLoader):
    """PyYAML's SafeLoader, whose error names the place of a value that is not of the type it looks like."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node. Raise yaml.YAMLError if it has none."""
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except _VALUE_ERRORS:
            problem = "a value that is not of the type it looks like"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


def _load_shallow(text: str, loader: Any) -> Any:
    """Return what a YAML text holds. Raise yaml.YAMLError as `load_yaml` does."""
    #: Of each collection that is open: its anchor, and how many values it holds so far, those of aliases written out.
    open_collections: list[tuple[str | None, int]] = [(None, 0)]
    values_of: dict[str, int] = {}
    for event in yaml.parse(text, Loader=loader):
        mark: Any = event.start_mark  # libyaml has marks of its own
        if isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, 0))
            if len(open_collections) > _YAML_DEPTH + 1:
                raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=mark)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, values = open_collections.pop()
        elif isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in open_collections):
                raise yaml.MarkedYAMLError(problem="a value that holds itself", problem_mark=mark)
            anchor, values = None, values_of.get(str(event.anchor), 0)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, values = event.anchor, 0
        else:
            continue
        if anchor is not None:
            values_of[anchor] = values
        around, others = open_collections[-1]
        open_collections[-1] = around, others + values + 1
        if others + values + 1 > _MOST_VALUES:
            raise yaml.MarkedYAMLError(problem="too many values", problem_mark=mark)
    return yaml.load(text, Loader=loader)  # a SafeLoader, in Python or in C


def _require_one_meaning(text: str, where: str) -> None:
    """Raise CipherwardError if a YAML text, which was parsed before, has a setting twice or an odd number.

    YAML forbids a name that stands twice, and PyYAML takes the last one: a limit that a hospital wrote above it would
    be none. It reads 010 as 8 and 1:30 as 90, which nobody means here.

    Args:
        text: the text.
        where: where it comes from, such as the file's path; it begins the message.
    """
    #: Of each collection that is open: the names in it so far, None for a list; and whether a name comes next.
    open_collections: list[tuple[set[str] | None, bool]] = []
    for event in _events(text):
        if isinstance(event, yaml.CollectionEndEvent):
            open_collections.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        mark: Any = event.start_mark
        plain = (
            event.value
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not event.style
            else ""
        )
        if _ODD_NUMBER.fullmatch(plain):
            number = yaml.safe_load(plain) if len(plain) <= _SHOWN else "another number"
            raise CipherwardError(
                f"{where}: {plain:.40} in line {mark.line + 1} is {number} to YAML, which counts in eights or "
                "sixties here",
                "write the number without a zero before it and without a colon, or a text in quotes",
            )
        names, is_name = open_collections[-1] if open_collections else (None, False)
        if names is not None:
            open_collections[-1] = names, not is_name
            if is_name and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
                if event.value in names:
                    raise CipherwardError(
                        f"{where}: {event.value!r:.60} stands twice, again in line {mark.line + 1}",
                        "keep the one that is meant",
                    )
                names.add(event.value)
        if isinstance(event, yaml.CollectionStartEvent):
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            open_collections.append((set() if is_mapping else None, is_mapping))


def _events(text: str) -> list[Any]:
    """Return the events of a YAML text; in Python alone, if libyaml refuses what PyYAML reads (half a surrogate)."""
    try:
        return list(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.YAMLError:
        return list(yaml.parse(text, Loader=yaml.SafeLoader))


def parse_value(text: str, where: str, hint: str) -> Any:
    """Return the value in a word of a command line, read as YAML.

    Args:
        text: the value.
        where: the option and the setting, such as `--set rounds`; it begins every message.
        hint: an example of a right word.

    Raises:
        CipherwardError: if it is no value, nested too deep, or means two things: a name that stands twice, or 010.
    """
    try:
        value = load_yaml(text)
        _require_one_meaning(text, where)
        return value
    except yaml.YAMLError as error:
        reason = _TOO_DEEP if getattr(error, "problem", "") == _TOO_DEEP else "not a value"
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        raise CipherwardError(f"{where}: {shown!r} is {reason}", hint) from None


def parse_assignments(words: Sequence[str], option: str, form: str, hint: str) -> dict[str, Any]:
    """Return the settings that a repeated option names, with their values read as YAML.

    Args:
        words: the words, such as `rounds=3`.
        option: the option, such as `--set`.
        form: what a word looks like, such as `key=value`.
        hint: an example of a right word.

    Raises:
        CipherwardError: if a word has no name or no value, or a name stands twice: one value would be left out.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise CipherwardError(f"{option} {word!r} is not {form}", hint)
        if name in values:
            raise CipherwardError(f"{option} {name} is there twice", "name each setting once")
        values[name] = parse_value(value, f"{option} {name}", hint)
    return values


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def dump_yaml(values: Mapping[str, Any], allow_unicode: bool = False) -> str:
    """Return settings as a YAML text, in their order, by libyaml where PyYAML was built with it.

    Digests are of other texts: line breaks may differ between the two.
    """
    dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(dict(values), Dumper=dumper, sort_keys=False, allow_unicode=allow_unicode)
    return text


def mark_whole(text: str) -> str:
    """Return the text of a file of settings between two comments that tell when its end was cut."""
    return f"{_BEGIN}\n{text}{_END}\n"


def _require_whole(text: str, path: Path, what: str) -> None:
    """Raise CipherwardError if a text that a command wrote has lost its end."""
    lines = text.splitlines()
    if _BEGIN in lines and _END not in lines:
        raise CipherwardError(
            f"the {what} {path} was cut short: its line `{_END}` is missing",
            "restore it from your backup; or, if all settings are there, put that line back",
        )


def read_yaml(
    path: Path, what: str, check: Callable[[os.stat_result], None] | None = None
) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Args:
        path: the file.
        what: what it holds, such as "plan"; the messages name it.
        check: looks at the status of the opened file before it is read, and raises CipherwardError to refuse it.

    Raises:
        CipherwardError: if the file cannot be read or holds no mapping.
    """
    try:
        # Opening a pipe would wait for its writer, and a device would fill the memory.
        with open(path, encoding="utf-8", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if check is not None:
                check(status)
            if not stat.S_ISREG(status.st_mode):
                raise CipherwardError(
                    f"the {what} {path} is not a regular file", "write it into a file, and name that"
                )
            if status.st_size > _MOST_BYTES:
                raise CipherwardError(
                    f"the {what} {path} has {status.st_size / 1e6:.0f} MB; none has more than "
                    f"{_MOST_BYTES / 1e6:.0f} MB",
                    "name a YAML file of settings",
                )
            text = file.read()
            _require_whole(text, path, what)
            values = load_yaml(text)
            _require_one_meaning(text, str(path))
    except FileNotFoundError:
        raise CipherwardError(f"no {what} at {path}", "name a YAML file that exists") from None
    except UnicodeDecodeError:
        raise CipherwardError(
            f"cannot read the {what} {path}: it is not text in UTF-8", "save it as UTF-8 in your editor"
        ) from None
    except OSError as error:
        raise CipherwardError(
            f"cannot read the {what} {path}: {error.strerror}",
            folder_hint(path, ".yaml")
            if isinstance(error, IsADirectoryError)
            else "name a YAML file that you may read",
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = str(error).partition("\n")[0] if mark is None else f"line {mark.line + 1}"
        problem = getattr(error, "problem", None) or ""
        raise CipherwardError(
            f"{path} is not YAML ({reason}){': ' if problem else ''}{problem:.80}",
            "each line is `key: value`",
        ) from None
    if not isinstance(values, dict):
        raise CipherwardError(f"{path} holds no settings", "each line is `key: value`")
    for name in values:
        if not isinstance(name, str):
            raise CipherwardError(
                f"{path}: {name!r:.60} is no name of a setting",
                "a name is a word; YAML reads numbers, null, yes, no, on and off as values",
            )
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
