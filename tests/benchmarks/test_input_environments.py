"""The benchmark of locked-down machines: they are locked down, and what a command leaves open is found."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import input_environments as benchmark
from benchmarks.pages import inputs
from tests.support.paths import ROOT

#: Says who runs it, which of the folders can be written, and whether there is /dev/shm.
PROBE = """
echo "user $(id -u)"
for folder in "$@" "$HOME" /tmp /dev/shm . "$TMPDIR"; do
    if touch "$folder/probe" 2>/dev/null; then echo "wrote $folder"; rm "$folder/probe"; fi
done
if [ -e /dev/shm ]; then echo memory; fi
echo "mode $(umask)"
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """Return a folder that other users may enter; skip the test where no such machine can be made."""
    try:
        benchmark.require_rights()
    except SystemExit as reason:
        pytest.skip(str(reason))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders are closed to others
        yield Path(folder)


def run_there(machine: benchmark.Machine, base: Path, *words: str) -> subprocess.CompletedProcess[str]:
    work, temporary = benchmark.prepare(base, machine)
    made = ["unshare", "--mount", "--propagation", "private", "bash", "-c"]
    return subprocess.run(
        [*made, benchmark.script(machine, work, temporary), "bash", *words],
        env=benchmark.environment(machine, base, temporary),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", benchmark.MACHINES)
def test_nothing_can_be_written_but_the_working_folder_and_tmpdir(base: Path, name: str) -> None:
    machine = benchmark.MACHINES[name]
    done = run_there(machine, base, "bash", "-c", PROBE, "bash", str(ROOT), sys.prefix, sys.base_prefix)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert f"user {machine.user}" in lines and "mode 0077" in lines
    assert [line for line in lines if line.startswith("wrote ")] == ["wrote .", f"wrote {base / 't'}"]
    assert ("memory" in lines) == machine.has_shared_memory


@pytest.mark.parametrize("name", benchmark.MACHINES)
def test_the_installation_can_be_read_there(base: Path, name: str) -> None:
    words = [sys.executable, "-P", "-S", "-c", "import sys; print(len(open(sys.argv[1]).read()))"]
    done = run_there(benchmark.MACHINES[name], base, *words, str(ROOT / "pyproject.toml"))
    assert done.stdout.strip() == str(len((ROOT / "pyproject.toml").read_text())), done.stderr


def test_files_that_others_may_read_are_found(tmp_path: Path) -> None:
    for name, mode in (("secret", 0o600), ("shown", 0o644)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    assert [path.name for path in benchmark.open_files(tmp_path)] == ["shown"]


def test_the_page_says_what_was_refused_and_what_was_left() -> None:
    row = {"machine": "root", "command": "seal", "status": 0, "said": "sealed", "beyond_ascii": False}
    row |= {"warnings": 0, "open_files": 0, "left_in_tmpdir": [], "seconds": 9.4}
    refused = row | {"command": "simulate", "status": 1, "said": "no /dev/shm", "left_in_tmpdir": ["cw-x"]}
    text = "\n".join(inputs.environments({"rows": [row, refused | {"warnings": 2}]}))
    assert "| `seal` | root | 0 | 9 | no | 0 |  |" in text and "| no /dev/shm |" in text
    assert "Not run: `seal` as other-user, `simulate` as other-user." in text
    assert "Left in `TMPDIR`: cw-x." in text and "a library's warning: simulate." in text


@pytest.mark.slow
def test_a_study_runs_to_its_report_for_another_user_without_shared_memory(base: Path) -> None:
    rows = list(benchmark.run_on(benchmark.MACHINES["other-user"], base, ("check", "simulate")))
    assert [row["status"] for row in rows] == [0, 0], rows
    for row in rows:
        assert not row["beyond_ascii"] and not row["open_files"] and not row["warnings"], row
        assert not row["left_in_tmpdir"], row
