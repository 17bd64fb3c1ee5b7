"""A TCP relay on the loopback interface: it counts what passes and can stop passing it, like a cable that is pulled.

    hospital ──TLS──▶ 127.0.0.1N:port ──▶ SuperLink

It sees ciphertext alone: TLS ends at the SuperLink. Every hospital dials an address of its own, so that bytes are
counted, and the connection is cut, for each.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Mapping

_PIECE = 1 << 16


class Relay:
    """Relays for several hospitals.

    Attributes:
        received: bytes that each hospital received from the SuperLink.
        sent: bytes that each hospital sent to it.
    """

    def __init__(self, listen: Mapping[str, str], port: int, target: tuple[str, int]) -> None:
        """Listen.

        Args:
            listen: the loopback address that each hospital dials, by its name.
            port: the port of all of them.
            target: where the SuperLink listens.
        """
        self.received, self.sent = dict.fromkeys(listen, 0), dict.fromkeys(listen, 0)
        self._target = target
        self._passes = {name: threading.Event() for name in listen}
        self._open: set[socket.socket] = set()
        self._servers = []
        for name, address in listen.items():
            self._passes[name].set()
            server = socket.create_server((address, port), backlog=64)
            self._servers.append(server)
            threading.Thread(target=self._accept, args=(name, server), daemon=True).start()

    def cut(self, name: str) -> None:
        """Pass nothing more to and from a hospital. Its connections stay open, as over a cut network."""
        self._passes[name].clear()

    def mend(self, name: str) -> None:
        """Pass everything again."""
        self._passes[name].set()

    def close(self) -> None:
        """Close everything."""
        for opened in [*self._servers, *self._open]:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
        for event in self._passes.values():
            event.set()

    def _accept(self, name: str, server: socket.socket) -> None:
        while True:
            try:
                ours, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(name, ours), daemon=True).start()

    def _pass_on(self, name: str, ours: socket.socket) -> None:
        self._passes[name].wait()
        try:
            theirs = socket.create_connection(self._target, 5)
        except OSError:
            # A reset, as near as a relay comes to a refused connection.
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ours.close()
            return
        theirs.settimeout(None)
        self._open |= {ours, theirs}
        back = threading.Thread(target=self._copy, args=(name, theirs, ours, self.received), daemon=True)
        back.start()
        self._copy(name, ours, theirs, self.sent)
        back.join()
        self._open -= {ours, theirs}
        ours.close()
        theirs.close()

    def _copy(self, name: str, source: socket.socket, sink: socket.socket, counts: dict[str, int]) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE):
                self._passes[name].wait()
                counts[name] += len(piece)
                sink.sendall(piece)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
