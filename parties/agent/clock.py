"""Whether this machine's clock is right: compared with the coordinator's, over the connection that the kit secures.

A SuperNode signs the time into every request, and the coordinator refuses what is minutes old or not made yet.
Flower then says nothing that names the clock. Every answer of the coordinator carries its time in the header `Date`,
a refusal too. The certificate is checked as ever, except for its dates, which cannot be judged by a wrong clock.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import socket
import ssl
import threading
import time
from pathlib import Path

#: OpenSSL's X509_V_FLAG_NO_CHECK_TIME: verify all of a certificate but its dates.
_NO_CHECK_TIME = 0x200000
#: Seconds by which a clock may be wrong without a word. Flower refuses a signature that is 305 s old, or of 5 s
#: later.
AHEAD_S, BEHIND_S = 5.0, 300.0
#: Seconds that the question may take.
_TIMEOUT_S = 3.0


def measure_offset(address: str, ca: Path) -> float | None:
    """Return how many seconds this machine's clock is ahead of the coordinator's; negative if it is behind.

    Args:
        address: host:port of the coordinator.
        ca: file of the federation's CA certificate.

    Returns:
        The offset, to a second; None if the coordinator does not answer, or not with its certificate.
    """
    host, _, port = address.rpartition(":")
    # OverflowError: a date of a year that no clock has. No answer may end the agent that asked.
    with contextlib.suppress(OSError, ValueError, OverflowError, TypeError, http.client.HTTPException):
        context = ssl.create_default_context(cafile=str(ca))
        context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        connection = http.client.HTTPSConnection(
            host.strip("[]"), int(port), timeout=_TIMEOUT_S, context=context
        )
        try:
            connection.connect()
            # The timeout above is for each piece. A coordinator that sends one byte a second must not hold the agent.
            end = threading.Timer(_TIMEOUT_S, _cut, (connection.sock,))
            end.start()
            try:
                connection.request("GET", "/")
                date = connection.getresponse().getheader("Date")
            finally:
                end.cancel()
        finally:
            connection.close()
        if date is not None:
            return time.time() - email.utils.parsedate_to_datetime(date).timestamp()
    return None


def _cut(connection: socket.socket) -> None:
    """End a connection under the one that reads it."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def describe_offset(offset: float | None) -> str:
    """Return what is wrong with the clock and what to do, or "" if it is right or not known.

    Args:
        offset: as `measure_offset` returns it.
    """
    # The header has whole seconds, and the answer takes a moment.
    if offset is None or -BEHIND_S < offset < AHEAD_S + 1.0:
        return ""
    minutes, seconds = divmod(round(abs(offset)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "min"), (seconds if not hours else 0, "s"))
    length = " ".join(f"{count} {unit}" for count, unit in parts if count)
    way = "ahead of" if offset > 0 else "behind"
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    return (
        f"this machine's clock is {length} {way} the coordinator's, which refuses every request; set the clock "
        f"of the one that is wrong ({socket.gethostname()} says {now}): "
        "sudo timedatectl set-ntp true"
    )
