"""The commands of cipherward-party that measure: the plain baseline, queries to a model, scores, reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.exchange.console import result, talk
from crypto.errors import CipherwardError
from crypto.files import write_json, write_text
from parties.cli.keys import Hospital


def baseline(
    hospitals: Annotated[
        list[Path], typer.Argument(help="Hospital folders; several in a simulation only.")
    ],
    plan: Annotated[Path, typer.Option(help="The study's plan.")],
    out: Annotated[Path, typer.Option(help="Where the numbers go (JSON).")],
    model: Annotated[Path | None, typer.Option(help="The federation's model, for the wrong keys.")] = None,
) -> None:
    """Train the same model on plain images under the same budget, and measure wrong keys."""
    from coordinator.exchange.plan import read_plan
    from parties.sealing.place import Place
    from parties.training.baseline import run_baseline

    figures = run_baseline(
        read_plan(plan), [Place.open(h) for h in hospitals], model, lambda line: talk.print(line)
    )
    write_json(out, figures)
    result.print(str(out))


def classify(
    hospital: Hospital,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[
        Path | None, typer.Option(help="Ask this model, cloud/model.safetensors of a study, here.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="The study's plan, for a model of stem private or plain.")
    ] = None,
    query: Annotated[
        Path | None, typer.Option(help="Seal the images into this folder, for the provider to answer.")
    ] = None,
) -> None:
    """Seal images with the hospital's key, ask the model about the ciphertexts, print class and probability.

    With --query they are only sealed: `cipherward-coordinator classify` answers such a folder, in the same order.
    """
    from coordinator.exchange.plan import read_plan
    from parties.sealing.place import Place
    from parties.training.query import classify as ask
    from parties.training.query import seal_query

    if (model is None) == (query is None):
        raise CipherwardError("nobody to ask", "give either --model FILE or --query FOLDER")
    place = Place.open(hospital)
    if query is not None:
        made = seal_query(place, images, query)
        result.print(f"{query}: {len(made)} images sealed with key {made.key_id}")
        return
    assert model is not None
    answers = ask(place, images, model, None if plan is None else read_plan(plan))
    for path, found in zip(images, answers, strict=True):
        result.print(f"{path} {found['class']} {found['probability']:.3f}")


def score(
    hospital: Hospital,
    guesses: Annotated[
        Path, typer.Argument(help="The adversary's guesses (the folder with guesses.json).")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the scores go; default HOSPITAL/scores.json.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=16, help="Audit images; the even ones register, the odd ones count.")
    ] = 128,
    gallery: Annotated[
        int, typer.Option(min=8, help="Plain images among which a guess must name its own.")
    ] = 1000,
) -> None:
    """Score guesses about this hospital's images, once. Only aggregates are written."""
    from parties.scoring.score import public_plain, score, write_scores
    from parties.sealing.place import Place

    place = Place.open(hospital)
    target = out or place.folder / "scores.json"
    scores = score(place, guesses, rows, gallery, lambda line: talk.print(line))
    public_plain(place, scores, guesses, target.with_name(f"{target.stem}-plain.safetensors"))
    write_scores(scores, target)
    result.print(str(target))


def report(
    hospital: Hospital,
    scores: Annotated[Path, typer.Argument(help="scores.json, as `score` wrote it.")],
    guesses: Annotated[Path, typer.Option(help="The adversary's guesses.")],
    study: Annotated[
        Path | None, typer.Option(help="The study's folder, for the training's figures.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Default: HOSPITAL/private/report.html.")] = None,
) -> None:
    """The report with the hospital's own plain images beside the guesses. It stays in the hospital."""
    from coordinator.report.build import build_report, read_scores
    from coordinator.report.page import render
    from coordinator.report.training_section import training_of
    from parties.scoring.score import private_pictures
    from parties.sealing.place import Place

    place = Place.open(hospital)
    numbers = read_scores(scores)
    made = build_report(numbers, place.settings.party, training_of(study))
    pictures = private_pictures(place, made, numbers, guesses)
    target = out or place.private / "report.html"
    write_text(target, render({**made, "public": place.plain("train").public}, pictures))
    result.print(str(target))
