"""A wrong clock is named, with its offset, over TLS on the loopback interface."""

from __future__ import annotations

import datetime
import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator.deployment.certificates import make_ca, make_server
from parties.agent import clock
from parties.agent import join as module
from parties.agent.clock import describe_offset, measure_offset

_HOURS = 3600.0


@contextmanager
def coordinator(
    folder: Path, ahead_s: float, made: datetime.datetime, date: str = "", drip_s: float = 0.0
) -> Iterator[tuple[str, Path]]:
    """Serve 404s over TLS with a clock that is off; yield address and CA file."""
    ca = make_ca("trial", made)
    server = make_server(ca, ["127.0.0.1"], 30, made)
    (folder / "ca.crt").write_bytes(ca.certificate)
    (folder / "server.pem").write_bytes(server.certificate + server.key)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                for _ in range(200 if drip_s else 0):
                    self.wfile.write(b"x")
                    time.sleep(drip_s)
                self.send_error(404)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return date or super().date_time_string((timestamp or time.time()) + ahead_s)

        def log_message(self, *_words: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.socket = context.wrap_socket(web.socket, server_side=True)
        thread = threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{web.server_port}", folder / "ca.crt"
        finally:
            web.shutdown()
            thread.join()


def now(days: float = 0.0) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)


# A certificate of tomorrow is what a clock that is a day behind sees.
@pytest.mark.parametrize("days", [0.0, 1.0, -400.0])
@pytest.mark.parametrize("ahead_s", [2 * _HOURS, -2 * _HOURS])
def test_the_offset_is_measured_whatever_the_certificate_s_dates(
    tmp_path: Path, days: float, ahead_s: float
) -> None:
    with coordinator(tmp_path, ahead_s, now(days)) as (address, ca):
        offset = measure_offset(address, ca)
    assert offset is not None and abs(offset + ahead_s) < 5
    way = "behind" if ahead_s > 0 else "ahead of"
    text = describe_offset(offset)
    assert f" h {way}" in text.replace("59 min ", "") or f"2 h {way}" in text
    assert "set the clock" in text


def test_another_authority_s_server_says_nothing_about_the_clock(tmp_path: Path) -> None:
    with coordinator(tmp_path, 2 * _HOURS, now()) as (address, ca):
        ca.write_bytes(make_ca("another", now()).certificate)
        assert measure_offset(address, ca) is None
    assert measure_offset(address, ca) is None  # nobody listens any more
    assert measure_offset("nonsense", ca) is None


@pytest.mark.parametrize(("offset", "text"), [(None, ""), (5.9, ""), (-299.0, "")])
def test_a_clock_that_flower_accepts_is_not_blamed(offset: float | None, text: str) -> None:
    assert describe_offset(offset) == text


def test_hours_minutes_and_seconds_are_named() -> None:
    assert "clock is 2 h ahead of the coordinator's" in describe_offset(7200.4)
    assert "clock is 1 h 5 min behind the coordinator's" in describe_offset(-3905.0)
    assert "clock is 10 s ahead of" in describe_offset(10.0)


def test_an_agent_without_a_connection_names_the_clock_and_asks_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, said, states = list[tuple[Any, ...]](), list[str](), list[int]()

    def measure(*words: Any) -> float:
        asked.append(words)
        return 7200.0

    monkeypatch.setattr(module, "measure_offset", measure)
    node = SimpleNamespace(connection="connecting", error="", superlink="127.0.0.1:1", ca=Path("ca"))
    agent: Any = SimpleNamespace(
        node=node, next_clock=0.0, log=said.append, _write_state=lambda: states.append(1)
    )
    module._Agent._check_clock(agent)
    module._Agent._check_clock(agent)
    assert len(asked) == 1 and len(said) == len(states) == 1
    assert "2 h ahead" in said[0] and node.error in said[0]
    node.connection, agent.next_clock = "online", 0.0
    module._Agent._check_clock(agent)
    assert len(asked) == 1


def test_a_coordinator_that_lies_about_the_time_or_never_ends_its_answer_does_not_end_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "_TIMEOUT_S", 0.5)
    year = "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"
    with coordinator(tmp_path, 0.0, now(), date=year) as (address, ca):
        assert measure_offset(address, ca) is None
    # One byte at a time, each before the timeout of one piece.
    with coordinator(tmp_path, 0.0, now(), drip_s=0.1) as (address, ca):
        asking = threading.Thread(target=measure_offset, args=(address, ca), daemon=True)
        asking.start()
        asking.join(5.0)
        assert not asking.is_alive()
