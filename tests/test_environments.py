"""The real commands in the surroundings that hospitals have: proxies, locales, homes, umasks, paths."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordinator.exchange.quiet import PROXY_NAMES, bypass_proxies, without_proxies
from crypto.sets.dataset import SealedDataset

#: Nothing listens there: whatever goes through such a proxy fails at once.
PROXY = "http://127.0.0.1:9"
PROXIES = dict.fromkeys(PROXY_NAMES, PROXY)
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
#: What hospitals' machines have, and what the commands are given there.
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "proxies": PROXIES,
    "a strict ASCII locale": ASCII,
    "no home": {"HOME": "/dev/null/none"},
    "80 columns, no colour": {"COLUMNS": "80", "TERM": "dumb"},
}
PLAN = """
study: small
parties: 2
source: folder
images: x
image_size: 32
block: 8
model_args: {patch_size: 8, embed_dim: 32, depth: 1, num_heads: 2}
rounds: 1
batch: 16
warmup_steps: 0
baseline: false
draws: 1
"""


def run(
    folder: Path, changes: dict[str, str], *words: str, umask: int = 0o077
) -> subprocess.CompletedProcess[bytes]:
    """Run a command without a terminal, with relative paths."""
    program = Path(sys.executable).parent / words[0]
    return subprocess.run(
        [str(program), *words[1:]],
        cwd=folder,
        env={**os.environ, **changes},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=300,
        check=False,  # tests look at the status
        umask=umask,
    )


def make_images(folder: Path, n: int) -> None:
    """Write a folder of two classes whose names have accents and spaces."""
    rng = np.random.default_rng(0)
    for name in ("tumeur é", "ohne Befund"):
        (folder / name).mkdir(parents=True)
        for row in range(n):
            pixels = rng.integers(0, 256, (32, 32), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"Müller {row}.png")


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """Return a folder with spaces and accents in its name, with images and a plan."""
    folder = tmp_path / "Klinik für Öl é"
    make_images(folder / "images", 30)
    (folder / "plän.yaml").write_text(PLAN, encoding="utf-8")
    return folder


@pytest.mark.long
def test_a_hospital_seals_in_all_these_surroundings_at_once(ward: Path) -> None:
    changes = {name: value for variables in ENVIRONMENTS.values() for name, value in variables.items()}
    for words in (
        ("keygen", "hôpital"),
        ("seal", "hôpital", "--images", "images", "--image-size", "32", "--block", "8"),
    ):
        done = run(ward, changes, "cipherward-party", *words)
        assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
        assert done.stderr.isascii() and b"udc" not in done.stderr
    enrolled = run(ward, changes, "cipherward-party", "enrol", "hôpital")  # an identity has an ASCII name
    assert enrolled.returncode == 0 and b"Matplotlib" not in enrolled.stderr, enrolled.stderr
    sealed = SealedDataset.open(ward / "hôpital" / "sealed" / "train")
    assert sealed.classes == ["ohne Befund", "tumeur é"] and len(sealed) > 0
    assert stat.S_IMODE((ward / "hôpital" / "secret.key").stat().st_mode) == 0o600


@pytest.mark.long
def test_no_other_user_may_write_what_a_command_wrote_whatever_the_umask(ward: Path) -> None:
    for words in (
        ["keygen", "site"],
        ["seal", "site", "--images", "images", "--image-size", "32", "--block", "8"],
    ):
        done = run(ward, {}, "cipherward-party", *words, umask=0)
        assert done.returncode == 0, done.stderr
    written = [ward / "site", *(ward / "site").rglob("*")]
    assert len(written) > 9
    assert [str(p) for p in written if stat.S_IMODE(p.stat().st_mode) & 0o022] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_study_trains_in_each_of_these_surroundings(ward: Path, name: str) -> None:
    words = ("simulate", "plän.yaml", "--images", "images", "--out", "étude", "--until", "train")
    done = run(ward, ENVIRONMENTS[name], "cipherward-coordinator", *words)
    assert done.returncode == 0, done.stderr
    assert (ward / "étude" / "cloud" / "model.safetensors").exists()


@pytest.mark.slow
def test_flower_and_ray_do_not_use_the_proxies(ward: Path) -> None:
    words = (
        "simulate",
        "plän.yaml",
        "--images",
        "images",
        "--out",
        "étude",
        "--until",
        "train",
        "--engine",
        "ray",
    )
    done = run(ward, PROXIES, "cipherward-coordinator", *words)
    assert done.returncode == 0, done.stderr


def test_this_machine_is_added_to_the_exceptions_and_other_proxies_stay() -> None:
    environment = {**PROXIES, "no_proxy": "pacs.local", "no_grpc_proxy": "x"}
    bypass_proxies(environment)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        assert environment[name] == "x,pacs.local,localhost,127.0.0.1,::1"
    assert environment["https_proxy"] == PROXY
    everything = {"NO_PROXY": "*"}
    bypass_proxies(everything)
    assert everything == {"NO_PROXY": "*", "no_proxy": "*"}


def test_programs_of_this_machine_alone_get_no_proxy() -> None:
    assert without_proxies({**PROXIES, "ALL_PROXY": "socks5://x:1", "PATH": "p"}) == {
        "PATH": "p",
        "no_proxy": "localhost,127.0.0.1,::1",
        "NO_PROXY": "localhost,127.0.0.1,::1",
    }
