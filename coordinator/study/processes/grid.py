"""A Flower grid whose nodes are processes of this machine, reached by socket pairs: no port, no Ray, no SuperLink.

Messages travel in Flower's own Protobuf form. At most `workers` hospitals have a process at a time. A hospital keeps
its process until another hospital needs the place. Replies can be pulled one by one, as they come.

A message has the time that its `ttl` says, and half of what is left of it while others wait for the place. A hospital
whose process ends or takes longer loses that message, is served last from then on, and gets a new process with its
next message. So a hospital that hangs costs the others no round.
"""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from coordinator.study.processes.frames import NO_TIME_LEFT, FrameError, receive_frame, send_frame
from coordinator.study.processes.hospital import RUN_ID
from coordinator.study.processes.messages import pack_message, unpack_message
from coordinator.study.processes.nursery import Hospital, Nursery
from crypto.errors import CipherwardError

#: Seconds between two looks for replies in `send_and_receive`, and between two looks whether others wait.
_POLL_S, _LOOK_S = 0.05, 0.5
_TOO_LONG = "it took too long, and was ended"
#: What an error says if the time was over.
_LATE = (_TOO_LONG, NO_TIME_LEFT)


@dataclass(frozen=True)
class _Job:
    """A message that waits for its hospital.

    Attributes:
        message: the message. It becomes bytes when its turn comes, so that few messages are in memory twice.
        deadline: when its time is over, on the clock of `time.monotonic`.
    """

    message: Message
    deadline: float

    @property
    def node(self) -> int:
        return int(self.message.metadata.dst_node_id)


class ProcessGrid(Grid):  # type: ignore[misc]  # flwr is not typed for mypy here
    """A grid over hospitals' processes.

    Attributes:
        bytes_sent: bytes of all messages to hospitals, as sent.
        bytes_received: bytes of all replies, as received.
    """

    def __init__(self, nursery: Nursery, hospitals: Sequence[Hospital], workers: int) -> None:
        """Start `workers` threads, each of which gives one hospital at a time a process."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, SUPERLINK_NODE_ID
        self.bytes_sent = self.bytes_received = 0
        self._nursery, self._nursery_lock = nursery, threading.Lock()
        self._hospitals = {hospital.node: hospital for hospital in hospitals}
        self._run = Run.create_empty(run_id=RUN_ID)
        self._condition = threading.Condition()
        self._waiting: list[_Job] = []
        #: Replies that nobody pulled yet, with the deadline of what they answer.
        self._replies: dict[str, tuple[Message, float]] = {}
        #: How many messages each hospital lost.
        self._lost = dict.fromkeys(self._hospitals, 0)
        #: The hospitals that have a process now.
        self._served: set[int] = set()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(max(1, min(workers, len(hospitals))))
        ]
        for thread in self._threads:
            thread.start()

    # ---- what Flower asks of a grid --------------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the numbers of all hospitals. They are always there: a process is started when it is needed."""
        return list(self._hospitals)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue messages and return their ids."""
        now, jobs = time.monotonic(), []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            jobs.append(_Job(message, now + float(message.metadata.ttl)))
        with self._condition:
            # A reply that came after its round is pulled by nobody.
            self._replies = {k: v for k, v in self._replies.items() if v[1] > now}
            self._waiting.extend(jobs)
            self._condition.notify_all()
        return [str(job.message.metadata.message_id) for job in jobs]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that are there."""
        with self._condition:
            return [self._replies.pop(i)[0] for i in list(message_ids) if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return the replies that come within the time limit, in seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting, replies = self.push_messages(messages), list[Message]()
        while waiting and (deadline is None or time.monotonic() < deadline):
            for reply in self.pull_messages(waiting):
                waiting.remove(reply.metadata.reply_to_message_id)
                replies.append(reply)
            time.sleep(_POLL_S if waiting else 0)
        return replies

    # ---- the threads that serve hospitals --------------------------------------------------------

    def close(self) -> None:
        """Let the threads end when their hospitals' processes do. The nursery's end ends those."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()

    def _work(self) -> None:
        """Serve one hospital at a time, until the grid is closed."""
        node, pid, channel = 0, 0, None
        while (job := self._take(node)) is not None:
            if job.node != node and channel is not None:
                self._end(pid, channel)
                channel = None
            node = job.node
            try:
                if channel is None:
                    with self._nursery_lock:
                        pid, channel = self._nursery.start(self._hospitals[node])
                self._answer(job, self._exchange(job, channel))
            except Exception as error:  # whatever a hospital's process sends, its place must not be lost
                how = self._end(pid, channel) if channel is not None else str(error)
                channel = None
                self._fail(job, _say_why(error, how))

    def _take(self, node: int) -> _Job | None:
        """Wait for a message of this hospital, or of one that nobody serves; None if the grid is closed.

        node: the hospital that this thread served last, or 0.
        """
        with self._condition:
            while not self._is_closed:
                now = time.monotonic()
                # A message whose time is over must not be trained on.
                self._waiting = [job for job in self._waiting if job.deadline > now]
                free = [j for j in self._waiting if j.node == node or j.node not in self._served]
                if free:
                    # Who lost messages is served last: a hospital that hangs must not take the others' time again.
                    # Among equals, a hospital that has a process comes first.
                    chosen = min(free, key=lambda j: (self._lost[j.node], j.node != node))
                    self._waiting.remove(chosen)
                    self._served.discard(node)
                    self._served.add(chosen.node)
                    return chosen
                self._condition.wait()
        return None

    def _exchange(self, job: _Job, channel: socket.socket) -> Message:
        """Send a message and wait for its reply."""
        data = _pack(job.message)
        send_frame(channel, data, job.deadline)
        size = len(data)
        del data
        self._wait_for_reply(job, channel)
        answer = receive_frame(channel, job.deadline)
        with self._condition:
            self.bytes_sent += size
            self.bytes_received += len(answer)
        reply = unpack_message(answer)
        if reply.metadata.reply_to_message_id != job.message.metadata.message_id:
            raise ValueError("its reply answers another message")
        return reply

    def _wait_for_reply(self, job: _Job, channel: socket.socket) -> None:
        """Wait until a hospital sends something; raise FrameError at its deadline, or earlier if others wait."""
        now = time.monotonic()
        half = now + (job.deadline - now) / 2
        while not wait_for([channel], max(0.0, min(_LOOK_S, job.deadline - now))):
            now = time.monotonic()
            with self._condition:
                others_wait = any(waiting.node not in self._served for waiting in self._waiting)
            if now >= job.deadline or (now >= half and others_wait):
                raise FrameError(_TOO_LONG)

    def _answer(self, job: _Job, reply: Message) -> None:
        with self._condition:
            self._replies[str(job.message.metadata.message_id)] = (reply, job.deadline)

    def _fail(self, job: _Job, reason: str) -> None:
        """Answer a message with an error, and remember that its hospital lost one."""
        error = Error(code=ErrorCode.CLIENT_APP_CRASHED, reason=f"no reply: {reason}")
        self._lost[job.node] += 1
        self._answer(job, Message(error, reply_to=job.message))

    def _end(self, pid: int, channel: socket.socket) -> str:
        """End a hospital's process, and return how it ended."""
        channel.close()
        with self._nursery_lock:
            return self._nursery.end(pid)


def _say_why(error: Exception, how: str) -> str:
    """Return why a message has no reply, in words. how: how the hospital's process ended."""
    if str(error) in _LATE:
        return _TOO_LONG
    if isinstance(error, FrameError | OSError):
        return how
    return str(error) if isinstance(error, ValueError) else f"it cannot be read ({type(error).__name__})"


def _pack(message: Message) -> bytes:
    """Return a message as bytes; raise ValueError with a sentence if it is too long."""
    try:
        return pack_message(message)
    except ValueError as error:
        too_long = CipherwardError(
            "a message is longer than the 2 GiB that this engine can send",
            "send less, by wire: bfloat16 or share: head or lora, or use --engine ray",
        )
        raise ValueError(str(too_long)) from error
