"""A ClientApp that does what a message asks for, for the tests of hospitals' processes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
#: What this process remembers: the nodes that it was.
MEMORY: list[int] = []


@app.train()  # type: ignore[untyped-decorator]  # flwr is untyped here
def train(message: Message, context: Context) -> Message:
    """Do what the message asks for, and send back one more than its weights."""
    asked: dict[str, Any] = dict(message.content.config_records["config"])
    MEMORY.append(context.node_id)
    if asked.get("do") == "raise":
        raise ValueError("a fault on purpose")
    if asked.get("do") == "keep":
        context.state["kept"] = ConfigRecord({"value": 1})
    if asked.get("do") == "exit":
        os._exit(7)
    if asked.get("do") == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(asked.get("seconds", 0)))
    weights = message.content.array_records["arrays"]["model"].numpy()
    about = {"pid": os.getpid(), "folder": str(context.node_config["party-dir"]), "memory": MEMORY}
    about["config"] = sorted([*context.node_config, *context.run_config])
    about["at"] = time.monotonic_ns()  # one clock for all processes of a machine
    arrays = ArrayRecord({"model": Array((weights + 1).astype(np.float32))})
    return Message(RecordDict({"arrays": arrays, "about": ConfigRecord(about)}), reply_to=message)
