"""Faults that strike while a study runs: processes end or hang, the network is cut, keys and approvals end."""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types

from benchmarks.faults.deployment import TimedOutError, wait_until
from benchmarks.faults.observe import VICTIM, LogTail, NotReadyError, Observer
from benchmarks.faults.record import MOMENTS, Moment, Record
from coordinator.deployment.enrolment import enrol, read_public_keys, revoke
from coordinator.deployment.running import reconcile_running
from parties.agent.approval import approve, withdraw
from parties.agent.bundle import read_bundle
from parties.agent.enrol import enrol as make_keys
from parties.agent.enrol import node_key_path
from parties.training.policy_file import read_policy, save_policy

#: Seconds that a hospital's person needs to start the agent again; seconds of a cut.
_AWAY_S, _CUT_S = 3.0, 60.0
#: Rounds that are made without a hospital that does not come back.
_ROUNDS_AWAY = 2

Strike = Callable[[Observer, Moment], Record]


@dataclass(frozen=True)
class Fault:
    """A fault of a study at work.

    Attributes:
        title: what it is, in words.
        strike: lets it strike at a moment, and returns what followed.
        moments: the moments at which it strikes.
    """

    title: str
    strike: Strike
    moments: tuple[Moment, ...] = ("in training",)


def end_agent(number: signal.Signals) -> Strike:
    """Return the fault: a signal ends the agent, and somebody starts it again."""

    def strike(watch: Observer, moment: Moment) -> Record:
        d = watch.deployment

        def inject() -> None:
            d.agents[VICTIM].send_signal(number)
            d.agents[VICTIM].wait(40)
            time.sleep(_AWAY_S)

        return watch.strike(moment, inject, lambda: d.start_agent(VICTIM))

    return strike


def kill_for_good(watch: Observer, moment: Moment) -> Record:
    """Kill the agent, and start it again only after two rounds were made without it."""
    d = watch.deployment

    def count() -> int:
        return sum(row["aggregated"] and VICTIM not in row["parties"] for _, row in d.rows)

    def inject() -> str:
        before = count()
        d.agents[VICTIM].kill()
        d.agents[VICTIM].wait()
        struck = time.monotonic()
        wait_until(lambda: count() >= before + _ROUNDS_AWAY, 240, f"{_ROUNDS_AWAY} rounds without {VICTIM}")
        return f"{_ROUNDS_AWAY} rounds are made without it after {time.monotonic() - struck:.0f} s; "

    return watch.strike(moment, inject, lambda: d.start_agent(VICTIM))


def kill_supernode(watch: Observer, moment: Moment) -> Record:
    """Kill the SuperNode: the agent starts it again."""
    d = watch.deployment

    def inject() -> None:
        psutil.Process(d.state(VICTIM)["supernode"]).kill()

    return watch.strike(moment, inject)


def stop_hospital(seconds: float) -> Strike:
    """Return the fault: all of a hospital's processes stand still for so long."""

    def strike(watch: Observer, moment: Moment) -> Record:
        def inject() -> None:
            processes = watch.deployment.processes(VICTIM)
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    process.suspend()
            time.sleep(seconds)
            for process in reversed(processes):
                with contextlib.suppress(psutil.Error):
                    process.resume()

        return watch.strike(moment, inject)

    return strike


def _client(watch: Observer) -> psutil.Process:
    assert watch.client is not None, "no client process"
    return watch.client


def slow_reply(watch: Observer, moment: Moment) -> Record:
    """Let a client answer after its round's deadline."""

    def inject() -> None:
        client, tail = _client(watch), LogTail(watch.deployment)
        client.suspend()
        if moment == "before training":
            tail.wait_for("train", "received")
        time.sleep(watch.deployment.plan.deadline_s + 5)
        client.resume()

    return watch.strike(moment, inject)


def hang_client(watch: Observer, moment: Moment) -> Record:
    """Let a client hang for ever."""

    def inject() -> None:
        client = _client(watch)
        client.suspend()
        wait_until(lambda: not _is_alive(client), 150, "the end of the client that hangs")

    return watch.strike(moment, inject)


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def kill_client(watch: Observer, moment: Moment) -> Record:
    """Kill a client."""
    return watch.strike(moment, lambda: _client(watch).kill())


def cut_network(watch: Observer, moment: Moment) -> Record:
    """Cut a hospital's connection for a minute: connections stay open, and nothing passes."""

    def inject() -> None:
        watch.deployment.relay.cut(VICTIM)
        watch.release()
        time.sleep(_CUT_S)
        watch.deployment.relay.mend(VICTIM)

    return watch.strike(moment, inject)


def kill_server_process(word: str) -> Strike:
    """Return the fault: kill the coordinator's process whose command line has a word."""

    def strike(watch: Observer, moment: Moment) -> Record:
        def inject() -> None:
            process = watch.deployment.server_process(word)
            assert process is not None, word
            process.kill()

        return watch.strike(moment, inject)

    return strike


def kill_serve(watch: Observer, moment: Moment) -> Record:
    """Kill `serve`, and let somebody start it again."""
    d = watch.deployment

    def inject() -> None:
        assert d.serve is not None
        d.serve.kill()
        d.serve.wait()
        time.sleep(_AWAY_S)

    return watch.strike(moment, inject, lambda: _none(d.start_server()))


def kill_run(watch: Observer, moment: Moment) -> Record:
    """Kill `run`, and start it again."""
    d = watch.deployment

    def inject() -> None:
        d.runs[-1].kill()
        d.runs[-1].wait()

    return watch.strike(moment, inject, d.start_run)


def withdraw_approval(watch: Observer, moment: Moment) -> Record:
    """Let a hospital withdraw its approval of the code, and approve it again."""
    d = watch.deployment
    bundle = read_bundle(d.cloud.bundle)

    def inject() -> None:
        tail = LogTail(d)
        withdraw(d.place(VICTIM), bundle.sha256)
        _wait_for_refusal(tail)

    return watch.strike(moment, inject, lambda: _none(approve(d.place(VICTIM), bundle, 90)))


def change_policy(watch: Observer, moment: Moment) -> Record:
    """Let a hospital's policy accept another plan than the messages', and then the right one again."""
    d = watch.deployment
    place = d.place(VICTIM)
    policy = read_policy(place)

    def inject() -> None:
        tail = LogTail(d)
        save_policy(place, policy.model_copy(update={"lr": policy.lr * 2}))
        _wait_for_refusal(tail)

    return watch.strike(moment, inject, lambda: save_policy(place, policy))


def revoke_key(watch: Observer, moment: Moment) -> Record:
    """Revoke a hospital's key; then it makes a new one and is enrolled again."""
    d = watch.deployment
    place = d.place(VICTIM)

    def inject() -> str:
        revoke(d.cloud, VICTIM)
        reconcile_running(d.cloud, lambda _: None)
        reason = wait_until(lambda: d.state(VICTIM).get("error"), 150, "the refusal of the revoked key")
        return f"its agent says: {reason}; "

    def restore() -> None:
        d.agents[VICTIM].terminate()
        d.agents[VICTIM].wait(40)
        node_key_path(place).rename(place.private / f"node_key.revoked-{time.time_ns()}")
        enrol(d.cloud, read_public_keys(make_keys(place).path))
        reconcile_running(d.cloud, lambda _: None)
        d.start_agent(VICTIM)

    return watch.strike(moment, inject, restore)


def tell_lies(watch: Observer, moment: Moment) -> Record:
    """Let a hospital's software answer with records of every damaged kind, one a message, and compare the journal."""
    from benchmarks.faults.malformed import EVALUATION, TRAINING

    d = watch.deployment
    told = d.folder / "lies.jsonl"
    details: dict[str, str] = {}

    def inject() -> str:
        d.agents[VICTIM].terminate()
        d.agents[VICTIM].wait(40)
        d.start_liar(VICTIM, told)
        wait_until(
            lambda: len(_read_lies(told, "evaluate")) > len(EVALUATION),
            30 * (len(TRAINING) + len(EVALUATION)),
            "a lie of every kind",
        )
        d.agents[VICTIM].terminate()
        d.agents[VICTIM].wait(40)
        rows = {row["round"]: row for _, row in list(d.rows) if row["aggregated"]}
        for lie in _read_lies(told):
            row = rows.get(lie["round"])
            if row is not None:
                reason = row["refused"].get(VICTIM)
                details[f"{lie['type']}: {lie['kind']}"] = reason or "NOT REFUSED"
        accepted = [kind for kind, reason in details.items() if reason == "NOT REFUSED"]
        return (
            f"{len(details)} kinds of damaged replies; {len(details) - len(accepted)} were refused by name and the "
            f"others' rounds went on{'; NOT REFUSED: ' + ', '.join(accepted) if accepted else ''}; "
        )

    record = watch.strike(moment, inject, lambda: d.start_agent(VICTIM))
    # What was refused is in the details, by its kind.
    words = record.happened.split("; ")
    kept = "; ".join(part for part in words if not part.startswith((VICTIM, "absent", "its log")))
    return Record(**{**record.__dict__, "details": details, "happened": kept})


def _read_lies(path: Any, kind: str = "") -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        lies = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return [lie for lie in lies if kind in ("", lie["type"])]
    return []


def join_late(watch: Observer, _: Moment) -> Record:
    """Let a hospital join after two rounds were made without it."""
    d = watch.deployment
    try:
        wait_until(lambda: len(d.rows) >= 2, 300, f"two rounds without {VICTIM}; {d.last_words('run')}")
    except TimedOutError as error:
        raise NotReadyError(str(error)) from error
    alone = [row["seconds"] for _, row in d.rows]
    joined = time.monotonic()
    d.start_agent(VICTIM)
    watch.settle()
    end, row = d.rows[-1]
    missed = sum(VICTIM not in row["parties"] for _, row in d.rows)
    return Record(
        happened=f"the study begins without it (a round: {statistics.median(alone):.1f} s), and it is taken in",
        rounds_missed=missed,
        back_after_s=round(end - row["seconds"] - joined, 1),
        round_s=round(watch.undisturbed_s, 1),
        data_lost=watch.find_losses(),
    )


def _wait_for_refusal(tail: LogTail) -> None:
    wait_until(lambda: any(x["event"] == "refused" for x in tail.read()), 90, "a refusal")


def _none(_: object) -> None:
    """Drop a value."""


#: Faults by name. Those that are about whether a process is alive and reachable strike at three moments.
FAULTS: dict[str, Fault] = {
    "sigterm": Fault("SIGTERM to the agent, started again", end_agent(signal.SIGTERM), MOMENTS),
    "sigkill": Fault("SIGKILL to the agent, which stays away for two rounds", kill_for_good, MOMENTS),
    "sigkill-back": Fault("SIGKILL to the agent, started again", end_agent(signal.SIGKILL), MOMENTS),
    "supernode": Fault("SIGKILL to the SuperNode", kill_supernode, MOMENTS),
    "sigstop-30": Fault("SIGSTOP of a hospital, 30 s", stop_hospital(30), MOMENTS),
    "sigstop-120": Fault("SIGSTOP of a hospital, 120 s", stop_hospital(120), MOMENTS),
    "slow-reply": Fault("a reply after the deadline", slow_reply, MOMENTS),
    "hung-client": Fault("the ClientApp hangs", hang_client, MOMENTS),
    "killed-client": Fault("SIGKILL to the ClientApp", kill_client, MOMENTS),
    "network": Fault(
        f"the network to a hospital is cut, {_CUT_S:.0f} s (by a relay)", cut_network, MOMENTS
    ),
    "superlink": Fault(
        "SIGKILL to the SuperLink", kill_server_process("coordinator.deployment.superlink"), MOMENTS
    ),
    "serverapp": Fault("SIGKILL to the ServerApp", kill_server_process("flwr-serverapp"), MOMENTS),
    "serve": Fault("SIGKILL to `serve`, started again", kill_serve),
    "run": Fault("SIGKILL to `run`, started again", kill_run),
    "unapproved": Fault("the bundle is not approved, then approved", withdraw_approval),
    "other-plan": Fault("another plan than the accepted one", change_policy),
    "revoked": Fault("the SuperNode key is revoked, a new one enrolled", revoke_key),
    "malformed": Fault("replies with damaged records of every kind", tell_lies, ("before training",)),
}
