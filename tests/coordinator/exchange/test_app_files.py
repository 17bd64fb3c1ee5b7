"""The files of an app's bundle: those that Flower itself would take, without the folders that hold none of them."""

from __future__ import annotations

from pathlib import Path

from flwr.cli.build import build_fab_from_disk

from coordinator.deployment.bundle import build_bundle
from coordinator.exchange.app_files import app_files
from parties.agent.bundle import build_own_bundle, parse_bundle
from tests.support.stub_app import write_stub_app


def test_bundles_are_flower_s_to_the_byte(tmp_path: Path) -> None:
    write_stub_app(tmp_path / "app")
    for name in (".venv/lib/stub/x.py", "stub/.hidden/y.py", "stub/z.py"):
        path = tmp_path / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    (tmp_path / "app" / "stub" / "link.py").symlink_to(tmp_path / "app" / "stub" / "z.py")
    expected = build_fab_from_disk(tmp_path / "app")
    assert build_bundle(tmp_path / "app") == expected
    assert build_own_bundle(tmp_path / "app") == parse_bundle(expected, "it")
    names = set(app_files(tmp_path / "app"))
    assert {"pyproject.toml", "stub/z.py", "stub/.hidden/y.py"} <= names
    assert not names & {".venv/lib/stub/x.py", "stub/link.py"}
