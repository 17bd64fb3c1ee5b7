"""Answer the messages that a SuperNode received: the hospital's own executor.

    SuperNode ──task──▶ log ▶ bundle approved? ▶ unpack ▶ warm client ▶ log ──reply──▶ SuperNode

It stands in the place of Flower's SuperExec and `flwr-clientapp`, and speaks Flower's Runtime API with Flower's own
client. Three things differ. It takes ClientApp tasks only: Flower's SuperExec also runs `flwr-agentapp` and others,
past any check of a ClientApp's bundle. A secret of this agent authenticates it, so that no other user of the machine
can take a task. The app has neither the task's token nor a connection: the agent builds the reply, and a client that
hangs or is killed costs its message and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Error, Message
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fab_config, get_metadata_from_config
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import SendTaskHeartbeatRequest
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from crypto.errors import CipherwardError
from crypto.without_folders import without_folders
from parties.agent.agent_log import AgentLog
from parties.agent.approval import NotApprovedError, require_approved
from parties.agent.message_facts import MessageFacts, read_facts
from parties.agent.pulling import Pulling
from parties.agent.supernode import rotate
from parties.agent.warm_client import Answer, App, Mode, WarmClient
from parties.sealing.place import Place

#: Seconds between two heartbeats of a task; Flower gives a task up after 60 s without one.
_HEARTBEAT_S = 15.0
#: Seconds that a message may take beyond its round's deadline. Its answer is no longer waited for then.
_PAST_DEADLINE_S = 30.0
#: A message may take so many times as long as the longest answered one of its kind, and at least so many seconds. A
#: plan's deadline is for the slowest hospital on its worst day: a client that hangs must not cost all rounds until
#: then. Chosen by hand.
_TIMES_LONGEST, _LEAST_LIMIT_S = 4.0, 30.0
#: The longest deadline that a message may state, in seconds, unless the plan of the kit has a longer one: a day.
_MOST_DEADLINE_S = 86_400.0
#: Tries of one request to the SuperNode on this machine.
_TRIES = 4
#: Answers after which a request is tried again: the SuperNode is busy, or just starting.
_RETRIED = (502, 503, 504)
_PROTECTED = frozenset({"/flwr.proto.Runtime/AcquireTask"})

#: What the coordinator is told if the log cannot be written; where the log is stays here.
_NO_LOG = "this hospital cannot write its log, and answers nothing that is not in it"

#: What `step` may raise because the SuperNode is gone or does not answer.
UNREACHABLE = (httpx.HTTPError, ConnectionError)

#: Gets the outcome of each message: the facts, the outcome's word, seconds, and an explanation.
Announce = Callable[[MessageFacts, str, float, str], None]


@dataclass
class Executor:
    """The executor of one hospital.

    Attributes:
        place: the hospital.
        address: host:port of the SuperNode's Runtime API; "" before `connect`.
        secret: what authenticates this executor to the SuperNode.
        folder: where approved bundles are unpacked; fresh, and private to this agent.
        environment: the environment of the clients.
        client_log: gets what the app prints.
        mode: whether clients are forked.
        tick: called often during a message; what it raises ends the message.
        announce: gets the outcome of every message.
        deadline_s: the deadline of the accepted plan, in seconds, for messages that carry no plan.
        limit_s: the longest that a message may take, in seconds; None for its deadline and 30 s, and after the first
            answer to a message of its kind for four times the longest one, at least 30 s, if that is less.
        is_dropped: returns whether the SuperNode gave up receiving the message of this id.
    """

    place: Place
    address: str
    secret: bytes
    folder: Path
    environment: Mapping[str, str]
    client_log: Path
    mode: Mode
    tick: Callable[[], None]
    announce: Announce
    deadline_s: float
    limit_s: float | None = None
    is_dropped: Callable[[str], bool] = lambda _message: False
    _clients: dict[str, WarmClient] = field(default_factory=dict)
    _channel: RuntimeHttpClient | None = None
    #: The longest seconds of an answered message, by plan and kind.
    _longest: dict[tuple[str | None, str, str | None], float] = field(default_factory=dict)

    def connect(self, address: str, secret: bytes) -> None:
        """Take tasks from this SuperNode from now on.

        Args:
            address: host:port of its Runtime API.
            secret: what it was started with.
        """
        if self._channel is not None:
            self._channel.close()
        self.address, self.secret = address, secret
        # Without retries: the agent looks again anyway, and must stay able to leave.
        self._channel = self._connect(
            1, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=_PROTECTED)
        )

    def step(self) -> bool:
        """Take a task and answer it. Return whether there was one.

        Raises:
            httpx.HTTPError: if the SuperNode does not answer.
        """
        assert self._channel is not None, "connect first"
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        response = self._channel.AcquireTask(request)
        if not (response.HasField("task") and response.token):
            return False
        client = self._connect(_TRIES, RuntimeTokenHttpInterceptor(response.token))
        try:
            self._handle(client)
        finally:
            client.close()
        return True

    def close(self) -> None:
        """End all clients."""
        for client in self._clients.values():
            client.end()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _connect(self, tries: int, *interceptors: Any) -> RuntimeHttpClient:
        retry = make_simple_http_retry_invoker()
        retry.max_tries, retry.should_giveup = tries, _is_final
        version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=True,  # the loopback interface of this machine
            root_certificates=None,
            interceptors=[version, *interceptors],
            retry_invoker=retry,
        )

    def _handle(self, client: RuntimeHttpClient) -> None:
        """Answer one task's message, whatever happens to the app."""
        started = time.monotonic()
        try:
            message, context, run, fab = pull_task_input(
                Pulling(
                    client, self.tick, self.is_dropped, self.limit_s or self.deadline_s + _PAST_DEADLINE_S
                )
            )
            facts, code = read_facts(message), hashlib.sha256(fab.content).hexdigest()
            content = (
                recorddict_to_proto(message.content).SerializeToString() if message.has_content() else b""
            )
        except UNREACHABLE:
            raise
        except Exception as error:  # a message that Flower or we cannot read, in any of several ways
            with contextlib.suppress(CipherwardError):  # nothing leaves: a full disk does not end the agent
                AgentLog(self.place).append("unreadable", error=type(error).__name__)
            self.announce(MessageFacts("message"), "error", 0.0, f"cannot be read: {type(error).__name__}")
            # The SuperNode answers for us, when this task has had no heartbeat for a minute.
            return
        # The hospital's folder is said by the agent, whatever else the SuperNode was told.
        context.node_config = {"party-dir": str(self.place.folder)}
        log = AgentLog(self.place)
        fields = facts.fields() | {"message": message.metadata.message_id, "code": code}
        number: int | None = None
        why = ""  # what is shown here, and told to nobody else
        try:
            number = log.append("received", **fields, bytes_in=len(content), sha256_in=_sha256(content))
            require_approved(self.place, code)
            answer = self._run(client, message, context, run, fab.content, code, facts)
        except NotApprovedError as error:
            answer = Answer(error="CipherwardError", text=str(error), field=error.field)
        except CipherwardError as error:
            # Its hint names files of this hospital, and stays here.
            text, why = (_NO_LOG, str(error)) if number is None else (error.for_outside().message, "")
            answer = Answer(error="CipherwardError", text=text)
        except OSError as error:
            if isinstance(error, UNREACHABLE):
                _log_unanswered(log, fields, number, started)
                raise
            # This machine has no memory or no process for the client now: it costs this message.
            answer = Answer(error=type(error).__name__, text=error.strerror or "")
        except BaseException:
            _log_unanswered(log, fields, number, started)
            raise
        seconds = time.monotonic() - started
        outcome = "refused" if answer.field else "error" if answer.error else "answered"
        try:
            log.append(
                outcome,
                **fields,
                received=number,
                bytes_out=len(answer.content),
                sha256_out=_sha256(answer.content) if answer.content else None,
                seconds=round(seconds, 3),
                cpu_s=round(answer.cpu_s, 3),
                field=answer.field or None,
                error=answer.error or None,
            )
        except CipherwardError as error:
            # What is not in the log does not leave.
            outcome, answer, why = "error", Answer(error="CipherwardError", text=_NO_LOG), str(error)
        try:
            self._send(client, message, context, answer)
        except UNREACHABLE:
            with contextlib.suppress(CipherwardError):
                log.append("unsent", **fields, received=number)
            raise
        self.announce(facts, outcome, seconds, why or answer.text or answer.error)
        self._prepare_next(code)

    def _run(
        self, client: RuntimeHttpClient, message: Message, context: Any, run: Any, fab: bytes, code: str,
        facts: MessageFacts,
    ) -> Answer:  # fmt: skip
        """Run the approved app on a message, and keep the task alive meanwhile."""
        warm = self._clients.get(code) or self._unpack(fab, code, run.fab_id, run.fab_version)
        beat = time.monotonic()

        def tick() -> None:
            nonlocal beat
            self.tick()
            if time.monotonic() - beat > _HEARTBEAT_S:
                beat = time.monotonic()
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())

        started = time.monotonic()
        answer = warm.answer(
            message_to_proto(message).SerializeToString(),
            context_to_proto(context).SerializeToString(),
            self._limit(facts),
            tick,
        )
        if not answer.error:
            kind = _kind(facts)
            self._longest[kind] = max(self._longest.get(kind, 0.0), time.monotonic() - started)
        elif answer.error == "TimeLimit":
            # A hospital that has become slower is not refused for ever: the next one has the whole deadline again.
            self._longest.pop(_kind(facts), None)
        return answer

    def _limit(self, facts: MessageFacts) -> float:
        """Return the longest seconds that a message may take."""
        if self.limit_s:
            return self.limit_s
        # The deadline of a message is the coordinator's word: it may shorten the hospital's limit, not lift it.
        stated = facts.deadline_s or self.deadline_s
        limit = min(stated, max(self.deadline_s, _MOST_DEADLINE_S)) + _PAST_DEADLINE_S
        longest = self._longest.get(_kind(facts))
        return limit if longest is None else min(limit, max(_LEAST_LIMIT_S, _TIMES_LONGEST * longest))

    def prepare(self, fab: bytes, code: str) -> None:
        """Unpack an approved bundle and import it before its first message comes.

        Raises:
            CipherwardError: if it cannot be unpacked or imported.
        """
        config = get_fab_config(fab)
        fab_id, version = get_metadata_from_config(config)
        self._unpack(fab, code, fab_id, version).start(self.tick)

    def _unpack(self, fab: bytes, code: str, fab_id: str, fab_version: str) -> WarmClient:
        """Unpack an approved bundle into a fresh folder, and return its client, not yet started.

        Flower reuses an unpacked bundle by eight digits of its digest and without hashing it again; a folder for
        each whole digest, made anew by every agent, avoids both.
        """
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it greets whoever installs
                folder = install_from_fab(fab, install_dir=self.folder / code, skip_prompt=True)
        except Exception as error:
            raise CipherwardError(
                f"the approved app bundle cannot be unpacked: {type(error).__name__}", "approve it again"
            ) from error
        for other in self._clients.values():
            other.end()  # studies take turns: one app in memory is enough, and an idle one starts again
        app = App(code, folder, fab_id, fab_version)
        self._clients[code] = WarmClient(app, self.environment, self.client_log, self.mode)
        return self._clients[code]

    def _send(self, client: RuntimeHttpClient, message: Message, context: Any, answer: Answer) -> None:
        """Send the reply, built here from its content alone, and finish the task."""
        if answer.error:
            # As `flwr-clientapp` words it, so that the coordinator reads one format.
            reason = f"<class '{answer.error}'>:<'{_without_folders(answer.text, self.place)}'>"
            reply = Message(
                Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message
            )
        else:
            content = recorddict_from_proto(RecordDictProto.FromString(answer.content))
            reply = Message(content, reply_to=message)
        if answer.context:
            context.state = context_from_proto(ContextProto.FromString(answer.context)).state
        push_message(client, reply, context)
        status = SubStatus.FAILED if answer.error else SubStatus.COMPLETED
        push_task_output(client, context, status, answer.error)

    def _prepare_next(self, code: str) -> None:
        """Import again what a message used up, before the next one comes."""
        with contextlib.suppress(OSError):  # what the app printed is no reason to answer nothing
            rotate(self.client_log)
        warm = self._clients.get(code)
        if warm is None:
            return
        try:
            require_approved(self.place, code)
        except CipherwardError:
            # Withdrawn or expired since: nothing of this code stays in memory, nor is imported again.
            self._clients.pop(code).end()
            return
        if warm.pid is None:
            try:
                warm.start(self.tick)
            except (CipherwardError, OSError) as error:  # the next message tries again
                self.announce(MessageFacts("client"), "error", 0.0, str(error))


def _kind(facts: MessageFacts) -> tuple[str | None, str, str | None]:
    """Return what messages have in common that take about as long: plan, type and split."""
    return facts.plan, facts.kind, facts.split


def _without_folders(text: str, place: Place) -> str:
    """Return an error's text as it may leave: it tells what to mend, and no folder of this hospital's machine."""
    inside = text.replace(f"{place.folder}/", "").replace(str(place.folder), place.settings.party)
    return without_folders(inside)


def _is_final(error: Exception) -> bool:
    """Return whether a request is not tried again after this error.

    Flower's own rule ends the process by a SIGINT when the SuperNode no longer knows a task, as after a broken
    connection to the SuperLink. An agent must outlive that: it drops the task.
    """
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in _RETRIED


def _log_unanswered(log: AgentLog, fields: Mapping[str, Any], number: int | None, started: float) -> None:
    """Log that a message gets no answer. It is ended by what is raised: a full disk changes nothing."""
    with contextlib.suppress(CipherwardError):
        log.append("unanswered", **fields, received=number, seconds=round(time.monotonic() - started, 3))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
