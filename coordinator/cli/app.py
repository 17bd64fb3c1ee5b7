"""cipherward-coordinator: the commands of the cloud, and whole studies on one machine.

`cipherward-coordinator COMMAND --help` shows a command's options. The commands are in a file a group: studies.py,
models.py, audit.py and deployment.py. Each imports what it needs when it runs, so that `--help` needs neither NumPy
nor PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from coordinator.cli.audit import attack, report
from coordinator.cli.deployment import carry, enrol, provision, renew, revoke, serve, status, stop
from coordinator.cli.deployment import run as run_study
from coordinator.cli.examples import EXAMPLES
from coordinator.cli.models import classify, train, weights
from coordinator.cli.studies import env, export, manifest, simulate
from coordinator.exchange.command import Command, FollowingCommand, Program, ServingCommand, example_of
from coordinator.exchange.console import run

app = typer.Typer(
    help="The commands of the cloud: training, attacks, reports. The cloud never sees a key or a plain image.",
    no_args_is_help=True,
    cls=Program,
    pretty_exceptions_enable=False,
)
for command in (simulate, manifest, train, classify, attack, report, export, weights, env):
    app.command(cls=Command, epilog=example_of(EXAMPLES, command.__name__))(command)
_WITH_HOSPITALS: dict[str, Callable[..., None]] = {
    "provision": provision,
    "enrol": enrol,
    "carry": carry,
    "serve": serve,
    "run": run_study,
    "status": status,
    "stop": stop,
    "revoke": revoke,
    "renew": renew,
}
for name, command_of_hospitals in _WITH_HOSPITALS.items():
    kind = {"serve": ServingCommand, "run": FollowingCommand}.get(name, Command)
    example = example_of(EXAMPLES, name)
    app.command(name, cls=kind, epilog=example, rich_help_panel="Real hospitals")(command_of_hospitals)


def main() -> None:
    """Run the command line; this is the entry point `cipherward-coordinator`."""
    run(app, "cipherward-coordinator")


if __name__ == "__main__":
    main()
