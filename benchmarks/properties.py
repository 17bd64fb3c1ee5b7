"""Count the cases on which every scheme's properties hold, and its known answers.

    python -m benchmarks.properties [--json FILE]

The cases are those of the fast tests (tests/support/scheme_checks.py). Each is tried here; a failure ends the run.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.command_line import add_json, make_parser, write_figures
from coordinator.report.build import machine
from crypto.scheme import SCHEMES
from tests.support import scheme_checks

Check = Callable[[scheme_checks.Case], None]


def count_cases(name: str) -> tuple[Counter[str], int]:
    """Try every case of a scheme, and return (cases by property, known answers). All of them held."""
    cases: Counter[str] = Counter()
    for check, least in list(scheme_checks.PROPERTIES.items()):

        @functools.wraps(check)
        def counted(case: scheme_checks.Case, check: Check = check) -> None:
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
    """Run the command line."""
    parser = make_parser(__doc__)
    add_json(parser)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in SCHEMES:
        cases, vectors = count_cases(name)
        rows.append({"scheme": name, "cases": sum(cases.values()), **cases, "known answers": vectors})
        print(rows[-1])
    total = sum(r["cases"] for r in rows)
    figures = {"machine": machine(), "cases": total, "known_answers": sum(r["known answers"] for r in rows)}
    print(figures)
    write_figures(args.json, {**figures, "schemes": rows})


if __name__ == "__main__":
    main()
