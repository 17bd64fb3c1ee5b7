"""The relay of the fault harness: it counts every byte, and passes none while it is cut."""

from __future__ import annotations

import socket
import sys
import threading

import pytest

from benchmarks.faults.relay import Relay

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")


def _answer(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        while data := connection.recv(100):
            connection.sendall(3 * data)


def test_a_relay_counts_both_ways_and_a_cut_one_passes_nothing() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = int(server.getsockname()[1])
        threading.Thread(target=_answer, args=(server,), daemon=True).start()
        relay = Relay({"a": "127.0.0.11", "b": "127.0.0.12"}, port, ("127.0.0.2", port))
        try:
            with socket.create_connection(("127.0.0.11", port)) as client:
                client.settimeout(5)
                client.sendall(b"hello")
                assert client.recv(100) == 3 * b"hello"
                relay.cut("a")
                client.sendall(b"again")
                client.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    client.recv(100)
                assert relay.sent == {"a": 5, "b": 0}
                relay.mend("a")
                client.settimeout(5)
                assert client.recv(100) == 3 * b"again"
                assert relay.sent == {"a": 10, "b": 0} and relay.received == {"a": 30, "b": 0}
        finally:
            relay.close()
