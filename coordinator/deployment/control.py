"""The Control API of a running SuperLink, over its Unix socket.

Flower's own client and messages are used; only the socket is ours. Whoever can open the socket is this user or root.
"""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crypto.errors import CipherwardError

#: Seconds after a node's last heartbeat until Flower calls it offline: twice its interval.
_PATIENCE_BEATS = 2


@dataclass(frozen=True)
class Node:
    """A SuperNode that is registered, as the SuperLink knows it.

    Attributes:
        node_id: Flower's id.
        public_key: the SuperNode's public key, PEM.
        is_online: whether its heartbeats come.
        last_seen: the last heartbeat of one that is online, in UTC; else None.
        offline_since: when one that is not online left, or when Flower stopped waiting for its heartbeat, in UTC;
            None if it is online or was never there.
    """

    node_id: int
    public_key: bytes
    is_online: bool
    last_seen: datetime.datetime | None
    offline_since: datetime.datetime | None = None


@dataclass(frozen=True)
class Run:
    """A run, as the SuperLink knows it.

    Attributes:
        run_id: Flower's id.
        status: such as `running` or `finished:failed`.
        details: why it failed, in Flower's words.
        bundle_sha256: the digest of its app bundle.
        study: the study folder that it was started with.
        bytes_sent: bytes that the SuperLink sent to hospitals, as Flower counts them.
        bytes_received: bytes that it received from them.
    """

    run_id: int
    status: str
    details: str
    bundle_sha256: str
    study: str
    bytes_sent: int
    bytes_received: int

    @property
    def is_finished(self) -> bool:
        """Whether it has ended in any way."""
        return self.status.startswith("finished")


class SuperLinkUnreachableError(CipherwardError):
    """No SuperLink answers on the socket."""


class Control:
    """Calls to the Control API."""

    def __init__(self, client: Any) -> None:
        """Take Flower's client."""
        self._client = client

    def nodes(self) -> list[Node]:
        """Return the registered SuperNodes."""
        from flwr.proto.control_pb2 import ListNodesRequest

        with _errors():
            answer = self._client.ListNodes(ListNodesRequest())
        return [_node(info) for info in answer.nodes_info if info.status != "unregistered"]

    def register(self, public_key: bytes, name: str) -> int:
        """Register a SuperNode's public key (PEM), and return the node's id."""
        from flwr.proto.control_pb2 import RegisterNodeRequest

        with _errors():
            answer = self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))
        return int(answer.node_id)

    def unregister(self, node_id: int) -> None:
        """Remove a SuperNode: its key is refused from now on."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        with _errors():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self, bundle: bytes, digest: str, run_config: Mapping[str, str]) -> int:
        """Submit an app bundle, and return the run's id."""
        from flwr.common.serde import user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.proto.fab_pb2 import Fab

        request = StartRunRequest(
            fab=Fab(hash_str=digest, content=bundle),
            override_config=user_config_to_proto(dict(run_config)),
        )
        with _errors():
            run_id = int(self._client.StartRun(request).run_id)
        if not run_id:
            raise CipherwardError("Flower refused the run", "see logs/superlink.log")
        return run_id

    def runs(self) -> list[Run]:
        """Return all runs, the latest last."""
        from flwr.proto.control_pb2 import ListRunsRequest

        with _errors():
            answer = self._client.ListRuns(ListRunsRequest())
        runs = sorted(answer.run_dict.values(), key=lambda run: run.pending_at)
        return [_run(run) for run in runs]

    def read_log(self, run_id: int) -> str:
        """Return what the ServerApp of a run that has ended printed. Flower then drops what it kept of the run."""
        from flwr.proto.control_pb2 import StreamLogsRequest

        with _errors():
            return "".join(
                part.log_output for part in self._client.StreamLogs(StreamLogsRequest(run_id=run_id))
            )

    def stop_run(self, run_id: int) -> None:
        """Stop a run."""
        from flwr.proto.control_pb2 import StopRunRequest

        with _errors():
            self._client.StopRun(StopRunRequest(run_id=run_id))


@contextmanager
def connect(socket: Path, ca_certificate: Path, timeout_s: float = 30.0) -> Iterator[Control]:
    """Connect to the Control API.

    Args:
        socket: the Unix socket.
        ca_certificate: the authority that signed the server's certificate.
        timeout_s: the longest that one answer may take, in seconds.

    Raises:
        CipherwardError: if the authority's certificate cannot be read.
    """
    import httpx
    from flwr.supercore.control.control_http_client import ControlHttpClient

    try:
        context = ssl.create_default_context(cafile=str(ca_certificate))
    except OSError as error:
        raise CipherwardError(
            f"cannot use the CA certificate {ca_certificate}: {error.strerror}",
            "restore it from your backup",
        ) from None
    client = ControlHttpClient("https://localhost", verify=context)
    client._client.close()
    transport = httpx.HTTPTransport(uds=str(socket), verify=context)
    # A proxy of the environment would come before the transport.
    client._client = httpx.Client(transport=transport, timeout=timeout_s, trust_env=False)
    try:
        yield Control(client)
    finally:
        client._client.close()


@contextmanager
def _errors() -> Iterator[None]:
    """Turn the errors of a call into ours."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise SuperLinkUnreachableError(
            f"the SuperLink does not answer ({type(error).__name__})", "is `serve` running?"
        ) from None
    except httpx.HTTPStatusError as error:
        text = " ".join(error.response.text.split())[:200]
        raise CipherwardError(
            f"Flower refused ({error.response.status_code}): {text}", "see logs/superlink.log"
        ) from None


def _node(info: Any) -> Node:
    """Return what Flower says of a node."""
    is_online, last_seen, offline_since = info.status == "online", None, None
    if info.online_until:
        # Who leaves is online until that moment. Nothing says when its last heartbeat came.
        until = datetime.datetime.fromtimestamp(info.online_until, datetime.UTC)
        if is_online:
            last_seen = until - datetime.timedelta(seconds=_PATIENCE_BEATS * info.heartbeat_interval)
        else:
            offline_since = until
    return Node(info.node_id, info.public_key, is_online, last_seen, offline_since)


def _run(run: Any) -> Run:
    """Return what Flower says of a run."""
    status = run.status.status
    if run.status.sub_status:
        status = f"{status}:{run.status.sub_status}"
    return Run(
        run_id=int(run.run_id),
        status=status,
        details=run.status.details,
        bundle_sha256=run.fab_hash,
        study=run.override_config["study-dir"].string if "study-dir" in run.override_config else "",
        bytes_sent=int(run.bytes_sent),
        bytes_received=int(run.bytes_recv),
    )
