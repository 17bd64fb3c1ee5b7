"""Fixtures that several tests share: keys, sealed sets, commands run in this process, and a small finished study."""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO

import pytest
import typer.main
import typer.testing

import coordinator.cli.app
import parties.cli.app
from crypto.arrays import Images, Int64Array, UInt8Array
from crypto.cores import cores
from crypto.key import SecretKey
from crypto.scheme import describe
from crypto.sets.dataset import SealedDataset
from crypto.sets.writer import seal_images
from parties.sources.phantom import Phantom
from tests.support.audits import MakeSealed
from tests.support.command_runs import Here, Party, status_of
from tests.support.study import Study, run_small_study

#: The groups that take longest, in order. If one came last, the other processes would have nothing to do meanwhile.
LONG_GROUPS = (
    "study",
    "test_audit_function",
    "test_recover_block_pixel",
    "test_controls",
    "test_blind_audit",
    "test_secure_sum",
    "test_commands",
    "test_sealing_kills",
    "test_recover_value_shuffle",
    "test_recover_pe",
    "test_private_federation",
    "test_score",
    "test_private_training",
    "test_warm_client",
    "test_suite",
    "test_attack_input",
    "test_shares",
    "test_check",
    "test_schemes_properties",
    "test_help",
    "test_imports",
    "test_central",
    "test_audit_commands",
    "test_stem_leaves",
    "test_protection",
)


def group_of(item: pytest.Item) -> str:
    """Return the group of a test: its file, or the small study that tests of several files share."""
    return "study" if "study" in getattr(item, "fixturenames", ()) else item.path.stem


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several processes one thread, as there is one for each core. They inherit the variable."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Let one more process than there are cores run the fast tests: now and then each waits for a program or a file.

    The long ones start servers, which answer in time only if they have a core.
    """
    return None if "not long" not in config.getoption("markexpr") else cores() + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without collecting garbage, and let no later collection look at what they imported.

    That is a million objects, which stay, and each full collection would visit them all.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a group in one process, so that shared work is done once, and the longest groups first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
        if group_of(item) == "study":
            item.add_marker(pytest.mark.long)
    rank = {group: number for number, group in enumerate(LONG_GROUPS)}
    items.sort(key=lambda item: rank.get(group_of(item), len(rank)))


@pytest.fixture(scope="session", autouse=True)
def unsynced_files() -> Iterator[None]:
    """Let no test wait for the disk, as thousands of small files would. test_durable_writes.py has what is synced."""

    def check(file: int | IO[bytes]) -> None:
        os.fstat(
            file if isinstance(file, int) else file.fileno()
        )  # OSError, as from a real sync of a closed file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", check)
        yield


@pytest.fixture(scope="session", autouse=True)
def built_commands() -> Iterator[None]:
    """Build the commands of each program once. Typer builds all of them anew for every call, which takes 20 ms."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(typer.main.get_command)
        patch.setattr(typer.main, "get_command", once)
        patch.setattr(typer.testing, "_get_command", once)
        yield


@pytest.fixture(scope="session", autouse=True)
def drawn_phantoms() -> Iterator[None]:
    """Draw each phantom once: hundreds of tests seal the same ones. The tests of Phantom itself draw anew."""
    draw = Phantom.read
    drawn: dict[tuple[object, ...], UInt8Array] = {}

    @functools.wraps(draw)
    def read(source: Phantom, row: int) -> UInt8Array:
        picture = source.size, source.channels, source.seed, source.split, row
        if picture not in drawn or not 0 <= row < source.count:
            drawn[picture] = draw(source, row)
        return drawn[picture].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Phantom, "read", read)
        yield


@pytest.fixture
def key() -> SecretKey:
    """Return a fixed key."""
    return SecretKey(bytes(range(32)))


@pytest.fixture
def party(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Party:
    """Return a function that runs cipherward-party in this process.

    party(*words) returns the exit status, standard output, and standard error on one line.
    """

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cipherward-party", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            parties.cli.app.main()
        printed = capsys.readouterr()
        return status_of(end.value), printed.out.strip(), " ".join(printed.err.split())

    return run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Return a function that runs a program in this process, where nothing is imported again.

    here(program, *words) returns what `tests.support.study.command` returns.
    """
    mains = {"cipherward-party": parties.cli.app.main, "cipherward-coordinator": coordinator.cli.app.main}

    def run(program: str, *words: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            mains[program]()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, status_of(end.value), printed.out, printed.err)

    return run


@pytest.fixture
def make_sealed(tmp_path: Path, key: SecretKey) -> MakeSealed:
    """Return a function that seals arrays into a folder below tmp_path."""

    def make(
        name: str,
        images: Images,
        labels: Int64Array,
        scheme: str = "block_pixel_shuffle",
        block: int = 8,
        key: SecretKey = key,
        shard_bytes: int = 1 << 14,
    ) -> SealedDataset:
        height, width, channels = images.shape[1:]
        spec = describe(scheme, (height, width, channels), block)
        classes = [f"class-{i}" for i in range(int(labels.max()) + 1)]
        dataset, _ = seal_images(
            tmp_path / name,
            images.__getitem__,
            labels,
            classes,
            key,
            spec,
            "a source",
            shard_bytes=shard_bytes,
        )
        return dataset

    return make


@pytest.fixture
def real_mri() -> Path:
    """Return a folder of real brain MRI with train/val/test below it; skip the test without one."""
    folder = Path(os.environ.get("CIPHERWARD_DATA", "")) / "brain_mri"
    if not os.environ.get("CIPHERWARD_DATA") or not folder.is_dir():
        pytest.skip("no real images: set CIPHERWARD_DATA to a folder that holds brain_mri/")
    return folder


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Return a small study that ran to its report (two hospitals, phantom images, one round)."""
    return run_small_study(tmp_path_factory.mktemp("study"))
