"""Pull a message from the SuperNode, and stop when it will not come.

A task may be there before its message: the SuperNode still receives it. Flower's client would sleep for 1 s, 2 s and
so on until it asks for a part again; here it is asked for again as soon as it can be there. If the run was stopped
meanwhile, the SuperNode drops the message, and its parts never become available. Flower's client would ask for them
for more than an hour, deaf to everything else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

#: Seconds between two requests for a part that the SuperNode still receives: at first, and at most. Chosen by hand.
_PAUSE_S, _MOST_PAUSE_S = 0.02, 0.5


class Pulling:
    """Flower's Runtime client, whose requests for parts of a message end in time.

    Args:
        client: Flower's client.
        tick: called before each request; what it raises ends the pull.
        is_dropped: returns whether the SuperNode gave up receiving the message of this id.
        limit_s: the longest that a pull may take, in seconds.
    """

    def __init__(
        self, client: Any, tick: Callable[[], None], is_dropped: Callable[[str], bool], limit_s: float
    ) -> None:
        self._client, self._tick, self._is_dropped = client, tick, is_dropped
        self._deadline = time.monotonic() + limit_s
        self._message = ""
        # Flower asks for the parts in several threads.
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        """Return any other request of the client."""
        return getattr(self._client, name)

    def PullMessages(self, request: Any) -> Any:  # noqa: N802 - Flower's name
        """Ask for the message without its parts, and note its id."""
        response = self._client.PullMessages(request)
        if response.message_object_trees:
            self._message = str(response.message_object_trees[0].object_id)
        return response

    def PullObject(self, request: Any) -> Any:  # noqa: N802 - Flower's name
        """Ask for a part until it is there, or until the SuperNode no longer knows it.

        Raises:
            ConnectionError: if the SuperNode dropped the message, or after the limit.
        """
        pause = _PAUSE_S
        while True:
            with self._lock:
                self._tick()
                if self._is_dropped(self._message):
                    raise ConnectionError("the SuperNode dropped the message")
                if time.monotonic() > self._deadline:
                    raise ConnectionError("the message did not come in time")
            response = self._client.PullObject(request)
            if response.object_available or not response.object_found:
                return response
            time.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE_S)
