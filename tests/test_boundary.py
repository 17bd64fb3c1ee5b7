"""The trust boundary: what the cloud's code can load, and what a run lets out of a hospital."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

import parties.training.client_app
from coordinator.exchange.manifest import read_manifest
from coordinator.exchange.plan import read_plan
from coordinator.federation.participants import Federation
from coordinator.federation.rounds import run_rounds
from coordinator.report.page import render
from coordinator.report.pictures import Pictures
from coordinator.report.report_file import read_report
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.keyfile import read_key
from crypto.sets.dataset import SealedDataset
from parties.agent.identity_file import identity_path
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows
from tests.support import leaks
from tests.support.local_grid import LocalGrid
from tests.support.paths import ROOT
from tests.support.study import Study

PACKAGES = ("crypto", "coordinator", "parties", "cipherward")


def reached(*steps: str) -> list[set[str]]:
    """Return the modules of a hospital that a fresh process holds after each import, one after the other."""
    lines = [f"import {step}; print(json.dumps(sorted(sys.modules)))" for step in steps]
    code = "\n".join(["import json, sys", *lines])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [set(json.loads(line)) for line in done.stdout.splitlines()[-len(steps) :]]
    return [
        {m for m in modules if m.split(".")[0] == "parties" or m == "crypto.keyfile"} for modules in loaded
    ]


def test_the_server_app_loads_nothing_of_a_hospital() -> None:
    server = "coordinator.federation.server_app"
    programs = "coordinator.cli.app, coordinator.study.simulate, coordinator.adversary.run.suite"
    of_server, of_programs, of_hospital = reached(server, programs, "parties.sealing.place")
    assert of_server == of_programs == set()
    # The same question about a hospital's program has another answer, so it is a question.
    assert "crypto.keyfile" in of_hospital


def test_package_inits_are_empty() -> None:
    inits = [path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")]
    assert len(inits) > 20
    assert [str(path) for path in inits if path.read_text()] == []


#: A forbidden import for each contract of pyproject.toml: the module that gets it, and what it imports.
BREAKS = {
    "the cloud never reaches into a hospital": ("coordinator/federation/rounds.py", "crypto.keyfile"),
    "crypto stands on its own": ("crypto/key.py", "coordinator.exchange.plan"),
    "a hospital uses only exchange, model and report of the cloud": (
        "parties/training/views.py",
        "coordinator.study.flower_run",
    ),
    "neither a hospital nor the cloud uses the audit as a library": (
        "coordinator/adversary/sampling.py",
        "cipherward.settings",
    ),
    "in the cloud, imports go one way": ("coordinator/exchange/plan.py", "coordinator.model.vit"),
    "a report is made without networks": ("coordinator/report/charts.py", "coordinator.model.vit"),
    "puzzle and values know no Knowledge": (
        "coordinator/adversary/values/ycbcr_planes.py",
        "coordinator.adversary.contract",
    ),
    "key recovery does not know how it is run": (
        "coordinator/adversary/recover/le.py",
        "coordinator.adversary.run.cell",
    ),
    "decoding one ciphertext recovers no key": (
        "coordinator/adversary/decode/as_is.py",
        "coordinator.adversary.recover.le",
    ),
}


def lint_imports(folder: Path) -> str:
    """Run import-linter on the packages of a folder; return what it printed."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
    )
    return done.stdout


def test_every_import_contract_holds_and_can_fail(tmp_path: Path) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert {contract["name"] for contract in contracts} == BREAKS.keys()
    honest = lint_imports(ROOT)
    assert "0 broken" in honest, honest
    # A copy in which every contract is broken once.
    for package in PACKAGES:
        for source in (ROOT / package).rglob("*.py"):
            copy = tmp_path / source.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(source.read_text())
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for module, forbidden in BREAKS.values():
        with open(tmp_path / module, "a") as file:
            file.write(f"\nimport {forbidden}\n")
    broken = lint_imports(tmp_path)
    for contract in BREAKS:
        assert f"{contract} BROKEN" in broken, broken


@pytest.fixture(scope="module")
def secrets(study: Study) -> dict[str, bytes]:
    """Every form of every key of a study's hospitals: identities, and the audit's throwaway keys, included."""
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
        body = "".join(identity_path(place).read_text().splitlines()[1:-1])
        seed = base64.b64decode(body)[-32:]
        words = {"PEM": body.encode(), "bytes": seed, "hex": seed.hex().encode()}
        forms |= {f"{place.settings.party} identity: {form}": secret for form, secret in words.items()}
    return forms


@pytest.fixture(scope="module")
def left(study: Study) -> dict[str, bytes]:
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
        check=False,
        env={**os.environ, "FLWR_HOME": str(study.folder.parent / "home"), "FLWR_TELEMETRY_ENABLED": "0"},
    )
    assert bundle.returncode == 0, bundle.stderr
    [path] = study.folder.parent.glob("*.fab")
    found["the bundle"] = path.read_bytes()
    path.unlink()
    return found


def test_no_key_material_leaves_a_hospital(secrets: dict[str, bytes], left: dict[str, bytes]) -> None:
    assert len(secrets) > 100 and len(left) > 20
    assert leaks.find(secrets, left) == []


def test_planted_leaks_are_found(secrets: dict[str, bytes], left: dict[str, bytes]) -> None:
    # Each form, planted in a log, a report, a tensor file and a bundle's member, must be caught.
    for form, secret in secrets.items():
        for name in ("logs/flower.log", "report.html", "cloud/model.safetensors"):
            planted = {name: left[name] + b"x" + secret + b"x"}
            assert leaks.find({form: secret}, planted) == [f"{form} in {name}"]


def test_the_bundle_is_an_allow_list(left: dict[str, bytes]) -> None:
    archive = zipfile.ZipFile(io.BytesIO(left["the bundle"]))
    names = [n for n in archive.namelist() if not n.startswith(".info/")]
    assert "coordinator/federation/server_app.py" in names and "parties/training/client_app.py" in names
    allowed = ("crypto/", "parties/", "coordinator/", "configs/")
    extra = [n for n in names if not n.startswith(allowed)]
    assert set(extra) <= {"pyproject.toml", "LICENSE", "README.md"}, extra
    assert all(n.endswith((".py", ".yaml")) for n in names if n not in extra)
    forbidden = ("coordinator/adversary/", "coordinator/cli/", "coordinator/study/", "parties/scoring/")
    assert [n for n in names if n.startswith(forbidden)] == []


def _file_of(module: str, names: set[str]) -> str:
    """Return the file of a module or a package among these names; nothing if there is none."""
    path = module.replace(".", "/")
    return next((file for file in (f"{path}.py", f"{path}/__init__.py") if file in names), "")


def our_imports(source: bytes, names: set[str]) -> set[str]:
    """Return the files of our packages that a module imports, within functions too. names: the bundle's files."""
    files = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [(alias.name, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [(node.module, f"{node.module}.{alias.name}") for alias in node.names]
        else:
            continue
        for module, inner in modules:
            if module.split(".")[0] in PACKAGES:
                files.add(_file_of(inner, names) or _file_of(module, names) or f"no {module}")
    return files


def test_the_bundle_holds_whatever_its_modules_import(left: dict[str, bytes]) -> None:
    archive = zipfile.ZipFile(io.BytesIO(left["the bundle"]))
    names = {name for name in archive.namelist() if name.endswith(".py")}
    needed = {name: our_imports(archive.read(name), names) for name in names}
    assert {"coordinator/federation/server_app.py", "parties/training/client_app.py"} <= names
    assert "parties/training/guard.py" in needed["parties/training/client_app.py"]
    missing = {(name, file) for name, files in needed.items() for file in files - names}
    # It compares a training with others, at the hospital's own command.
    assert missing == {("parties/training/baseline.py", "no parties.scoring.measures")}
    folders = {str(Path(name).parent) for name in names}
    assert {f"{folder}/__init__.py" for folder in folders} <= names


@pytest.mark.slow
def test_the_bundle_is_all_that_a_training_needs(left: dict[str, bytes], tmp_path: Path) -> None:
    """Import every module of the unpacked bundle, and nothing of ours from anywhere else."""
    zipfile.ZipFile(io.BytesIO(left["the bundle"])).extractall(tmp_path)
    files = [p for package in PACKAGES for p in (tmp_path / package).rglob("*.py") if p.stem != "__init__"]
    modules = sorted(".".join(p.relative_to(tmp_path).with_suffix("").parts) for p in files)
    assert {"coordinator.federation.server_app", "parties.training.client_app"} <= set(modules)
    code = (
        "import sys, importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"ours = [m for n, m in sys.modules.items() if n.split('.')[0] in {PACKAGES!r}]\n"
        f"print([m.__file__ for m in ours if not m.__file__.startswith({str(tmp_path)!r})])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def private_pixels(study: Study) -> dict[str, bytes]:
    """Rows of plain images of hospital-1, whose pictures no report shows."""
    place = Place.open(study.party(1))
    return leaks.plain_forms(plain_rows(place, "train", np.arange(len(place.sealed("train")))))


def test_no_plain_pixels_leave_a_hospital(study: Study, left: dict[str, bytes]) -> None:
    forms = private_pixels(study)
    assert len(forms) > 200
    assert leaks.find(forms, left) == []
    form, pixels = next(iter(forms.items()))
    assert leaks.find(forms, {"a log": b"image: " + pixels}) == [f"{form} in a log"]
    # The page that shows this hospital's plain images is caught by its pictures.
    place = Place.open(study.party(1))
    shown = Pictures({"plain": plain_rows(place, "train", np.arange(4))})
    page = render(read_report(study.folder / "report.json"), shown)
    assert any(
        "image 0, bytes in a page!picture" in f for f in leaks.find(forms, {"a page": page.encode()})
    )


def content_of(message: Message) -> bytes:
    """Everything that a message carries, as bytes."""
    if message.has_error():
        reason: str = message.error.reason
        return reason.encode()
    parts = [repr(message.metadata).encode()]
    for name, record in message.content.items():
        parts.append(name.encode())
        for key, value in record.items():
            data = value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode()
            parts += [key.encode(), data]
    return b"|".join(parts)


Tamper = Callable[[int, Message], Message]


def honest(node: int, reply: Message) -> Message:
    """Return the reply as it is."""
    return reply


def exchange(study: Study, folder: Path, tamper: Tamper = honest) -> dict[str, bytes]:
    """All messages of a round with both hospitals, in both directions."""
    plan = read_plan(study.folder / "plan.yaml")
    nodes: list[Mapping[str, str]] = [{"party-dir": str(study.party(i))} for i in range(2)]
    grid = LocalGrid(parties.training.client_app.app, nodes, tamper=tamper)
    federation = Federation(grid, plan, read_manifest(study.folder / "study.json"))
    weights = np.zeros(np.load(str(_weights(study, folder))).shape, np.float32)
    folder.mkdir(exist_ok=True)
    run_rounds(federation, weights, folder)
    messages = [*grid.sent, *grid.received]
    assert len(messages) == 12  # hello, train, evaluate with two parties, and the answers
    return {f"message {i}": content_of(m) for i, m in enumerate(messages)}


def _weights(study: Study, folder: Path) -> Path:
    from coordinator.model.vit import build_model, pack

    plan = read_plan(study.folder / "plan.yaml")
    path = folder.with_suffix(".npy")
    np.save(path, pack(build_model(plan, 4)))
    return path


def test_messages_carry_neither_keys_nor_pixels(
    study: Study, secrets: dict[str, bytes], tmp_path: Path
) -> None:
    messages = exchange(study, tmp_path / "cloud")
    assert leaks.find(secrets | private_pixels(study), messages) == []


def test_a_leak_planted_in_a_message_is_found(
    study: Study, secrets: dict[str, bytes], tmp_path: Path
) -> None:
    key = Place.open(study.party(0)).key()

    def leaky(node: int, reply: Message) -> Message:
        if reply.has_content() and "metrics" in reply.content:
            reply.content["debug"] = ConfigRecord({"trace": f"key={key.reveal().hex()}"})
        return reply

    found = leaks.find(secrets, exchange(study, tmp_path / "cloud", leaky))
    assert any("key, hex in message" in line for line in found)


class OpenedFiles:
    """The files that this process opens, by any way that Python has: `open`, `os.open`, pathlib, a library."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.active = False
        sys.addaudithook(self._record)  # an audit hook cannot be removed, so it is switched off

    def _record(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.active and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            self.paths.append(os.path.realpath(os.fsdecode(arguments[0])))


@pytest.fixture(scope="module")
def opened_files() -> OpenedFiles:
    return OpenedFiles()


@contextlib.contextmanager
def recording(opened: OpenedFiles) -> Iterator[list[str]]:
    """Record the files opened within the block."""
    opened.paths, opened.active = [], True
    try:
        yield opened.paths
    finally:
        opened.active = False


def key_files(study: Study) -> set[str]:
    """Every file of a study's hospitals that holds a key, and every file that could open one."""
    names = ("*.key", "identity*.txt")
    files = {str(path.resolve()) for name in names for path in study.folder.rglob(name)}
    assert len(files) > 3
    return files


def test_training_opens_no_key(study: Study, tmp_path: Path, opened_files: OpenedFiles) -> None:
    with recording(opened_files) as paths:
        exchange(study, tmp_path / "cloud")
    assert len(paths) > 5
    assert key_files(study) & set(paths) == set()


@pytest.mark.parametrize("way", ["open", "os.open", "pathlib", "read_key"])
def test_a_key_opened_in_training_is_noticed(
    study: Study, tmp_path: Path, opened_files: OpenedFiles, way: str
) -> None:
    path = Place.open(study.party(0)).key_path
    ways: dict[str, Callable[[], object]] = {
        "open": lambda: open(path).close(),
        "os.open": lambda: os.close(os.open(path, os.O_RDONLY)),
        "pathlib": path.read_bytes,
        "read_key": lambda: read_key(path),
    }

    def leaky(node: int, reply: Message) -> Message:
        ways[way]()
        return reply

    with recording(opened_files) as paths:
        exchange(study, tmp_path / "cloud", leaky)
    assert key_files(study) & set(paths) == {str(path.resolve())}


def test_errors_carry_no_secrets(study: Study, secrets: dict[str, bytes], tmp_path: Path) -> None:
    # Every message of a wrong key, a damaged key file and an altered set, searched for the key itself.
    place = Place.open(study.party(0))
    texts = {}
    damaged = tmp_path / "damaged.key"
    damaged.write_text(place.key_path.read_text().replace(place.key().id, "0" * 16))
    damaged.chmod(0o600)
    attempts: dict[str, Callable[[], object]] = {
        "damaged key": lambda: read_key(damaged),
        "foreign key": lambda: place.sealed("train").verify(SecretKey.generate()),
    }
    for name, attempt in attempts.items():
        with pytest.raises(CipherwardError) as error:
            attempt()
        texts[name] = f"{error.value.message} {error.value.hint} {error.value!r}".encode()
    assert len(texts) == 2 and leaks.find(secrets, texts) == []
