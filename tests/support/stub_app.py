"""A small Flower app for tests of agents: its client does what the message says, well or badly."""

from __future__ import annotations

from pathlib import Path

from flwr.cli.build import build_fab_from_disk

_PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "stub"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]
[tool.flwr.app]
publisher = "tests"
fab-include = ["stub/*.py"]
[tool.flwr.app.components]
serverapp = "stub.server:app"
clientapp = "stub.client:app"
[tool.flwr.app.config]
steps = "fine"
out = ""
nodes = 1
timeout = 60.0
"""

_CLIENT = '''
"""MARK"""
import os
import signal
import sys
import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


class OwnError(Exception):
    """An error that is written to be read by others."""

    hint = "a hint"
    field = "rounds"


@app.query("step")
def step(message: Message, context: Context) -> Message:
    word = str(message.content["config"]["do"])
    if word == "hang":
        time.sleep(3600)
    if word == "compute":
        while time.process_time() < 1.5:  # longer than a client may be idle
            sum(range(10_000))
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "leave":
        os._exit(3)
    if word == "raise":
        raise ValueError("/images/PATIENT-NAME.dcm")
    if word == "refuse":
        raise OwnError("the coordinator asks for more rounds than were accepted")
    if word == "orphan":  # a process that outlives its message
        if os.fork() == 0:
            time.sleep(3600)
    calls = int(context.state["calls"]["n"]) if "calls" in context.state else 0
    context.state["calls"] = ConfigRecord({"n": calls + 1})
    about = {"pid": os.getpid(), "parent": os.getppid(), "calls": calls + 1}
    about |= {"place": str(context.node_config.get("party-dir", "")), "word": word}
    about |= {"env": " ".join(sorted(name for name in os.environ if "SECRET" in name))}
    return Message(RecordDict({"about": ConfigRecord(about)}), reply_to=message)
'''

_SERVER = """
import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = context.run_config
    while len(list(grid.get_node_ids())) < int(settings["nodes"]):
        time.sleep(0.5)
    rows = []
    for number, word in enumerate(str(settings["steps"]).split(",")):
        config = ConfigRecord({"do": word, "server-round": number, "plan": json.dumps({"study": "stub"})})
        messages = [
            Message(RecordDict({"config": config}), dst_node_id=node, message_type="query.step")
            for node in grid.get_node_ids()
        ]
        began, answers = time.monotonic(), []
        for reply in grid.send_and_receive(messages, timeout=float(settings["timeout"])):
            if reply.has_error():
                answers.append({"error": reply.error.reason})
            else:
                answers.append(dict(reply.content["about"]))
        rows.append({"word": word, "seconds": time.monotonic() - began, "answers": answers})
        Path(str(settings["out"])).write_text(json.dumps(rows))
"""


def write_stub_app(folder: Path, mark: str = "") -> bytes:
    """Write the app into a folder and return its bundle. mark: a text that makes the bundle another one."""
    package = folder / "stub"
    package.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_PROJECT)
    (package / "__init__.py").write_text("")
    (package / "client.py").write_text(_CLIENT.replace("MARK", mark or "the stub's client"))
    (package / "server.py").write_text(_SERVER)
    bundle: bytes = build_fab_from_disk(folder)
    return bundle
