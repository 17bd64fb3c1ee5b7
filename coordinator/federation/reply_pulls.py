"""Pull replies so that no hospital holds up another: one whose reply stalls is left to a thread of its own.

Flower announces a reply when its sender begins to push it. Whoever pulls it then waits for its parts: until a
hospital that was killed in the middle is given up after 180 s, and as long as it likes for one that pushes a part now
and then. Pulled one after another, such a reply made all others too late, and the run ended.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from coordinator.exchange.flower_pauses import let_give_up

#: Seconds that a pull may take until the next reply is pulled beside it. One at a time, replies need little memory.
STALL_S = 1.0
#: Pulls that stall at most; while there are so many, no further one begins. Chosen by hand, for memory.
MOST_STALLED = 16
#: Pulls of one node that stall at most: an old question and the message of the round. A node that stalls on purpose
#: is asked again and again who it is, and would otherwise take all places alone.
MOST_OF_NODE = 2


class _Pull:
    """One pull, in a thread that ends with the program."""

    def __init__(self, grid: Grid, message_id: str, node: int) -> None:
        self.replies: list[Message] = []
        self.error: Exception | None = None
        self.node = node
        self._grid, self._message_id = grid, message_id
        self._given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        let_give_up(self._given_up)
        try:
            self.replies = list(self._grid.pull_messages([self._message_id]))[:1]
        except Exception as error:  # raised again where the reply is waited for
            self.error = error

    def is_over(self, wait_s: float) -> bool:
        """Return whether the pull is over, after so many seconds at most."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """End the pull soon, and let go of what has come of the reply."""
        self._given_up.set()


class ReplyPulls:
    """The pulls of a run.

    Args:
        grid: Flower's messages.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._stalled: dict[str, _Pull] = {}

    def pull(self, message_id: str, node: int) -> list[Message]:
        """Return the reply to a message, or nothing if it is not there yet, or not as a whole.

        Args:
            message_id: the message.
            node: the node that it was sent to.

        Raises:
            Exception: what Flower raised for this reply.
        """
        pull = self._stalled.get(message_id)
        if pull is None:
            of_node = sum(stalled.node == node for stalled in self._stalled.values())
            if len(self._stalled) >= MOST_STALLED or of_node >= MOST_OF_NODE:
                return []
            pull = _Pull(self._grid, message_id, node)
            if not pull.is_over(STALL_S):
                self._stalled[message_id] = pull
                return []
        elif not pull.is_over(0.0):
            return []
        self._stalled.pop(message_id, None)
        if pull.error is not None:
            raise pull.error
        return pull.replies

    def forget(self, waiting: Sequence[str]) -> None:
        """Let go of stalled pulls that nobody waits for any more.

        Args:
            waiting: the messages whose replies are still waited for.
        """
        for message in self._stalled.keys() - {*waiting}:
            self._stalled.pop(message).give_up()
