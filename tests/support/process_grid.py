"""Programs for the tests of hospitals' processes. They fork, so they run as processes of their own.

python -m tests.support.process_grid PROGRAM FOLDER      prints JSON
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil  # type: ignore[import-untyped]  # it has no types
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from coordinator.study.processes import grid as grid_module
from coordinator.study.processes.frames import receive_frame, send_frame
from coordinator.study.processes.grid import ProcessGrid
from coordinator.study.processes.nursery import Hospital, Nursery

FIRST = 100
Answer = dict[str, Any]


class Room:
    """A nursery and a grid over some hospitals."""

    def __init__(self, folder: Path, hospitals: int, workers: int) -> None:
        self.nursery = Nursery("tests.support.process_app:app", 1, preloaded=())
        made = [Hospital(FIRST + i, folder / f"h{i}", folder / f"h{i}.log") for i in range(hospitals)]
        self.grid = ProcessGrid(self.nursery, made, workers)

    def push(self, orders: Sequence[dict[str, Any]], ttl: float = 20.0) -> list[str]:
        """Send an order to each hospital from the first on."""
        messages = []
        for i, order in enumerate(orders):
            arrays = ArrayRecord({"model": Array(np.full(5, i, np.float32))})
            content = RecordDict({"arrays": arrays, "config": ConfigRecord(order)})
            messages.append(Message(content, FIRST + i, "train", ttl=ttl))
        return self.grid.push_messages(messages)

    def ask(self, orders: Sequence[dict[str, Any]], ttl: float = 20.0) -> list[Answer]:
        """Send an order to each hospital; return the answers in order of the hospitals."""
        ids, answers, started = self.push(orders, ttl), dict[str, Answer](), time.monotonic()
        while len(answers) < len(ids) and time.monotonic() - started < 30:
            for reply in self.grid.pull_messages(ids):
                answers[reply.metadata.reply_to_message_id] = read(reply)
            time.sleep(0.01)
        return [answers.get(i, {}) for i in ids]

    def processes(self) -> int:
        """Return how many hospitals have a process."""
        return len(psutil.Process(self.nursery.pid).children())

    def end(self) -> None:
        self.grid.close()
        self.nursery.close()


def read(reply: Message) -> Answer:
    """Return what a reply says."""
    if reply.has_error():
        return {"error": reply.error.reason}
    about = dict(reply.content.config_records["about"])
    return {**about, "weights": reply.content.array_records["arrays"]["model"].numpy().tolist()}


def turns(folder: Path) -> Any:
    """Let five hospitals share two processes, and ask one alone twice."""
    room = Room(folder, 5, 2)
    first = room.ask([{}] * 5)
    counts = [room.processes()]
    second = room.ask([{}] * 5)
    counts.append(room.processes())
    alone = [room.ask([{}])[0] for _ in range(2)]
    sent, received = room.grid.bytes_sent, room.grid.bytes_received
    pid = room.nursery.pid
    room.end()
    return {
        "first": first, "second": second, "alone": alone, "counts": counts, "bytes": [sent, received],
        "nursery": psutil.pid_exists(pid),
    }  # fmt: skip


def faults(folder: Path) -> Any:
    """Let hospitals raise, exit, be killed and hang; then ask all again."""
    room = Room(folder, 5, 1)
    bad = room.ask([{"do": "raise"}, {"do": "exit"}, {"do": "kill"}, {"do": "keep"}])
    # The last two never lost a message: one that hangs is before the second and third in the queue.
    hung = room.ask([{}, {}, {}, {"seconds": 60.0}, {}], ttl=3.0)
    well = room.ask([{}] * 5)
    room.end()
    return {"bad": bad, "hung": hung, "well": well}


class Liars:
    """In place of a nursery: hospitals that answer with bytes that are no message."""

    def start(self, _hospital: Hospital) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._lie, args=(theirs,), daemon=True).start()
        return 1, ours

    def _lie(self, channel: socket.socket) -> None:
        with channel:
            receive_frame(channel)
            send_frame(channel, b"\xff no message")

    def end(self, _pid: int) -> str:
        return "its process was ended by SIGKILL"


def unreadable(folder: Path) -> Any:
    """Ask hospitals whose replies nobody can read, twice, by one thread; and send a message that is too long."""
    room = Room(folder, 2, 1)
    room.nursery.close()
    room.grid._nursery = cast(Nursery, Liars())
    replies = [room.ask([{}, {}], ttl=5.0) for _ in range(2)]

    def too_long(_message: Message) -> bytes:
        raise ValueError("it is longer than 2 GiB")

    setattr(grid_module, "pack_message", too_long)  # noqa: B010 - its type is another
    replies.append(room.ask([{}], ttl=5.0))
    room.grid.close()
    return [answer["error"] for answers in replies for answer in answers]


def streamed(folder: Path) -> Any:
    """Pull the first reply while the second hospital still works, and close while it does."""
    room = Room(folder, 2, 1)
    ids = room.push([{}, {"seconds": 2.0}])
    deadline, early = time.monotonic() + 1.5, list[Message]()
    while not early and time.monotonic() < deadline:
        early = room.grid.pull_messages(ids)
        time.sleep(0.01)
    room.end()
    return [ids.index(reply.metadata.reply_to_message_id) for reply in early]


def wait(folder: Path) -> Any:
    """Print the ids of all processes, with a hospital at work, and wait to be killed."""
    room = Room(folder, 2, 2)
    room.push([{"seconds": 60.0}] * 2, ttl=60)
    while room.processes() < 2:
        time.sleep(0.05)
    nursery = psutil.Process(room.nursery.pid)
    print(json.dumps([nursery.pid, *(child.pid for child in nursery.children())]), flush=True)
    time.sleep(60)


PROGRAMS: dict[str, Callable[[Path], Any]] = {
    "turns": turns,
    "faults": faults,
    "streamed": streamed,
    "unreadable": unreadable,
    "wait": wait,
}

if __name__ == "__main__":
    print(json.dumps(PROGRAMS[sys.argv[1]](Path(sys.argv[2]))), flush=True)
