"""The pauses that are replaced in Flower are where they were, and the shorter ones grow with the wait."""

from __future__ import annotations

import ast
import functools
import inspect
import subprocess
import sys
import time
from pathlib import Path

import flwr
import pytest
from flwr.app import Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.superlink.grid import http_grid
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from coordinator.exchange import flower_pauses
from coordinator.exchange.flower_pauses import IDLE_S, REPLY_S, VERSION, Pauses, shorten_server_app


class _Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_flower_s_supernode_still_sleeps_where_and_as_long_as_is_known() -> None:
    tree = ast.parse(inspect.getsource(start_client_internal))
    uses = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
    ]
    sleeps = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.func in uses and isinstance(node.args[0], ast.Constant)
    ]
    # The one pause without a message, and the two looks for a reply. Nothing else of `time` is used.
    assert sorted(sleeps, key=str) == sorted([REPLY_S, REPLY_S, IDLE_S], key=str) and len(uses) == 3
    assert flwr.__version__.startswith(VERSION)


def test_a_reply_that_was_left_behind_makes_no_other_late() -> None:
    """On Flower's own state: a reply waits, no message comes, and Flower is told to send."""

    def message(number: int, reply_to: str) -> Message:
        metadata = Metadata(
            run_id=1, message_id=f"m{number}", src_node_id=1, dst_node_id=2, reply_to_message_id=reply_to,
            group_id="", created_at=time.time(), ttl=600.0, message_type="train",
        )  # fmt: skip
        return make_message(metadata=metadata, content=RecordDict())

    state, pulled = InMemoryNodeState(object_store=InMemoryObjectStore()), [7, None, None]
    pull = flower_pauses._then_late_replies(lambda **_: pulled.pop(0))
    state.store_message(message(1, ""))
    assert pull(state=state) == 7  # a message came: Flower waits for its reply anyway
    assert pull(state=state) is None  # the message itself is no reply
    state.store_message(message(2, "m1"))
    assert pull(state=state) == 0
    assert len(state.get_messages_legacy(is_reply=True)) == 1  # what Flower does then
    pulled.append(None)
    assert pull(state=state) is None


def test_flower_still_pulls_messages_by_the_function_that_is_wrapped() -> None:
    assert "_pull_and_store_message(\n                state=state," in inspect.getsource(
        start_client_internal
    )


@pytest.mark.parametrize("module", [start_client_internal, http_grid])
def test_flower_still_pulls_parts_with_a_first_pause_that_can_be_given(module: object) -> None:
    pull = vars(module)["pull_objects"]
    pull = pull.func if isinstance(pull, functools.partial) else pull
    assert inspect.signature(pull).parameters["initial_backoff"].default == 1
    assert "pull_objects(" in inspect.getsource(module)  # type: ignore[arg-type]


def test_a_pause_is_a_tenth_of_the_wait_and_never_longer_than_flower_s() -> None:
    clock = _Clock()
    pauses = Pauses(clock)
    pauses.sleep(IDLE_S)
    assert clock.slept == [0.25]
    while clock.now < 200:
        pauses.sleep(IDLE_S)
    assert clock.slept[-1] == IDLE_S
    assert all(pause <= max(0.25, 0.1 * sum(clock.slept)) for pause in clock.slept)
    # A hundred seconds cost few looks more than Flower's 33.
    assert len(clock.slept) < 75
    # A message was answered meanwhile: the next one may come soon.
    pauses.sleep(REPLY_S)
    pauses.sleep(IDLE_S)
    assert clock.slept[-2:] == [0.05, 0.25]
    pauses.sleep(7.0)
    assert clock.slept[-1] == 7.0 and pauses.monotonic() == clock.now


def test_another_version_keeps_its_own_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    original = http_grid.pull_objects
    monkeypatch.setattr(http_grid, "pull_objects", original)
    monkeypatch.setattr(flwr, "__version__", "1.43.0")
    shorten_server_app()
    assert http_grid.pull_objects is original
    monkeypatch.setattr(flwr, "__version__", f"{VERSION}0")
    shorten_server_app()
    shorten_server_app()
    shortened = http_grid.pull_objects
    assert isinstance(shortened, functools.partial) and shortened.keywords["initial_backoff"] < 0.1
    assert not isinstance(shortened.func, functools.partial)


def test_a_server_app_holds_no_reply_that_is_larger_than_any_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_grid, "pull_objects", http_grid.pull_objects)
    shorten_server_app(60.0, 3000)
    assert set(http_grid.pull_objects(["a", "b", "c"], lambda _: bytes(1000))) == set("abc")
    with pytest.raises(ObjectPullError, match="more than 3000 bytes"):
        http_grid.pull_objects(["a", "b", "c", "d"], lambda _: bytes(1000))
    shorten_server_app(60.0, 4000)  # once the model is known
    assert len(http_grid.pull_objects(["a", "b", "c", "d"], lambda _: bytes(1000))) == 4


def test_the_program_is_flower_s_supernode() -> None:
    done = subprocess.run(
        [sys.executable, "-P", str(Path(flower_pauses.__file__)), "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "--auth-supernode-private-key" in done.stdout
