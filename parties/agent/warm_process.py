"""The program of a warm client: it imports an approved app once, and forks for every message.

    agent ──JSON line, two file descriptors──▶ this process ──fork──▶ child: ClientApp(message) ──▶ reply file
          ◀──────────── JSON line: exit status, CPU seconds ────────────

The parent imports, forks and waits, and does nothing else: a fork copies one thread only, so a lock that another
thread holds would stay locked in the child. It says how many threads it has, and the agent then decides whether it
may fork. The child has no token and no connection to the SuperNode; it gets a message and leaves a reply.

This file is started by its path, and imports nothing of ours: the packages `crypto`, `coordinator` and `parties` are
those of the bundle here, not those of the hospital's own installation.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

#: What messages of an app on torch need beyond its own imports: it loads them when they are first used, which is too
#: late for a parent. Whatever is missing is left out.
_PRELOAD = (
    *("coordinator.model.torchvision_fix", "coordinator.model.vit", "timm.models.vision_transformer"),
    *("safetensors.torch", "numba", "cryptography.hazmat.primitives.asymmetric.ed25519"),
)
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let Linux kill this process when its parent ends. Elsewhere the agent's watchdog does it alone."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def load(settings: dict[str, str]) -> Any:
    """Import the app of an unpacked bundle, and what its messages will need."""
    from flwr.clientapp.utils import get_load_client_app_fn

    load_app = get_load_client_app_fn("", settings["folder"], True)
    app = load_app(settings["fab_id"], settings["fab_version"], settings["fab_hash"])
    if "torch" in sys.modules:
        for name in _PRELOAD:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    return app


def answer(app: Any, request: int, reply: int) -> None:
    """Run the app on one message.

    Args:
        app: the ClientApp.
        request: an open file: the length of the message on a line, the message, and the context.
        reply: an open file that gets a JSON line, the reply's content, and the context's state.
    """
    from flwr.common.serde import (
        context_from_proto,
        context_to_proto,
        message_from_proto,
        recorddict_to_proto,
    )
    from flwr.proto.message_pb2 import Context, Message

    with open(request, "rb") as file:
        size = int(file.readline())
        message = message_from_proto(Message.FromString(file.read(size)))
        context = context_from_proto(Context.FromString(file.read()))
    content, state = b"", b""
    outcome: dict[str, str | int]
    try:
        result = app(message=message, context=context)
        if result.has_error():
            outcome = {"error": "Error", "text": str(result.error.reason)}
        else:
            content = recorddict_to_proto(result.content).SerializeToString()
            outcome = {"size": len(content)}
        state = context_to_proto(context).SerializeToString()
    except BaseException as error:
        traceback.print_exc()
        # Only our own errors are written to be read elsewhere. The text of any other may quote a path or a value.
        is_ours = isinstance(getattr(error, "hint", None), str)
        text = getattr(error, "outside", "") or str(error)
        outcome = {"error": type(error).__name__, "text": text if is_ours else ""}
        outcome["field"] = getattr(error, "field", "")
    with open(reply, "wb") as file:
        file.write(json.dumps(outcome).encode() + b"\n" + content + state)


def run_child(app: Any, request: int, reply: int) -> None:
    """Answer in a forked child, and end it without the parent's exit handlers."""
    status = 1
    try:
        end_with_parent()
        answer(app, request, reply)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve(app: Any, channel: socket.socket, is_forking: bool) -> None:
    """Answer messages until the agent closes the channel; without forking, answer one."""
    while True:
        line, descriptors, _, _ = socket.recv_fds(channel, 1 << 10, 2)
        if not line:
            return
        request, reply = descriptors
        if not is_forking:
            answer(app, request, reply)
            times = os.times()
            _say(channel, status=0, cpu_s=times.user + times.system)
            return
        child = os.fork()
        if child == 0:
            channel.close()
            run_child(app, request, reply)
        os.close(request)
        os.close(reply)
        _, status, usage = os.wait4(child, 0)
        _say(channel, status=os.waitstatus_to_exitcode(status), cpu_s=usage.ru_utime + usage.ru_stime)


def _say(channel: socket.socket, **values: Any) -> None:
    channel.sendall(json.dumps(values).encode() + b"\n")


def _count_threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


def main(number: int, settings: dict[str, str]) -> None:
    """Load the app, say so, and serve. number: the descriptor of the socket to the agent."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The parent's descriptor must not be inherited by what an app starts.
    os.set_inheritable(number, False)
    with socket.socket(fileno=number) as channel:
        try:
            app = load(settings)
        except BaseException as error:
            traceback.print_exc()
            _say(channel, error=type(error).__name__)
            return
        gc.collect()
        gc.freeze()
        times = os.times()
        _say(channel, threads=_count_threads(), cpu_s=times.user + times.system)
        serve(app, channel, settings["mode"] == "fork")


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
