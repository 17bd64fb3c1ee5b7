"""cipherward-party: what runs inside a hospital.

A hospital's folder holds its key, its settings (party.yaml) and what it sealed; every command is given
that folder. `cipherward-party COMMAND --help` says more.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.table import Column, Table

from coordinator.console import progress, result, run, talk
from crypto.errors import CipherwardError
from crypto.files import only_one, write_json, write_text
from parties.keys import Hospital, identity, keygen, rotate, share_key

if TYPE_CHECKING:
    from parties.place import Place
    from parties.seal import Sealing

app = typer.Typer(
    help="What runs inside a hospital: keys, sealing, scoring. Plain images and keys never leave it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
SealedSet = Annotated[Path, typer.Argument(help="A sealed set (the folder with its manifest.json).")]
KeyFile = Annotated[Path, typer.Option("--key", help="The key file.")]


def main() -> None:
    run(app, "cipherward-party")


app.command()(keygen)
app.command()(identity)
app.command("share-key")(share_key)
app.command()(rotate)


@app.command()
def seal(
    hospital: Hospital,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images, one sub-folder a class, or a MedMNIST .npz file.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side to resize to, in pixels.")] = None,
    rgb: Annotated[bool | None, typer.Option("--rgb/--gray", help="Seal three channels, or one.")] = None,
    scheme: Annotated[str | None, typer.Option(help="Encryption scheme.")] = None,
    block: Annotated[
        int | None, typer.Option(help="Block side; the ViT's patch is a multiple of it.")
    ] = None,
    key_scope: Annotated[
        str | None, typer.Option(help="Who shares a key: consortium, party, or image (one for each).")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the scheme, NAME=VALUE; may be given again.")
    ] = None,
    audit: Annotated[
        int, typer.Option(min=0, max=99, help="Draws to seal for an audit (3 for suite/1), 0 for none.")
    ] = 0,
) -> None:
    """Seal the hospital's images into HOSPITAL/sealed. Resumes where it was interrupted.

    With --images, the settings are kept in HOSPITAL/party.yaml for later runs.
    """
    from parties.place import FILE, Place
    from parties.seal import agree, sealing, set_names

    given: dict[str, Any] = {
        "images": None if images is None else str(_absolute(images)),
        "image_size": image_size,
        "channels": None if rgb is None else 3 if rgb else 1,
        "scheme": scheme,
        "block": block,
        "key_scope": key_scope,
        # Another scheme's options would not fit this one.
        "scheme_options": _options(option) if option or scheme else None,
    }
    given = {k: v for k, v in given.items() if v is not None}
    if given and not (hospital / FILE).exists() and images is None:
        raise CipherwardError(f"no {FILE} in {hospital}", "name your images with --images FOLDER")
    if given:
        known = Place.open(hospital).settings.model_dump() if (hospital / FILE).exists() else {}
        settings = {"party": hospital.resolve().name, "source": "folder", **known, **given}
        if images is not None:
            settings["source"] = "npz" if images.suffix.lower() == ".npz" else "folder"
        if not (hospital / "secret.key").exists():
            raise CipherwardError(
                f"no key in {hospital}", f"make one first: cipherward-party keygen {hospital}"
            )
        place = Place.of(hospital, settings)
    else:
        place = Place.open(hospital)
    place.key()  # a missing or unusable key, and settings that cannot work, are told before anything is kept
    wanted = [sealing(place, name) for name in set_names(audit)]
    with only_one(place.folder):
        if given:
            for what in wanted:
                agree(place, what)  # settings that do not fit what is there are not kept
            place.keep()
        _seal_all(place, wanted)


def _seal_all(place: Place, wanted: list[Sealing]) -> None:
    from parties.seal import disk_needed
    from parties.seal import seal as seal_set

    missing = [w for w in wanted if not (place.sealed_folder(w.name) / "manifest.json").exists()]
    need = disk_needed(place, missing)
    free = shutil.disk_usage(place.folder).free
    talk.print(f"{len(missing)} sets to seal, {need / 1e6:.0f} MB of disk ({free / 1e9:.1f} GB are free)")
    if need > free:
        raise CipherwardError(
            f"the sealed sets need {need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free", "free some space"
        )
    total, lost = 0, 0
    for what in wanted:
        with progress(what.name, len(what.source)) as told:
            done = seal_set(place, what, told)
        total += len(done.dataset)
        lost += len(done.quarantined)
        how = "sealed" if done.fresh else "sealed already"
        talk.print(f"{what.name}: {len(done.dataset)} images {how} with key {done.dataset.key_id}")
        for name in done.quarantined:
            talk.print(f"  cannot decode {name}: left out")
    if lost:
        talk.print(f"{lost} images left out; they are listed in {place.private / 'quarantine.txt'}")
    result.print(f"{place.folder / 'sealed'}: {total} images in {len(wanted)} sets")


def _options(words: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE words, values read as YAML."""
    found = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals:
            raise CipherwardError(f"--option {word} is not NAME=VALUE", "such as --option mask=independent")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise CipherwardError(
                f"--option {word}: {value!r} is no value", "such as --option mask=independent"
            ) from None
    return found


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError):  # links in a ring
        raise CipherwardError(f"no such file or folder: {path}", "name your images") from None


@app.command()
def schemes(
    image_size: Annotated[
        int, typer.Option(min=16, max=4096, help="Side of the images measured, in pixels.")
    ] = 224,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the schemes: source, key space, and how fast each seals RGB images here."""
    from parties.schemes import measure_schemes

    rows = measure_schemes(image_size)
    if as_json:
        result.print_json(json.dumps(rows))
        return
    fixed = [Column(name, no_wrap=True) for name in ("scheme", "block", "key space", "key", "MB/s")]
    table = Table(*fixed, "source")
    for row in rows:
        space, effective = (f"2^{row[k]:,.0f}" for k in ("formula_bits", "effective_bits"))
        speed = f"{row['megabytes_per_second']:.0f}"
        table.add_row(row["name"], str(row["block"]), space, effective, speed, row["source"])
    result.print(table)
    talk.print(
        "key space is the papers' formula: it bounds brute force alone. What attacks find: docs/results.md"
    )


@app.command()
def unseal(
    sealed: SealedSet, key: KeyFile, out: Annotated[Path, typer.Option(help="A new folder for PNG files.")]
) -> None:
    """Decrypt a sealed set into PNG files, after verifying all of it."""
    from crypto.keyfile import read_key
    from crypto.sealed import SealedDataset
    from parties.seal import unseal as open_set

    dataset = SealedDataset.open(sealed)
    with progress("unseal", len(dataset)) as told:
        count = open_set(dataset, read_key(key), out, told)
    result.print(f"{out}: {count} images")


@app.command()
def inspect(
    sealed: SealedSet, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show what everybody may know of a sealed set. Needs no key."""
    from crypto.scheme import load
    from crypto.sealed import SealedDataset

    dataset = SealedDataset.open(sealed)
    scheme = load(dataset.spec)
    facts = {
        "images": len(dataset),
        "classes": dict(
            zip(
                dataset.classes,
                [int((dataset.labels == i).sum()) for i in range(len(dataset.classes))],
                strict=True,
            )
        ),
        "scheme": dataset.spec.to_json(),
        "key_id": dataset.key_id,
        "formula_bits": round(scheme.formula_bits(), 1),
        "effective_bits": round(scheme.effective_bits(), 1),
        "shards": len(dataset.manifest["shards"]),
        "digest": dataset.digest,
    }
    if as_json:
        result.print_json(json.dumps(facts))
        return
    for name, value in facts.items():
        result.print(f"{name:15} {value}")


@app.command()
def verify(sealed: SealedSet, key: KeyFile) -> None:
    """Check every byte of a sealed set against its digests and MACs; names the first bad file."""
    from crypto.keyfile import read_key
    from crypto.sealed import SealedDataset

    dataset = SealedDataset.open(sealed)
    dataset.verify(read_key(key))
    result.print(f"{sealed}: {len(dataset)} images, intact")


@app.command()
def baseline(
    hospitals: Annotated[
        list[Path], typer.Argument(help="Hospital folders; several in a simulation only.")
    ],
    plan: Annotated[Path, typer.Option(help="The study's plan.")],
    out: Annotated[Path, typer.Option(help="Where the numbers go (JSON).")],
    model: Annotated[Path | None, typer.Option(help="The federation's model, for the wrong keys.")] = None,
) -> None:
    """Train the same model on plain images under the same budget, and measure wrong keys."""
    from coordinator.plan import read_plan
    from parties.baseline import run_baseline
    from parties.place import Place

    figures = run_baseline(
        read_plan(plan), [Place.open(h) for h in hospitals], model, lambda line: talk.print(line)
    )
    write_json(out, figures)
    result.print(str(out))


@app.command()
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
    from coordinator.plan import read_plan
    from parties.place import Place
    from parties.query import classify as ask
    from parties.query import seal_query

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


@app.command()
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
    from parties.place import Place
    from parties.score import public_plain, score, write_scores

    place = Place.open(hospital)
    target = out or place.folder / "scores.json"
    scores = score(place, guesses, rows, gallery, lambda line: talk.print(line))
    public_plain(place, scores, guesses, target.with_name(f"{target.stem}-plain.safetensors"))
    write_scores(scores, target)
    result.print(str(target))


@app.command()
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
    from coordinator.report.audit import build_report, read_scores
    from coordinator.report.page import render
    from coordinator.report.training import training_of
    from parties.place import Place
    from parties.score import private_pictures

    place = Place.open(hospital)
    numbers = read_scores(scores)
    made = build_report(numbers, place.settings.party, training_of(study))
    pictures = private_pictures(place, made, numbers, guesses)
    target = out or place.private / "report.html"
    write_text(target, render({**made, "public": place.plain("train").public}, pictures))
    result.print(str(target))


if __name__ == "__main__":
    main()
