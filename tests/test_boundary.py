"""The trust boundary: what the cloud's code can load, and what a run lets out of a hospital."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

import parties.training.client_app
from coordinator.exchange.plan import read_plan
from coordinator.federation.rounds import Federation, run_rounds
from coordinator.report.page import render
from coordinator.report.pictures import Pictures
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import read_key
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows
from tests.support import leaks
from tests.support.local_grid import LocalGrid
from tests.support.paths import ROOT


def loaded(module: str) -> set[str]:
    """Modules that a fresh process holds after importing one."""
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def reaches(module: str) -> set[str]:
    return {m for m in loaded(module) if m.split(".")[0] == "parties" or m == "crypto.keyfile"}


def test_the_server_app_loads_nothing_of_a_hospital():
    assert reaches("coordinator.federation.server_app") == set()
    assert (
        reaches("coordinator.cli.app, coordinator.study.simulate, coordinator.adversary.run.suite") == set()
    )
    # The same question about a hospital's program has another answer, so it is a question.
    assert "crypto.keyfile" in reaches("parties.sealing.place")


def test_package_inits_are_empty():
    for package in ("crypto", "crypto/schemes", "parties", "parties/sources", "coordinator"):
        assert (ROOT / package / "__init__.py").read_text() == "", package


def test_the_import_contracts_hold_and_can_fail(tmp_path):
    tool = Path(sys.executable).parent / "lint-imports"
    assert subprocess.run([str(tool)], cwd=ROOT, capture_output=True).returncode == 0
    # The same contracts over a copy in which the cloud imports a key file must fail.
    for package in ("crypto", "coordinator", "parties"):
        for source in (ROOT / package).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(source.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    with open(tmp_path / "coordinator" / "federation" / "rounds.py", "a") as file:
        file.write("\nfrom crypto.keyfile import read_key\n")
    done = subprocess.run(
        [str(tool), "--no-cache"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1 and "coordinator.federation.rounds -> crypto.keyfile" in done.stdout, (
        done.stdout
    )


@pytest.fixture(scope="module")
def secrets(study) -> dict[str, bytes]:
    """Every form of every key of a study's hospitals, the audit's throwaway keys included."""
    forms: dict[str, bytes] = {}
    for index in range(2):
        place = Place.open(study.party(index))
        for folder in sorted((place.folder / "sealed").iterdir()):
            spec = SealedDataset.open(folder).spec
            path = place.key_path
            if (place.private / f"{folder.name}.key").exists():
                path = place.private / f"{folder.name}.key"
            for form, secret in leaks.key_forms(read_key(path), [spec]).items():
                forms[f"{place.settings.party} {folder.name}: {form}"] = secret
    return forms


@pytest.fixture(scope="module")
def left(study) -> dict[str, bytes]:
    """All that a run wrote outside the hospitals' folders, and the sealed sets in them.

    The guesses are the adversary's own: where a scheme is broken they do hold the key that it recovered.
    """
    kept = [study.party(i) / name for i in range(2) for name in ("secret.key", "private")]
    found = leaks.files(study.folder, [*kept, study.folder / "cloud" / "guesses"])
    found["what the command printed"] = study.output.encode()
    bundle = subprocess.run(
        [str(Path(sys.executable).parent / "flwr"), "build", "--app", str(ROOT)],
        cwd=study.folder.parent,
        capture_output=True,
        env={**os.environ, "FLWR_HOME": str(study.folder.parent / "home"), "FLWR_TELEMETRY_ENABLED": "0"},
    )
    assert bundle.returncode == 0, bundle.stderr
    [path] = study.folder.parent.glob("*.fab")
    found["the bundle"] = path.read_bytes()
    path.unlink()
    return found


def test_no_key_material_leaves_a_hospital(secrets, left):
    assert len(secrets) > 100 and len(left) > 20
    assert leaks.find(secrets, left) == []


def test_planted_leaks_are_found(secrets, left):
    # Each form, planted in a log, a report, a tensor file and a bundle's member, must be caught.
    for form, secret in secrets.items():
        for name in ("logs/flower.log", "report.html", "cloud/model.safetensors"):
            planted = {name: left[name] + b"x" + secret + b"x"}
            assert leaks.find({form: secret}, planted) == [f"{form} in {name}"]


def test_the_bundle_is_an_allow_list(left):
    import io
    import zipfile

    archive = zipfile.ZipFile(io.BytesIO(left["the bundle"]))
    names = [n for n in archive.namelist() if not n.startswith(".info/")]
    assert "coordinator/federation/server_app.py" in names and "parties/training/client_app.py" in names
    allowed = ("crypto/", "parties/", "coordinator/", "configs/")
    extra = [n for n in names if not n.startswith(allowed)]
    assert set(extra) <= {"pyproject.toml", "LICENSE", "README.md"}, extra
    assert all(n.endswith((".py", ".yaml")) for n in names if n not in extra)


def private_pixels(study) -> dict[str, bytes]:
    """Rows of plain images of hospital-1, whose pictures no report shows."""
    place = Place.open(study.party(1))
    return leaks.plain_forms(plain_rows(place, "train", np.arange(len(place.sealed("train")))))


def test_no_plain_pixels_leave_a_hospital(study, left):
    forms = private_pixels(study)
    assert len(forms) > 200
    assert leaks.find(forms, left) == []
    form, pixels = next(iter(forms.items()))
    assert leaks.find(forms, {"a log": b"image: " + pixels}) == [f"{form} in a log"]
    # The page that shows this hospital's plain images is caught by its pictures.
    place = Place.open(study.party(1))
    shown = Pictures({"plain": plain_rows(place, "train", np.arange(4))})
    page = render(json.loads((study.folder / "report.json").read_text()), shown)
    assert any(
        "image 0, bytes in a page!picture" in f for f in leaks.find(forms, {"a page": page.encode()})
    )


def content_of(message: Message) -> bytes:
    """Everything that a message carries, as bytes."""
    if message.has_error():
        return message.error.reason.encode()
    parts = [repr(message.metadata).encode()]
    for name, record in message.content.items():
        parts.append(name.encode())
        for key, value in record.items():
            data = value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()
            parts += [key.encode(), data]
    return b"|".join(parts)


def exchange(study, folder, tamper=lambda node, reply: reply) -> dict[str, bytes]:
    """All messages of a round with both hospitals, in both directions."""
    plan = read_plan(study.folder / "plan.yaml")
    nodes = [{"party-dir": str(study.party(i))} for i in range(2)]
    grid = LocalGrid(parties.training.client_app.app, nodes, tamper=tamper)
    federation = Federation(grid, plan)
    weights = np.zeros(np.load(str(_weights(study, folder))).shape, np.float32)
    folder.mkdir(exist_ok=True)
    run_rounds(grid, plan, federation, weights, folder)
    messages = [*grid.sent, *grid.received]
    assert len(messages) == 12  # hello, train, evaluate with two parties, and the answers
    return {f"message {i}": content_of(m) for i, m in enumerate(messages)}


def _weights(study, folder) -> Path:
    from coordinator.model.vit import build_model, pack

    plan = read_plan(study.folder / "plan.yaml")
    path = folder.with_suffix(".npy")
    np.save(path, pack(build_model(plan, 4)))
    return path


def test_messages_carry_neither_keys_nor_pixels(study, secrets, tmp_path):
    messages = exchange(study, tmp_path / "cloud")
    assert leaks.find(secrets | private_pixels(study), messages) == []


def test_a_leak_planted_in_a_message_is_found(study, secrets, tmp_path):
    key = Place.open(study.party(0)).key()

    def leaky(node: int, reply: Message) -> Message:
        if reply.has_content() and "metrics" in reply.content:
            reply.content["debug"] = ConfigRecord({"trace": f"key={key.reveal().hex()}"})
        return reply

    found = leaks.find(secrets, exchange(study, tmp_path / "cloud", leaky))
    assert any("key, hex in message" in line for line in found)


def test_training_opens_no_key(study, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a key file was opened while training")

    monkeypatch.setattr("crypto.keyfile.read_key", refuse)
    monkeypatch.setattr("parties.sealing.place.read_key", refuse)
    exchange(study, tmp_path / "cloud")


def test_errors_carry_no_secrets(study, secrets, tmp_path):
    # Every message of a wrong key, a damaged key file and an altered set, searched for the key itself.
    place = Place.open(study.party(0))
    texts = {}
    damaged = tmp_path / "damaged.key"
    damaged.write_text(place.key_path.read_text().replace(place.key().id, "0" * 16))
    damaged.chmod(0o600)
    for name, attempt in {
        "damaged key": lambda: read_key(damaged),
        "foreign key": lambda: place.sealed("train").verify(SecretKey.generate()),
    }.items():
        with pytest.raises(CipherwardError) as error:
            attempt()
        texts[name] = f"{error.value.message} {error.value.hint} {error.value!r}".encode()
    assert len(texts) == 2 and leaks.find(secrets, texts) == []
