"""Flower's fixed pauses, shortened, and what a SuperNode takes from a SuperLink, bounded.

Flower 1.42 has no option for these pauses:

    SuperNode    3 s after it found no message        it finds two messages in a round, so a round lost up to 6 s
    SuperNode    0.5 s between two looks for a reply  of its own client
    both         1 s, then 2 s, … until a part of a message that is still being sent is asked for again

A SuperNode here looks after a tenth of the time that it has already waited, at most as rarely as Flower does. So a
pause costs a tenth of a wait, and a federation that waits for hours is asked no more often than before. What is
replaced is named in this file alone, and only in the version of Flower for which it was read. With another version
Flower's own pauses stay: slower, and otherwise the same.

Flower also follows redirects, and holds whatever is sent to it. A coordinator that is not trusted could have a
SuperNode ask any address in the hospital's network, or fill the machine's memory (`guard_answers`, `most_bytes`).

This file is also the program of a SuperNode (`parties/agent/supernode.py`): Flower's own, after `guard_answers`,
`shorten_supernode` and `reread_trust`. So it imports nothing of ours.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

#: The version of Flower whose pauses are known.
VERSION = "1.42."
#: Flower's pauses of a SuperNode in seconds: after it found no message, and between two looks for its client's reply.
IDLE_S, REPLY_S = 3, 0.5
#: The shortest pauses in their place, and the share of the wait so far that a pause lasts. Chosen by hand.
_LEAST_IDLE_S, _LEAST_REPLY_S, _SHARE = 0.25, 0.05, 0.1
#: Seconds until a part of a message is asked for again, at first; each further pause is twice as long.
_BACKOFF_S = 0.05
#: The longest answer of a SuperLink, in bytes. Flower splits weights into objects of 5 MB, and a bundle has 1 MB.
MOST_ANSWER = 64 << 20
#: The largest message that a SuperNode takes, in bytes, unless the hospital's agent says more: float32 weights of the
#: largest model that `accept` takes without a word of the hospital (coordinator/model/model_size.py), and a quarter.
MOST_MESSAGE = 2_000_000_000
#: The variable by which the agent tells its SuperNode the largest message.
MOST_MESSAGE_NAME = "CIPHERWARD_MOST_MESSAGE"
#: Characters of one value in a line of Flower's log, and of the line. The coordinator chooses some values.
_MOST_VALUE, _MOST_LINE = 500, 4000
#: Lines of one text in Flower's log, the last ones. A traceback has some tens.
_MOST_LINES = 200
#: What stands before a line that is not one of the SuperNode's own.
QUOTED = "| "


class Pauses:
    """Stands in the place of the module `time` in Flower's SuperNode: `sleep` sleeps shorter, the rest is `time`'s.

    Args:
        clock: a module like `time`.
    """

    def __init__(self, clock: Any = time) -> None:
        self._clock = clock
        #: Which of Flower's pauses was asked for last, and since when.
        self._kind = 0.0
        self._since = 0.0

    def __getattr__(self, name: str) -> Any:
        """Return anything else of the clock."""
        return getattr(self._clock, name)

    def sleep(self, seconds: float) -> None:
        """Sleep for Flower's pause, or for a tenth of the wait so far if that is shorter."""
        now = self._clock.monotonic()
        if seconds != self._kind:
            self._kind, self._since = seconds, now
        least = {IDLE_S: _LEAST_IDLE_S, REPLY_S: _LEAST_REPLY_S}.get(seconds, seconds)
        self._clock.sleep(min(seconds, max(least, _SHARE * (now - self._since))))


def is_known() -> bool:
    """Return whether the installed Flower is the one whose pauses are known."""
    import flwr

    return str(flwr.__version__).startswith(VERSION)


def shorten_supernode(most_bytes: float = math.inf) -> None:
    """Shorten the pauses of a SuperNode in this process.

    Args:
        most_bytes: the most bytes that all parts of a message may have.
    """
    from flwr.supernode import start_client_internal as module

    if is_known():
        module.time = Pauses()
        module.pull_objects = _soon(module.pull_objects)
        module.pull_objects.keywords["most_bytes"] = most_bytes
        module._pull_and_store_message = _then_late_replies(module._pull_and_store_message)


def _then_late_replies(pull: Any) -> Any:
    """Return Flower's function that pulls a message, so that a reply is also sent when no message came.

    Flower sends replies only after it received a message, and then waits for any. One reply that was left behind,
    as by a SuperLink that was killed, was sent in the place of the next, and every later one came a message late:
    the hospital was absent from all rounds. What is not None makes Flower send.
    """

    @functools.wraps(pull)
    def pull_or_send(**settings: Any) -> Any:
        run_id = pull(**settings)
        return 0 if run_id is None and has_reply(settings["state"]) else run_id

    return pull_or_send


def has_reply(state: Any) -> bool:
    """Return whether a SuperNode's state holds a reply that was not sent."""
    with state.lock_msg_store:
        return any(
            not entry.is_retrieved and entry.message.metadata.reply_to_message_id
            for entry in state.msg_store.values()
        )


def shorten_server_app(limit_s: float | None = None, most_bytes: float = math.inf) -> None:
    """Shorten the pauses of a ServerApp in this process, between two looks for parts of a reply.

    Args:
        limit_s: the longest seconds that all parts of a reply are waited for; None for Flower's two hours. A
            ServerApp does not end before its last pull has.
        most_bytes: the most bytes that all parts of a reply may have. One with more is not held in memory.
    """
    from flwr.superlink.grid import http_grid as module

    if is_known():
        module.pull_objects = _soon(module.pull_objects)
        module.pull_objects.keywords["most_bytes"] = most_bytes
        if limit_s is not None:
            module.pull_objects.keywords["max_time"] = limit_s


def _soon(pull_objects: Any) -> Any:
    """Return the function with a shorter first pause, and given up when asked; Flower's longest pause stays."""
    if isinstance(pull_objects, functools.partial):
        return pull_objects
    return functools.partial(_until_given_up(pull_objects), initial_backoff=_BACKOFF_S)


class _OfThread(threading.local):
    """What belongs to the thread that pulls.

    Attributes:
        given_up: set when nobody waits for this thread's pull any more; None if it cannot be given up.
    """

    given_up: threading.Event | None = None


_pulling = _OfThread()


def let_give_up(given_up: threading.Event) -> None:
    """Let pulls of this thread end soon after an event is set, and drop the parts that came.

    Without it, a pull that nobody waits for keeps its thread, and the parts that it has, until its time is over.
    """
    _pulling.given_up = given_up


def _until_given_up(pull_objects: Any) -> Any:
    """Return Flower's function that pulls the parts of a message, with a way to end it and a bound of its memory."""

    @functools.wraps(pull_objects)
    def pull_until_given_up(
        object_ids: Any, pull_object_fn: Any, *, most_bytes: float = math.inf, **settings: Any
    ) -> Any:
        from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

        given_up = _pulling.given_up
        # Flower pulls in several threads.
        left, lock = most_bytes, threading.Lock()

        def pull_part(object_id: str) -> bytes:
            nonlocal left
            if given_up is not None and given_up.is_set():
                raise ObjectPullError(object_id, "nobody waits for it any more")
            part: bytes = pull_object_fn(object_id)
            with lock:
                left -= len(part)
                if left < 0:
                    raise ObjectPullError(object_id, f"the message has more than {most_bytes:.0f} bytes")
            return part

        return pull_objects(object_ids, pull_part, **settings)

    return pull_until_given_up


class AnswerRefusedError(Exception):
    """An answer of a SuperLink that is longer than any of ours, or packed."""


class _Bounded(httpx.SyncByteStream):
    """The bytes of an answer, up to a limit."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most

    def __iter__(self) -> Iterator[bytes]:
        left = self._most
        for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise AnswerRefusedError(f"an answer of more than {self._most} bytes")
            yield piece

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()


def guard_answers(most: int = MOST_ANSWER) -> None:
    """Let Flower's clients in this process follow no redirect, and take no answer of more than so many bytes.

    Flower's own follow up to 20 redirects, to any address and without TLS, and hold an answer whatever its length.
    What this replaces in Flower is not there in another version: then no client is made, and nothing is unguarded.
    """
    from flwr.supercore.protobuf.client import ProtobufClient

    begin = ProtobufClient.__init__

    def bound(response: httpx.Response) -> None:
        # A packed answer would be counted before it is unpacked.
        if response.headers.get("content-encoding", "identity") != "identity":
            raise AnswerRefusedError("a packed answer")
        length = response.headers.get("content-length", "0")
        if not (length.isdigit() and int(length) <= most):
            raise AnswerRefusedError(f"an answer of more than {most} bytes")
        response.stream = _Bounded(response.stream, most)

    @functools.wraps(begin)
    def guarded(self: Any, *words: Any, **settings: Any) -> None:
        begin(self, *words, **settings)
        self._client.follow_redirects = False
        self._client.headers["accept-encoding"] = "identity"
        self._client.event_hooks = {"response": [bound]}

    ProtobufClient.__init__ = guarded


def one_line(record: logging.LogRecord) -> bool:
    """Escape line breaks and other control characters in the values of a line of Flower's log; keep the line.

    Some values are the SuperLink's, such as the name of a round. The agent reads this log line by line, and a line
    that the coordinator made up must not pass for one of the SuperNode's own, nor a long one keep it from the next.
    So every further line of a text, an error that stands alone and a traceback are quoted.
    """
    if isinstance(record.args, tuple):
        record.args = tuple(
            value if isinstance(value, int | float) else _escaped(str(value)) for value in record.args
        )
    if not record.args:
        first, *rest = (str(record.msg) or " ").strip("\n").split("\n") or [""]
        own = isinstance(record.msg, str)
        lines = [_escaped(first, _MOST_LINE) if own else QUOTED + _escaped(first, _MOST_LINE)]
        record.msg = "\n".join([*lines, *([_quoted("\n".join(rest))] if rest else [])])
    if record.exc_info:
        record.exc_text = _quoted("".join(traceback.format_exception(*record.exc_info)))
    return True


def show_quoted(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print an error that ends the program, with its lines quoted: `sys.excepthook` for a SuperNode."""
    print(_quoted("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr)


def show_of_thread(words: threading.ExceptHookArgs) -> None:
    """Print an error that ends a thread, as `show_quoted` does: `threading.excepthook` for a SuperNode."""
    if words.exc_type is not SystemExit and words.exc_value is not None:  # as Python does
        show_quoted(words.exc_type, words.exc_value, words.exc_traceback)


def _quoted(text: str) -> str:
    """Return a text of several lines, none of which passes for one of the SuperNode's own."""
    lines = text.rstrip("\n").split("\n")[-_MOST_LINES:]
    return "\n".join(QUOTED + _escaped(line, _MOST_LINE) for line in lines)


def _escaped(text: str, most: int = _MOST_VALUE) -> str:
    """Return a text as one line of so many characters, and a few, at most."""
    cut = text if len(text) <= most else f"{text[:most]}…"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in cut
    )


def reread_trust(path: Path) -> None:
    """Let a SuperNode in this process ask its file of trusted keys again for every run.

    Flower reads the file when a SuperNode starts, and would trust a signature whose approval was withdrawn since.

    Args:
        path: the file of `--trusted-entities`. Where it cannot be read, no signature is trusted.
    """
    from flwr.supernode import start_client_internal as module

    if not is_known():
        return
    verify = module._verify_fab

    @functools.wraps(verify)
    def verify_now(fab: Any, trusted_entities: dict[str, str]) -> bool:  # noqa: ARG001 - Flower's signature
        try:
            keys = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError):
            keys = None
        return bool(verify(fab, keys if isinstance(keys, dict) else {}))

    module._verify_fab = verify_now


if __name__ == "__main__":
    from flwr.supernode.cli import flower_supernode

    sys.argv[0] = "flower-supernode"
    sys.excepthook = show_quoted
    threading.excepthook = show_of_thread
    guard_answers()
    shorten_supernode(int(os.environ.get(MOST_MESSAGE_NAME, MOST_MESSAGE)))
    if "--trusted-entities" in sys.argv[:-1]:
        reread_trust(Path(sys.argv[sys.argv.index("--trusted-entities") + 1]))
    logging.getLogger("flwr").addFilter(one_line)
    flower_supernode()
