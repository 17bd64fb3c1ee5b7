"""The program that runs Flower's SuperLink behind its three doors (doors.py). `serve` starts it.

    python -P -m coordinator.deployment.superlink SETTINGS.json

It is Flower's own SuperLink: the app that `flower-superlink` makes, with the same options, on sockets that are opened
here. Everything private of Flower that the product relies on is named in this file and in control.py.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordinator.deployment.doors import Doors
from crypto.errors import CipherwardError

#: Seconds that open requests may take after the signal to end.
_GRACE_S = 3
#: Seconds that a connection without requests stays open. Flower's clients give one up after 5 s, and so does uvicorn
#: by itself: a request could meet the connection while it is being closed, and fail. So the client must be first.
_KEEP_ALIVE_S = 15


@dataclass(frozen=True)
class SuperLinkSettings:
    """What the program is started with; all paths are absolute.

    Attributes:
        ca: the authority's certificate.
        server: the server's certificate and private key.
        database: Flower's SQLite database.
        secret: the secret shared with the process that starts ServerApps.
        control: the Unix socket of the Control API.
        interface: the address that hospitals reach.
        port: the port that hospitals reach.
        local_port: the loopback port of the Runtime API.
    """

    ca: str
    server: str
    database: str
    secret: str
    control: str
    interface: str
    port: int
    local_port: int

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(asdict(self))


def open_port(host: str, port: int) -> socket.socket:
    """Return a TCP socket that listens on an address. Raise CipherwardError if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(2048)
    except OSError as error:
        opened.close()
        raise CipherwardError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            "end the program that uses it, or choose another port in FEDERATION.yaml and provision again",
        ) from None
    return opened


def _open_unix(path: str) -> socket.socket:
    """Return a Unix socket. Its folder is private, and so is the socket."""
    Path(path).unlink(missing_ok=True)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        opened.bind(path)
    finally:
        os.umask(previous)
    opened.listen(64)
    return opened


def _build_app(settings: SuperLinkSettings) -> Any:
    """Return the SuperLink's ASGI app, behind its doors."""
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    server = Path(settings.server).read_bytes()
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=settings.local_port,
        insecure=False,
        certificates=(Path(settings.ca).read_bytes(), server, server),
        superexec_auth_secret=Path(settings.secret).read_bytes(),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=settings.ca,
        ssl_certfile=settings.server,
        ssl_keyfile=settings.server,
        database=settings.database,
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
    app = create_app(config, SuperLinkLifespan)
    return Doors(app, PROTOBUF_REQUEST_TYPES, settings.port, settings.local_port)


def run(settings: SuperLinkSettings) -> None:
    """Serve until a signal ends it."""
    import uvicorn
    from flwr.supercore.http_logging import get_uvicorn_log_config
    from flwr.supercore.logger import console_handler

    # Before Flower opens its database: a port that is taken must be found out first.
    sockets = [
        open_port(settings.interface, settings.port),
        open_port("127.0.0.1", settings.local_port),
        _open_unix(settings.control),
    ]
    config = uvicorn.Config(
        _build_app(settings),
        access_log=False,
        log_config=get_uvicorn_log_config(console_handler.level),
        ssl_keyfile=settings.server,
        ssl_certfile=settings.server,
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        server_header=False,
        # Otherwise a header of the request would say where it comes from.
        proxy_headers=False,
        workers=1,
    )
    uvicorn.Server(config).run(sockets=sockets)


def main() -> None:
    """Run the program; an error of ours is one line and exit status 1."""
    # The database and the log hold what hospitals send: nobody else may read what is made from here on.
    os.umask(0o077)
    try:
        run(SuperLinkSettings(**json.loads(Path(sys.argv[1]).read_text())))
    except CipherwardError as error:
        print(f"CipherwardError: {error.message} (hint: {error.hint})", file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
