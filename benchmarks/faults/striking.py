"""Faults that strike while a study runs: processes end or hang, the network is cut, keys and approvals end."""

from __future__ import annotations

import contextlib
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types

from benchmarks.faults.deployment import Deployment, wait_until
from benchmarks.faults.observe import VICTIM, Moment, Observer, Record
from coordinator.deployment.enrolment import enrol, read_public_keys, revoke
from coordinator.deployment.running import reconcile_running
from parties.agent.approval import approve, withdraw
from parties.agent.bundle import read_bundle
from parties.agent.enrol import enrol as make_keys
from parties.agent.enrol import node_key_path
from parties.training.policy_file import read_policy, save_policy

#: Seconds that a hospital's person needs to start the agent again; seconds of a pause and of a cut.
_AWAY_S, _PAUSE_S, _CUT_S = 3.0, 30.0, 60.0

Fault = Callable[[Observer, Moment], Record]


def end_agent(number: signal.Signals) -> Fault:
    """Return the fault: a signal ends the agent, and somebody starts it again."""

    def fault(watch: Observer, moment: Moment) -> Record:
        d = watch.deployment

        def inject() -> None:
            d.agents[VICTIM].send_signal(number)
            d.agents[VICTIM].wait(40)
            time.sleep(_AWAY_S)

        return watch.strike(
            f"{number.name} to the agent, joined again", moment, inject, lambda: d.start_agent(VICTIM)
        )

    return fault


def kill_supernode(watch: Observer, moment: Moment) -> Record:
    """Kill the SuperNode: the agent starts it again."""
    d = watch.deployment
    return watch.strike(
        "SIGKILL to the SuperNode", moment, lambda: psutil.Process(d.state(VICTIM)["supernode"]).kill()
    )


def stop_hospital(seconds: float = _PAUSE_S) -> Fault:
    """Return the fault: all of a hospital's processes stand still for so long."""

    def fault(watch: Observer, moment: Moment) -> Record:
        def inject() -> None:
            processes = watch.deployment.processes(VICTIM)
            for process in processes:
                process.suspend()
            time.sleep(seconds)
            for process in reversed(processes):
                with contextlib.suppress(psutil.Error):
                    process.resume()

        return watch.strike(f"SIGSTOP of a hospital, {seconds:.0f} s", moment, inject)

    return fault


def _find_client(d: Deployment) -> psutil.Process:
    client: psutil.Process = wait_until(lambda: d.client(VICTIM), 10, "a client at work", 0.02)
    return client


def slow_reply(watch: Observer, moment: Moment) -> Record:
    """Let a client answer after its round's deadline."""
    d = watch.deployment

    def inject() -> None:
        client = _find_client(d)
        client.suspend()
        time.sleep(d.plan.deadline_s + 5)
        client.resume()

    return watch.strike("a reply after the deadline", moment, inject)


def hang_client(watch: Observer, moment: Moment) -> Record:
    """Let a client hang for ever."""

    def inject() -> None:
        client = _find_client(watch.deployment)
        client.suspend()
        wait_until(
            lambda: not client.is_running() or client.status() == psutil.STATUS_ZOMBIE, 120, "its end"
        )

    return watch.strike("the ClientApp hangs", moment, inject)


def kill_client(watch: Observer, moment: Moment) -> Record:
    """Kill a client at work."""
    return watch.strike("SIGKILL to the ClientApp", moment, lambda: _find_client(watch.deployment).kill())


def cut_network(watch: Observer, moment: Moment) -> Record:
    """Cut a hospital's connection for a minute: connections stay open, and nothing passes."""

    def inject() -> None:
        watch.deployment.relay.cut(VICTIM)
        time.sleep(_CUT_S)
        watch.deployment.relay.mend(VICTIM)

    return watch.strike(f"the network to a hospital is cut, {_CUT_S:.0f} s (by a relay)", moment, inject)


def kill_server_process(word: str, name: str) -> Fault:
    """Return the fault: kill one of the coordinator's processes."""

    def fault(watch: Observer, moment: Moment) -> Record:
        def inject() -> None:
            process = watch.deployment.server_process(word)
            assert process is not None, word
            process.kill()

        return watch.strike(f"SIGKILL to the {name}", moment, inject)

    return fault


def kill_serve(watch: Observer, moment: Moment) -> Record:
    """Kill `serve`, and let somebody start it again."""
    d = watch.deployment

    def inject() -> None:
        assert d.serve is not None
        d.serve.kill()
        d.serve.wait()
        time.sleep(_AWAY_S)

    return watch.strike(
        "SIGKILL to `serve`, started again", moment, inject, lambda: _none(d.start_server())
    )


def kill_run(watch: Observer, moment: Moment) -> Record:
    """Kill `run`, and start it again."""
    d = watch.deployment

    def inject() -> None:
        d.runs[-1].kill()
        d.runs[-1].wait()

    return watch.strike("SIGKILL to `run`, started again", moment, inject, d.start_run)


def withdraw_approval(watch: Observer, moment: Moment) -> Record:
    """Let a hospital withdraw its approval of the code, and approve it again."""
    d = watch.deployment
    bundle = read_bundle(d.cloud.bundle)

    def inject() -> None:
        withdraw(d.place(VICTIM), bundle.sha256)
        _wait_for_refusal(d)

    return watch.strike("the bundle is not approved, then approved", moment, inject,
                        lambda: _none(approve(d.place(VICTIM), bundle, 90)))  # fmt: skip


def change_policy(watch: Observer, moment: Moment) -> Record:
    """Let a hospital's policy accept another plan than the messages', and then the right one again."""
    d = watch.deployment
    place = d.place(VICTIM)
    policy = read_policy(place)

    def inject() -> None:
        save_policy(place, policy.model_copy(update={"lr": policy.lr * 2}))
        _wait_for_refusal(d)

    return watch.strike(
        "another plan than the accepted one", moment, inject, lambda: save_policy(place, policy)
    )


def revoke_key(watch: Observer, moment: Moment) -> Record:
    """Revoke a hospital's key; then it makes a new one and is enrolled again."""
    d = watch.deployment
    place = d.place(VICTIM)
    said: list[Any] = []

    def inject() -> str:
        revoke(d.cloud, VICTIM)
        reconcile_running(d.cloud, lambda _: None)
        wait_until(lambda: d.state(VICTIM).get("error"), 120, "the refusal of the revoked key")
        said.append(d.state(VICTIM)["error"])
        return f"its agent says: {said[-1]}; "

    def restore() -> None:
        d.agents[VICTIM].terminate()
        d.agents[VICTIM].wait(40)
        node_key_path(place).rename(place.private / f"node_key.revoked-{time.time_ns()}")
        enrol(d.cloud, read_public_keys(make_keys(place).path))
        reconcile_running(d.cloud, lambda _: None)
        d.start_agent(VICTIM)

    return watch.strike("the SuperNode key is revoked, a new one enrolled", moment, inject, restore)


def join_late(watch: Observer) -> Record:
    """Let a hospital join after two rounds were made without it."""
    d = watch.deployment
    wait_until(lambda: len(d.rows) >= 2, 150, f"two rounds without {VICTIM}; {d.output('run')[-600:]}")
    alone = [row["seconds"] for _, row in d.rows]
    joined = time.monotonic()
    d.start_agent(VICTIM)
    watch.settle()
    end, row = d.rows[-1]
    missed = sum(VICTIM not in row["parties"] for _, row in d.rows)
    words = f"the study begins without it (a round: {statistics.median(alone):.1f} s), and it is taken in"
    return Record(
        "absent from the start, joins later",
        happened=words,
        rounds_missed=missed,
        back_after_s=round(end - row["seconds"] - joined, 1),
        data_lost=watch.find_losses(),
    )


def _wait_for_refusal(d: Deployment) -> None:
    before = len(d.log(VICTIM))
    wait_until(lambda: any(x["event"] == "refused" for x in d.log(VICTIM)[before:]), 90, "a refusal")


def _none(_: object) -> None:
    """Drop a value."""


#: Faults by name. Those of the second kind are about whether a process is alive, and strike at three moments.
FAULTS: dict[str, Fault] = {
    "sigterm": end_agent(signal.SIGTERM),
    "sigkill": end_agent(signal.SIGKILL),
    "supernode": kill_supernode,
    "sigstop": stop_hospital(),
    "slow-reply": slow_reply,
    "hung-client": hang_client,
    "killed-client": kill_client,
    "network": cut_network,
    "superlink": kill_server_process("coordinator.deployment.superlink", "SuperLink"),
    "serverapp": kill_server_process("flwr-serverapp", "ServerApp"),
    "serve": kill_serve,
    "run": kill_run,
    "unapproved": withdraw_approval,
    "other-plan": change_policy,
    "revoked": revoke_key,
}
#: Faults that need a client at work: they cannot strike between two messages.
AT_WORK = ("slow-reply", "hung-client", "killed-client")
