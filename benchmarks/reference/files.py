"""The reference of report.json and scores.json, read from their models; docs/schema holds the JSON Schemas."""

from __future__ import annotations

import inspect
import re
from typing import Any

from benchmarks.pages.markdown import table
from coordinator.report.json_schema import RECORDS, schemas

_INTRO = """# report.json and scores.json

Both files have a [JSON Schema](https://json-schema.org) (2020-12) in docs/schema. `make schema` writes the schemas,
and `make docs` writes this page, from the models in `coordinator/report/records.py` and
`coordinator/exchange/audit/scores.py`. A file that does not fit is refused with the name of the field. Every rate,
bound and verdict is computed again from the counts when a file is read. A file that contradicts itself is refused.
"""


def files_page() -> list[str]:
    """Return the lines of docs/reference/files.md: the fields of each file, and where its schema is."""
    lines = [_INTRO]
    for file, schema in schemas().items():
        name = file.replace(".schema", "")
        texts = _attribute_texts(inspect.getdoc(RECORDS[file]) or "")
        required = set(schema.get("required", ()))
        rows = [
            [
                f"`{field}`",
                _kind(value),
                "yes" if field in required else "no",
                texts.get(field) or _model_text(value, schema),
            ]
            for field, value in schema["properties"].items()
        ]
        lines += [f"## {name}", "", f"Schema: [{file}](../schema/{file}).", ""]
        lines += table(["field", "type", "required", "meaning"], rows)
    return lines


def _attribute_texts(docstring: str) -> dict[str, str]:
    """Return the texts of the section "Attributes" of a Google docstring, by name."""
    section = docstring.partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _model_text(value: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the first sentence about the model that a field holds, alone or in a list; nothing for plain values."""
    nested = value.get("items", value)
    if not isinstance(nested.get("additionalProperties"), bool) and "$ref" not in nested:
        nested = nested.get("additionalProperties", {})
    model = schema["$defs"].get(nested.get("$ref", "").rpartition("/")[2], {})
    return str(model.get("description", "")).partition("\n\n")[0].replace("\n", " ")


def _kind(value: dict[str, Any]) -> str:
    """Return the type of a property of a JSON Schema in words."""
    if "$ref" in value:
        return f"`{value['$ref'].rpartition('/')[2]}`"
    if "anyOf" in value:
        return " or ".join(_kind(each) for each in value["anyOf"])
    if value.get("type") == "array" and "items" in value:
        return f"array of {_kind(value['items'])}"
    return str(value.get("type", value.get("const", "any")))
