"""cipherward-party: the commands that run inside a hospital.

A hospital's folder holds its secret key, its settings (party.yaml) and its sealed (encrypted) images. Every command
takes that folder. `cipherward-party COMMAND --help` shows a command's options.

The commands are in a file a group: auditing.py, keys.py, checking.py, sealing.py, agreeing.py, privacy.py, agent.py
and measuring.py. Each imports what it needs when it runs, so that `--help` needs neither NumPy nor PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from coordinator.exchange.command import Command, Program, ServingCommand, example_of
from coordinator.exchange.console import run
from parties.cli.agent import agent_app, approve, enrol, join, leave, log
from parties.cli.agreeing import accept, agree, declare
from parties.cli.auditing import audit
from parties.cli.checking import check
from parties.cli.examples import EXAMPLES
from parties.cli.keys import identity, keygen, rotate, share_key
from parties.cli.measuring import baseline, classify, report, score
from parties.cli.privacy import patients, privacy
from parties.cli.sealing import inspect, schemes, seal, unseal, verify

app = typer.Typer(
    help="The commands of a hospital: keys, sealing (encryption), scoring. Plain images and keys never leave it.",
    no_args_is_help=True,
    cls=Program,
    pretty_exceptions_enable=False,
)
_GROUPS: tuple[tuple[Callable[..., None], ...], ...] = (
    (audit, keygen, identity, share_key),
    (rotate, check, seal, schemes, unseal, inspect, verify),
    (enrol, accept, declare, agree, patients, privacy),
    (approve, join, leave, log),
    (baseline, classify, score, report),
)
for command in (command for group in _GROUPS for command in group):
    name = command.__name__.replace("_", "-")
    kind = ServingCommand if command is join else Command
    app.command(name, cls=kind, epilog=example_of(EXAMPLES, name))(command)
app.add_typer(agent_app, name="agent")


def main() -> None:
    """Run the command line; this is the entry point `cipherward-party`."""
    run(app, "cipherward-party")


if __name__ == "__main__":
    main()
