"""What a SuperNode takes from a coordinator that is not trusted: no redirect, and nothing without end."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, pull_objects
from flwr.supercore.protobuf.client import ProtobufClient

from coordinator.exchange import flower_pauses
from coordinator.exchange.flower_pauses import AnswerRefusedError, guard_answers

#: The most that the clients of these tests take.
_MOST = 1 << 20


class _Server(http.server.ThreadingHTTPServer):
    """A coordinator, and whatever else it may have a client ask."""

    daemon_threads = True
    asked: list[str]


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the path of the request."""

    server: _Server
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append(self.path)
        kind, _, word = self.path.strip("/").partition("/")
        body = b""
        if kind == "redirect":
            self.send_response(int(word))
            self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/inside?delete=all")
        else:
            self.send_response(200)
        if kind == "packed":
            body = gzip.compress(bytes(_MOST // 2))
            self.send_header("content-encoding", "gzip")
        if kind == "endless":
            self.send_header("transfer-encoding", "chunked")
        else:
            body = bytes(int(word)) if kind == "long" else body
            self.send_header("content-length", word if kind == "stated" else str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            while kind == "endless":
                self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    do_GET = do_POST = _answer  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    """Return a server on the loopback interface."""
    found = _Server(("127.0.0.1", 0), _Handler)
    found.asked = []
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard Flower's clients for one test."""
    monkeypatch.setattr(ProtobufClient, "__init__", ProtobufClient.__init__)
    guard_answers(_MOST)


def _ask(server: _Server, path: str) -> PullMessagesResponse:
    client = ProtobufClient.from_server_address(f"127.0.0.1:{server.server_port}", True, None, ())
    try:
        answer: PullMessagesResponse = client._unary_unary(
            path=path, rpc_method="x", request=PullMessagesRequest(), response_type=PullMessagesResponse
        )
        return answer
    finally:
        client._client.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_coordinator_sends_nobody_to_another_address(server: _Server, guarded: None, status: int) -> None:
    with pytest.raises(httpx.HTTPStatusError):
        _ask(server, f"/redirect/{status}")
    assert server.asked == [f"/redirect/{status}"]


@pytest.mark.parametrize("path", [f"/long/{_MOST + 1}", f"/stated/{1 << 40}", "/endless", "/packed"])
def test_an_answer_without_end_is_not_held(server: _Server, guarded: None, path: str) -> None:
    with pytest.raises(AnswerRefusedError):
        _ask(server, path)


def test_an_ordinary_answer_is_taken(server: _Server, guarded: None) -> None:
    assert not _ask(server, "/long/0").messages_list
    with pytest.raises(ValueError, match="Invalid protobuf"):  # it was read whole: zeros are no message
        _ask(server, f"/long/{_MOST}")


def test_all_parts_of_a_message_together_are_bounded() -> None:
    pull = flower_pauses._soon(pull_objects)
    asked: list[str] = []

    def part(object_id: str) -> bytes:
        asked.append(object_id)
        return bytes(1000)

    names = [str(i) for i in range(1000)]
    assert len(pull(names[:10], part, most_bytes=10_000)) == 10
    asked.clear()
    with pytest.raises(ObjectPullError, match="more than 10000 bytes"):
        pull(names, part, most_bytes=10_000)
    assert len(asked) < 500  # the parts under way in Flower's threads, and no others


def test_the_program_of_a_supernode_guards_its_clients(server: _Server, tmp_path: Path) -> None:
    """The program itself, with Flower's command line replaced by one question."""
    script = tmp_path / "ask.py"
    script.write_text(
        "import resource, runpy, sys\n"
        "import flwr.supernode.cli as cli\n"
        "from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse\n"
        "from flwr.supercore.protobuf.client import ProtobufClient\n"
        "def ask():\n"
        "    client = ProtobufClient.from_server_address(sys.argv[2], True, None, ())\n"
        "    client._unary_unary(path=sys.argv[3], rpc_method='x', request=PullMessagesRequest(),\n"
        "                        response_type=PullMessagesResponse)\n"
        "cli.flower_supernode = ask\n"
        "runpy.run_path(sys.argv[1], run_name='__main__')\n"
    )
    for path, error in (("/redirect/303", "HTTPStatusError"), ("/endless", "AnswerRefusedError")):
        words = [flower_pauses.__file__, f"127.0.0.1:{server.server_port}", path]
        done = subprocess.run(
            [sys.executable, str(script), *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and error in done.stderr
        # The lines of what ended it pass for none of the SuperNode's own.
        assert all(line.startswith(flower_pauses.QUOTED) for line in done.stderr.splitlines())
    assert server.asked == ["/redirect/303", "/endless"]


def test_memory_stays_small_while_an_endless_answer_comes(server: _Server, guarded: None) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AnswerRefusedError):
        _ask(server, "/endless")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * _MOST
