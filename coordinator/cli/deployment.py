"""Commands for a federation of real hospitals: the coordinator's side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.exchange.console import Log, live_line, result, starting, talk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordinator.exchange.kit import Kit

Folder = Annotated[Path, typer.Argument(help="The deployment's folder, made by `provision`.")]


def provision(
    federation: Annotated[Path, typer.Argument(help="FEDERATION.yaml: see docs/deployment.md.")],
    folder: Annotated[Path, typer.Argument(help="The deployment's folder.")],
) -> None:
    """Make certificates, the app bundle, and a start-up kit for each hospital. Safe to run again."""
    from coordinator.deployment.provision import provision as provision_folder

    _print_kits(provision_folder(federation, folder), folder)
    talk.print("ca/ca.key signs certificates and nothing else: keep it offline once this is done")


def renew(
    folder: Folder,
    ca_key: Annotated[
        Path | None, typer.Option(help="The CA's private key.", show_default="the one in the folder")
    ] = None,
) -> None:
    """Give the server a new certificate of the same CA, and write new kits. Restart `serve` afterwards."""
    from coordinator.deployment.provision import renew as renew_certificate

    _print_kits(renew_certificate(folder, ca_key), folder)
    talk.print("restart `serve` to use the new certificate; hospitals that have joined need nothing")


def _print_kits(kits: Mapping[str, Kit], folder: Path) -> None:
    from coordinator.deployment.folder import DeploymentFolder

    for hospital, kit in kits.items():
        result.print(f"{folder / 'kits' / hospital}.kit  fingerprint {kit.fingerprint}")
    if left_out := [name for name in DeploymentFolder.open(folder).settings.hospitals if name not in kits]:
        talk.print(f"no kit for who is revoked: {', '.join(left_out)}")
    talk.print("send each hospital its kit, and tell it the fingerprint over another channel")


def enrol(
    folder: Folder,
    public_keys: Annotated[Path, typer.Argument(help="HOSPITAL.pub, the file that a hospital sent.")],
) -> None:
    """Let a hospital join: register its SuperNode's public key. Compare the fingerprint with the hospital first."""
    from coordinator.deployment import enrolment
    from coordinator.deployment.folder import DeploymentFolder

    place = DeploymentFolder.open(folder)
    keys = enrolment.read_public_keys(public_keys)
    is_new = enrolment.enrol(place, keys)
    name = keys.identity.name
    result.print(
        f"{name} is enrolled{'' if is_new else ' already'}; fingerprint {keys.identity.fingerprint}"
    )
    talk.print(f"compare the fingerprint with {name} by telephone; if it differs, revoke {name}")
    _reconcile(folder)


def carry(
    folder: Folder,
    approvals: Annotated[
        list[Path], typer.Argument(help="approval.json of each hospital, under any name.")
    ],
) -> None:
    """Carry hospitals' signed approvals of the app bundle to their SuperNodes, which run no code without one.

    It holds at once, also while the server runs. The signatures are public, and mean nothing to other hospitals.
    """
    from coordinator.deployment.approvals import carry as keep
    from coordinator.deployment.approvals import missing_approvals
    from coordinator.deployment.folder import DeploymentFolder

    place = DeploymentFolder.open(folder)
    for path in approvals:
        approval, is_new = keep(place, path)
        result.print(f"the approval of {approval.hospital} is carried{'' if is_new else ' already'}")
    if missing := missing_approvals(place):
        talk.print(f"still without an approval: {', '.join(missing)}")


def revoke(
    folder: Folder,
    hospital: Annotated[str, typer.Argument(help="The hospital's name.")],
) -> None:
    """Shut a hospital out: its SuperNode's key is refused from now on, and never taken again."""
    from coordinator.deployment import enrolment
    from coordinator.deployment.folder import DeploymentFolder

    is_new = enrolment.revoke(DeploymentFolder.open(folder), hospital)
    result.print(f"{hospital} is revoked{'' if is_new else ' already'}")
    _reconcile(folder)


def _reconcile(folder: Path) -> None:
    """Tell a running server; one that is not running does it when it starts."""
    from coordinator.deployment.folder import DeploymentFolder
    from coordinator.deployment.running import reconcile_running

    if not reconcile_running(DeploymentFolder.open(folder), talk.print):
        talk.print("no server is running; it takes the roster when it starts")


def serve(folder: Folder) -> None:
    """Serve a federation until Ctrl-C or SIGTERM: Flower's SuperLink with TLS and registered hospitals alone."""
    from coordinator.deployment.serve import serve as serve_folder

    with starting("the server is starting") as is_ready:

        def on_ready(line: str) -> None:
            is_ready()
            result.print(line)

        serve_folder(folder, lambda line: talk.print(f"· {line}"), on_ready)
    talk.print("stopped; everything is kept")


def run(
    folder: Folder,
    plan: Annotated[Path | None, typer.Argument(help="The plan. Default: the provisioned one.")] = None,
) -> None:
    """Run a study on the hospitals, from where it stopped. The server must be running.

    A run that the server lost is submitted again. Ctrl-C ends this command, not the run: run it again to see the
    rounds, or `stop` to end the run.
    """
    from coordinator.deployment.folder import DeploymentFolder
    from coordinator.deployment.runs import run_study

    place = DeploymentFolder.open(folder)
    started = time.monotonic()
    training = _follow_rounds(list(place.settings.hospitals), lambda *sinks: run_study(place, plan, *sinks))
    accuracy = training["test"]["mean"]["accuracy"]
    result.print(f"test accuracy {accuracy:.3f}, best round {training['best_round']}")
    result.print(f"model SHA-256 {training['model_sha256']}")
    result.print(f"{time.monotonic() - started:.0f} s in this run")


def _follow_rounds(
    hospitals: Sequence[str], follow: Callable[[Log, Callable[[dict[str, Any]], None]], dict[str, Any]]
) -> dict[str, Any]:
    """Show the rounds of a run while it is followed; on a terminal, with a table of who took part.

    Args:
        hospitals: their names.
        follow: follows the run. It takes what a line goes to, and what a line of the journal goes to.
    """
    from coordinator.study.round_table import round_table
    from coordinator.study.steps import round_summary

    rows: list[dict[str, Any]] = []
    with live_line(lambda: round_table(rows, hospitals)) as show:
        show("the run is followed")

        def on_round(row: dict[str, Any]) -> None:
            rows.append(row)
            # Where a line moves on the same terminal, only its own console knows how to print above it.
            is_shared = talk.is_terminal and result.is_terminal and not talk.quiet
            (talk if is_shared else result).print(round_summary(row))
            show(f"the run goes on after round {row['round']}")

        return follow(lambda line: talk.print(f"· {line}", soft_wrap=True), on_round)


def stop(folder: Folder) -> None:
    """Stop the run that is under way. What earlier rounds reached is kept."""
    from coordinator.deployment.folder import DeploymentFolder
    from coordinator.deployment.runs import stop_runs

    stopped = stop_runs(DeploymentFolder.open(folder))
    result.print(f"stopped: {', '.join(map(str, stopped))}" if stopped else "no run is under way")


def status(
    folder: Folder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show who is online, the run, its last round, bytes and versions, and what is about to expire."""
    import json

    from coordinator.deployment.folder import DeploymentFolder
    from coordinator.deployment.status import read_status, status_lines

    place = DeploymentFolder.open(folder)
    while True:
        state = read_status(place)
        if watch and result.is_terminal and not as_json:
            result.clear()
        for line in [json.dumps(state)] if as_json else status_lines(state):
            result.print(line)
        if not watch:
            return
        try:
            time.sleep(2)
        except KeyboardInterrupt:
            return
