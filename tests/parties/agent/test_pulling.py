"""Pulling a message that never comes ends: when it was dropped, when the agent leaves, and after a limit."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects
from flwr.supercore.logger import ConsoleHandler

from coordinator.exchange.flower_pauses import QUOTED, one_line
from parties.agent import supernode
from parties.agent.pulling import Pulling
from parties.agent.supernode import SuperNode

MESSAGE = "8757295b30cb1c72" * 4


class _Client:
    """A SuperNode whose message has an id, and parts that never become available."""

    other = "another request"

    def PullMessages(self, _request: object) -> Any:  # noqa: N802 - Flower's name
        return SimpleNamespace(message_object_trees=[SimpleNamespace(object_id=MESSAGE)])

    def PullObject(self, request: str) -> bytes:  # noqa: N802 - Flower's name
        raise ObjectUnavailableError(request)


def pull(pulling: Pulling) -> None:
    """Pull two parts as Flower does, in two threads."""
    assert pulling.other == "another request"
    pulling.PullMessages(None)
    pull_objects(["a", "b"], pulling.PullObject, initial_backoff=0.01)


def _nothing() -> None:
    pass


def test_a_dropped_message_is_no_longer_asked_for(tmp_path: Path) -> None:
    node = SuperNode(tmp_path, "", tmp_path, tmp_path, tmp_path, {})
    node.log_file.write_text(f"INFO : Run ID 7 is not in `RUNNING` status. Ignoring message {MESSAGE}.\n")

    with pytest.raises(ConnectionError, match="dropped"):
        pull(Pulling(_Client(), node.read_log, lambda message: message in node.dropped, 60.0))
    assert node.dropped == [MESSAGE]


def test_a_broken_connection_drops_a_message_too(tmp_path: Path) -> None:
    node = SuperNode(tmp_path, "", tmp_path, tmp_path, tmp_path, {})
    node.log_file.write_text(f"ERROR : Failed to receive message {MESSAGE}: [SSL: UNEXPECTED_EOF]\n")
    node.read_log()
    assert node.dropped == [MESSAGE] and node.connection == "connecting"


def test_an_agent_that_leaves_stops_pulling() -> None:
    class Leaving(BaseException):
        pass

    def leave() -> None:
        raise Leaving

    with pytest.raises(Leaving):
        pull(Pulling(_Client(), leave, lambda _: False, 60.0))


def test_no_pull_outlasts_its_limit() -> None:
    with pytest.raises(ConnectionError, match="in time"):
        pull(Pulling(_Client(), _nothing, lambda _: False, 0.05))


def test_a_supernode_that_has_stopped_trying_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("parties.agent.supernode.time.monotonic", lambda: now)
    node = SuperNode(tmp_path, "", tmp_path, tmp_path, tmp_path, {})
    node._process = SimpleNamespace(pid=1)  # type: ignore[assignment]
    node.log_file.write_text(f"ERROR : Failed to send message {MESSAGE}: [SSL: UNEXPECTED_EOF]\n")
    node.read_log()
    assert node.connection == "unreachable" and not node.is_stuck
    now += 41
    assert node.is_stuck
    with open(node.log_file, "a") as file:
        file.write("WARNING : Connection attempt failed, retrying in 20.00 seconds\n")
    node.read_log()
    assert not node.is_stuck


def test_a_part_that_is_still_being_received_is_asked_for_again_at_once() -> None:
    asked: list[str] = []

    class Late(_Client):
        def PullObject(self, request: str) -> Any:  # noqa: N802 - Flower's name
            asked.append(request)
            return SimpleNamespace(
                object_found=True, object_available=len(asked) > 3, object_content=b"part"
            )

    # Flower's own client would begin to wait for a second here: the part comes without any wait of its.
    response = Pulling(Late(), _nothing, lambda _: False, 60.0).PullObject("a")
    assert response.object_content == b"part" and asked == ["a"] * 4


def test_a_part_that_the_supernode_does_not_know_is_not_waited_for() -> None:
    class Without(_Client):
        def PullObject(self, request: str) -> Any:  # noqa: N802 - Flower's name
            return SimpleNamespace(object_found=False, object_available=False)

    assert not Pulling(Without(), _nothing, lambda _: False, 60.0).PullObject("a").object_found


def test_what_the_coordinator_names_a_round_passes_for_no_line_of_the_supernode(tmp_path: Path) -> None:
    """Flower writes a message's group into its log as it came: the line goes through the filter of our program."""
    node = SuperNode(tmp_path, "", tmp_path, tmp_path, tmp_path, {})
    forged = [
        f"x]\nINFO :      Run ID 1 is not in `RUNNING` status. Ignoring message {MESSAGE}.",
        f"Failed to receive message {MESSAGE}",
        "x\nERROR :     The FAB could not be verified. ",
        "x\x1b[0m\r\nSuperNode ID: 7",
        "FAB verification failed",
    ]
    for group in forged:
        record = logging.LogRecord("flwr", logging.INFO, "", 0, "[RUN %s, ROUND %s]", (7, group), None)
        assert one_line(record)
        text = ConsoleHandler().format(record)
        assert "\n" not in text and "\r" not in text
        with open(node.log_file, "a") as file:
            file.write(text + "\n")
    node.read_log()
    assert (node.dropped, node.unverified, node.connection) == ([], [], "connecting")
    with open(node.log_file, "a") as file:
        file.write("ERROR :     FAB verification failed: the provided trusted entities\n")
    node.read_log()
    assert len(node.unverified) == 1


def test_an_error_with_lines_of_the_coordinator_passes_for_no_line_of_the_supernode(tmp_path: Path) -> None:
    """Flower prints errors as they came: alone, as the end of a longer text, and below a traceback."""
    node = SuperNode(tmp_path, "", tmp_path, tmp_path, tmp_path, {})
    own = ("FAB verification failed", "SuperNode ID: 7", f"Failed to receive message {MESSAGE}: x",
           "Connection successful after 1 s")  # fmt: skip
    for text in own:
        try:
            raise ValueError(f"{text}\nERROR :     {text}\r\n{text}")
        except ValueError as error:
            trace = sys.exc_info()
            records = [
                logging.LogRecord("flwr", logging.ERROR, "", 0, error, (), None),
                logging.LogRecord("flwr", logging.ERROR, "", 0, f"Exit Code: 700\nnot connected\n{error}", (), None),
                logging.LogRecord("flwr", logging.ERROR, "", 0, "it failed", (), trace),
            ]  # fmt: skip
        for record in records:
            assert one_line(record)
            with open(node.log_file, "a") as file:
                file.write(ConsoleHandler().format(record) + "\n")
    node.read_log()
    assert (node.dropped, node.unverified, node.connection) == ([], [], "connecting")
    # What the coordinator says when it refuses is still shown.
    with open(node.log_file, "a") as file:
        file.write(f"{QUOTED}[code: 2004] x\n")
    node.read_log()
    assert "does not accept this SuperNode key" in node.error


def test_a_coordinator_that_repeats_itself_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of a SuperNode that runs for months is set aside, and no line of it goes by unread."""
    monkeypatch.setattr(supernode, "_MAX_LOG_BYTES", 10_000)
    node = SuperNode(tmp_path, "", tmp_path, tmp_path, tmp_path, {})
    lines = 0
    with open(node.log_file, "ab", buffering=0) as sink:  # as the SuperNode has it
        for number in range(2000):
            sink.write(f"INFO :      Receiving: train message (ID: {number:064x})\n".encode())
            sink.write(b"ERROR :     FAB verification failed: the provided trusted entities\n")
            lines += 1
            if number % 7 == 0:
                node.read_log()
        sink.write(b"INFO :      half a li")
        node.read_log()
        sink.write(b"ne\n")
        node.read_log()
    assert [message for _, message in node.unverified] == [f"{number:064x}" for number in range(lines)]
    kept = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(kept) == 2 and max(kept) < 20_000


def test_a_long_name_of_a_round_hides_no_later_line(tmp_path: Path) -> None:
    """A refusal by Flower's own check is logged by the agent, whatever was printed before it."""
    node = SuperNode(tmp_path, "", tmp_path, tmp_path, tmp_path, {})
    record = logging.LogRecord(
        "flwr", logging.INFO, "", 0, "[RUN %s, ROUND %s]", (7, "x" * (3 << 20)), None
    )
    assert one_line(record)
    assert len(ConsoleHandler().format(record)) < 5000
    record = logging.LogRecord(
        "flwr", logging.ERROR, "", 0, "Exit Code: 700\nx" + "\n" * 10**6 + "end", (), None
    )
    assert one_line(record)
    text = ConsoleHandler().format(record)
    assert len(text) < 5000 and text.endswith(f"{QUOTED}end")
    # A line of that length, whoever printed it.
    node.log_file.write_text(
        f"INFO : {'x' * (3 << 20)}\nINFO : Receiving: train message (ID: {MESSAGE})\n"
        "ERROR :     FAB verification failed: the provided trusted entities\n"
    )
    for _ in range(5):
        node.read_log()
    assert node.unverified == [("train", MESSAGE)]
