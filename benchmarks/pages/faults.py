"""The page of what faults cost a deployed federation, and of the traffic and the time of deployed studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.entries import Entry, of_kind
from benchmarks.pages.markdown import facts, number, table

Record = Mapping[str, Any]

INTRO = """# Deployment

Real processes on the loopback interface, with TLS and the product's own commands:
[how to deploy a federation](../deployment.md). The coordinator and all hospitals share one machine here; the load
that other programs caused is stated.
"""


def page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/deployment.md."""
    sections = {"faults": faults, "deployment": deployment, "records": records}
    lines = [INTRO]
    for kind, section in sections.items():
        for entry in of_kind(entries, kind):
            lines += [*entry.heading(), *section(entry.result), ""]
    return lines


_LEGEND = """Faults that strike a study at work. *Before training*: the hospital answered the last message of a round,
and the next one has not reached it. *In training*: a client process computes its update. *At evaluation*: the
message to evaluate has come, and no answer has left. *Rounds missed* were made without the hospital's update,
*evaluations missed* without its figures. *Seconds lost* is the time until all hospitals replied again, beyond what as
many undisturbed rounds take. *Back after* is the time from the fault to the beginning of the first round that all
hospitals answered. *Data lost* compares journal, checkpoint and the hospitals' logs.
"""


def faults(result: Record) -> list[str]:
    """Return what happened after each fault, what it cost, and which promises hold."""
    records = [record for record in result["records"] if not record["skipped"]]
    # A fault that struck a round, or one after which the harness lost sight of the study: that must be seen here.
    struck = [record for record in records if record["moment"] or record["rounds_missed"] is not None]
    others = [record for record in records if record not in struck]
    words = [[record["fault"], record["moment"], _cell(record["happened"])] for record in records]
    return [
        *_about(result, records),
        "",
        *_targets(result.get("targets", ())),
        *_LEGEND.splitlines(),
        "",
        *_costs(struck),
        *(
            [f"{len(others)} more strike no round of the table: who must not join, and whole studies.", ""]
            if others
            else []
        ),
        "What happened, in the words of the journal, the logs and the programs:",
        "",
        *table(["fault", "moment", "what happened"], words),
        *_details(records),
        *_skipped(result["records"]),
    ]


def _about(result: Record, records: Sequence[Record]) -> list[str]:
    """Return the sentences about the federation, the machine's load, and what was left running."""
    runs = result["runs"]
    # Before schema 2 the load was noted at the end of a run, and a run that was ended early has no figures.
    loads = sorted(row["load"] for row in (*records, *runs) if "load" in row)
    load = f" Load averages: {number(loads[0])} to {number(loads[-1])}." if loads else ""
    left = sum(len(row.get("left_running", ())) for row in (*records, *runs))
    code = f", of code {result['code']}," if "code" in result else ""
    lines = [
        f"{result['hospitals']} hospitals, quorum {result['quorum']}, deadline {number(result['deadline_s'])} s, "
        f"grace period {number(result['grace_s'])} s. An undisturbed round took {number(result['round_seconds'])} s "
        f"(median).{load} {len(records)} records{code} were made in {len(runs)} runs. "
        f"Processes that were left without their command after a fault, or at the end: {left}."
    ]
    lines += [f"Of one run: {run['note']}." for run in runs if "note" in run]
    if result.get("other_code"):
        lines.append(f"{result['other_code']} lines were of other code, and are not shown.")
    return lines


def _targets(targets: Sequence[Record]) -> list[str]:
    """Return the table of what is promised and whether it holds."""
    if not targets:
        return []
    verdicts = {True: "yes", False: "**no**", None: "not measured as a whole"}
    rows = [[t["promise"], _cell(t["measured"]), verdicts[t["holds"]]] for t in targets]
    return ["What is promised, and whether it holds:", "", *table(["promise", "measured", "holds"], rows)]


def _costs(struck: Sequence[Record]) -> list[str]:
    """Return the table of what each fault cost."""
    numbers = ("rounds_missed", "evaluations_missed", "seconds_lost", "back_after_s")
    rows = [
        [
            record["fault"],
            record["moment"],
            *(number(record.get(name)) for name in numbers),
            _cell(record["data_lost"]),
        ]
        for record in struck
    ]
    headers = ["rounds missed", "evaluations missed", "seconds lost", "back after (s)", "data lost"]
    return table(["fault", "moment", *headers], rows)


def _details(records: Sequence[Record]) -> list[str]:
    """Return a table for each fault of several kinds."""
    lines: list[str] = []
    for record in records:
        if details := record.get("details"):
            rows = [[kind, _cell(reason)] for kind, reason in details.items()]
            lines += [
                f"{record['fault']}, one a round:",
                "",
                *table(["kind", "what the journal says"], rows),
            ]
    return lines


def _skipped(records: Sequence[Record]) -> list[str]:
    """Return a line for each fault that was not tried."""
    return [
        f"- Skipped: {record['fault']}{', ' if record['moment'] else ''}{record['moment']}: {record['skipped']}."
        for record in records
        if record["skipped"]
    ]


def deployment(result: Record) -> list[str]:
    """Return seconds, bytes and memory of a deployed study."""
    labels = {
        "plan": "plan",
        "hospitals": "hospitals",
        "rounds": "rounds",
        "server_start_seconds": "start of the server (s)",
        "join_seconds": "until all hospitals are online (s)",
        "first_round_seconds": "from `run` to the end of the first round (s)",
        "run_seconds": "`run`, from start to end (s)",
        "round_seconds": "a round (s), median",
        "all_run_seconds": "`run` (s), each time that the study ran",
        "all_round_seconds": "rounds of the first one (s), each",
        "same_model": "the model of all runs is the same to the bit",
        "threads": "threads of each hospital's training",
        "journal_megabytes": "records of messages after the first round, by the journal (MB)",
        "relay_megabytes": "bytes on the wire in the same time, by a counting relay (MB)",
        "relay_over_journal": "bytes on the wire over those of the journal",
        "bundle_megabytes": "app bundle, once for each hospital (MB)",
        "idle_bytes": "a hospital that waits for work: bytes on the wire a second",
        "idle_cpu_milliseconds": "… and CPU time of the SuperLink a second (ms)",
        "superlink_cpu_seconds": "CPU time of the SuperLink for the whole study (s)",
        "idle_superlink_megabytes": "memory of the SuperLink before the study (MB)",
        "superlink_megabytes": "memory of the SuperLink (MB), most",
        "serverapp_megabytes": "memory of the ServerApp (MB), most",
        "hospital_megabytes": "memory of a hospital's processes (MB), most",
        "database_megabytes": "the SuperLink's database at the end (MB)",
        "load": "load average over five minutes at the end",
    }
    return [*facts(result, labels), *extrapolate(result, 1000)]


def records(result: Record) -> list[str]:
    """Return what one message costs in each form of its weights."""
    rows = [
        [row["form"], str(row["arrays"]), str(row["objects"]), number(row["bytes"] / 1e6),
         number(row["pack_seconds"]), number(row["unpack_seconds"])]
        for row in result["records"]
    ]  # fmt: skip
    head = ["weights as", "arrays", "objects", "bytes (MB)", "take apart and hash (s)", "put together (s)"]
    return [
        f"One message with the weights of {result['model']}. Each object is one request over TLS (not timed).",
        "",
        *table(head, rows),
    ]


def extrapolate(result: Record, hospitals: int) -> list[str]:
    """Return what a round of so many hospitals would cost, if each costs what one of the measured hospitals does.

    It is a calculation, not a measurement: nobody ran so many hospitals. The SuperLink is one process, so its CPU
    time is a lower bound of a round's wall time.
    """
    # The relay counts the rounds after the first.
    megabytes = result["relay_megabytes"] / ((result["rounds"] - 1) * result["hospitals"])
    # Waiting costs CPU time as well; it is taken off what the messages cost.
    waiting = result["idle_cpu_milliseconds"] / 1000 * result["hospitals"] * result["run_seconds"]
    cpu = max(0.0, result["superlink_cpu_seconds"] - waiting) / (result["rounds"] * result["hospitals"])
    memory = (result["superlink_megabytes"] - result["idle_superlink_megabytes"]) / result["hospitals"]
    values = [
        ("traffic of a round (GB)", megabytes * hospitals / 1000),
        ("… over a link of 1 Gbit/s (s)", megabytes * hospitals * 8 / 1000),
        ("CPU time of the SuperLink for a round's messages (s)", cpu * hospitals),
        (
            "cores of the SuperLink that waiting hospitals take",
            result["idle_cpu_milliseconds"] / 1000 * hospitals,
        ),
        ("traffic of waiting hospitals (Mbit/s)", result["idle_bytes"] * hospitals * 8 / 1e6),
        ("memory of the SuperLink (GB)", (result["idle_superlink_megabytes"] + memory * hospitals) / 1000),
        ("app bundle to all hospitals, once (GB)", result["bundle_megabytes"] * hospitals / 1000),
    ]
    rows = [[name, number(value)] for name, value in values]
    return [
        f"On paper, the same study with {hospitals:,} hospitals on one SuperLink, if each costs what one costs here. "
        "**Nobody ran this.** Traffic and memory grow with the model, whose weights are sent three times a round: to "
        "train, back, and to evaluate.",
        "",
        *table([f"{hospitals:,} hospitals", "calculated"], rows),
    ]


def _cell(text: str) -> str:
    """Return text as it may stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")
