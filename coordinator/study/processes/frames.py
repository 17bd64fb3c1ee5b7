"""Frames: bytes of any length over a stream socket, each after its own length."""

from __future__ import annotations

import socket
import struct
import time

_LENGTH = struct.Struct(">Q")
#: Bytes that are asked of a socket at a time.
_PART = 1 << 20
#: What the error says at a deadline.
NO_TIME_LEFT = "no time is left"


class FrameError(Exception):
    """The other side is gone, or did not send or take a frame in time."""


def send_frame(channel: socket.socket, payload: bytes, deadline: float | None = None) -> None:
    """Send a frame.

    Args:
        channel: a stream socket. Its time limit is changed.
        payload: the content.
        deadline: when to give up, on the clock of `time.monotonic`. None waits without a time limit.

    Raises:
        FrameError: if the other side is gone, or at the deadline.
    """
    left = memoryview(_LENGTH.pack(len(payload)) + payload)
    try:
        while left:
            channel.settimeout(_seconds_left(deadline))
            left = left[channel.send(left[:_PART]) :]
    except TimeoutError:
        raise FrameError(NO_TIME_LEFT) from None
    except OSError as error:
        raise FrameError(str(error)) from None


def receive_frame(channel: socket.socket, deadline: float | None = None) -> bytes:
    """Return the content of the next frame. Arguments and errors are those of `send_frame`."""
    (length,) = _LENGTH.unpack(_receive(channel, _LENGTH.size, deadline))
    return _receive(channel, length, deadline)


def _receive(channel: socket.socket, length: int, deadline: float | None) -> bytes:
    parts = bytearray()
    try:
        while len(parts) < length:
            channel.settimeout(_seconds_left(deadline))
            part = channel.recv(min(_PART, length - len(parts)))
            if not part:
                raise FrameError("the other side closed")
            parts += part
    except TimeoutError:
        raise FrameError(NO_TIME_LEFT) from None
    except OSError as error:
        raise FrameError(str(error)) from None
    return bytes(parts)


def _seconds_left(deadline: float | None) -> float | None:
    """Return the seconds to a deadline; raise TimeoutError if it is over."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
