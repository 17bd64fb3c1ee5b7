"""Commands for models: training without a federation, encrypted queries, pretrained weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.exchange.console import narrate, result, talk


def train(
    plan: Annotated[Path, typer.Argument(help="The study's plan.")],
    sealed: Annotated[
        list[Path], typer.Argument(help="Each hospital's folder of sealed sets: train, val and test.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model and the journal.")] = Path("cloud"),
) -> None:
    """Train on the hospitals' sealed images without a federation. Run it again to resume an interrupted training."""
    from coordinator.exchange.plan import read_plan
    from coordinator.federation.central import train_centrally

    read = read_plan(plan, {"train": "central"}, needs_images=False)  # the cloud has sealed images alone
    with narrate() as log:
        training = train_centrally(read, sealed, out, log)
    accuracy = training["test"]["mean"]["accuracy"]
    result.print(f"test accuracy {accuracy:.3f}, after round {training['best_round']}")
    result.print(str(out / "model.safetensors"))


def classify(
    query: Annotated[Path, typer.Argument(help="A sealed set of the images to classify.")],
    model: Annotated[Path, typer.Option(help="A model that reads ciphertext (stem learn).")],
    out: Annotated[Path, typer.Option(help="File for the answers.")] = Path("answers.json"),
) -> None:
    """Answer an encrypted query: the class and the probabilities of every sealed image."""
    from coordinator.model.query import SCHEMA, answer_query, open_model
    from crypto.files import require_replaceable, write_json
    from crypto.sets.dataset import SealedDataset

    require_replaceable(out, SCHEMA)
    answers = answer_query(open_model(model), SealedDataset.open(query))
    write_json(out, answers)
    for row, answer in enumerate(answers["answers"]):
        result.print(f"{row:6} {answer['class']} {answer['probability']:.3f}")
    result.print(str(out))


def weights(
    model: Annotated[str, typer.Argument(help="The model's name in timm, with a tag if you like.")],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Download a model's pretrained weights from timm's hub into a file that a plan can name.

    This is the only command that needs the internet.
    """
    from coordinator.model.pretrained_weights import fetch_weights

    result.print(f"{out}: SHA-256 {fetch_weights(model, out, talk.print)}")
