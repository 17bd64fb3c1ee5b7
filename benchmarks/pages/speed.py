"""The pages of the costs and checks: sealing, federation and traffic; and the tested properties of the schemes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.entries import Entry, of_kind
from benchmarks.pages.markdown import facts, number, quartiles, table

Record = Mapping[str, Any]

INTRO = """# Speed and traffic

Ratios were measured in one run, in turns, so that a machine's other work affects both sides. Seconds are those of
the machine named beside them.
"""
CORRECTNESS_INTRO = """# Correctness of the schemes

How many cases the tests of every scheme's properties try, and how many known answers they compare with.
"""


def page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/speed.md."""
    sections = {
        "schemes": schemes,
        "sealing": sealing,
        "federation": federation,
        "many-hospitals": many_hospitals,
        "attention": attention,
        "score-speed": score_speed,
        "time-to-verdict": time_to_verdict,
        "silence": silence,
        "options": plan_changes,
    }
    lines = [INTRO]
    for kind, section in sections.items():
        for entry in of_kind(entries, kind):
            lines += [*entry.heading(), *section(entry.result), ""]
    return lines


def correctness_page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/correctness.md."""
    lines = [CORRECTNESS_INTRO]
    for entry in of_kind(entries, "properties"):
        lines += [*entry.heading(), *properties(entry.result), ""]
    return lines


def schemes(result: Record) -> list[str]:
    """Return how fast each scheme seals, compared with a copy of the same bytes."""
    names = {
        "scheme": "scheme",
        "block": "block side (pixels)",
        "times_a_copy": "time over that of a NumPy copy, median",
        "times_a_copy_worst": "worst",
        "two_cores_over_one": "speed-up on two cores",
        "faster_than_naive": "times faster than plain NumPy code",
        "megabytes_per_second_one_core": "MB/s on one core",
    }
    rows = [[number(row[name]) for name in names] for row in result["rows"]]
    return [f"{result['images']} RGB images of 224×224.", "", *table(list(names.values()), rows)]


def sealing(result: Record) -> list[str]:
    """Return what sealing costs compared with decoding and resizing alone, and its memory and restart."""
    speeds = result["speed"]
    seconds_names = {
        "folder": "folder",
        "images": "images",
        "kilobytes_a_jpeg": "kB a JPEG file",
        "pillow_seconds": "decoding by Pillow (s)",
        "reading_seconds": "decoding by our reader (s)",
        "sealing_seconds": "decoding and sealing (s)",
    }
    seconds = [[number(speed[name]) for name in seconds_names] for speed in speeds]
    cpu = [
        [
            speed["folder"],
            *(
                number(speed[f"{part}_cpu_milliseconds_an_image"])
                for part in ("pillow", "reading", "sealing")
            ),
        ]
        for speed in speeds
    ]
    ratio_names = (
        "sealing_over_reading",
        "sealing_over_pillow",
        "cpu_sealing_over_reading",
        "cpu_sealing_over_pillow",
    )
    ratios = [[speed["folder"], *(quartiles(speed, name) for name in ratio_names)] for speed in speeds]
    memory_names = {
        "images": "images",
        "shape": "shape",
        "shards": "shards",
        "seconds": "seconds",
        "peak_megabytes": "peak memory (MB)",
    }
    memory = [[number(record[name]) for name in memory_names] for record in result["memory"]]
    labels = {
        "open_images": "images of a set that is opened",
        "open_shards": "shards of that set",
        "open_seconds": "opening it (s)",
        "labels_seconds": "reading all its labels (s)",
        "killed_after_shards": "shards done when a sealing was killed",
        "of_shards": "shards of that sealing",
        "resume_check_seconds": "resuming: checking what is there (s)",
        "resume_seconds": "resuming: until the end (s)",
    }
    ratio_headers = ["our reader, clock", "Pillow, clock", "our reader, CPU time", "Pillow, CPU time"]
    return [
        *table(list(seconds_names.values()), seconds),
        "The same in CPU time of all cores, milliseconds an image:",
        "",
        *table(
            [
                "folder",
                "decoding by Pillow (ms)",
                "decoding by our reader (ms)",
                "decoding and sealing (ms)",
            ],
            cpu,
        ),
        "Time of decoding and sealing over that of decoding alone, median and quartiles of the repeats:",
        "",
        *table(["folder", *(f"over {header}" for header in ratio_headers)], ratios),
        "Memory of a fresh process that seals:",
        "",
        *table(list(memory_names.values()), memory),
        *facts(result, labels),
    ]


def federation(result: Record) -> list[str]:
    """Return what Flower costs compared with the same training without it."""
    labels = {
        "plan": "plan",
        "model": "model",
        "engine": "what ran the hospitals",
        "bare_images_per_second": "bare timm training (images/s)",
        "loop_images_per_second": "our local training (images/s)",
        "loop_over_bare": "our local training over bare timm, speed, median",
        "loop_over_bare_low": "lower quartile",
        "loop_over_bare_high": "upper quartile",
        "turns": "repeats",
        "loop_seconds": "the study's work without Flower (s)",
        "flwr_seconds": "the study by Flower's apps (s)",
        "flwr_over_loop": "Flower's apps over work without Flower, time",
        "flwr_start_and_stop_seconds": "starting and stopping them (s)",
        "megabytes_a_round": "traffic a round, all hospitals (MB)",
    }
    # The first runs were made before there was a choice.
    return facts({"engine": "ray", **result}, labels)


def many_hospitals(result: Record) -> list[str]:
    """Return seconds a round and memory of studies with many hospitals on one machine."""
    names = {
        "hospitals": "hospitals",
        "most_processes": "processes at a time, at most",
        "round_seconds": "a round (s), median",
        "megabytes_a_round": "traffic a round (MB)",
        "start_and_end_seconds": "start and end (s)",
        "peak_megabytes": "all processes (MB), peak",
        "server_peak_megabytes": "coordinator alone, with shared pages (MB), peak",
    }
    rows = [[number(record[name]) for name in names] for record in result["records"]]
    workers = result["records"][0]["workers"]
    return [
        f"Each hospital has {result['images']} training images. At most {workers} hospitals work at a time; the "
        "other processes are the coordinator's and the one that forks.",
        "",
        *table(list(names.values()), rows),
    ]


def attention(result: Record) -> list[str]:
    """Return how fast networks train by both ways to compute their attention."""
    rows = [
        [
            row["model"],
            f"{row['side']} px, patches of {row['patch']}",
            row["tokens"],
            row["precision"],
            number(row["fused_milliseconds"]),
            number(row["plain_milliseconds"]),
            f"{row['times_faster']:.2f}",
        ]
        for row in result["records"]
    ]
    headers = [
        "network",
        "images",
        "tokens",
        "precision",
        "fused (ms an image)",
        "plain product (ms an image)",
        "plain product: times faster",
    ]
    return [
        "A training step's forward and backward pass on one core. The plain product holds a matrix of tokens × "
        "tokens for each image, head and layer. Local training on the CPU uses it under "
        "`precision: bfloat16`, up to 256 tokens.",
        "",
        *table(headers, rows),
    ]


def score_speed(result: Record) -> list[str]:
    """Return the processor time of scoring by two versions of the code on the same guesses."""
    names = {
        "images": "images",
        "draws": "draws",
        "guesses": "guesses",
        "rows": "scored rows of a draw",
        "before_cpu_seconds": "before (s)",
        "after_cpu_seconds": "after (s)",
        "times_faster": "times faster",
    }
    rows = [[number(record[name]) for name in names] for record in result["records"]]
    runs = "one run" if result["repeats"] == 1 else f"the faster of {result['repeats']} runs"
    return [
        f"Processor time of `score` on all cores, {runs} of each version, 224×224 pixels. Before is revision "
        f"{result['before']}. The scores of both versions are the same, value by value.",
        "",
        *table(list(names.values()), rows),
    ]


#: Seconds that a command may be silent.
SILENCE_S = 5.0


def silence(result: Record) -> list[str]:
    """Return the longest silence of every command; those above SILENCE_S are bold."""
    rows = []
    for row in result["rows"]:
        longest = f"{row['longest_silence']:.2f}"
        rows.append(
            [
                f"`{row['command']}`",
                row["way"],
                f"{row['seconds']:.1f}",
                f"**{longest}**" if row["longest_silence"] > SILENCE_S else longest,
                row["lines"],
                str(row["after"]).replace("|", "\\|"),
            ]
        )
    ran = any(row["command"] == "simulate" for row in result["rows"])
    simulate = f"ran {result['plan']} from sealing to the report" if ran else "was not measured"
    return [
        f"The longest time in which a command printed nothing; bold above {SILENCE_S:g} s. `simulate` {simulate}. On "
        "a terminal a moving line counts as printing.",
        "",
        *table(
            ["command", "output is a", "seconds", "longest silence (s)", "lines", "printed before it"], rows
        ),
    ]


def time_to_verdict(result: Record) -> list[str]:
    """Return how long a whole audit takes, by its steps, and its memory."""
    rows = []
    for record in result["records"]:
        clock, spent = record["clock_seconds"], record["cpu_seconds"]
        broken = record["broken_from"]
        verdict = f"broken from {broken}" if broken else "no break found"
        steps = [f"{clock[step]:.0f}" for step in ("seal", "attack", "score and report")]
        rows.append(
            [
                f"`{record['scheme']}`, {record['images']}",
                " + ".join(steps),
                f"{sum(clock.values()):.0f}",
                f"{sum(spent.values()):.0f}",
                f"{record['peak_megabytes']:.0f}",
                f"{record['load_at_start']:.1f}",
                verdict if record["valid"] else "invalid",
            ]
        )
    headers = [
        "scheme, images",
        "seal + attack + score and report (s)",
        "whole audit (s)",
        "processor time of all cores (s)",
        "peak memory (MB)",
        "load at its start",
        "verdict",
    ]
    return [
        "`cipherward-party audit` on brain MRI, 224×224 pixels, with its defaults: three draws, all pool sizes and "
        "all controls. Seconds are by the clock, from the command to the report, and include its start. *Load* is "
        "that of the whole machine: other work makes the clock run longer than the processor time says. "
        "One run of each. The first audit in a checkout compiles the attacks' functions as well.",
        "",
        *table(headers, rows),
    ]


def plan_changes(result: Record) -> list[str]:
    """Return accuracy and traffic of a plan with one setting changed at a time."""
    rows = [
        [
            record["change"],
            record["seed"],
            f"{number(record['test accuracy'])} ({record['low']:.4f}–{record['high']:.4f})",
            number(record["AUC"]),
            number(record["MB a round"]),
        ]
        for record in result["records"]
    ]
    headers = ["change of the plan", "seed", "test accuracy (95 % bounds)", "AUC", "traffic a round (MB)"]
    return [
        f"Plan: {result['plan']}. Accuracies are shares of 1.",
        "",
        *table(headers, rows),
        "Validation accuracy by round is in the JSON file.",
    ]


def properties(result: Record) -> list[str]:
    """Return how many cases of each property every scheme passed."""
    records = result["schemes"]
    names = [name for name in records[0] if name not in ("scheme", "cases", "known answers")]
    rows = []
    for record in records:
        counts = {name: record[name] for name in names if record.get(name)}
        each = sorted(set(counts.values()))
        rows.append(
            [
                record["scheme"],
                len(counts),
                "–".join(map(str, dict.fromkeys((each[0], each[-1])))),
                record["cases"],
                record["known answers"],
            ]
        )
    headers = ["scheme", "properties", "cases of each property", "cases in all", "known answers"]
    return [
        f"All {result['cases']} cases and {result['known_answers']} known answers hold. The properties: "
        f"{', '.join(name.replace('_', ' ') for name in names)}. "
        "The scheme `plain` has no key, so the properties of a key are not asked of it.",
        "",
        *table(headers, rows),
    ]
