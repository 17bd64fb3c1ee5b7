"""The commands of cipherward-party about sealed sets: seal, unseal, inspect, verify, and the list of schemes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from coordinator.exchange.audit.suite1 import MAX_DRAWS, require_enough_to_audit
from coordinator.exchange.console import progress, result, talk
from crypto.errors import CipherwardError
from crypto.files import folder_lock
from crypto.plural import counted
from parties.cli.checking import check_before_sealing
from parties.cli.image_options import SealingOptions, absolute, hospital_name, is_npz, with_options
from parties.cli.keys import Hospital

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parties.sealing.place import Place
    from parties.sealing.seal import Sealing

SealedSet = Annotated[Path, typer.Argument(help="A sealed set: the folder that holds its manifest.json.")]
KeyFile = Annotated[Path, typer.Option("--key", help="The key file.")]
#: Left-out images that are printed for each set; the quarantine list names all.
_SHOWN = 20
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@with_options()
def seal(
    hospital: Hospital,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images (PNG, JPEG, TIFF, BMP, WebP, DICOM, NIfTI) with one sub-folder for each class, "
            "or a MedMNIST .npz file.",
            show_default="as in party.yaml",
        ),
    ] = None,
    *,
    chosen: SealingOptions,
    audit: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_DRAWS,
            help="Repetitions to seal for an audit that a cloud runs (3 for the suite; 0 for none).",
        ),
    ] = 0,
    named: Annotated[
        bool,
        typer.Option(
            "--named",
            help="Let folder names tell which set is which: for simulations. The default hides it from the cloud.",
        ),
    ] = False,
) -> None:
    """Seal (encrypt) the hospital's images into HOSPITAL/sealed. Run it again to resume an interrupted run.

    With --images, the settings are saved in HOSPITAL/party.yaml for later runs.
    """
    from parties.sealing.audit_sets import show_controls
    from parties.sealing.seal import blind_set_names, check_sealing, plan_sealing, set_names

    changes = ({} if images is None else {"images": str(absolute(images))}) | chosen.settings()
    place = _place_with(hospital, changes)
    key = (
        place.key()
    )  # reports a missing or unusable key, and settings that cannot work, before anything is saved
    sealings = [plan_sealing(place, name) for name in set_names(0 if audit and not named else audit)]
    if audit and not named:  # a simulation that goes on to attack checks it by itself
        count = len(place.plain("train"))
        require_enough_to_audit(min(count, place.settings.audit_images or count), "a set of the audit")
    with folder_lock(place.folder):
        if audit and named:
            show_controls(place)
        is_finished = [check_sealing(place, sealing) is not None for sealing in sealings]
        if not all(is_finished):
            check_before_sealing(place, "channels" in place.settings.model_fields_set)
        if audit and not named:  # only now a map of sets is made
            from parties.scoring.ledger import has_scored_own_key

            names = blind_set_names(place, audit, own_key=not has_scored_own_key(place, key.id))
            sealings = [plan_sealing(place, name) for name in names]
            for sealing in sealings:
                check_sealing(place, sealing)
        if changes:  # settings that contradict the sets on disk are not saved
            place.save()
        _seal_all(place, sealings)


def _place_with(hospital: Path, changes: dict[str, Any]) -> Place:
    """Return the hospital's place with changed settings, which are not yet saved."""
    from parties.sealing.place import SETTINGS_FILE, Place

    if not changes:
        return Place.open(hospital)
    has_settings = (hospital / SETTINGS_FILE).exists()
    if not has_settings and "images" not in changes:
        raise CipherwardError(f"no {SETTINGS_FILE} in {hospital}", "name your images with --images FOLDER")
    saved = Place.open(hospital).settings.model_dump(exclude_unset=True) if has_settings else {}
    settings = {"party": hospital_name(hospital.resolve().name), "source": "folder", **saved, **changes}
    if "images" in changes:
        settings["source"] = "npz" if is_npz(changes["images"]) else "folder"
    if not (hospital / "secret.key").exists():
        raise CipherwardError(
            f"no key in {hospital}",
            f"make one first: cipherward-party keygen {hospital}; or copy the one that another hospital shared: "
            f"install -m 600 FILE {hospital / 'secret.key'}",
        )
    return Place.from_settings(hospital, settings)


def _seal_all(place: Place, sealings: Sequence[Sealing]) -> None:
    """Seal every set that is missing, if the disk has room for all of them, and print what was done."""
    from parties.sealing.audit_sets import is_audit_set, map_path
    from parties.sealing.seal import disguise_controls
    from parties.sealing.seal import seal as seal_set
    from parties.sources.source import SPLITS

    _check_disk(place, sealings)
    image_count, left_out, split_images = 0, 0, [0, 0]
    for sealing in sealings:
        with progress(sealing.name, len(sealing.source)) as on_progress:
            sealed = seal_set(place, sealing, on_progress)
        image_count += len(sealed.dataset)
        left_out += len(sealed.quarantined)
        if sealing.name in SPLITS:  # they have every image once
            split_images[0] += len(sealing.source)
            split_images[1] += len(sealed.dataset)
        action = "sealed" if sealed.fresh else "sealed already"
        talk.print(
            f"{sealing.name}: {counted(len(sealed.dataset), 'image')} {action} with key {sealed.dataset.key_id}"
        )
        for name in sealed.quarantined[:_SHOWN]:
            talk.print(f"  cannot decode {name}: left out")
        if len(sealed.quarantined) > _SHOWN:
            talk.print(f"  and {counted(len(sealed.quarantined) - _SHOWN, 'other')}: left out")
    if any(is_audit_set(sealing.name) for sealing in sealings):
        blind = disguise_controls(place)
        talk.print(
            f"{counted(len(blind), 'set whose name tells nothing is', 'sets whose names tell nothing are')} for "
            "an audit that a cloud runs; "
            f"{map_path(place)} says which is which, and stays here"
        )
    if split_images[0] != split_images[1]:
        missing = split_images[0] - split_images[1]
        talk.print(f"{counted(split_images[0], 'image')}: {split_images[1]} sealed, {missing} left out")
    if left_out:
        talk.print(f"{counted(left_out, 'image')} left out, listed in {place.private / 'quarantine.txt'}")
    result.print(
        f"{place.folder / 'sealed'}: {counted(image_count, 'image')} in {counted(len(sealings), 'set')}"
    )


def _check_disk(place: Place, sealings: Sequence[Sealing]) -> None:
    """Print how much disk the missing sets need. Raises CipherwardError if that much is not free."""
    from crypto.byte_size import size
    from parties.sealing.seal import disk_needed, disk_of_copies

    missing = [s for s in sealings if not (place.sealed_folder(s.name) / "manifest.json").exists()]
    need = disk_needed(place, missing) + disk_of_copies(place, sealings)
    free = shutil.disk_usage(place.folder).free
    talk.print(
        f"{counted(len(missing), 'set')} to seal, {need / 1e6:.0f} MB of disk ({free / 1e9:.1f} GB are free)"
    )
    if need > free:
        raise CipherwardError(
            f"the sealed sets need {size(need)} and {size(free)} are free", f"free {size(need - free)} more"
        )


def schemes(
    image_size: Annotated[
        int, typer.Option(min=16, max=4096, help="Side of the measured images, in pixels.")
    ] = 224,
    as_json: AsJson = False,
) -> None:
    """List the encryption schemes: source, key space, and how fast each seals RGB images on this machine."""
    from parties.sealing.scheme_speed import measure_schemes

    rows = measure_schemes(image_size)
    if as_json:
        result.print_json(json.dumps(rows))
        return
    columns = [Column(name, no_wrap=True) for name in ("scheme", "block", "key space", "key", "MB/s")]
    table = Table(*columns, "source")
    for row in rows:
        key_space, effective = (f"2^{row[k]:,.0f}" for k in ("formula_bits", "effective_bits"))
        speed = f"{row['megabytes_per_second']:.0f}"
        table.add_row(row["name"], str(row["block"]), key_space, effective, speed, row["source"])
    result.print(table)
    talk.print(
        "key space is the formula of the papers. It bounds brute force only. docs/results.md shows what attacks find."
    )
    if one_way := [row["name"] for row in rows if not row["invertible"]]:
        talk.print(f"no key opens the ciphertexts of {', '.join(one_way)}: keep the plain images")


def unseal(
    sealed: SealedSet,
    key: KeyFile,
    out: Annotated[Path, typer.Option(help="A new folder for the PNG files.")],
) -> None:
    """Verify a sealed set and decrypt it into PNG files."""
    from crypto.keyfile import read_key
    from crypto.sets.dataset import SealedDataset
    from parties.sealing.unseal import unseal as unseal_set

    dataset = SealedDataset.open(sealed)
    with progress("unseal", len(dataset)) as on_progress:
        count = unseal_set(dataset, read_key(key), out, on_progress)
    result.print(f"{out}: {counted(count, 'image')}")


def inspect(sealed: SealedSet, as_json: AsJson = False) -> None:
    """Show the public facts about a sealed set. Needs no key."""
    from crypto.scheme import load
    from crypto.sets.dataset import SealedDataset

    dataset = SealedDataset.open(sealed)
    scheme = load(dataset.spec)
    facts = {
        "images": len(dataset),
        "classes": {name: int((dataset.labels == i).sum()) for i, name in enumerate(dataset.classes)},
        "scheme": dataset.spec.to_json(),
        "key_id": dataset.key_id,
        "formula_bits": round(scheme.formula_bits(), 1),
        "effective_bits": round(scheme.effective_bits(), 1),
        "invertible": scheme.is_invertible,
        "shards": len(dataset.manifest["shards"]),
        "digest": dataset.digest,
    }
    if as_json:
        result.print_json(json.dumps(facts))
        return
    for name, value in facts.items():
        result.print(f"{name:15} {value}")


def verify(sealed: SealedSet, key: KeyFile) -> None:
    """Check every byte of a sealed set against its digests and MACs. An error names the first bad file."""
    from crypto.keyfile import read_key
    from crypto.sets.dataset import SealedDataset
    from parties.sealing.row_list import require_recorded

    dataset = SealedDataset.open(sealed)
    dataset.verify(read_key(key))
    require_recorded(dataset)
    result.print(f"{sealed}: {counted(len(dataset), 'image')}, intact")
