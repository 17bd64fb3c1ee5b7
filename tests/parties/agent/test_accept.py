"""`cipherward-party accept`: it shows what it would accept, asks, and writes a policy or nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from safetensors.numpy import save_file

from coordinator.exchange.plan import Plan, write_plan
from coordinator.model.vit import build_model
from crypto.files import sha256_file
from crypto.tensor_file import torch_tensor_bytes
from parties.agent.accept import explain
from parties.sealing.place import Place
from parties.training.policy import Policy, make_policy
from parties.training.policy_file import read_policy
from tests.support.command_runs import Here
from tests.support.hospitals import plan, seal_hospitals


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Return a hospital with sealed sets."""
    return seal_hospitals(tmp_path_factory.mktemp("accept"), plan())[0]


@pytest.fixture
def place(sealed: Place, tmp_path: Path) -> Place:
    """Return a copy of the hospital that accepted nothing yet."""
    shutil.copytree(sealed.folder, tmp_path / "h")
    shutil.rmtree(tmp_path / "h" / "private" / "policies")
    (tmp_path / "h" / "policy.yaml").unlink()
    return Place.open(tmp_path / "h")


def file(folder: Path, p: Plan) -> Path:
    """Write a plan, and return its file."""
    folder.mkdir(exist_ok=True)
    return write_plan(p, folder)


def test_it_shows_what_it_accepts_and_writes_it(place: Place, tmp_path: Path, here: Here) -> None:
    done = here("cipherward-party", "accept", file(tmp_path / "p", plan()), place.folder, "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{place.policy_file}: t accepted"
    shown = " ".join(done.stderr.split())
    for text in (
        "block_pixel_shuffle",
        "all weights",
        "learn: the key stays closed",
        "at most 4 trainings",
    ):
        assert text in shown
    assert read_policy(place) == make_policy(plan(), place.sealed("train").classes, 12)
    before = place.policy_file.stat().st_mtime_ns
    again = here("cipherward-party", "accept", file(tmp_path / "p", plan()), place.folder)
    assert again.returncode == 0 and "t accepted already" in again.stdout
    assert place.policy_file.stat().st_mtime_ns == before


def test_it_says_that_augmentation_opens_the_key(place: Place, tmp_path: Path, here: Here) -> None:
    done = here(
        "cipherward-party",
        "accept",
        file(tmp_path / "p", plan(augment="flip_shift")),
        place.folder,
        "--yes",
    )
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stderr.split())
    assert "learn: the key is opened to alter images" in shown and "stays closed" not in shown


def test_limits_that_the_hospital_changed_stay(place: Place, tmp_path: Path, here: Here) -> None:
    words = ["accept", file(tmp_path / "p", plan()), place.folder, "--yes"]
    here("cipherward-party", *words)
    values = yaml.safe_load(place.policy_file.read_text())
    place.policy_file.write_text(yaml.safe_dump(values | {"test_reads": 0}))
    assert here("cipherward-party", *words).returncode == 0
    assert read_policy(place).test_reads == 0


@pytest.mark.parametrize("answer", [False, True])
def test_it_asks_and_no_is_the_answer_without_a_yes(
    place: Place, tmp_path: Path, here: Here, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["accept", file(tmp_path / "p", plan()), place.folder]
    done = here("cipherward-party", *words)  # no terminal
    assert done.returncode == 1 and "add --yes" in done.stderr and not place.policy_file.exists()

    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    def confirm(text: str, **options: Any) -> bool:
        assert options["default"] is False
        return answer

    monkeypatch.setattr(sys, "stdin", Terminal)
    monkeypatch.setattr(typer, "confirm", confirm)
    done = here("cipherward-party", *words)
    assert done.returncode == int(not answer) and place.policy_file.exists() == answer
    assert answer or "nothing was written" in done.stderr
    assert (place.private / "policies").exists() == answer


def test_a_second_plan_shows_what_changes(place: Place, tmp_path: Path, here: Here) -> None:
    here("cipherward-party", "accept", file(tmp_path / "p", plan()), place.folder, "--yes")
    second = file(tmp_path / "q", plan(study="second", stem="plain"))
    done = here("cipherward-party", "accept", second, place.folder, "--yes")
    assert done.returncode == 0 and "it accepted before" in " ".join(done.stderr.split())
    assert read_policy(place).stem == "plain"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "value_shuffle"}, "was sealed with scheme block_pixel_shuffle"),
        ({"block": 16}, "was sealed with block 8"),
        ({"key_scope": "consortium"}, "was sealed with key_scope party"),
        ({"train": "central"}, "there is nothing to accept"),
        ({"stem": "private", "weights": "/nowhere/w.safetensors"}, "has no such file"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_and_nothing_is_written(
    place: Place, tmp_path: Path, here: Here, changes: dict[str, Any], message: str
) -> None:
    done = here("cipherward-party", "accept", file(tmp_path / "p", plan(**changes)), place.folder, "--yes")
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not place.policy_file.exists() and not (place.private / "policies").exists()


def test_a_model_that_could_use_up_the_memory_is_accepted_knowingly_alone(
    place: Place, tmp_path: Path, here: Here
) -> None:
    # Each argument is allowed, and together they are nine million million parameters.
    args = {"patch_size": 8, "embed_dim": 16384, "num_heads": 2, "mlp_ratio": 64}
    words = ["accept", file(tmp_path / "p", plan(model_args={**args, "depth": 3})), place.folder, "--yes"]
    done = here("cipherward-party", *words)
    assert done.returncode == 1 and not place.policy_file.exists(), done.stderr
    shown = " ".join(done.stderr.split())
    assert "at most 400,000,000" in shown and "a training takes at least 1.7 TB" in shown
    # No file of weights is needed, so the model is not built: what the hint says is enough.
    count = shown.partition("--max-parameters ")[2].split()[0]
    done = here("cipherward-party", *words, "--max-parameters", str(int(count) - 1))
    assert done.returncode == 1 and not place.policy_file.exists()
    assert here("cipherward-party", *words, "--max-parameters", count).returncode == 0
    assert read_policy(place).model_args["embed_dim"] == 16384


def test_the_weights_are_the_hospital_s_own_file(place: Place, tmp_path: Path, here: Here) -> None:
    p = plan(stem="private", weights="/the/coordinator/s/w.safetensors")
    words = ["accept", file(tmp_path / "p", p), place.folder, "--yes"]
    own = tmp_path / "mine.safetensors"
    save_file({"a": np.ones(3, np.float32)}, own)
    done = here("cipherward-party", *words, "--weights", own)
    assert done.returncode == 1 and "0 encoder tensors loaded" in done.stderr
    assert not place.policy_file.exists()
    model = build_model(p.model_copy(update={"weights": ""}), 2)
    own.write_bytes(torch_tensor_bytes(model.state_dict()))
    done = here("cipherward-party", *words, "--weights", own)
    assert done.returncode == 0, done.stderr
    assert f"{len(model.state_dict()) - 2} encoder tensors loaded" in " ".join(done.stderr.split())
    policy = read_policy(place)
    assert (policy.weights, policy.weights_file) == ("w.safetensors", str(own))
    assert policy.weights_sha256 == sha256_file(own) and policy.weights_sha256[:40] in done.stderr
    # The path in the plan is the coordinator's: it is not opened, even if there is a file.
    words[1] = file(tmp_path / "q", plan(stem="private", weights=str(own)))
    done = here("cipherward-party", *words)
    assert done.returncode == 1 and "has no such file" in done.stderr
    words[1] = file(tmp_path / "p", p)
    # A file of that name in the hospital's folder is found without the option.
    shutil.copy(own, place.folder / "w.safetensors")
    assert here("cipherward-party", *words).returncode == 0
    assert read_policy(place).weights_file == str(place.folder / "w.safetensors")
    done = here("cipherward-party", *words, "--weights", tmp_path / "none")
    assert done.returncode == 1 and "no weights file at" in done.stderr


def test_a_plan_s_words_cannot_steer_the_terminal() -> None:
    policy: Policy = make_policy(plan(weights="/a/\x1b[2Jw.safetensors"), ["a"], 12)
    assert all(text.isprintable() for _, text in explain(policy))
    assert any("\\x1b[2Jw" in text for _, text in explain(policy))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"stem": "private"},
            ("summed securely", "at least 3 of 3 hospitals (none may be missing)", "±1 are"),
        ),
        (
            {"stem": "plain", "parties": 6, "privacy": {"min_sum": 5}},
            ("at least 5 of 6 hospitals (1 may be missing)", "in two rounds can"),
        ),
        ({"stem": "plain", "parties": 6}, ("at least 6 of 6 hospitals (none may be missing)",)),
        ({"stem": "learn"}, ("sees each update of this hospital, which shows ciphertext",)),
        (
            {"stem": "private", "privacy": {"secure_aggregation": False}},
            ("sees each update of this hospital, which can give plain images",),
        ),
    ],
)
def test_a_hospital_is_told_whether_its_updates_are_summed(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    p = plan(**{"parties": 3, "counts": (36, 12, 12), **changes})
    table = dict(explain(make_policy(p, ["a"], 12)))
    assert all(word in table["updates"] for word in words), table["updates"]


def ended(here: Here, program: str, *words: object) -> tuple[int, str]:
    done = here(program, *words)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.mark.long
def test_whom_the_budget_protects_states_it(place: Place, tmp_path: Path, here: Here) -> None:
    """A policy that cannot be read may hold a budget: the coordinator's plan does not take its place."""
    private = {"rounds": 1, "parties": 1, "counts": (12, 4, 4)}
    own = file(tmp_path / "a", plan(**private, privacy={"epsilon": 50, "delta": 1e-4, "unit": "image"}))
    wide = file(
        tmp_path / "b", plan(**private, study="u", privacy={"epsilon": 500, "delta": 0.05, "unit": "image"})
    )
    status, out = ended(
        here, "cipherward-party", "accept", own, place.folder, "--yes", "--privacy-budget", 50
    )
    assert status == 1 and "delta" in out  # 1e-5 by default, whatever the plan says
    words = ("--privacy-budget", 60, "--privacy-delta", 1e-3)
    status, out = ended(here, "cipherward-party", "accept", own, place.folder, "--yes", *words)
    assert status == 0, out
    policy = read_policy(place)
    assert (policy.budget_epsilon, policy.budget_delta) == (60, 1e-3)
    place.policy_file.chmod(0o666)
    status, out = ended(here, "cipherward-party", "accept", wide, place.folder, "--yes")
    assert status == 1 and "budget cannot be read" in out and "--privacy-budget" in out
    status, out = ended(here, "cipherward-party", "privacy", place.folder)
    assert "budget: unknown" in out
    status, out = ended(
        here, "cipherward-party", "accept", wide, place.folder, "--yes", "--privacy-delta", 0.05
    )
    assert status == 1 and "bounds nothing without an epsilon" in out
    place.policy_file.chmod(0o600)
    assert read_policy(place) == policy
    # A policy of an earlier version is replaced, and its budget stays.
    written = yaml.safe_load(place.policy_file.read_text())
    del written["plan_sha256"]
    place.policy_file.write_text(yaml.safe_dump(written))
    status, out = ended(here, "cipherward-party", "accept", wide, place.folder, "--yes")
    assert status == 1 and "its own budget is epsilon 60" in out
