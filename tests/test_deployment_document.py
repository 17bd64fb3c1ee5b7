"""docs/deployment.md, followed to the letter: every command of its steps, on three machines that are three folders.

The only changes are the address and the ports. `scp` copies between the folders, and every question is answered
with y.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parties.agent.running import read_state
from parties.sealing.place import Place
from tests.support.paths import ROOT
from tests.support.superlink import BIN, free_port, marked_processes, wait_until

DOCUMENT = ROOT / "docs" / "deployment.md"
MACHINES = ("coordinator", "hospital-0", "hospital-1")
#: Commands that go on until they are ended.
LASTING = ("cipherward-coordinator serve", "cipherward-party join")
_SCP = """#!/bin/sh
# scp FILE... MACHINE:PATH between the folders of a test
for last; do :; done
root=@ROOT@; target="$root/${last%%:*}/${last#*:}"
while [ $# -gt 1 ]; do cp "$1" "$target" || exit 1; shift; done
"""


def read_steps(text: str) -> list[tuple[str, str, str]]:
    """Return (machine, kind, block) of the blocks of the section "Step by step", in their order."""
    section = text.partition("\n## Step by step")[2].partition("\n## ")[0]
    steps, machine = [], ""
    for match in re.finditer(
        r"^\*\*On ([\w-]+)\*\*|^```(\w+)\n(.*?)^```", section, re.MULTILINE | re.DOTALL
    ):
        if match[1]:
            machine = match[1]
        else:
            steps.append((machine, match[2], match[3]))
    return steps


def test_the_steps_have_a_machine_and_every_command_of_a_federation() -> None:
    steps = read_steps(DOCUMENT.read_text())
    assert {machine for machine, _, _ in steps} == set(MACHINES)
    lines = [line for _, kind, block in steps if kind == "sh" for line in block.splitlines()]
    commands = {" ".join(line.split()[:2]) for line in lines}
    for command in (
        "keygen",
        "seal",
        "enrol",
        "accept",
        "declare",
        "agree",
        "approve",
        "join",
        "leave",
        "log",
    ):
        assert f"cipherward-party {command}" in commands
    for command in ("manifest", "provision", "enrol", "carry", "serve", "status", "run", "revoke", "renew"):
        assert f"cipherward-coordinator {command}" in commands


class _Newcomer:
    """Types what the document says, on each of the machines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lasting: list[tuple[str, subprocess.Popen[bytes]]] = []
        tools = root / "tools"
        tools.mkdir()
        (tools / "scp").write_text(_SCP.replace("@ROOT@", str(root)))
        (tools / "scp").chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{tools}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"
        }
        self.ports = {"8443": str(free_port()), "8444": str(free_port())}
        for machine in MACHINES:
            (root / machine).mkdir()

    def do(self, machine: str, kind: str, block: str) -> str:
        """Write a file, or type commands; return what was printed."""
        for old, new in {"fl.example.org": "127.0.0.1", **self.ports}.items():
            block = block.replace(old, new)
        if kind == "yaml":
            (self.root / machine / block.split()[1]).write_text(block)
            return ""
        return "".join(self.type(machine, line) for line in block.splitlines())

    def type(self, machine: str, line: str) -> str:
        """Type a command, answer its questions with y, and wait for its end if it has one."""
        if line.startswith(LASTING):
            self.start(machine, line)
            return ""
        ours, theirs = os.openpty()
        os.write(ours, b"y\n")
        try:
            done = subprocess.run(
                line, shell=True, cwd=self.root / machine, env=self.environment, stdin=theirs, text=True,
                capture_output=True, timeout=600, check=False,
            )  # fmt: skip
        finally:
            os.close(ours)
            os.close(theirs)
        assert done.returncode == 0, (machine, line, done.stdout, done.stderr)
        return done.stdout

    def start(self, machine: str, line: str) -> None:
        """Start a command that goes on, and wait until it is ready."""
        path = self.root / f"{machine}.{line.split()[1]}.out"
        with open(path, "wb") as sink:
            process = subprocess.Popen(
                line.split(), cwd=self.root / machine, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=sink, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.lasting.append((machine, process))
        if " serve " in line:
            wait_until(lambda: b"ready:" in path.read_bytes(), 90, path.read_text())
        else:
            wait_until(partial(self._is_online, machine), 120, f"{machine} online")

    def _is_online(self, machine: str) -> bool:
        state = read_state(Place.open(self.root / machine / machine))
        return state is not None and state.get("connection") == "online"


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[_Newcomer]:
    """Give somebody with three machines; what was left running is ended by its own id."""
    newcomer = _Newcomer(tmp_path)
    try:
        yield newcomer
    finally:
        for _, process in reversed(newcomer.lasting):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)


def draw_images(folder: Path, seed: int) -> None:
    """Draw gray images of two classes: bright and dark ones, each with its own noise."""
    random = np.random.default_rng(seed)
    for label in (0, 1):
        for number in range(40):
            pixels = random.integers(0, 120, (64, 64)) + 100 * label
            path = folder / f"class-{label}" / f"{seed}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.mark.slow
def test_a_newcomer_follows_the_document_to_a_trained_model(newcomer: _Newcomer) -> None:
    draw_images(newcomer.root / "hospital-0" / "my-images", 0)
    draw_images(newcomer.root / "hospital-1" / "my-images", 1)
    printed = [newcomer.do(*step) for step in read_steps(DOCUMENT.read_text())]
    text = "".join(printed)
    assert re.search(r"hospital-0: online.*hospital-1: online", text, re.DOTALL)
    assert "test accuracy" in text and "unbroken" in text
    cloud = newcomer.root / "coordinator" / "north" / "studies" / "trial" / "cloud"
    assert (cloud / "model.safetensors").exists()
    left, ended = next(
        (machine, process) for machine, process in newcomer.lasting if machine == "hospital-0"
    )
    assert ended.wait(20) == 0
    assert marked_processes(newcomer.root / left / left) == []
