"""Write the result pages from docs/results/*.json. No figure on them is typed by hand.

    python -m benchmarks.results                                        writes the pages again
    python -m benchmarks.results --add NAME --from FILE --title TEXT --command TEXT  keeps a run's figures first

The pages are docs/results.md (a summary), docs/results/TOPIC.md (the full tables), docs/leaderboard.md, and the table
between the markers `<!-- results -->` and `<!-- /results -->` in README.md and docs/explanation/attacks.md.
coordinator/report/measured.json holds the figures that the advice of a report cites. A kept file holds the
command, the date and what the run wrote: an audit's report.json (without pictures), or a benchmark's --json.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.command_line import make_parser
from benchmarks.pages import accuracy, audit, faults, inputs, leaderboard, privacy, speed, summary, training
from benchmarks.pages.entries import Entry, of_kind, read_entries
from benchmarks.pages.measured import measured_of
from coordinator.exchange.records import write_record
from coordinator.report.measured import FILE as MEASURED

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "results"
README = ROOT / "README.md"
#: Documents with the table of schemes between the markers.
WITH_TABLE = (README, ROOT / "docs" / "explanation" / "attacks.md")
MARKERS = ("<!-- results -->", "<!-- /results -->")

_PAGES: dict[str, Callable[[Sequence[Entry]], list[str]]] = {
    "audit": audit.page,
    "accuracy": accuracy.page,
    "speed": speed.page,
    "deployment": faults.page,
    "updates": training.updates_page,
    "privacy": privacy.page,
    "networks": training.networks_page,
    "inputs": inputs.page,
    "correctness": speed.correctness_page,
    "other": summary.other_page,
}


def make_pages(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the text of every page, by its path below docs/. A topic without runs has no page."""
    pages = {"results.md": _text(summary.page(entries)), "leaderboard.md": _text(leaderboard.page(entries))}
    for topic, make in _PAGES.items():
        if any(of_kind(entries, *summary.TOPICS[topic][1])):
            pages[f"results/{topic}.md"] = _text([*make(entries), "[All results](../results.md)"])
    return pages


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def insert_table(readme: str, entries: Sequence[Entry]) -> str:
    """Return the README with the results table between its markers; unchanged if it has no markers."""
    begin, end = MARKERS
    if begin not in readme or end not in readme:
        return readme
    before, _, rest = readme.partition(begin)
    _, _, after = rest.partition(end)
    lines = "\n".join(summary.readme_table(entries)).strip()
    return f"{before}{begin}\n\n{lines}\n\n{end}{after}"


def write_pages() -> list[Path]:
    """Write every page, the README's table and what reports cite, and return the paths.

    A page whose topic has no runs is removed.
    """
    entries = read_entries(KEPT)
    pages = make_pages(entries)
    for topic in _PAGES:
        if f"results/{topic}.md" not in pages:
            (KEPT / f"{topic}.md").unlink(missing_ok=True)
    for name, text in pages.items():
        (KEPT.parent / name).write_text(text)
    for path in WITH_TABLE:
        path.write_text(insert_table(path.read_text(), entries))
    write_record(MEASURED, measured_of(entries))
    return [*(KEPT.parent / name for name in pages), *WITH_TABLE, MEASURED]


def keep(args: argparse.Namespace) -> None:
    """Keep a run's figures as docs/results/NAME.json."""
    result = json.loads(args.source.read_text())
    created = result.get("created", datetime.datetime.now(datetime.UTC).isoformat())[:10]
    entry = {"title": args.title, "command": args.command, "date": created, "result": result}
    (KEPT / f"{args.add}.json").write_text(json.dumps(entry, indent=1) + "\n")


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--add", metavar="NAME", help="keep a run's figures as docs/results/NAME.json")
    parser.add_argument("--from", dest="source", type=Path, help="report.json, or a benchmark's --json")
    parser.add_argument("--title", help="the section's title")
    parser.add_argument("--command", help="the command that made it")
    args = parser.parse_args()
    KEPT.mkdir(exist_ok=True)
    if args.add:
        if not (args.source and args.title and args.command):
            parser.error("--add needs --from, --title and --command")
        keep(args)
    for path in write_pages():
        print(path)


if __name__ == "__main__":
    main()
