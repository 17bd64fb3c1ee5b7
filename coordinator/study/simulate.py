"""A whole study on one machine: starts the same commands that a real study would, step by step.

    runs/demo/
      plan.yaml
      parties/hospital-0/…     each hospital's own folder (parties/sealing/place.py): its key, its plain images' path
      cloud/                   what the cloud holds: rounds, checkpoint, model, guesses
      report.json report.html  the coordinator's report
      logs/                    what each step printed

Sealing, attacking and scoring run as processes of their own, each with the paths that its role has. The
training is a real `flwr run` simulation, whose parties share Ray's worker processes: it isolates paths,
not memory. Every step is skipped when its result is there, so a killed study goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from coordinator.exchange.plan import FILE, Plan, read_plan, write_plan
from coordinator.study.flower_run import QUIET, run_flower
from crypto.errors import CipherwardError
from crypto.files import disk_errors, only_one, read_json, read_lines, write_json, write_text

STEPS = ("seal", "train", "baseline", "attack", "score", "report")
Log = Callable[[str], None]


def simulate(plan: Plan, out: Path, until: str, log: Log) -> dict[str, Any] | None:
    """Runs a study up to a step; returns report.json where it was reached.

    Raises CipherwardError where `out` holds another plan's study, and where a step fails.
    """
    out = out.resolve()
    with disk_errors(out):
        (out / "cloud").mkdir(parents=True, exist_ok=True)
        (out / "logs").mkdir(exist_ok=True)
    # A terminated study must still end what it started: the finally clauses run on SystemExit.
    endings = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(s, lambda *_: sys.exit(143)) for s in endings]
    try:
        with only_one(out):
            _steps(plan, out, until, log)
    finally:
        for ending, handler in zip(endings, before, strict=True):
            signal.signal(ending, handler)
    report = out / "report.json"
    return read_json(report, "report") if report.exists() and until == "report" else None


def _steps(plan: Plan, out: Path, until: str, log: Log) -> None:
    if not (out / FILE).exists():
        write_plan(plan, out)
    elif read_plan(out / FILE) != plan:
        raise CipherwardError(
            f"{out} holds a study with another plan", "choose another --out, or remove that folder"
        )
    seconds = _times(out)
    for step in STEPS:
        started = time.monotonic()
        if _RUN[step](plan, out, log):
            seconds[step] = round(time.monotonic() - started, 1)
            write_json(out / "logs" / "seconds.json", seconds)
            log(f"{step}: {seconds[step]:.1f} s")
        else:
            log(f"{step}: there already")
        if step == until:
            break


def _times(out: Path) -> dict[str, float]:
    path = out / "logs" / "seconds.json"
    return dict(read_json(path, "step times")) if path.exists() else {}


def party_folder(out: Path, index: int) -> Path:
    return out / "parties" / f"hospital-{index}"


def _log(out: Path, index: int) -> Path:
    """A hospital's own log: it may name files that could not be read, and so patients. It stays there."""
    party_folder(out, index).mkdir(parents=True, exist_ok=True)
    return party_folder(out, index) / "hospital.log"


def _command(module: str, words: Sequence[str], log_file: Path, log: Log) -> None:
    """Runs one of our commands in a process of its own; what it says is told, its last error becomes ours."""
    program = [sys.executable, "-c", f"from {module} import main; main()", *words]
    quiet = {**os.environ, **QUIET, "NO_COLOR": "1"}
    errors, hints = [], []
    with open(log_file, "a") as sink:
        running = subprocess.Popen(program, stdout=sink, stderr=subprocess.PIPE, text=True, env=quiet)
        assert running.stderr is not None
        try:
            for line in running.stderr:
                sink.write(line)
                if ": error: " in line:
                    errors.append(line.split(": error: ", 1)[1].strip())
                elif line.startswith("hint: "):
                    hints.append(line.removeprefix("hint: ").strip())
                elif line.strip():
                    log(f"  {line.strip()}")
            status = running.wait()
        finally:
            if running.poll() is None:
                running.terminate()
                running.wait()
    if status:
        said = errors[-1] if errors else f"{words[0]} ended with status {status}"
        raise CipherwardError(said, hints[-1] if errors and hints else f"see {log_file}")


def _party(words: Sequence[str], log_file: Path, log: Log) -> None:
    _command("parties.cli.app", words, log_file, log)


def _coordinator(words: Sequence[str], log_file: Path, log: Log) -> None:
    _command("coordinator.cli.app", words, log_file, log)


def _seal(plan: Plan, out: Path, log: Log) -> bool:
    """Each hospital makes or receives the key and seals its share, in a process of its own."""
    worked = False
    first_key = party_folder(out, 0) / "secret.key"
    for index in range(plan.parties):
        folder, log_file = party_folder(out, index), _log(out, index)
        if (folder / "sealed.done").exists():
            continue
        worked = True
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "party": f"hospital-{index}",
            "key": "secret.key",
            "source": plan.source,
            "images": plan.images,
            "counts": list(plan.counts),
            "image_size": plan.image_size,
            "channels": plan.channels,
            "seed": plan.seed,
            "share": [index, plan.parties],
            "partition": plan.partition,
            "alpha": plan.alpha,
            "audit_images": 2 * plan.audit_rows + max(plan.pools),
            "scheme": plan.scheme,
            "block": plan.block,
            "key_scope": plan.key_scope,
            "scheme_options": plan.scheme_options,
        }
        write_text(folder / "party.yaml", yaml.safe_dump(settings, sort_keys=False))
        if not (folder / "secret.key").exists():
            if index == 0 or plan.key_scope == "party":
                _party(["keygen", str(folder)], log_file, log)
            else:
                # The hospitals of a consortium hand the key among themselves; the cloud never holds it.
                words = ["share-key", str(first_key), str(folder / "secret.key"), "--unprotected"]
                _party(words, log_file, log)
        log(f"hospital-{index} seals")
        words = ["seal", str(folder)]
        # The first hospital is the scorer: it seals the audit's further draws and the controls too.
        _party([*words, "--audit", str(plan.draws)] if index == 0 else words, log_file, log)
        write_text(folder / "sealed.done", "")
    return worked


def _train(plan: Plan, out: Path, log: Log) -> bool:
    cloud = out / "cloud"
    if (cloud / "training.json").exists() or plan.rounds == 0:
        return False
    if plan.train == "central":
        return _train_centrally(plan, out, log)
    log("starting Flower")
    journal, shown = cloud / "rounds.jsonl", 0

    def watch() -> None:
        nonlocal shown
        rows = read_lines(journal)
        for row in rows[shown:]:
            log(_round_said(row, plan.rounds))
        shown = len(rows)

    shown = len(read_lines(journal))
    # Twice the deadline of every round's two phases bounds a run whose parties all hang.
    limit = 300 + 4 * plan.deadline_s * (plan.rounds + 1)
    run_flower(plan.parties, {"study-dir": str(out)}, out / "logs" / "flower.log", limit, watch)
    if not (cloud / "training.json").exists():
        raise CipherwardError(
            "the Flower run completed without a result", f"see {out / 'logs' / 'flower.log'}"
        )
    return True


def _train_centrally(plan: Plan, out: Path, log: Log) -> bool:
    """The provider is handed every hospital's sealed sets, and trains on them by a command of its own."""
    folders = []
    for index in range(plan.parties):
        copy = out / "cloud" / "pool" / f"hospital-{index}"
        for split in ("train", "val", "test"):
            _hand_over(party_folder(out, index) / "sealed" / split, copy / split)
        folders.append(str(copy))
    words = ["train", str(out / FILE), *folders, "--out", str(out / "cloud")]
    _coordinator(words, out / "logs" / "train.log", log)
    return True


def _round_said(row: dict[str, Any], rounds: int) -> str:
    if not row["aggregated"]:
        return f"round {row['round']}: no quorum; absent {row['absent']}, refused {list(row['refused'])}"
    return (
        f"round {row['round']} of {rounds}: val accuracy {row['val']['accuracy']:.3f}, "
        f"{row['seconds']:.0f} s, {(row['bytes_down'] + row['bytes_up']) / 1e6:.1f} MB"
    )


def _baseline(plan: Plan, out: Path, log: Log) -> bool:
    if plan.rounds == 0 or (out / "baseline.json").exists():
        return False
    log("plain-image baseline, wrong keys, linear model and histograms")
    words = ["baseline", *(str(party_folder(out, i)) for i in range(plan.parties))]
    words += ["--plan", str(out / FILE), "--model", str(out / "cloud" / "model.safetensors")]
    _party([*words, "--out", str(out / "baseline.json")], out / "logs" / "baseline.log", log)
    return True


def _attack(plan: Plan, out: Path, log: Log) -> bool:
    """The cloud is handed copies of the sealed sets, and the attacks see nothing else."""
    cloud = out / "cloud"
    if (cloud / "guesses" / "guesses.json").exists():
        return False
    sets = []
    # Under party keys the other hospitals' pools are draws of their own, which the scorer cannot score.
    for index in range(1 if plan.key_scope == "party" else plan.parties):
        sealed = party_folder(out, index) / "sealed"
        for folder in sorted(sealed.iterdir()):
            if folder.name in ("val", "test"):
                continue
            copy = cloud / "pool" / f"hospital-{index}" / folder.name
            _hand_over(folder, copy)
            sets.append(copy)
    # The scorer's training set comes first: its images are the ones audited.
    sets.sort(key=lambda p: (p.name != "train", p.parts[-2], p.name))
    log(f"attacking {len(sets)} sealed sets")
    words = ["attack", *map(str, sets), "--out", str(cloud / "guesses"), "--seed", str(plan.seed)]
    words += ["--attacks", ",".join(plan.attacks), "--pools", ",".join(map(str, plan.pools))]
    words += ["--rows", str(plan.audit_rows), "--budget", str(plan.budget_s)]
    if (cloud / "training.json").exists():
        words += ["--study", str(out)]
    _coordinator(words, out / "logs" / "attack.log", log)
    return True


def _hand_over(folder: Path, copy: Path) -> None:
    """Copies a sealed set into the cloud's folder, its manifest last."""
    if (copy / "manifest.json").exists():
        return
    copy.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.iterdir(), key=lambda p: p.name == "manifest.json")
    for file in files:
        with disk_errors(copy / file.name):
            shutil.copyfile(file, copy / file.name)


def _score(plan: Plan, out: Path, log: Log) -> bool:
    scores = out / "scores.json"
    if scores.exists():
        return False
    log("hospital-0 scores the guesses")
    words = ["score", str(party_folder(out, 0)), str(out / "cloud" / "guesses"), "--out", str(scores)]
    words += ["--rows", str(plan.audit_rows), "--gallery", str(plan.gallery)]
    _party(words, _log(out, 0), log)
    return True


def _report(plan: Plan, out: Path, log: Log) -> bool:
    words = ["report", str(out / "scores.json"), "--guesses", str(out / "cloud" / "guesses")]
    words += ["--sealed", str(out / "cloud" / "pool" / "hospital-0" / "train"), "--study", str(out)]
    words += ["--out", str(out), "--allow-invalid"]
    plain = out / "scores-plain.safetensors"
    if plain.exists():
        words += ["--public-plain", str(plain)]
    _coordinator(words, out / "logs" / "report.log", log)
    _party(
        [
            *("report", str(party_folder(out, 0)), str(out / "scores.json")),
            *("--guesses", str(out / "cloud" / "guesses"), "--study", str(out)),
        ],
        _log(out, 0),
        log,
    )
    return True


_RUN: dict[str, Callable[[Plan, Path, Log], bool]] = {
    "seal": _seal,
    "train": _train,
    "baseline": _baseline,
    "attack": _attack,
    "score": _score,
    "report": _report,
}
