"""cipherward-coordinator: the commands of the cloud, and whole studies on one machine.

`cipherward-coordinator COMMAND --help` shows a command's options. The commands are in a file a group: studies.py,
models.py and audit.py. Each imports what it needs when it runs, so that `--help` needs neither NumPy nor PyTorch.
"""

from __future__ import annotations

import typer

from coordinator.cli.audit import attack, report
from coordinator.cli.models import classify, train, weights
from coordinator.cli.studies import env, simulate
from coordinator.exchange.command import Command
from coordinator.exchange.console import run

app = typer.Typer(
    help="The commands of the cloud: training, attacks, reports. The cloud never sees a key or a plain image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (simulate, train, classify, attack, report, weights, env):
    app.command(cls=Command)(command)


def main() -> None:
    """Run the command line; this is the entry point `cipherward-coordinator`."""
    run(app, "cipherward-coordinator")


if __name__ == "__main__":
    main()
