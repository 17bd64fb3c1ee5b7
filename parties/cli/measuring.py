"""The commands of cipherward-party that measure: plain baseline, queries to a model, scores, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.exchange.audit.suite1 import AUDIT_ROWS, GALLERY_IMAGES, MIN_AUDIT_ROWS, MIN_GALLERY
from coordinator.exchange.console import narrate, result, talk
from crypto.errors import CipherwardError
from crypto.files import require_replaceable, write_json, write_text
from crypto.plural import counted
from parties.cli.keys import Hospital

if TYPE_CHECKING:
    from coordinator.exchange.audit.scores import AttackedBy


def baseline(
    hospitals: Annotated[
        list[Path], typer.Argument(help="Hospital folders; more than one only in a simulation.")
    ],
    plan: Annotated[Path, typer.Option(help="The study's plan file.")],
    out: Annotated[Path, typer.Option(help="File for the figures (JSON).")],
    model: Annotated[
        Path | None,
        typer.Option(help="The federation's model, to measure wrong keys on.", show_default="none"),
    ] = None,
) -> None:
    """Train the same model on plain images with the same budget, and measure the model under wrong keys."""
    from coordinator.exchange.plan import read_plan
    from parties.sealing.place import Place
    from parties.training.baseline import run_baseline

    require_replaceable(out, '"histogram_accuracy"')
    with narrate() as log:
        # The images are those of the hospitals' folders, whatever the plan names.
        figures = run_baseline(
            read_plan(plan, needs_images=False), [Place.open(h) for h in hospitals], model, log
        )
    write_json(out, figures)
    result.print(str(out))


def classify(
    hospital: Hospital,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Ask this model here: cloud/model.safetensors of a study.", show_default="none"),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="The study's plan file; needed if the model's stem is private or plain.",
            show_default="none",
        ),
    ] = None,
    query: Annotated[
        Path | None,
        typer.Option(
            help="Only seal the images into this folder; the model's provider answers.", show_default="none"
        ),
    ] = None,
) -> None:
    """Seal images with the hospital's key, ask a model about the ciphertexts, and print class and probability.

    With --query, images are only sealed. `cipherward-coordinator classify` answers such a folder, in the same order.
    """
    from coordinator.exchange.plan import read_plan
    from parties.sealing.place import Place
    from parties.training.query import classify as ask
    from parties.training.query import seal_query

    if (model is None) == (query is None):
        raise CipherwardError("no model to ask", "use either --model FILE or --query FOLDER")
    place = Place.open(hospital)
    if query is not None:
        sealed = seal_query(place, images, query)
        result.print(f"{query}: {counted(len(sealed), 'image')} sealed with key {sealed.key_id}")
        return
    assert model is not None
    answers = ask(place, images, model, None if plan is None else read_plan(plan, needs_images=False))
    for path, answer in zip(images, answers, strict=True):
        result.print(f"{path} {answer['class']} {answer['probability']:.3f}")


def score(
    hospital: Hospital,
    guesses: Annotated[
        Path, typer.Argument(help="The adversary's guesses: the folder that holds guesses.json.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File for the scores. Default: HOSPITAL/scores.json.")
    ] = None,
    rows: Annotated[
        int,
        typer.Option(
            min=MIN_AUDIT_ROWS,
            help="Number of audit images. Even rows align the guesses, odd rows are scored.",
        ),
    ] = AUDIT_ROWS,
    gallery: Annotated[
        int,
        typer.Option(
            min=MIN_GALLERY, help="Number of plain images among which a guess must identify its own."
        ),
    ] = GALLERY_IMAGES,
    simulated: Annotated[bool, typer.Option("--simulated", hidden=True)] = False,
) -> None:
    """Score an adversary's guesses about this hospital's images, once. Only aggregates are written, and signed.

    The attacks of the suite are run here, too, on the blind controls: a cloud that withholds successes is found.
    """
    from coordinator.exchange.audit.scores import SCHEMA as SCORES
    from coordinator.exchange.records import write_record
    from crypto.identity import PublicIdentity
    from parties.scoring.pictures import write_public_plain
    from parties.scoring.score import score
    from parties.sealing.place import Place

    place = Place.open(hospital)
    target = out or place.folder / "scores.json"
    require_replaceable(target, SCORES)
    who: AttackedBy = "simulation" if simulated else "cloud"
    with narrate() as log:
        scores = score(place, guesses, rows, gallery, log, attacked_by=who)
    write_public_plain(place, scores, guesses, target.with_name(f"{target.stem}-plain.safetensors"))
    write_record(target, scores)
    if scores.identity is not None:
        talk.print(
            f"signed; this hospital's fingerprint is {PublicIdentity.parse(scores.identity).fingerprint}"
        )
    result.print(str(target))


def report(
    hospital: Hospital,
    scores: Annotated[Path, typer.Argument(help="scores.json, written by `score`.")],
    guesses: Annotated[Path, typer.Option(help="The adversary's guesses.")],
    study: Annotated[
        Path | None,
        typer.Option(help="The study's folder, for the figures of its training.", show_default="none"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write. Default: HOSPITAL/private/report.html.")
    ] = None,
) -> None:
    """Write the report that shows the hospital's plain images beside the guesses. It stays in the hospital."""
    from coordinator.exchange.audit.scores_file import read_scores
    from coordinator.exchange.audit.signature import require_signer
    from coordinator.report.build import build_report
    from coordinator.report.page import PAGE_MARK, render
    from coordinator.report.roster import require_on_roster
    from coordinator.report.training_section import require_same_study, training_of
    from crypto.sets.leaving import require_stays
    from parties.agent.identity_file import identity_path, public_identity_path, read_identity
    from parties.scoring.pictures import private_pictures
    from parties.sealing.place import Place

    place = Place.open(hospital)
    target = out or place.private / "report.html"
    require_stays(target, "the report shows plain images")
    require_replaceable(target, PAGE_MARK)
    numbers = read_scores(scores)
    # One that is lost is an error: the scores of whoever took the hospital's name would be shown as its own.
    if identity_path(place).exists() or public_identity_path(place).exists():
        require_signer(numbers, read_identity(place).public, str(scores))
    if study is not None:
        require_on_roster(numbers, study, str(scores))
    training = training_of(study)
    if study is not None and training is not None:
        require_same_study(numbers, study)
    document = build_report(numbers, place.settings.party, training)
    pictures = private_pictures(place, document, numbers, guesses)
    public = place.plain("train").public
    write_text(target, render(document, pictures, public=public), 0o666 if public else 0o600)
    result.print(str(target))
