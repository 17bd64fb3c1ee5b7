"""The command of cipherward-party that audits a hospital's images in the hospital."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.exchange.audit.suite1 import (
    ATTACK_NAMES,
    AUDIT_ROWS,
    DRAWS,
    GALLERY_IMAGES,
    MAX_DRAWS,
    MIN_AUDIT_ROWS,
    MIN_GALLERY,
    POOLS,
    POOLS_TEXT,
    require_public_use,
)
from coordinator.exchange.console import (
    parse_pool_sizes,
    parse_seconds,
    progress,
    result,
    talk,
)
from crypto.errors import CipherwardError, unknown
from crypto.identity import require_hospital_name
from parties.cli.image_options import SealingOptions, absolute, hospital_name, is_npz, with_options

if TYPE_CHECKING:
    from parties.scoring.local_audit import LocalAudit
    from parties.sealing.place import Place


#: The name of an audit of images alone. That of their folder may be a patient's or a user's, and the report leaves.
NEUTRAL_NAME = "hospital"


@with_options("allow_leak")
def audit(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES|HOSPITAL",
            help="Images as for `seal --images`, or the folder of a hospital that sealed some.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for an audit of IMAGES. Default: NAME-audit, here.")
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            help="Name of the hospital in the report of an audit of IMAGES.",
            show_default=f"--hospital-name, or {NEUTRAL_NAME}",
        ),
    ] = "",
    *,
    chosen: SealingOptions,
    draws: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_DRAWS, help="Number of repetitions, each with another key and other images."
        ),
    ] = DRAWS,
    rows: Annotated[int, typer.Option(min=MIN_AUDIT_ROWS, help="Number of images to score.")] = AUDIT_ROWS,
    gallery: Annotated[
        int, typer.Option(min=MIN_GALLERY, help="Number of plain images that a guess can name.")
    ] = GALLERY_IMAGES,
    pools: Annotated[
        str,
        typer.Option(
            help="How many sealed images an attack is given: the numbers to try, separated by commas.",
            show_default=POOLS_TEXT,
        ),
    ] = "",
    attacks: Annotated[
        str, typer.Option(help="Attacks by name, separated by commas. Default: those of the suite.")
    ] = "",
    public: Annotated[
        Path | None,
        typer.Option(
            help="Folder of public plain images, for the attacks that need some "
            "(tier T2 in `cipherward-coordinator attack --list`).",
            show_default="none",
        ),
    ] = None,
    budget: Annotated[str, typer.Option(help="Time that an attack may take at one pool size.")] = "10m",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of attacks that run at once. Default: one a core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Audit your images here: seal, attack, score, sign and report, in one command.

    The attacks run in a process that has no key. Nothing leaves this machine, and only such an audit can say that a
    scheme was "not broken by suite/2". Run the same command again to go on with an interrupted audit.

    The exit status is 0 whatever the verdict, and 1 if a control failed: then there is no verdict.
    """
    names = tuple(attack for attack in attacks.split(",") if attack)
    for attack in names:
        if attack not in ATTACK_NAMES:
            raise unknown("attack", attack, ATTACK_NAMES)
    if name:
        require_hospital_name(name)
    if public is not None and names:
        require_public_use(names)

    from coordinator.exchange.image_file import no_public_image, public_files
    from coordinator.report.verdict_text import require_valid, summary_lines
    from parties.scoring.local_audit import AuditSettings, run_local_audit

    settings = AuditSettings(
        draws=draws,
        rows=rows,
        gallery=gallery,
        pools=tuple(parse_pool_sizes(pools)) or POOLS,
        attacks=names,
        budget_s=parse_seconds(budget),
        public="" if public is None else str(absolute(public)),
    )
    started = time.monotonic()
    changes = chosen.settings()
    # The attacks come after all sets are sealed, which is too late to hear of a wrong path.
    if public is not None and not public_files(public):
        raise no_public_image(public)
    home = _home_of(target, out, name, changes)
    try:
        done = run_local_audit(home, settings, changes, talk.print, progress, jobs)
    except KeyboardInterrupt:
        kept = home.folder / "audits"
        if kept.exists():
            talk.print(
                f"{kept} keeps this audit's throwaway keys until it is done, or you remove its folder there"
            )
        raise
    seconds = time.monotonic() - started
    if done.confined is False:
        talk.print("this system could not confine the attacks; they ran without a key all the same")
    if as_json:
        result.print_json(json.dumps(_facts(done, seconds)))
    else:
        for line in summary_lines(done.report):
            result.print(line)
        result.print(f"{seconds:.0f} s in this run")
        result.print(f"report: {done.folder / 'private' / 'report.html'}")
    require_valid(done.report)


def _home_of(target: Path, out: Path | None, name: str, changes: dict[str, Any]) -> Place:
    """Return the hospital that an audit belongs to. For images alone, one is made that holds nothing but audits."""
    from crypto.files import require_output_folder, require_outside
    from crypto.sets.leaving import require_stays
    from parties.sealing.place import SETTINGS_FILE, Place
    from parties.sealing.seal import plan_sealing
    from parties.sources.source import SPLITS

    if (target / SETTINGS_FILE).is_file():
        if out is not None:
            raise CipherwardError(
                "--out is for an audit of images alone",
                f"the audit of a hospital is kept in {target / 'audits'}",
            )
        if name:
            raise CipherwardError(
                "--name is for an audit of images alone",
                f"a hospital's name is in {target / SETTINGS_FILE}",
            )
        place = Place.open(target)
        _require_settings(place, changes)
        return place
    if (target / "secret.key").is_file():  # plain images do not belong beside a key
        raise CipherwardError(
            f"{target} is a hospital's folder that sealed no images yet: it holds secret.key",
            f"name your images: cipherward-party audit IMAGES; or seal first: cipherward-party seal {target} "
            "--images IMAGES; if the key was made among images, move it into a folder of its own",
        )
    images = absolute(target)
    if not images.exists():
        raise CipherwardError(
            f"no such file or folder: {target}", "name your images, or a hospital's folder"
        )
    folder = out or Path(f"{images.stem}-audit")
    require_stays(folder, "an audit holds keys, guesses and plain images")
    if not changes.get("labels"):
        require_outside(folder, images)
    kind = "npz" if is_npz(str(images)) else "folder"
    stated = name or hospital_name(changes.get("hospital", ""))
    settings = {"party": stated, "source": kind, "images": str(images)}
    if (folder / SETTINGS_FILE).exists():
        place = Place.open(folder)
        if place.settings.images != str(images):
            raise CipherwardError(
                f"{folder} holds audits of other images: {place.settings.images}", "choose another --out"
            )
        if name not in ("", place.settings.party):
            raise CipherwardError(
                f"{folder} holds audits under the name {place.settings.party}",
                "choose another --out, or leave --name out",
            )
        _require_settings(place, changes)
        _check_images(place, changes)
        return place
    require_output_folder(folder, (), "choose another --out: a new folder, or one of an earlier audit")
    place = Place.from_settings(folder, settings)
    # Settings that cannot work are reported before anything is written.
    trial = _require_settings(place, changes)
    for split in SPLITS:
        trial.plain(split)
    plan_sealing(trial, "train")
    _check_images(place, changes)
    place.save()
    return place


def _require_settings(place: Place, changes: dict[str, Any]) -> Place:
    """Return the place with changed settings. Raise CipherwardError if they cannot work, before an image is read."""
    from parties.sealing.place import Place
    from parties.sealing.seal import describe_settings

    trial = Place.from_settings(place.folder, {**place.settings.model_dump(), **changes})
    describe_settings(trial)
    return trial


def _check_images(place: Place, changes: dict[str, Any]) -> None:
    """Check images as `seal` does before it seals them: an audit of them in gray is none of images in colour."""
    from parties.cli.checking import check_before_sealing
    from parties.sealing.place import Place

    trial = Place.from_settings(place.folder, {**place.settings.model_dump(exclude_unset=True), **changes})
    check_before_sealing(trial, "channels" in trial.settings.model_fields_set)


def _facts(audit: LocalAudit, seconds: float) -> dict[str, Any]:
    """Return what --json prints."""
    from coordinator.report.rows import rows_of
    from coordinator.report.verdict_text import early_breaks, headline

    report, shown = audit.report, headline(audit.report)
    return {
        "state": shown.state,
        "sentence": shown.sentence,
        "valid": report.valid,
        "broken": report.verdict.broken,
        "broken_at": report.verdict.broken_at,
        "readable": report.verdict.readable,
        "readable_at": report.verdict.readable_at,
        "broken_in_too_few_draws": early_breaks(report, rows_of(report)),
        "linkable": report.verdict.linkable,
        "largest_pool": report.verdict.largest_pool,
        "attacked_by": report.attacked_by,
        "confined": audit.confined,
        "fingerprint": None if report.signer is None else report.signer.fingerprint,
        "doubts": list(report.doubts),
        "report": str(audit.folder / "report.json"),
        "scores": str(audit.folder / "scores.json"),
        "html": str(audit.folder / "private" / "report.html"),
        "seconds": round(seconds, 1),
    }
