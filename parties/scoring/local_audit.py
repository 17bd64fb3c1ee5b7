"""A whole audit in the hospital: seal, attack in a process without a key, score, sign, report.

    HOSPITAL/audits/SCHEME-DIGEST/     one audit: a hospital of its own, so that nothing of the real one is touched
      party.yaml                       the hospital's settings, with the audit's
      sealed/                          audit-1 audit-2 … and the controls: all that the attacks can read
      blinded/                         copies of most of them under random names, until the attacks are done
      guesses/                         all that they can write; it may show patients' images: mode 0700
      scores.json  report.json         signed by the hospital
      private/                         row lists, throwaway keys until it is done, report.html with plain images

Every draw is under a key that is made for this audit and destroyed after it. The hospital's own key is not opened.
The attacks are our own code and their answers stay here, so this is no oracle for a cloud: the hospital's ledger
notes the audit under a kind of its own and burns no set. Each step resumes; a finished one is not done again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from coordinator.exchange.audit import control_sets as controls
from coordinator.exchange.audit.guesses import audit_rows
from coordinator.exchange.audit.scores import Scores
from coordinator.exchange.audit.scores_file import read_scores
from coordinator.exchange.audit.signature import require_signer
from coordinator.exchange.audit.suite1 import (
    AUDIT_ROWS,
    DRAWS,
    GALLERY_IMAGES,
    POOLS,
    require_enough_to_audit,
)
from coordinator.exchange.image_file import public_files
from coordinator.exchange.records import write_record
from coordinator.report.build import build_report
from coordinator.report.page import render
from coordinator.report.records import Report
from coordinator.report.report_file import read_report
from crypto.byte_size import size
from crypto.errors import CipherwardError
from crypto.files import disk_errors, folder_lock, sha256_file, write_text
from crypto.identity import PublicIdentity
from crypto.plural import counted
from parties.agent.identity_file import ensure_identity
from parties.scoring.attack_process import AttackOptions, run_attacks
from parties.scoring.blind_sets import are_named, name_guesses, prepare_blind_sets
from parties.scoring.pictures import private_pictures
from parties.scoring.score import score
from parties.scoring.score_ledger import ScoreLedger
from parties.sealing.place import Place
from parties.sealing.row_list import is_unchanged, read_row_list
from parties.sealing.seal import Sealing, disk_needed, plan_sealing, require_protection, seal
from parties.sources.folder import Folder
from parties.sources.source import Share, Source

Log = Callable[[str], None]
ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
FOLDER = "audits"
#: The kind of the ledger's line about such an audit.
LEDGER_KIND = "local audit"


@dataclass(frozen=True)
class AuditSettings:
    """What an audit measures; `suite1` has the meanings.

    Attributes:
        draws: Draws of key and pool.
        rows: Number of audit images of a draw.
        gallery: Number of plain images that a guess can name.
        pools: Pool sizes.
        attacks: Names of attacks; none stands for those of the suite.
        budget_s: Seconds that an attack may take at one pool size.
        public: Folder of public plain images, as text; empty without one.
    """

    draws: int = DRAWS
    rows: int = AUDIT_ROWS
    gallery: int = GALLERY_IMAGES
    pools: tuple[int, ...] = POOLS
    attacks: tuple[str, ...] = ()
    budget_s: float = 600.0
    public: str = ""


@dataclass(frozen=True)
class LocalAudit:
    """A finished audit.

    Attributes:
        folder: Its folder.
        report: What report.json holds.
        confined: Whether the kernel confined the attacks; None if they had run before.
    """

    folder: Path
    report: Report
    confined: bool | None


@contextlib.contextmanager
def _no_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG001 - a progress bar's signature
    yield lambda _: None


def audit_place(home: Place, settings: AuditSettings, changes: dict[str, Any]) -> Place:
    """Return the place of an audit below a hospital's folder. The same images and settings have the same place.

    Args:
        home: The hospital.
        settings: Of the audit.
        changes: Settings of party.yaml that are otherwise in this audit, such as the scheme.
    """
    values = {**home.settings.model_dump(), **changes, "key": "secret.key"}
    values["audit_images"] = 2 * settings.rows + max(settings.pools)
    probe = Place.from_settings(home.folder, values)
    images = probe.plain("train").fingerprint()
    identity = json.dumps(
        [probe.settings.model_dump(mode="json"), asdict(settings), images], sort_keys=True
    )
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()
    return Place.from_settings(home.folder / FOLDER / f"{probe.settings.scheme}-{digest[:12]}", values)


def run_local_audit(
    home: Place,
    settings: AuditSettings,
    changes: dict[str, Any],
    log: Log = lambda _: None,
    progress_bar: ProgressBar = _no_bar,
    jobs: int | None = None,
) -> LocalAudit:
    """Audit a hospital's images in the hospital; resume an interrupted audit with the same settings.

    Args:
        home: The hospital. Its identity signs; its key is not opened and need not exist.
        settings: Of the audit.
        changes: Settings of party.yaml that are otherwise in this audit.
        log: Called with a line of progress.
        progress_bar: progress_bar(name, images) shows the sealing of a set.
        jobs: Number of attacks at once; None for one on every core.

    Raises:
        CipherwardError: If the images cannot be sealed with these settings, or a step fails.
    """
    place = audit_place(home, settings, changes)
    # Settings that cannot work are reported before anything is written: to plan a throwaway key makes its folder.
    require_protection(plan_sealing(place, "train"))
    _require_images(place, settings, log)
    if settings.public:
        _require_no_audited(place.plain("train"), Path(settings.public))
    identity = ensure_identity(home)
    ScoreLedger(
        home
    ).entries()  # it is written at the end, after hours: a ledger that lost lines is reported now
    with disk_errors(place.folder):
        (home.folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
        place.folder.mkdir(mode=0o700, exist_ok=True)
    sealings = plan_audit(place, settings.draws)
    with folder_lock(place.folder):
        if (place.folder / "report.json").exists():
            _require_same_images(place, sealings)
            report = _read_own_report(place, identity.public, log)
            log("this audit is done already: the same images and settings")
            _destroy_keys(place)
            return LocalAudit(place.folder, report, None)
        place.save()
        confined = None
        scores_file = place.folder / "scores.json"
        if not scores_file.exists():
            _seal(place, sealings, log, progress_bar)
            confined = _attack(place, settings, log, jobs)
            log("scoring the guesses")
            guesses = place.folder / "guesses"
            scores = score(
                place,
                guesses,
                settings.rows,
                settings.gallery,
                log,
                attacked_by="hospital",
                identity=identity,
            )
            write_record(scores_file, scores)
        scores = _read_own_scores(place, identity.public)
        _note(home, place, scores)
        report = _report(place, scores)
        _destroy_keys(place)
    return LocalAudit(place.folder, report, confined)


def plan_audit(place: Place, draws: int) -> list[Sealing]:
    """Return what has to be sealed: the draws, whose names may tell what they are, and the controls.

    Their keys have no owner: the hospital's key may be under a passphrase, and an audit asks for none. They lie in
    private/ with mode 0600, and are destroyed with the report.
    """
    names = [*(f"audit-{i}" for i in range(1, draws + 1)), *controls.SETS]
    return [replace(plan_sealing(place, name), owner=None) for name in names]


def _require_images(place: Place, settings: AuditSettings, log: Log) -> None:
    """Say which pools are larger than the images allow. Raise CipherwardError if there are too few for an audit."""
    count = len(place.plain("train"))
    require_enough_to_audit(count, "the split train")
    sealed = min(count, place.settings.audit_images)
    left = sealed - len(audit_rows(place.settings.seed, 0, sealed, settings.rows))
    if larger := [size for size in settings.pools if size > left]:
        log(
            f"pools of {', '.join(map(str, larger))} images are not tried: of {counted(count, 'training image')}, "
            f"{counted(left, 'is', 'are')} beside those that are audited"
        )


def _require_no_audited(source: Source, public: Path) -> None:
    """Raise CipherwardError if a file of the audited images is among the public ones, byte for byte.

    An attack would be told what it has to find. Copies that were written anew are not noticed.
    """
    folder = source.source if isinstance(source, Share) else source
    if not isinstance(folder, Folder):
        return
    audited: dict[int, list[str]] = {}
    for name in source.states():
        audited.setdefault((folder.path / name).stat().st_size, []).append(name)
    for path in public_files(public):
        if not path.is_file():
            continue  # left out when the public images are read
        for name in audited.get(path.stat().st_size, ()):
            if sha256_file(folder.path / name) == sha256_file(path):
                raise CipherwardError(
                    f"the public image {path} is one of the audited ones, {name}",
                    "name a folder of images that an adversary may have, and none of those that it attacks",
                )


def _require_same_images(place: Place, sealings: Sequence[Sealing]) -> None:
    """Raise CipherwardError if files of a finished audit hold something else now, though their sizes are the same."""
    for sealing in sealings:
        if sealing.is_control or not place.rows_file(sealing.name).exists():
            continue
        if not is_unchanged(read_row_list(place, sealing.name), sealing.source):
            raise CipherwardError(
                f"the images changed since they were audited in {place.folder}",
                "restore the images; or move that folder away, and audit them as they are now",
            )


def _seal(place: Place, sealings: Sequence[Sealing], log: Log, progress_bar: ProgressBar) -> None:
    """Seal the sets that are missing, if the disk has room for them."""
    missing = [s for s in sealings if not (place.sealed_folder(s.name) / "manifest.json").exists()]
    # The attacks get copies of most sets (blind_sets.py).
    copies = sum(sealing.bytes for sealing in sealings)
    need, free = disk_needed(place, missing) + copies, shutil.disk_usage(place.folder).free
    sets = counted(len(missing), "set")
    log(f"sealing {sets}, {need / 1e6:.0f} MB of disk with the copies that are attacked")
    if need > free:
        raise CipherwardError(
            f"the sealed sets and their copies need {size(need)} and {size(free)} are free",
            f"free {size(need - free)} more",
        )
    left_out = sum(_seal_one(place, sealing, progress_bar) for sealing in sealings)
    if left_out:
        log(f"images that cannot be decoded, left out: {left_out}; see {place.private / 'quarantine.txt'}")


def _seal_one(place: Place, sealing: Sealing, progress_bar: ProgressBar) -> int:
    """Seal a set, and return how many images were left out."""
    with progress_bar(sealing.name, len(sealing.source)) as on_progress:
        return len(seal(place, sealing, on_progress).quarantined)


def _attack(place: Place, settings: AuditSettings, log: Log, jobs: int | None) -> bool | None:
    """Attack the sealed sets in a process that has no key, and is not told which of them are controls.

    Returns:
        Whether the kernel confined it; None if it had run before.
    """
    guesses = place.folder / "guesses"
    if are_named(place, guesses):
        return None
    log("attacking the sealed sets, in a process without a key")
    sets = prepare_blind_sets(place, [sealing.name for sealing in plan_audit(place, settings.draws)])
    options = AttackOptions(
        rows=settings.rows,
        seed=place.settings.seed,
        attacks=settings.attacks,
        pools=settings.pools,
        budget_s=settings.budget_s,
        jobs=jobs,
        public=Path(settings.public) if settings.public else None,
        blind=True,
    )
    is_confined = run_attacks(sets.folders, guesses, options, log)
    name_guesses(place, guesses, sets)
    return is_confined


def _read_own_scores(place: Place, identity: PublicIdentity) -> Scores:
    """Return the scores of an audit. Raise CipherwardError unless this hospital signed them, of this audit's sets."""
    path = place.folder / "scores.json"
    remedy = f"restore it from a copy; or move {place.folder} away, and run the same command again"
    try:
        scores = read_scores(path)
        require_signer(scores, identity, str(path))
    except CipherwardError as error:
        # Whoever made scores is asked for them elsewhere. Here it is this hospital.
        raise CipherwardError(error.message, remedy) from None
    # The signature fits those of every audit of this hospital, and a backup may put one in another's place.
    for draw in scores.draws:
        if place.rows_file(draw.set_name).exists():
            sealed = read_row_list(place, draw.set_name).get("digest")
            if sealed != draw.set_digest:
                raise CipherwardError(
                    f"{path} is of another audit: its {draw.set_name} is not the set that was sealed here",
                    remedy,
                )
    return scores


def _read_own_report(place: Place, identity: PublicIdentity, log: Log) -> Report:
    """Return the report of a finished audit, with the words that this version makes of its scores.

    A report is consistent by itself: without this, one of another audit that lies here would be the verdict of
    this one. And no signature covers its words: caveats that were taken out of it would be missed by nobody.

    Raises:
        CipherwardError: If it was not made of the scores beside it, or if these are not this hospital's.
    """
    path = place.folder / "report.json"
    report, scores = read_report(path), _read_own_scores(place, identity)
    expected = build_report(scores, place.settings.party)
    # That the verdict follows from the findings was checked.
    facts = (
        *(
            "suite",
            "scorer",
            "seed",
            "budget_s",
            "scheme",
            "key_ids",
            "pool",
            "training",
            "draws",
            "findings",
        ),
        *("attacked_by", "signer", "scored_at", "defects"),
    )
    differing = [name for name in facts if getattr(report, name) != getattr(expected, name)]
    if report.failed_controls != expected.failed_controls:
        differing.append("controls")
    if differing:
        raise CipherwardError(
            f"{path} was not made of the scores beside it: other {', '.join(differing)}",
            "remove it, and run the same command again: it is made again from the scores",
        )
    words = {name: getattr(expected, name) for name in ("doubts", "controls")}
    if any(getattr(report, name) != made for name, made in words.items()):
        # An earlier version may have worded them otherwise: no reason to refuse what it found.
        log(f"{path} has other caveats or controls than the scores beside it make, which are shown here")
        log("to write it anew, remove it, and run the same command again")
    return report.model_copy(update=words)


def _note(home: Place, place: Place, scores: Scores) -> None:
    """Write the audit to the hospital's ledger, once, as a kind of its own: it asks nothing of any set there."""
    entry = {
        "kind": LEDGER_KIND,
        "audit": place.folder.name,
        "guesses": scores.guesses_sha256,
        "sets": [draw.set_digest for draw in scores.draws],
    }
    ledger = ScoreLedger(home)
    with folder_lock(home.private):
        if not any(entry.items() <= known.items() for known in ledger.entries()):
            ledger.append(entry)


def _report(place: Place, scores: Scores) -> Report:
    """Write the report with plain images, which stays in private/, and then report.json, which ends the audit."""
    report = build_report(scores, place.settings.party)
    pictures = private_pictures(place, report, scores, place.folder / "guesses")
    page = render(report, pictures, public=place.plain("train").public)
    write_text(place.private / "report.html", page, 0o600)
    write_record(place.folder / "report.json", report)
    return report


def _destroy_keys(place: Place) -> None:
    """Remove the throwaway keys: nothing is left to be opened with them but copies of images that are here."""
    for path in place.private.glob("*.key"):
        path.unlink()
