"""What several tests share: keys, small sealed sets, a hospital's folder, a Flower run without Flower's servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import coordinator.cli.app
import parties.cli.app
from crypto.key import SecretKey
from crypto.scheme import describe
from crypto.sets.writer import seal_images
from tests.support.study import Study, run_small_study


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Tests of one file, and all that share the small study, run in one process: what they share is made once."""
    for item in items:
        group = "study" if "study" in getattr(item, "fixturenames", ()) else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def key() -> SecretKey:
    return SecretKey(bytes(range(32)))


@pytest.fixture
def party(monkeypatch, capsys):
    """party(*words) runs cipherward-party in this process: (status, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cipherward-party", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            parties.cli.app.main()
        said = capsys.readouterr()
        return end.value.code, said.out.strip(), " ".join(said.err.split())

    return run


@pytest.fixture
def here(monkeypatch, capsys):
    """here(program, *words): what `study.command` does, in this process, where nothing is imported again."""
    mains = {"cipherward-party": parties.cli.app.main, "cipherward-coordinator": coordinator.cli.app.main}

    def run(program, *words):
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            mains[program]()
        said = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, end.value.code or 0, said.out, said.err)

    return run


@pytest.fixture
def make_sealed(tmp_path, key):
    """make_sealed(name, images, labels, …) seals arrays into tmp_path/name."""

    def make(name, images, labels, scheme="block_pixel_shuffle", block=8, key=key, shard_bytes=1 << 14):
        spec = describe(scheme, images.shape[1:], block)
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
    """Real brain MRI: a folder with train/val/test below it; skips where there is none."""
    folder = Path(os.environ.get("CIPHERWARD_DATA", "")) / "brain_mri"
    if not os.environ.get("CIPHERWARD_DATA") or not folder.is_dir():
        pytest.skip("no real images: set CIPHERWARD_DATA to a folder that holds brain_mri/")
    return folder


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    """A small study that was run to its report (two hospitals, phantom images, one round)."""
    return run_small_study(tmp_path_factory.mktemp("study"))
