"""A command's --out costs no other file: keys, identities and settings stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.exchange.plan import write_plan
from parties.sealing.place import Place
from tests.support.command_runs import Here
from tests.support.hospitals import plan

PARTY, COORDINATOR = "cipherward-party", "cipherward-coordinator"


@pytest.fixture
def hospital(tmp_path: Path, here: Here) -> Path:
    """Return a hospital that has a key."""
    Place.from_settings(
        tmp_path / "h", {"party": "h", "images": str(tmp_path), "image_size": 32, "block": 8}
    ).save()
    assert here(PARTY, "keygen", tmp_path / "h").returncode == 0
    return tmp_path / "h"


def test_no_output_replaces_a_key(hospital: Path, tmp_path: Path, here: Here) -> None:
    key, folder = hospital / "secret.key", write_plan(plan(), tmp_path)
    before = key.read_bytes()
    calls: list[tuple[str, list[object]]] = [
        (PARTY, ["report", hospital, "scores.json", "--guesses", "guesses", "--out", key]),
        (PARTY, ["declare", hospital, "--out", key]),
        (PARTY, ["score", hospital, "guesses", "--out", key]),
        (PARTY, ["baseline", hospital, "--plan", folder, "--out", key]),
        (COORDINATOR, ["manifest", folder, "statement.json", "--out", key]),
        (COORDINATOR, ["classify", "query", "--model", "model.safetensors", "--out", key]),
    ]
    for program, words in calls:
        done = here(program, *words)
        assert done.returncode == 1, words
        assert "secret.key is there, and is no earlier output" in " ".join(done.stderr.split()), done.stderr
    for name in ("report.html", "report.json"):
        (tmp_path / name).write_bytes(before)
        words = ["report", "scores.json", "--guesses", "g", "--sealed", "s", "--out", tmp_path]
        done = here(COORDINATOR, *words)
        assert f"{name} is there, and is no earlier output" in " ".join(done.stderr.split()), done.stderr
        (tmp_path / name).unlink()
    assert key.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("attacks: [known_pairs]", "known_pairs is not part of an audit"),
        ("attacks: [nonesuch]", "unknown attack 'nonesuch'"),
        ('images: "\\0x"', "is no path"),
        ('weights: "\\ud800"', "is no path"),
    ],
)
def test_a_plan_that_would_end_after_its_training_ends_before_it(
    tmp_path: Path, here: Here, line: str, message: str
) -> None:
    (tmp_path / "p.yaml").write_text(
        f"study: s\nsource: phantom\nimage_size: 32\nblock: 8\ncounts: [9, 9, 9]\n{line}\n"
    )
    done = here(COORDINATOR, "simulate", tmp_path / "p.yaml", "--out", tmp_path / "study")
    assert done.returncode == 1 and message in " ".join(done.stderr.split()), done.stderr
    assert not (tmp_path / "study").exists()
    done = here(COORDINATOR, "manifest", tmp_path / "p.yaml", "statement.json")
    assert done.returncode == 1 and message in " ".join(done.stderr.split()), done.stderr
