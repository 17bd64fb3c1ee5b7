"""cipherward-party: the commands that run inside a hospital.

A hospital's folder holds its secret key, its settings (party.yaml) and its sealed (encrypted) images. Every command
takes that folder. `cipherward-party COMMAND --help` shows a command's options.

The commands are in a file a group: auditing.py, keys.py, sealing.py, agreeing.py and measuring.py. Each imports what
it needs when it runs, so that `--help` needs neither NumPy nor PyTorch.
"""

from __future__ import annotations

import typer

from coordinator.exchange.console import run
from parties.cli.agreeing import accept
from parties.cli.auditing import audit
from parties.cli.keys import identity, keygen, rotate, share_key
from parties.cli.measuring import baseline, classify, report, score
from parties.cli.sealing import inspect, schemes, seal, unseal, verify

app = typer.Typer(
    help="The commands of a hospital: keys, sealing (encryption), scoring. Plain images and keys never leave it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(audit)
app.command()(keygen)
app.command()(identity)
app.command("share-key")(share_key)
for command in (rotate, seal, schemes, unseal, inspect, verify, accept, baseline, classify, score, report):
    app.command()(command)


def main() -> None:
    """Run the command line; this is the entry point `cipherward-party`."""
    run(app, "cipherward-party")


if __name__ == "__main__":
    main()
