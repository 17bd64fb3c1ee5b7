"""On how many cases every scheme's properties hold, and how many known answers it has.

    python benchmarks/properties.py [--json FILE]

The cases are those of the fast tests (tests/support/scheme_checks.py): every one is tried here, and a failure ends the run.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from coordinator.report.build import machine
from crypto.scheme import SCHEMES
from tests.support import scheme_checks


def tried(name: str) -> tuple[Counter[str], int]:
    """(cases by property, known answers) of a scheme, all of which held."""
    cases: Counter[str] = Counter()
    for check, least in list(scheme_checks.PROPERTIES.items()):

        @functools.wraps(check)
        def counted(case: object, check=check) -> None:  # type: ignore[no-untyped-def]
            check(case)
            cases[check.__name__] += 1

        scheme_checks.PROPERTIES[counted] = least
        scheme_checks.run(counted, name, scheme_checks.file_of(name))
        del scheme_checks.PROPERTIES[counted]
    vectors = scheme_checks.vectors(scheme_checks.file_of(name))
    for vector in vectors:
        scheme_checks.check_known_answer(vector)
    return cases, len(vectors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in SCHEMES:
        cases, vectors = tried(name)
        rows.append({"scheme": name, "cases": sum(cases.values()), **cases, "known answers": vectors})
        print(rows[-1])
    total = sum(r["cases"] for r in rows)
    figures = {"machine": machine(), "cases": total, "known_answers": sum(r["known answers"] for r in rows)}
    print(figures)
    if args.json:
        args.json.write_text(json.dumps({**figures, "schemes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
