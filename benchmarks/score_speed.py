"""How long `score` takes, beside an earlier version of the code on the same guesses.

    python -m benchmarks.score_speed --before CHECKOUT [--data FOLDER] [--repeats 2] [--json FILE]

Brain MRI of 224×224 pixels is sealed for an audit of three draws, as gray images and as RGB, and attacked by the
attacks of suite/1. Then `cipherward-party score` of both versions runs on the same guesses, in turns, each in a
process of its own. Times are the processor time of that process on all cores, the least of the repeats, because
Numba compiles in a version's first run of all. The scores of both must be the same,
value by value: the run fails if they are not, unless the versions judge by different rules.

CHECKOUT is a folder with another version of this repository, such as `git worktree add ../before REVISION` makes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, add_data, add_json, make_parser, write_figures
from coordinator.report.build import machine
from crypto.errors import CipherwardError

COLOURS = {"gray": "--gray", "RGB": "--rgb"}
#: What differs between two scores of the same guesses: when and by which code they were made.
UNLIKE = ("signature",)


def run(code: Path, program: str, *words: object) -> tuple[float, float]:
    """Run a command of a checkout; return its processor time and its time by the clock, in seconds."""
    module = {"party": "parties.cli.app", "coordinator": "coordinator.cli.app"}[program]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"from {module} import main; main()", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CipherwardError(f"{program} {words[0]} failed: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.monotonic() - started


def prepare(colours: str, code: Path, data: Path, folder: Path) -> float:
    """Seal and attack the images of a kind into a folder, unless that was done; return the attack's seconds."""
    hospital, guesses, note = folder / "hospital", folder / "guesses", folder / "attack.json"
    if note.exists():
        return float(json.loads(note.read_text()))
    run(code, "party", "keygen", hospital)
    words = ["--images", data / "brain_mri", "--audit", 3, "--named", COLOURS[colours]]
    run(code, "party", "seal", hospital, *words)
    sets = [s for s in sorted((hospital / "sealed").iterdir()) if s.name not in ("val", "test")]
    sets.sort(key=lambda s: s.name != "train")
    attack, _ = run(code, "coordinator", "attack", *sets, "--out", guesses, "--jobs", 1)
    note.write_text(json.dumps(attack))
    return attack


def measure(
    colours: str, versions: dict[str, Path], data: Path, repeats: int, folder: Path
) -> dict[str, Any]:
    """Let both versions score; return the figures of one kind of images.

    Raises:
        CipherwardError: If the versions' scores differ.
    """
    hospital, guesses = folder / "hospital", folder / "guesses"
    attack = prepare(colours, versions["after"], data, folder)
    spent: dict[str, list[float]] = {name: [] for name in versions}
    answers = {}
    for _ in range(repeats):
        for name, code in versions.items():
            scores = folder / f"{name}.json"
            seconds, clock = run(code, "party", "score", hospital, guesses, "--out", scores, "--simulated")
            print(
                f"{colours}, {name}: {seconds:.1f} s of processor time, {clock:.1f} s by the clock",
                flush=True,
            )
            spent[name].append(seconds)
            answers[name] = {k: v for k, v in json.loads(scores.read_text()).items() if k not in UNLIKE}
    # Versions that judge by different rules measure different things.
    is_one_rule = answers["before"]["suite"] == answers["after"]["suite"]
    if is_one_rule and answers["before"] != answers["after"]:
        raise CipherwardError(f"the versions score {colours} images differently")
    draws = answers["after"]["draws"]
    return {
        "images": colours,
        "draws": len(draws),
        "guesses": sum(len(draw["findings"]) for draw in draws),
        "rows": draws[0]["rows"],
        "gallery": draws[0]["gallery"],
        "attack_cpu_seconds": attack,
        "before_cpu_seconds": min(spent["before"]),
        "after_cpu_seconds": min(spent["after"]),
        "times_faster": min(spent["before"]) / min(spent["after"]),
        "same_scores": is_one_rule,
        "rules": [answers[name]["suite"] for name in ("before", "after")],
        "all_seconds": spent,
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the earlier version")
    parser.add_argument("--repeats", type=int, default=2, help="counted runs of each version")
    parser.add_argument("--images", default=",".join(COLOURS), help="gray, RGB or both")
    parser.add_argument(
        "--keep", type=Path, help="folder for sealed sets and guesses, which are used again"
    )
    add_data(parser)
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    versions = {"before": args.before.resolve(), "after": ROOT}
    revision = subprocess.run(
        ["git", "-C", str(versions["before"]), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    rows = []
    for colours in args.images.split(","):
        with tempfile.TemporaryDirectory() as folder:
            place = args.keep / colours if args.keep else Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            rows.append(measure(colours, versions, args.data, args.repeats, place))
    figures = {
        "schema": "cipherward.score-speed/1",
        "machine": machine(),
        "before": revision,
        "repeats": args.repeats,
        "records": rows,
    }
    print(json.dumps(figures, indent=1))
    write_figures(args.json, figures)


if __name__ == "__main__":
    main()
