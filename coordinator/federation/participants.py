"""The parties of a run behind a Flower grid: who they are, and which of their replies may be used.

Flower waits for an absent party without a time limit, and one malformed reply stops the run for everybody. Here every
wait has a deadline, and strategies receive only replies that were checked (screening.py). A node whose introduction
does not fit the study manifest is refused for the whole run: it gets no plan and no weights, and it counts for no
quorum. The others go on.

A hospital may come back under another node id, as after a new start of its agent: its identity signs an introduction
for the new node, and the newest one counts. Who does not answer stays asked: its answer is looked for before every
round, without a wait, and it takes part in the round after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from coordinator.exchange.manifest import StudyManifest
from coordinator.exchange.plan import Plan
from coordinator.federation.admission import Party, find_conflicts
from coordinator.federation.reply_pulls import ReplyPulls
from coordinator.federation.screening import join_errors, parse_introduction
from crypto.errors import CipherwardError
from crypto.plural import counted

#: Seconds between two looks for replies, at first and at most. Looking costs the cores that a simulation trains on.
_POLL_S, _MAX_POLL_S = 0.05, 0.5
#: Seconds of waiting after which the log says how many hospitals are here. Chosen by hand.
_ANNOUNCE_S = 3.0
#: Seconds after which a node is asked again who it is: after no answer, as its agent may have been killed with the
#: question; and after an error. Nobody waits for such a node, so a question costs a message. Chosen by hand.
_ASK_AGAIN_S, _AFTER_ERROR_S = 15.0, 2.0
#: After how many deadlines the question who a node is expires, with its answer. Answers are looked for between two
#: rounds, and a round waits for nodes, for updates and for evaluations, each for a deadline at most: if the answer
#: expired with the first of them, a hospital would never be taken in by a study whose rounds are long.
_QUESTION_DEADLINES = 5

#: Returns why a node's reply cannot be used, or "".
Screen = Callable[[int, Message], str]


@dataclass(frozen=True)
class Replies:
    """What came back for some messages.

    Attributes:
        usable: (node, reply) in order of the parties' names.
        refused: why the reply of a node cannot be used, by node.
        absent: the nodes that did not reply.
    """

    usable: list[tuple[int, Message]] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    absent: list[int] = field(default_factory=list)


class Federation:
    """The parties of one run, behind a Flower grid.

    Attributes:
        grid: Flower's messages.
        plan: all settings.
        manifest: the study manifest, which says who takes part with which sets.
        base: the digest of the weights that are not sent (`base_digest` in coordinator/model/shares.py). Hospitals
            must have the same. "" if all weights are sent.
        parties: the accepted parties so far, by node id.
        refused: why a node is refused for the whole run, by node id.
    """

    def __init__(self, grid: Grid, plan: Plan, manifest: StudyManifest) -> None:
        self.grid, self.plan, self.manifest = grid, plan, manifest
        self.base = ""
        self.parties: dict[int, Party] = {}
        self.refused: dict[int, str] = {}
        self._refused_names: dict[int, str] = {}
        #: How many connected nodes the log was told of last, -1 for none.
        self._announced = -1
        #: Nodes that were asked and gave no introduction yet, and what came instead.
        self._unanswered: dict[int, str] = {}
        #: Questions that are under way: the node by the message's id.
        self._asked: dict[str, int] = {}
        #: When a node that was asked may be asked again.
        self._ask_again: dict[int, float] = {}
        self._pulls = ReplyPulls(grid)

    def gather(self) -> list[Party]:
        """Wait for a quorum of accepted parties, at most until the deadline, and ask every new node who it is.

        A node that is asked for the first time is waited for, for the grace period after the quorum is there. Later
        it costs nobody any time, and is taken in once its answer comes. Before the first quorum, a problem with a
        node shortens the wait to the grace period. Later it does not: nobody can stop a run by joining it.

        Returns:
            The connected parties in order of their names.

        Raises:
            CipherwardError: if there are too few. The message names every node that was refused.
        """
        needed, start = self.plan.replies_needed, time.monotonic()
        self._announced = -1
        deadline, has_begun = start + self.plan.deadline_s, len(self.parties) >= needed
        problems, quorum_time = 0, math.inf
        first: set[int] = set()
        while True:
            look = time.monotonic()
            connected = list(self.grid.get_node_ids())
            nodes = [node for node in connected if node not in self.refused]
            if len(nodes) >= needed:
                first |= self._ask(nodes)
            self._hear(deadline)
            present, now = self._accepted(nodes), time.monotonic()
            awaited = first & set(self._asked.values()) & set(nodes)
            quorum_time = min(quorum_time, now) if len(present) >= needed else math.inf
            # What is over at the deadline, or with the grace period, is over with whoever is there.
            if len(present) >= needed and (
                not awaited or now - quorum_time > self.plan.grace_s or now > deadline
            ):
                for node in awaited:
                    self._unanswered.setdefault(node, "no answer")
                return sorted(present, key=lambda party: party.name)
            reasons = self._problems(connected)
            if now - start > _ANNOUNCE_S:
                self._announce(len(connected), deadline - now)
            if len(reasons) > problems and not has_begun:
                problems, deadline = len(reasons), min(deadline, now + self.plan.grace_s)
            if now > deadline:
                self._unanswered |= {node: "no answer" for node in awaited if node not in self._unanswered}
                raise self._too_few(len(nodes), len(present), self._problems(connected))
            time.sleep(max(_POLL_S, now - look))

    def _announce(self, connected: int, seconds_left: float) -> None:
        """Say how many hospitals are here, each time that it changes, and for how long the others are waited for."""
        if connected != self._announced:
            self._announced = connected
            print(
                f"{connected} of {counted(self.plan.parties, 'hospital')} here; "
                f"{counted(self.plan.replies_needed, 'is', 'are')} needed, and the "
                f"others are waited for, at most {max(0.0, seconds_left):.0f} s more (the plan's deadline_s)",
                flush=True,
            )

    def _too_few(self, connected: int, present: int, reasons: Sequence[str]) -> CipherwardError:
        """Return the error for a quorum that did not come."""
        needed = self.plan.replies_needed
        if reasons:
            return CipherwardError(
                f"{present} of {needed} parties are usable: {join_errors(reasons)}",
                "see the parties' own logs, mend what is named, and start again",
            )
        return CipherwardError(
            f"{connected} of {needed} parties came within {self.plan.deadline_s:.0f} s",
            "start the missing agents, or lower the quorum; Flower's simulation starts as many nodes as its "
            "num-supernodes says",
        )

    def _problems(self, connected: Sequence[int]) -> list[str]:
        """Return what is wrong with these nodes, if they are not accepted, each with the node's name."""
        refused = [f"{self.name(node)}: {self.refused[node]}" for node in connected if node in self.refused]
        return [*refused, *(f"node-{node}: {why}" for node, why in self._unanswered.items())]

    def refusals(self) -> dict[int, str]:
        """Return why a connected node takes no part, by node: it is refused for the whole run, or did not answer.

        It looks once for answers to who a node is: what came while a round was made belongs in its line. A node
        that is still being asked for the first time has no entry before the grace period is over. If the SuperLink
        does not answer there is no entry at all: the round that was made must be kept.
        """
        try:
            self._hear(math.inf)
            connected = set(self.grid.get_node_ids())
        except (httpx.HTTPError, OSError):
            return {}
        reasons = {**self._unanswered, **self.refused}
        return {node: reason for node, reason in reasons.items() if node in connected}

    def _accepted(self, nodes: Sequence[int]) -> list[Party]:
        """Return the accepted parties among nodes."""
        return [self.parties[node] for node in nodes if node in self.parties]

    def get_node_ids(self) -> list[int]:
        """Return the nodes that a strategy may choose from: accepted parties that are connected.

        A strategy gets the federation instead of the grid. All parties are listed if none is connected, because
        Flower waits without a time limit for the first.
        """
        return [node for node in self.grid.get_node_ids() if node in self.parties] or list(self.parties)

    def _ask(self, nodes: Sequence[int]) -> set[int]:
        """Ask those of these nodes who they are that are not known, and return those that were never asked before."""
        now = time.monotonic()
        asked = [
            node
            for node in nodes
            if node not in self.parties and now >= self._ask_again.get(node, -math.inf)
        ]
        first = set(asked) - self._ask_again.keys()
        config = ConfigRecord({"manifest": self.manifest.digest})
        questions = [
            Message(RecordDict({"config": config}), dst_node_id=node, message_type="query.hello")
            for node in asked
        ]
        if questions:
            self._asked |= self._push(questions, _QUESTION_DEADLINES * self.plan.deadline_s)
        self._ask_again |= dict.fromkeys(asked, now + _ASK_AGAIN_S)
        return first

    def _hear(self, deadline: float) -> None:
        """Look for answers to all questions that are under way, and accept or refuse the nodes that gave them."""
        replies = Replies()
        self._look(
            self._asked,
            replies,
            lambda _, reply: parse_introduction(reply)[1],
            lambda _n, _r: None,
            deadline,
        )
        for node, reason in replies.refused.items():
            # An error of Flower or of the hospital may pass. An introduction stands.
            if reason.startswith("error: "):
                self._unanswered[node] = reason
                self._ask_again[node] = time.monotonic() + _AFTER_ERROR_S
            else:
                self._unanswered.pop(node, None)
                self._refuse(node, f"node-{node}", reason)
        newcomers = []
        for node, reply in replies.usable:
            self._unanswered.pop(node, None)
            about, _ = parse_introduction(reply)
            record = reply.content["about"]
            newcomers.append(Party(node, about["party"], about, record["json"], record["signature"]))
        self._admit(newcomers)
        known = self.parties.keys() | self.refused.keys()
        self._asked = {message: node for message, node in self._asked.items() if node not in known}

    def _admit(self, newcomers: Sequence[Party]) -> None:
        """Accept the newcomers that belong to this run, and refuse the others.

        The newest introduction of a hospital counts. The other node of its name is refused.
        """
        conflicts = find_conflicts(newcomers, self.manifest, self.grid.run.run_id)
        for party in sorted(newcomers, key=lambda party: int(party.about["time_ns"])):
            if party.node in conflicts:
                self._refuse(party.node, f"{party.name} (node-{party.node})", conflicts[party.node])
                continue
            same = [other for other in self.parties.values() if other.name == party.name]
            # Answers come in any order.
            newest = max([*same, party], key=lambda party: int(party.about["time_ns"]))
            for other in [*same, party]:
                if other.node != newest.node:  # a slow node that was asked twice answers twice
                    self.parties.pop(other.node, None)
                    reason = f"{other.name} came back as node-{newest.node}"
                    self._refuse(other.node, f"{other.name} (node-{other.node})", reason)
            self.parties[newest.node] = newest

    def expel(self, name: str, reason: str) -> None:
        """Refuse an accepted party for the rest of the run."""
        for party in [party for party in self.parties.values() if party.name == name]:
            del self.parties[party.node]
            self._refuse(party.node, f"{name} (node-{party.node})", reason)

    def _refuse(self, node: int, name: str, reason: str) -> None:
        """Refuse a node for the whole run, and say so in the log."""
        self._refused_names[node], self.refused[node] = name, join_errors([reason])
        print(f"{name} is refused: {self.refused[node]}", flush=True)

    def collect(
        self,
        messages: Sequence[Message],
        quorum: int,
        screen: Screen,
        keep: Callable[[int, Message], None] = lambda _node, _reply: None,
    ) -> Replies:
        """Send messages and collect the replies.

        It returns when all replies are in, when `quorum` usable replies are in and the grace period is over, or at
        the deadline.

        Args:
            messages: the messages.
            quorum: the number of usable replies to wait for.
            screen: checks each reply.
            keep: takes each usable reply as it comes, and may move what is large in it to another place.
        """
        limit = self.plan.deadline_s
        # A party that returns later must not train a round that is over.
        waiting = self._push(messages, limit)
        result = Replies()
        start, quorum_time = time.monotonic(), None
        while waiting:
            look = time.monotonic()
            self._look(waiting, result, screen, keep, start + limit)
            now = time.monotonic()
            if quorum_time is None and len(result.usable) >= quorum:
                quorum_time = now
            grace_over = quorum_time is not None and now - quorum_time > self.plan.grace_s
            if now - start > limit or grace_over:
                break
            if waiting:
                # The longer the parties take, the rarer it looks.
                time.sleep(max(now - look, min(_MAX_POLL_S, max(_POLL_S, 0.05 * (now - start)))))
        result.usable.sort(key=lambda pair: self.name(pair[0]))
        result.absent.extend(sorted(waiting.values()))
        self._pulls.forget([*self._asked])
        return result

    def _push(self, messages: Sequence[Message], ttl_s: float) -> dict[str, int]:
        """Send messages that expire with their replies after so many seconds; return each one's node by its id."""
        for message in messages:
            message.metadata.ttl = ttl_s
        nodes = (message.metadata.dst_node_id for message in messages)
        return dict(zip(self.grid.push_messages(messages), nodes, strict=True))

    def _look(
        self,
        waiting: dict[str, int],
        result: Replies,
        screen: Screen,
        keep: Callable[[int, Message], None],
        deadline: float,
    ) -> None:
        """Look once for the reply to each message in `waiting`, and move what came from there to `result`."""
        for message_id in list(waiting):
            if time.monotonic() > deadline:
                break
            for reply in self._pull(message_id, waiting, result):
                # Errors made by Flower's server have the server's node id: use the message that they answer.
                node = waiting.pop(message_id)
                if why := _screen_safely(screen, node, reply):
                    result.refused[node] = why
                else:
                    keep(node, reply)
                    result.usable.append((node, reply))

    def _pull(self, message_id: str, waiting: dict[str, int], result: Replies) -> list[Message]:
        """Ask for the reply to one message; one that Flower cannot unpack is refused.

        If Flower were asked for several at once, one that it cannot unpack would take the others with it. One that
        stalls in the middle is looked at again later.
        """
        try:
            return self._pulls.pull(message_id, waiting[message_id])
        except (httpx.HTTPError, OSError):
            raise  # the SuperLink does not answer
        except Exception as error:  # a reply from outside may have any content
            reason = f"a reply that cannot be unpacked ({type(error).__name__})"
            result.refused[waiting.pop(message_id)] = reason
            return []

    def message_config(self) -> dict[str, str]:
        """Return what every message to a party has: plan, manifest, and the digest of weights that are not sent."""
        named = {"plan": self.plan.model_dump_json(), "manifest": self.manifest.digest}
        return named | ({"base": self.base} if self.base else {})

    def rows(self, node: int, split: str) -> int:
        """Return how many images of a split a party introduced itself with, 0 for an unknown node."""
        return int(self.parties[node].about["splits"][split]["rows"]) if node in self.parties else 0

    def name(self, node: int) -> str:
        """Return the name of a party, or a name made from the node id."""
        if node in self.parties:
            return self.parties[node].name
        return self._refused_names.get(node, f"node-{node}")

    def by_name(self, reasons: Mapping[int, str]) -> dict[str, str]:
        """Return reasons by the names of the nodes, each on one line."""
        return {self.name(node): join_errors([reason]) for node, reason in reasons.items()}


def _screen_safely(screen: Screen, node: int, reply: Message) -> str:
    """Return why a reply cannot be used, or "". Whatever a reply is made of, it stops nobody else."""
    try:
        return screen(node, reply)
    except Exception as error:  # a reply from outside may have any content
        return f"a reply that cannot be read ({type(error).__name__})"
