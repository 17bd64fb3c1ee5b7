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

from coordinator.exchange.console import progress, result, run, talk
from crypto.errors import CipherwardError
from crypto.files import only_one
from parties.cli.keys import Hospital, identity, keygen, rotate, share_key
from parties.cli.measuring import baseline, classify, report, score

if TYPE_CHECKING:
    from parties.sealing.place import Place
    from parties.sealing.seal import Sealing

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
    from parties.sealing.place import FILE, Place
    from parties.sealing.seal import agree, sealing, set_names

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
    from parties.sealing.seal import disk_needed
    from parties.sealing.seal import seal as seal_set

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
    from parties.sealing.scheme_speed import measure_schemes

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
    from crypto.sets.dataset import SealedDataset
    from parties.sealing.seal import unseal as open_set

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
    from crypto.sets.dataset import SealedDataset

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
    from crypto.sets.dataset import SealedDataset

    dataset = SealedDataset.open(sealed)
    dataset.verify(read_key(key))
    result.print(f"{sealed}: {len(dataset)} images, intact")


for command in (baseline, classify, score, report):
    app.command()(command)


if __name__ == "__main__":
    main()
