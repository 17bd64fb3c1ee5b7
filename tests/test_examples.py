"""The examples in the help of a hospital's commands are run, and mistyped values are answered with similar ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from crypto.errors import CipherwardError
from parties.cli import app as parties
from parties.cli.examples import EXAMPLES
from parties.sources.phantom import Phantom
from tests.support.command_runs import Here

PARTY = "cipherward-party"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--window", "ful"], "did you mean full?"),
        (["--fit", "strech"], "did you mean stretch?"),
        (["--key-scope", "consortum"], "did you mean consortium?"),
        (["--scheme", "block_pixel_shufle"], "did you mean block_pixel_shuffle"),
        (["--scheme", "le", "--block", "8", "--option", "msk=tied"], "did you mean mask?"),
    ],
)
def test_a_mistyped_value_is_answered_with_a_similar_one(
    words: list[str], hint: str, tmp_path: Path
) -> None:
    app, hospital = parties.app, str(tmp_path / "h")
    assert CliRunner().invoke(app, ["keygen", hospital]).exit_code == 0
    make_images(tmp_path / "images", 2)
    images = ["--images", str(tmp_path / "images")]
    done = CliRunner().invoke(app, ["seal", hospital, *images, *words])
    assert isinstance(done.exception, CipherwardError) and hint in done.exception.hint


def make_images(folder: Path, count: int) -> None:
    """Write `count` images of each class."""
    source = Phantom(32, 1, 4 * count, 0, "train")
    for row in range(len(source)):
        path = folder / source.classes[source.labels[row]] / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.read(row)[..., 0]).save(path)


def test_the_examples_of_a_hospital_work_one_after_the_other(
    tmp_path: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that need neither a training nor an answer."""
    make_images(tmp_path / "my-images", 20)
    plan = (
        "study: s\nparties: 2\nsource: folder\nimage_size: 64\nblock: 8\n"
        "model_args: {patch_size: 8, embed_dim: 32, depth: 1, num_heads: 2}\n"
    )
    (tmp_path / "plan.yaml").write_text(plan)
    names = sorted(path.name for path in (tmp_path / "my-images").rglob("*.png"))
    lines = [f"{name},{number // 2}" for number, name in enumerate(names)]
    (tmp_path / "patients.csv").write_text("\n".join(["image,patient", *lines]) + "\n")
    run = ("keygen", "identity", "check", "seal", "inspect", "verify", "unseal", "enrol", "patients")
    rest = ("agent status", "agent approvals", "share-key", "rotate")
    recipient = ""
    monkeypatch.chdir(tmp_path)
    for name in (*run, "accept", "declare", "privacy", "leave", "log", *rest):
        _, *words = EXAMPLES[name].replace("age1…", recipient).split()
        words += ["--yes"] if name == "accept" else []
        done = here(PARTY, *words)
        if name == "leave":
            assert done.returncode == 1 and "no agent" in done.stderr  # nobody has joined
            continue
        assert done.returncode == 0, (name, done.stderr)
        recipient = done.stdout.strip() if name == "identity" else recipient
