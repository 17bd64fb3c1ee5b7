"""The commands of cipherward-party that join a federation: enrol, approve, join, leave, agent, log."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from coordinator.exchange.command import Command, Program, example_of
from coordinator.exchange.console import parse_seconds, result, talk
from crypto.errors import CipherwardError
from crypto.files import folder_lock
from crypto.plural import agreeing, counted
from parties.cli.examples import EXAMPLES
from parties.cli.keys import Hospital

if TYPE_CHECKING:
    from parties.agent.bundle import Bundle, FileChange
    from parties.sealing.place import Place

KitFile = Annotated[Path, typer.Argument(help="The kit that the coordinator made for this hospital.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

agent_app = typer.Typer(
    cls=Program,
    help="The hospital's agent: what it is doing, and which app bundles it lets run.",
    no_args_is_help=True,
)


def enrol(hospital: Hospital) -> None:
    """Make the hospital's identity and its SuperNode's key pair, and write the public halves into enrol.pub.

    Nothing is made twice. Give HOSPITAL/enrol.pub to the coordinator.
    """
    from parties.agent.enrol import enrol as make_keys
    from parties.sealing.place import Place

    place = Place.open(hospital)
    with folder_lock(place.folder):
        enrolment = make_keys(place)
    talk.print(
        f"wrote {enrolment.path}: give the coordinator this file alone; private/ and the key beside it stay here"
    )
    talk.print(
        "compare this fingerprint with the other hospitals yourself, by telephone or in person: whoever carries a "
        "public key can replace it"
    )
    result.print(enrolment.identity.fingerprint)


def approve(
    bundle: Annotated[
        Path, typer.Argument(help="The coordinator's app bundle (.fab), or this hospital's kit.")
    ],
    hospital: Hospital,
    days: Annotated[int, typer.Option(help="Days that the approval holds.")] = 90,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without a question.")] = False,
) -> None:
    """Show in what an app bundle differs from the code that this hospital knows, and let it run here.

    It is compared with the bundle that was approved last, or else with this hospital's own installation. The agent
    runs no other code. Given a kit, the bundle is built from the own installation, and must be the kit's.
    """
    from parties.agent.approval import approve as record
    from parties.sealing.place import Place

    place = Place.open(hospital)
    candidate = _find_bundle(bundle, place)
    known, changes = _compare(place, candidate)
    _show(candidate, known, changes)
    _confirm(f"Does {place.settings.party} let this code run beside its images and its key?", yes)
    approval = record(place, candidate, days)
    talk.print(
        f"give the coordinator {place.folder / 'approval.json'} alone: it carries the signature to your SuperNode"
    )
    result.print(f"{approval.sha256} approved until {approval.expires:%Y-%m-%d}")


def _find_bundle(path: Path, place: Place) -> Bundle:
    """Return the bundle that a file is, or that a kit names."""
    from coordinator.exchange.kit import read_kit
    from parties.agent.bundle import build_own_bundle, read_bundle

    if path.suffix != ".kit":
        return read_bundle(path)
    kit = read_kit(path)
    manifest = kit.manifest
    talk.print(f"the kit's fingerprint: {kit.fingerprint}; compare it with the coordinator by telephone")
    if manifest.hospital != place.settings.party:
        raise CipherwardError(
            f"this kit is for {manifest.hospital}, and the folder is {place.settings.party}'s",
            "ask the coordinator for your own kit",
        )
    own = build_own_bundle(_root())
    if own.sha256 != manifest.bundle_sha256:
        raise CipherwardError(
            f"the kit names the app bundle {manifest.bundle_sha256[:16]}, and this installation builds "
            f"{own.sha256[:16]}",
            "ask the coordinator for the .fab file, and name it here to see what differs",
        )
    return own


def _root() -> Path:
    """Return the folder that holds this program's packages."""
    import parties

    return Path(next(iter(parties.__path__))).resolve().parent


def _compare(place: Place, bundle: Bundle) -> tuple[str, list[FileChange]]:
    """Return what a bundle is compared with, and in what it differs from that."""
    from parties.agent.approval import last_approved
    from parties.agent.bundle import build_own_bundle, compare, read_own_code

    last = last_approved(place)
    if last is not None:
        return f"the bundle {last.sha256[:16]} that was approved last", compare(last.files, bundle.files)
    where = f"this hospital's own installation in {_root()}"
    try:
        # As Flower builds it: it orders pyproject.toml anew, and that is no difference of the code.
        own = dict(build_own_bundle(_root()).files)
    except CipherwardError:
        own = read_own_code(_root(), list(bundle.files))  # an installation without the app's description
    return where, compare(own, bundle.files)


def _show(bundle: Bundle, known: str, changes: list[FileChange]) -> None:
    """Print the difference, file by file."""
    talk.print(f"{bundle.app}, {counted(len(bundle.files), 'file')}, SHA-256 {bundle.sha256}")
    if not changes:
        talk.print(f"all files are as in {known}")
        return
    for change in changes:
        # All of it: what a long difference hides is what should be read. A removed file runs nothing.
        for line in change.diff if change.kind != "removed" else ():
            talk.print(line, soft_wrap=True)
    table = Table("file", "compared with what is known")
    for change in changes:
        # Names of files come from outside: nothing in them may steer a terminal.
        table.add_row("".join(c if c.isprintable() else repr(c)[1:-1] for c in change.path), change.kind)
    talk.print(table)
    talk.print(
        f"{len(changes)} of {counted(len(bundle.files), 'file')} {agreeing(len(changes), 'differs', 'differ')} "
        f"from {known}"
    )


def _confirm(question: str, yes: bool) -> None:
    """Ask on the terminal; without a terminal nobody can answer, and --yes must be said."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CipherwardError(
            "approving code is a decision, and there is no terminal to ask on", "add --yes"
        )
    if not typer.confirm(question, default=False, err=True):
        raise CipherwardError("the bundle was not approved, and nothing was written", "")


def join(
    kit: KitFile,
    hospital: Hospital,
    limit: Annotated[
        str,
        typer.Option(
            help="Longest time for a message: 90s, 10m. By default its round's deadline and 30 s; from the second "
            "message of a kind on, four times the longest answered one (at least 30 s) if that is less."
        ),
    ] = "",
    agent_check_only: Annotated[
        bool,
        typer.Option(
            "--agent-check-only",
            help="Let the agent alone check the code: for a SuperLink that carries no approvals. "
            "By default Flower's SuperNode asks for this hospital's signature as well.",
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Threads of PyTorch for a message, where other work shares this machine. By default one a core.",
        ),
    ] = None,
    max_message: Annotated[
        int,
        typer.Option(
            min=1,
            help="Megabytes of the largest message that is received. Weights take up to 4 bytes for each parameter.",
        ),
    ] = 2000,
) -> None:
    """Take part in a federation until Ctrl-C or `cipherward-party leave`. Rounds are shown as they happen.

    What is answered is decided by the policy (accept) and by the approved code (approve), and written into
    HOSPITAL/private/agent.jsonl.
    """
    from coordinator.exchange.kit import read_kit
    from parties.agent.join import Options
    from parties.agent.join import join as run_agent
    from parties.sealing.place import Place

    limit_s = parse_seconds(limit, "--limit") if limit else None
    options = Options(limit_s, not agent_check_only, threads, max_message * 10**6)

    def log_line(text: str) -> None:
        talk.print(text, soft_wrap=True)  # a service's log has no width

    run_agent(Place.open(hospital), read_kit(kit), log_line, options)


def leave(hospital: Hospital) -> None:
    """End the hospital's running agent, and everything that it started."""
    from parties.agent.running import leave as end_agent
    from parties.sealing.place import Place

    place = Place.open(hospital)
    pid = end_agent(place)
    result.print(f"the agent of {place.settings.party} (process {pid}) has ended")


@agent_app.command("status", cls=Command, epilog=example_of(EXAMPLES, "agent status"))
def agent_status(hospital: Hospital, as_json: Json = False) -> None:
    """Say whether the agent runs, whether it is connected, and what it answered."""
    from parties.agent.approval import read_approvals
    from parties.agent.running import read_state
    from parties.sealing.place import Place

    place = Place.open(hospital)
    state = read_state(place)
    approvals = [a.model_dump(mode="json") for a in read_approvals(place)]
    if as_json:
        result.print_json(
            json.dumps({"running": state is not None, **(state or {}), "approvals": approvals})
        )
        return
    if state is None:
        result.print(f"no agent of {place.settings.party} is running")
        return
    names = ("federation", "address", "connection", "error", "restarts", "last_message", "pid", "supernode")
    for name in names:
        if state.get(name) not in (None, ""):
            result.print(f"{name.replace('_', ' ')}: {state[name]}")
    counts = state.get("messages") or {}
    result.print("messages: " + ", ".join(f"{count} {word}" for word, count in counts.items()))


@agent_app.command("approvals", cls=Command, epilog=example_of(EXAMPLES, "agent approvals"))
def agent_approvals(hospital: Hospital) -> None:
    """List the app bundles that may run here."""
    from parties.agent.approval import read_approvals
    from parties.sealing.place import Place

    for approval in read_approvals(Place.open(hospital)):
        result.print(f"{approval.sha256}  until {approval.expires:%Y-%m-%d}  {approval.app}")


@agent_app.command("withdraw", cls=Command, epilog=example_of(EXAMPLES, "agent withdraw"))
def agent_withdraw(
    digest: Annotated[str, typer.Argument(help="The bundle's SHA-256, or its first digits.")],
    hospital: Hospital,
) -> None:
    """Withdraw the approval of an app bundle. It holds from the next message on."""
    from parties.agent.approval import withdraw
    from parties.sealing.place import Place

    result.print(f"{withdraw(Place.open(hospital), digest.lower()).sha256} no longer runs here")


def log(
    words: Annotated[list[str], typer.Argument(metavar="[verify] HOSPITAL", help="The hospital's folder.")],
    as_json: Json = False,
    head: Annotated[
        str, typer.Option(help="With verify: a head that was noted elsewhere.", show_default="not compared")
    ] = "",
) -> None:
    """Show the hospital's log of its agent; `log verify HOSPITAL` checks that nothing in it was changed or removed.

    Verify prints the log's head. Note it outside this machine: whoever can write the hospital's folder can cut the
    log and its head at once.
    """
    from parties.agent.agent_log import AgentLog
    from parties.sealing.place import Place

    is_check = len(words) == 2 and words[0] == "verify"
    if not is_check and len(words) != 1:
        raise CipherwardError("log takes a hospital's folder", "cipherward-party log [verify] HOSPITAL")
    if head and not is_check:
        raise CipherwardError("--head is for verify", "cipherward-party log verify HOSPITAL --head HASH")
    journal = AgentLog(Place.open(Path(words[-1])))
    if is_check:
        report = journal.verify(head)
        if as_json:
            result.print_json(json.dumps({"lines": report.lines, "head": report.head, "torn": report.torn}))
            return
        for number in report.torn:
            talk.print(f"line {number} was cut short when it was written")
        result.print(f"{counted(report.lines, 'line')}, unbroken; head {report.head}")
        return
    lines = journal.read()
    if as_json:
        result.print_json(json.dumps(lines))
        return
    for line in lines:
        result.print(_sentence(line))
    if not (lines or journal.count_lines()):
        talk.print("the log is empty: no agent of this hospital has run")
    if left_out := journal.count_lines() - len(lines):
        talk.print(
            f"{counted(left_out, 'line')} of {journal.path} cut short or damaged, and not shown: "
            "cipherward-party log verify HOSPITAL says which"
        )


def _sentence(line: dict[str, Any]) -> str:
    """Return a line of the log for people; `--json` has all of it."""
    parts = [str(line.get("time", "")), str(line.get("event", ""))]
    shown = ("type", "split", "study", "round", "seconds", "field", "error", "federation", "app", "expires")
    parts += [f"{name} {line[name]}" for name in shown if line.get(name) not in (None, "")]
    parts += [f"{name} {str(line[name])[:16]}" for name in ("plan", "manifest", "code") if line.get(name)]
    parts += [
        f"{name.replace('_', ' ')} {line[name]:,}"
        for name in ("bytes_in", "bytes_out")
        if type(line.get(name)) is int and line[name]
    ]
    return "  ".join(parts)
