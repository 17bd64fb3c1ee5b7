"""The steps of a study. Each returns a summary of what it did, None if its result is there already, or `Skipped`.

Sealing, attacking and scoring run as processes of their own, each with the paths that its role has. In training each
hospital has processes of its own, too (processes/). With `--engine ray` the training is a `flwr run` simulation: its
hospitals share Ray's worker processes, so it isolates paths, not memory.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from coordinator.adversary.run.compilation import COMPILING
from coordinator.exchange.audit.guesses import read_draws, require_whole
from coordinator.exchange.journal import finished_rounds
from coordinator.exchange.plan import FILE
from coordinator.exchange.settings import mark_whole
from coordinator.exchange.time_left import Countdown
from coordinator.study.agreement import agree_on_study
from coordinator.study.flower_run import run_flower
from coordinator.study.processes.run import run_processes
from coordinator.study.round_table import missing_words
from coordinator.study.study import Study, run_command
from crypto.errors import CipherwardError
from crypto.files import disk_errors, drop_temporaries, read_lines, write_atomic, write_text
from crypto.plural import counted

#: The plan's settings that stand for options of `cipherward-party seal`.
_SETTINGS = {
    "--classes": "class_list=[a,b,c]",
    "--groups": "groups=…",
    "--labels": "labels=FILE",
    "--window": "window=…",
    "--background": "background=0",
    "--fit": "fit=…",
    "--rgb": "channels=3",
    "--gray": "channels=1",
    "--image-size": "image_size=…",
}


class Skipped(str):
    """Why a step had nothing to do, where its result is not there either."""


def seal(study: Study) -> str | None:
    """Let each hospital make or receive the key and seal its share of the images, in a process of its own."""
    missing = [i for i in range(study.plan.parties) if not (study.hospital(i) / "sealed.done").exists()]
    for index in missing:
        study.talk.status(f"hospital-{index} seals its images")
        study.hospital_log(index)  # makes the hospital's folder, closed to other users
        settings = mark_whole(yaml.safe_dump(_party_settings(study, index), sort_keys=False))
        write_text(study.hospital(index) / "party.yaml", settings)
        _provide_key(study, index)
        words = ["seal", str(study.hospital(index))]
        # The first hospital is the scorer: it also seals the audit's further draws and the controls.
        try:
            study.run_hospital(
                index, [*words, "--audit", str(study.plan.draws), "--named"] if index == 0 else words
            )
        except CipherwardError as error:
            raise CipherwardError(error.message, error.hint + _in_a_plan(error)) from None
        write_text(study.hospital(index) / "sealed.done", "")
        quarantine = study.hospital(index) / "private" / "quarantine.txt"
        if left_out := _count_lines(quarantine):
            study.talk.log(
                f"hospital-{index}: images that could not be decoded, and are left out: {left_out}; see {quarantine}"
            )
    agreed = agree_on_study(study)
    sets = len(list((study.out / "parties").glob("*/sealed/*/manifest.json")))
    return (
        f"{counted(study.plan.parties, 'hospital')} sealed {counted(sets, 'set')}"
        if missing or agreed
        else None
    )


def _in_a_plan(error: CipherwardError) -> str:
    """Return what to add to the hint of a hospital's error: its options are no options of a study, but settings."""
    text = f"{error.message} {error.hint}"
    settings = [setting for option, setting in _SETTINGS.items() if re.search(rf"{option}\b", text)]
    return f"; in a study: {', '.join(f'--set {setting}' for setting in settings)}" if settings else ""


def _count_lines(path: Path) -> int:
    """Return the number of lines of a text file; 0 if there is none."""
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def _party_settings(study: Study, index: int) -> dict[str, Any]:
    """Return the settings in a hospital's party.yaml."""
    plan = study.plan
    return {
        "party": f"hospital-{index}",
        "key": "secret.key",
        "source": plan.source,
        "images": plan.images,
        "labels": plan.labels,
        "groups": plan.groups,
        "classes": list(plan.class_list),
        "window": plan.window,
        "fit": plan.fit,
        "background": plan.background,
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


def _provide_key(study: Study, index: int) -> None:
    """Let a hospital make a key, or take the consortium's key over from the first hospital."""
    key = study.hospital(index) / "secret.key"
    if key.exists():
        return
    if index == 0 or study.plan.key_scope == "party":
        study.run_hospital(index, ["keygen", str(study.hospital(index))])
    else:
        # The hospitals of a consortium pass the key among themselves; the cloud never holds it.
        first = study.hospital(0) / "secret.key"
        study.run_hospital(index, ["share-key", str(first), str(key), "--unprotected"])


def train(study: Study) -> str | None:
    """Train the model, by Flower or by the provider alone."""
    plan, result = study.plan, study.cloud / "training.json"
    if plan.rounds == 0:
        return Skipped("the plan has 0 rounds, so nothing is trained")
    if result.exists():
        return None
    if plan.train == "central":
        _train_centrally(study)
        return f"{counted(plan.rounds, 'round')} by the provider"
    study.talk.status("the hospitals train")
    journal = study.cloud / "rounds.jsonl"
    earlier = read_lines(journal)
    study.talk.rounds(earlier)
    shown = len(earlier)
    countdown = Countdown(plan.rounds, len(finished_rounds(earlier)))

    def watch() -> None:
        nonlocal shown
        rows = read_lines(journal)
        for row in rows[shown:]:
            study.talk.log(round_summary(row, plan.rounds))
        if len(rows) > shown:
            study.talk.rounds(rows)
            shown, done = len(rows), rows[-1]["round"]
            study.talk.detail(_work_after(done, plan.rounds, countdown.after(done)))

    # Twice the deadline of each round's two phases bounds a run whose parties all hang.
    limit = 300 + 4 * plan.deadline_s * (plan.rounds + 1)
    log_file = study.log_file("flower")
    if study.engine.name == "ray":
        run_flower(plan.parties, {"study-dir": str(study.out), "engine": "ray"}, log_file, limit, watch)
    else:
        run_processes(study.out, study.engine.workers, log_file, limit, watch)
    study.talk.rounds([])
    if not result.exists():
        raise CipherwardError("the training completed without a result", f"see {log_file}")
    return f"{counted(plan.rounds, 'round')} with {counted(plan.parties, 'hospital')}, engine {study.engine.name}"


def _work_after(done: int, rounds: int, progress: str) -> str:
    """Return what a training does after so many rounds. progress: how far it is, as `Countdown` says it."""
    if done >= rounds:
        return "the model is evaluated on the hospitals' test images"
    return f"rounds done: {progress}"


def _train_centrally(study: Study) -> None:
    """Hand every hospital's sealed sets to the provider, who trains on them by a command of its own."""
    study.talk.status("the provider trains on all sealed images")
    folders = []
    for index in range(study.plan.parties):
        copy = study.cloud / "pool" / f"hospital-{index}"
        for split in ("train", "val", "test"):
            _hand_over(study.hospital(index) / "sealed" / split, copy / split)
        folders.append(str(copy))
    words = ["train", str(study.out / FILE), *folders, "--out", str(study.cloud)]
    study.run_coordinator("train", words, study.talk.log)


def round_summary(row: dict[str, Any], rounds: int = 0) -> str:
    """Return the line for one round of the journal. rounds: how many there will be; 0 if that is not known."""
    number = f"round {row['round']} of {rounds}" if rounds else f"round {row['round']}"
    missing = missing_words(row)
    if not row["aggregated"]:
        return f"{number}: no quorum; {missing or row.get('error', 'nobody was asked')}"
    figures = (
        f"{number}: val accuracy {row['val']['accuracy']:.3f}, "
        f"{row['seconds']:.0f} s, {(row['bytes_down'] + row['bytes_up']) / 1e6:.1f} MB"
    )
    return f"{figures}; {missing}" if missing else figures


def baseline(study: Study) -> str | None:
    """Measure what the model is compared with: plain images, wrong keys, a linear model, and histograms."""
    result = study.out / "baseline.json"
    if study.plan.rounds == 0:
        return Skipped("nothing was trained, so there is nothing to compare")
    if result.exists():
        return None
    plan = study.plan
    asked = [("plain images", plan.baseline), ("wrong keys", plan.wrong_keys > 0)]
    measured = ", ".join([*(name for name, is_asked in asked if is_asked), "linear model and histograms"])
    study.talk.status(measured)
    words = ["baseline", *(str(study.hospital(i)) for i in range(study.plan.parties))]
    words += ["--plan", str(study.out / FILE), "--model", str(study.cloud / "model.safetensors")]
    words += ["--out", str(result)]
    run_command("parties.cli.app", words, study.log_file("baseline"), study.talk.detail)
    return measured


def attack(study: Study) -> str | None:
    """Hand copies of the sealed sets to the cloud and attack them. The attacks see nothing else."""
    if (study.guesses / "guesses.json").exists():
        require_whole(study.guesses, read_draws(study.guesses)[0])
        return None
    sets = _attacked_sets(study)
    study.talk.status(f"the cloud attacks {counted(len(sets), 'sealed set')}")
    plan = study.plan
    words = ["attack", *map(str, sets), "--out", str(study.guesses), "--seed", str(plan.seed)]
    words += ["--attacks", ",".join(plan.attacks), "--pools", ",".join(map(str, plan.pools))]
    words += ["--rows", str(plan.audit_rows), "--budget", str(plan.budget_s)]
    if (study.cloud / "training.json").exists():
        words += ["--study", str(study.out)]

    def on_line(line: str) -> None:
        (study.talk.status if line.startswith(COMPILING) else study.talk.detail)(line)

    study.run_coordinator("attack", words, on_line)
    draws, _ = read_draws(study.guesses)
    guesses = [guess for draw in draws for guess in draw.guesses]
    failed = sum(bool(guess.error) for guess in guesses)
    summary = (
        f"{counted(len(guesses), 'guess', 'guesses')} about {counted(len(draws), 'draw')} of key and pool"
    )
    return f"{summary}, {failed} of them failed" if failed else summary


def _attacked_sets(study: Study) -> list[Path]:
    """Copy the sealed sets into the cloud's folder, and return the copies, the audited set first."""
    copies = []
    # Under party keys, the other hospitals' pools are draws of their own, which the scorer cannot score.
    for index in range(1 if study.plan.key_scope == "party" else study.plan.parties):
        for folder in sorted((study.hospital(index) / "sealed").iterdir()):
            if folder.name in ("val", "test"):
                continue
            copy = study.cloud / "pool" / f"hospital-{index}" / folder.name
            _hand_over(folder, copy)
            copies.append(copy)
    copies.sort(key=lambda p: (p.name != "train", p.parts[-2], p.name))
    return copies


def _hand_over(folder: Path, copy: Path) -> None:
    """Copy a sealed set into the cloud's folder, its manifest last."""
    if (copy / "manifest.json").exists():
        return
    with disk_errors(copy):
        copy.mkdir(parents=True, exist_ok=True)
    drop_temporaries(copy)
    for file in sorted(folder.iterdir(), key=lambda p: p.name == "manifest.json"):
        # Each one whole: a copy with half a manifest would be taken for a set that was handed over.
        write_atomic(copy / file.name, functools.partial(shutil.copyfile, file))


def score(study: Study) -> str | None:
    """Let the first hospital score the guesses."""
    scores = study.out / "scores.json"
    if scores.exists():
        return None
    study.talk.status("hospital-0 scores the guesses")
    words = ["score", str(study.hospital(0)), str(study.guesses), "--out", str(scores)]
    words += ["--rows", str(study.plan.audit_rows), "--gallery", str(study.plan.gallery), "--simulated"]
    study.run_hospital(0, words)
    return "hospital-0 scored the guesses"


def report(study: Study) -> str | None:
    """Write the coordinator's report, and the hospital's own with its plain images."""
    study.talk.status("the reports are written")
    scores, guesses = str(study.out / "scores.json"), str(study.guesses)
    words = ["report", scores, "--guesses", guesses, "--study", str(study.out)]
    words += ["--sealed", str(study.cloud / "pool" / "hospital-0" / "train")]
    words += ["--out", str(study.out), "--allow-invalid"]
    plain = study.out / "scores-plain.safetensors"
    if plain.exists():
        words += ["--public-plain", str(plain)]
    study.run_coordinator("report", words)
    words = ["report", str(study.hospital(0)), scores, "--guesses", guesses, "--study", str(study.out)]
    study.run_hospital(0, words)
    return "the cloud's report, and the hospital's own"


STEPS: dict[str, Callable[[Study], str | None]] = {
    "seal": seal,
    "train": train,
    "baseline": baseline,
    "attack": attack,
    "score": score,
    "report": report,
}
