"""Which requests reach Flower's SuperLink, by the socket that they came in on.

Flower 1.42 serves all of its APIs on one port, and only the Fleet API asks who is there. Whoever reaches the Control
API can submit code that every hospital is sent. So the SuperLink listens on three sockets, and each lets through one
API:

    fleet     the interface that hospitals reach   the Fleet API: a SuperNode's key signs every request
    runtime   a loopback port                      the Runtime API, for processes of this user (and root) alone
    control   a Unix socket in a private folder    everything, for whoever may open that folder: this user (and root)

All else is answered by 404, before Flower sees it. Paths are compared exactly.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_FLEET, _RUNTIME = "/v1/fleet/", "/v1/runtime/"
#: The largest request that a hospital may send, in bytes. Flower splits weights into objects of 5 MB.
MAX_REQUEST = 64 << 20
#: The state of an open connection in the system's table of sockets.
_ESTABLISHED = "01"


class RequestTooLargeError(Exception):
    """A request that goes on after its limit."""


class Doors:
    """An ASGI app that passes to the SuperLink what may come in by the socket that it came in on."""

    def __init__(
        self, app: App, routes: Iterable[tuple[str, str]], fleet_port: int, runtime_port: int
    ) -> None:
        """Take the SuperLink's app.

        Args:
            app: the SuperLink.
            routes: method and path of every request that it knows.
            fleet_port: the port that hospitals reach.
            runtime_port: the loopback port.
        """
        self._app = app
        known = frozenset(routes)
        self._routes = {
            fleet_port: frozenset(route for route in known if route[1].startswith(_FLEET)),
            runtime_port: frozenset(route for route in known if route[1].startswith(_RUNTIME)),
        }
        self._fleet_port, self._runtime_port = fleet_port, runtime_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the start and end of the server."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a WebSocket: the server closes it
        # A Unix socket has a path instead of a host, and no port.
        host, port = scope.get("server") or ("", 0)
        if port is None:
            await self._app(scope, receive, send)
        elif (scope["method"], scope["path"]) not in self._routes.get(port, frozenset()):
            await _answer(send, 404, "not here")
        elif port == self._runtime_port and not _is_own_user(scope.get("client"), host, port):
            await _answer(send, 403, "another user's process")
        elif port == self._fleet_port:
            await self._pass_bounded(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _pass_bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it is longer than a hospital's can be."""
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(not value.isdigit() or int(value) > MAX_REQUEST for value in lengths):
            await _answer(send, 413, "too large")
            return
        received, has_answered = 0, False

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_REQUEST:
                raise RequestTooLargeError
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal has_answered
            has_answered = True
            await send(message)

        try:
            await self._app(scope, bounded, noted)
        except RequestTooLargeError:
            if not has_answered:
                await _answer(send, 413, "too large")


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    # The rest of a refused request is not read.
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _is_own_user(client: tuple[str, int] | None, host: str, port: int) -> bool:
    """Say whether the process at the other end of a loopback connection belongs to this user or to root.

    Linux lists the owner of every socket. Other systems do not let us look; there, every user is let through, and
    Flower's own secret and tokens are all that is asked for (docs/deployment.md says so).
    """
    if sys.platform != "linux":
        return True
    owner = None if client is None else socket_owner(client, (host, port))
    return owner in (os.getuid(), 0)


def socket_owner(
    local: tuple[str, int], remote: tuple[str, int], table: Path = Path("/proc/net/tcp")
) -> int | None:
    """Return the user id that owns the open socket from `local` to `remote`, both IPv4; None if there is none.

    Args:
        local: address and port of the socket's own end.
        remote: address and port of the other end.
        table: the system's table of sockets.
    """
    ends = (_hex_address(*local), _hex_address(*remote))
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        # A socket that its process has closed has no inode any more, and is listed as root's.
        if (fields[1], fields[2]) == ends and fields[3] == _ESTABLISHED and fields[9] != "0":
            return int(fields[7])
    return None


def _hex_address(host: str, port: int) -> str:
    """Return an IPv4 address and port as the table of sockets writes them: in the machine's byte order."""
    number = int.from_bytes(bytes(int(part) for part in host.split(".")), sys.byteorder)
    return f"{number:08X}:{port:04X}"
