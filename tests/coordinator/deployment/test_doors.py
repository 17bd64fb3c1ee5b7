"""Each of the SuperLink's sockets lets through one API and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from coordinator.deployment import doors
from coordinator.deployment.doors import MAX_REQUEST, Doors, socket_owner

FLEET, RUNTIME = 8443, 8444


async def reached(scope: Any, receive: Any, send: Any) -> None:
    """Stand for the SuperLink: read the whole request and answer 200."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def ask(
    server: tuple[str, int | None],
    path: str,
    method: str = "POST",
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    body: list[bytes] | None = None,
) -> int:
    """Return the status of the answer to a request that came in on a socket."""
    parts = body or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": i < len(parts) - 1}
        for i, part in enumerate(parts)
    ]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "server": server,
        "client": ("127.0.0.1", 1),
        "method": method,
        "path": path,
        "headers": headers or [],
    }
    asyncio.run(Doors(reached, PROTOBUF_REQUEST_TYPES, FLEET, RUNTIME)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("route", sorted(PROTOBUF_REQUEST_TYPES))
def test_hospitals_reach_the_fleet_api_and_nothing_else(route: tuple[str, str]) -> None:
    expected = 200 if route[1].startswith("/v1/fleet/") else 404
    assert ask(("10.0.0.5", FLEET), route[1], route[0]) == expected


def test_the_routes_are_flower_s() -> None:
    prefixes = {path.split("/")[2] for _, path in PROTOBUF_REQUEST_TYPES}
    assert prefixes == {"fleet", "control", "runtime"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/start-run",
        "/v1/fleet/",
        "/v1/fleet/pull-messages/",
        "//v1/fleet/pull-messages",
        "/V1/FLEET/PULL-MESSAGES",
        "/health",
        "/docs",
        "/openapi.json",
        "/",
        "",
        "*",
    ],
)
def test_paths_are_compared_exactly(path: str) -> None:
    assert ask(("10.0.0.5", FLEET), path) == 404
    assert ask(("10.0.0.5", FLEET), path, "GET") == 404


def test_other_methods_other_ports_and_no_address_are_refused() -> None:
    assert ask(("10.0.0.5", FLEET), "/v1/fleet/pull-messages", "GET") == 404
    assert ask(("10.0.0.5", 9999), "/v1/fleet/pull-messages") == 404


def test_the_loopback_port_serves_the_runtime_api_to_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, expected in ((os.getuid(), 200), (0, 200), (os.getuid() + 12345, 403), (None, 403)):
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(doors, "socket_owner", lambda *_, owner=owner: owner)
        assert ask(("127.0.0.1", RUNTIME), "/v1/runtime/acquire-task") == expected
        assert ask(("127.0.0.1", RUNTIME), "/v1/control/start-run") == 404
        assert ask(("127.0.0.1", RUNTIME), "/v1/fleet/pull-messages") == 404


def test_the_unix_socket_serves_everything() -> None:
    assert ask(("/tmp/cw-x/control.sock", None), "/v1/control/start-run") == 200


def test_a_request_that_is_too_large_is_refused_whatever_it_says_of_itself() -> None:
    path, server = "/v1/fleet/push-object", ("10.0.0.5", FLEET)
    for text in (str(MAX_REQUEST + 1), "-1", "x", ""):
        assert ask(server, path, headers=[(b"content-length", text.encode())]) == 413
    part = b"x" * (1 << 20)
    assert ask(server, path, body=[part] * (MAX_REQUEST >> 20)) == 200
    assert ask(server, path, body=[part] * ((MAX_REQUEST >> 20) + 1)) == 413


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="this system lists no sockets in /proc")
def test_the_owner_of_a_socket_is_found_while_it_is_open_and_not_after() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, address = server.accept()
        with accepted:
            assert socket_owner(address, server.getsockname()) == os.getuid()
            assert socket_owner((address[0], address[1] ^ 1), server.getsockname()) != os.getuid()
            client.close()
            # A closed socket is listed as root's: it must not count.
            assert socket_owner(address, server.getsockname()) is None
