"""Typed JSON records: the base class of everything in scores.json and report.json, and how such a file is read.

A record refuses fields that it does not know and values of another type, so that a damaged or forged file is named
at the field and not met later as a crash. Fields that a file leaves out stay left out when the record is written
again: files of earlier versions keep their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)

from crypto.errors import CipherwardError
from crypto.files import read_json, write_json
from crypto.spec import SchemeSpec

#: A record that another party wrote has fewer bytes. Chosen by hand: the largest scores of a test have 0.2 MB, and a
#: crafted file of this size takes about 2 GB of memory before it is refused.
MOST_RECORD_BYTES = 1 << 25
_RESTORE = "restore it from a copy, or make it again with this version"


class Record(BaseModel):
    """An immutable JSON object with strictly typed fields."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", populate_by_name=True, allow_inf_nan=False
    )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object: names as they stand in the file, without the fields that were never set."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def _spec_of(value: object) -> SchemeSpec:
    if isinstance(value, SchemeSpec):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("Input should be a scheme description")
    try:
        return SchemeSpec.from_json(value)
    except CipherwardError as error:
        raise ValueError(error.message) from None


#: A scheme description inside a record, written as `SchemeSpec.to_json` does.
SpecField = Annotated[
    SchemeSpec,
    PlainValidator(_spec_of),
    PlainSerializer(lambda spec: spec.to_json()),
    WithJsonSchema(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "version": {"type": "integer"},
                "image_shape": {
                    "type": "array",
                    "items": {"type": "integer"},
                    "minItems": 3,
                    "maxItems": 3,
                },
                "block": {"type": "integer"},
                "key_scope": {"enum": ["consortium", "party", "image"]},
                "options": {"type": "object"},
            },
            "required": ["name", "version", "image_shape", "block", "key_scope", "options"],
        }
    ),
]

AnyRecord = TypeVar("AnyRecord", bound=Record)


def parse_record(kind: type[AnyRecord], value: object, where: str) -> AnyRecord:
    """Return the record that a parsed JSON value describes.

    Args:
        kind: The record's class.
        value: What `json.loads` returned.
        where: What to call the value in an error, usually its path.

    Raises:
        CipherwardError: If a field is missing, unknown or of another type; the message names the field.
    """
    try:
        return kind.model_validate(_frozen(value))
    except ValidationError as error:
        raise CipherwardError(f"{where} is damaged: {_first_problem(error)}", _RESTORE) from None
    except RecursionError:
        raise CipherwardError(f"{where} is damaged: it is nested too deeply", _RESTORE) from None


def read_record(kind: type[AnyRecord], path: Path, schema: str, what: str, made_by: str = "") -> AnyRecord:
    """Read a file that holds one record.

    Args:
        kind: The record's class.
        path: The JSON file.
        schema: The value that its field `schema` must have.
        what: What to call the file where it is missing, such as "scores".
        made_by: The command that makes such a file, for the hint where it is missing.

    Raises:
        CipherwardError: If the file is missing, is of another schema, or is damaged; the message names the field.
    """
    value = read_json(path, what, made_by, most_bytes=MOST_RECORD_BYTES)
    if not isinstance(value, dict) or value.get("schema") != schema:
        raise CipherwardError(
            f"{path} is not a {schema} file",
            f"name the {what}{f', which {made_by} makes' if made_by else ''}",
        )
    return parse_record(kind, value, str(path))


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON; equal records give equal bytes."""
    write_json(path, record.to_json())


def _frozen(value: Any) -> Any:
    """Return the value with tuples in place of lists: strict records are immutable all the way down."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {name: _frozen(item) for name, item in value.items()}
    return value


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()
    # `figures` groups fields in memory only: in the file they stand in the finding itself.
    place = ".".join(str(part) for part in problems[0]["loc"] if part != "figures")
    text = f"{place}: {problems[0]['msg']}"
    return text if len(problems) == 1 else f"{text} (and {len(problems) - 1} more)"
