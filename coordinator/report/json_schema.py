"""JSON Schemas of report.json and scores.json, for programs that read them: docs/schema.

python -m coordinator.report.json_schema docs/schema        writes them again (make schema)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from coordinator.exchange.audit.scores import Scores
from coordinator.exchange.records import Record
from coordinator.report.records import Report
from crypto.files import write_json

#: The model of each file, by the name of its schema.
RECORDS: dict[str, type[Record]] = {"report.schema.json": Report, "scores.schema.json": Scores}


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas, by the name of their file. The dialect is that of JSON Schema 2020-12."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {name: {**dialect, **kind.model_json_schema()} for name, kind in RECORDS.items()}


def main() -> None:
    """Write the schemas into the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas().items():
        write_json(folder / name, schema)
        print(folder / name)


if __name__ == "__main__":
    main()
