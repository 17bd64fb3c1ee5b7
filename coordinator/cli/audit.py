"""Commands for an audit: attack sealed sets, and report what the attacks achieved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.exchange.audit.suite1 import (
    AUDIT_ROWS,
    MIN_AUDIT_ROWS,
    POOLS,
    POOLS_TEXT,
    require_public_use,
)
from coordinator.exchange.console import (
    narrate,
    parse_pool_sizes,
    parse_seconds,
    result,
    talk,
)
from crypto.arrays import Images
from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.files import disk_errors, read_regular, require_output_folder, require_replaceable, write_text
from crypto.plural import counted
from crypto.sets.leaving import require_stays

if TYPE_CHECKING:
    from coordinator.report.records import Training
    from crypto.sets.dataset import SealedDataset


def attack(
    sealed: Annotated[
        list[Path] | None,
        typer.Argument(help="Sealed sets, or folders of them. The first set is the one that is scored."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the guesses.")] = Path("guesses"),
    attacks: Annotated[
        str,
        typer.Option(
            help="Attacks by name, separated by commas. Default: those of the suite, and those that --public and "
            "--study make possible."
        ),
    ] = "",
    public: Annotated[
        Path | None,
        typer.Option(
            help="Folder of public plain images, for the attacks that need some (tier T2 in `--list`).",
            show_default="none",
        ),
    ] = None,
    pools: Annotated[
        str,
        typer.Option(
            help="How many sealed images an attack is given: the numbers to try, separated by commas.",
            show_default=POOLS_TEXT,
        ),
    ] = "",
    study: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a trained study, for the attacks on what the cloud saw of its training.",
            show_default="none",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=MIN_AUDIT_ROWS, help="Number of images to score.")] = AUDIT_ROWS,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the rows and the pools.")] = 0,
    budget: Annotated[
        str, typer.Option(help="Time that an attack may take at one pool size: seconds, or 90s, 10m, 1h.")
    ] = "10m",
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of attacks that run at once, each in a process with one thread. Default: one for every "
            "core; 1 uses this process. The guesses are the same; the seconds are those on a shared machine.",
        ),
    ] = None,
    ray: Annotated[
        str,
        typer.Option(
            help="Run the attacks on the Ray cluster at this address, or `local`. Sealed sets and guesses must be on "
            "storage that all nodes share, because workers open them by path.",
            show_default="no cluster",
        ),
    ] = "",
    draw_numbers: Annotated[str, typer.Option(hidden=True)] = "",
    blind: Annotated[bool, typer.Option("--blind", hidden=True)] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the attacks.")] = False,
) -> None:
    """Attack sealed sets with ciphertexts only, and freeze the guesses for scoring.

    You can stop it at any time. The same command then continues with the guesses that are missing.
    """
    from coordinator.adversary.run.compilation import compile_attacks
    from coordinator.adversary.run.draws import audit_gaps
    from coordinator.adversary.run.public_images import read_public
    from coordinator.adversary.run.suite import JOURNAL, Settings, Workers, find_sets, run_suite
    from coordinator.exchange.audit.guesses import FILE

    if listing:
        _print_attacks()
        return
    if not sealed:
        raise CipherwardError("no sealed set to attack", "name one: cipherward-coordinator attack SEALED")
    sets = find_sets(sealed)
    require_stays(out, "guesses may show patients' images")
    require_output_folder(out, (FILE, JOURNAL), "choose another --out")
    names = [name for name in attacks.split(",") if name]
    if public is not None and names and study is None:
        require_public_use(names)
    settings = Settings(
        attacks=names or _default_attacks(public is not None, study is not None),
        pools=parse_pool_sizes(pools) or list(POOLS),
        rows=rows,
        seed=seed,
        budget_s=parse_seconds(budget),
        public=None if public is None else read_public(public, sets[0].spec.image_shape, talk.print),
        study=study,
        draw_numbers=_parse_numbers(draw_numbers),
    )

    # A hospital that hides which sets are controls has checked itself that all are there.
    gaps = [] if blind else audit_gaps(sets, settings.attacks)
    for gap in gaps:
        talk.print(f"warning: {gap}")
    if gaps:
        talk.print(
            "the hospital seals further draws and controls with: cipherward-party seal HOSPITAL --audit 3"
        )

    with narrate() as log:

        def prepare() -> None:
            compile_attacks(settings.attacks, sets, log)

        draws = run_suite(sets, out, settings, log, Workers(jobs or cores(), ray), prepare)
    count = sum(len(draw.guesses) for draw in draws)
    if study is not None:
        _attack_updates(study, settings.public, settings.budget_s)
    result.print(f"{out}: {counted(count, 'guess', 'guesses')} about {counted(len(draws), 'draw')}, frozen")


def _attack_updates(study: Path, public: Images | None, budget_s: float) -> None:
    """Attack the updates that a study kept, and say what they gave."""
    from coordinator.adversary.run.cell import study_digest
    from coordinator.adversary.training.kept_updates import attack_kept_updates

    found = attack_kept_updates(study, study_digest(study), public, budget_s)
    if found is not None:
        chance = f"; chance alone would confirm about {found.by_chance:.2g}" if found.by_chance else ""
        talk.print(
            f"{counted(found.updates, 'kept update')}: {counted(found.confirmed, 'image')} confirmed{chance}"
        )


def _parse_numbers(text: str) -> list[int]:
    """Return the numbers of draws, separated by commas."""
    words = text.split(",") if text else []
    if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
        raise CipherwardError(f"--draw-numbers {text!r} are not numbers of draws", "for example: 1,3")
    return [int(word) for word in words]


def _print_attacks() -> None:
    """Print the list of attacks as a table."""
    from rich.table import Column, Table

    from coordinator.adversary.registry import ATTACKS

    table = Table(Column("attack", no_wrap=True), "tier", "needs", "breaks", "source")
    for info in ATTACKS.values():
        table.add_row(info.name, info.tier.name, info.needs, info.breaks, info.source)
    result.print(table)


def _default_attacks(has_public: bool, has_study: bool) -> list[str]:
    """Return the attacks of the suite, and those that public images and a study make possible."""
    from coordinator.adversary.contract import Tier
    from coordinator.adversary.registry import ATTACKS
    from coordinator.exchange.audit.suite1 import ATTACKS as SUITE_ATTACKS

    tiers = {tier for tier, is_given in ((Tier.T2, has_public), (Tier.T5, has_study)) if is_given}
    possible = [
        name for name, info in ATTACKS.items() if info.in_suite and not info.by_name and info.tier in tiers
    ]
    return [*SUITE_ATTACKS, *possible]


def report(
    scores: Annotated[
        Path | None, typer.Argument(help="scores.json from the hospital that scored.")
    ] = None,
    guesses: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the guesses that were scored. Required unless --compare is given.",
            show_default=False,
        ),
    ] = None,
    sealed: Annotated[
        Path | None,
        typer.Option(
            help="The sealed set that was scored, or the folder of it, for the pictures. "
            "Required unless --compare is given.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")] = Path(),
    study: Annotated[
        Path | None,
        typer.Option(help="The study's folder, for the figures of its training.", show_default="none"),
    ] = None,
    public_plain: Annotated[
        Path | None,
        typer.Option(help="Plain images of a public source, as `score` wrote them.", show_default="none"),
    ] = None,
    signed_by: Annotated[
        Path | None,
        typer.Option(
            help="The public identity of the hospital that must have signed the scores: its identity.pub, which you "
            "got from the hospital and compared over another channel.",
            show_default="any signature",
        ),
    ] = None,
    allow_invalid: Annotated[
        bool, typer.Option(help="Exit with status 0 even if a control failed.")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(
            help="Write no report: check that this report.json is what the scores make, and who signed them.",
            show_default="none",
        ),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B", help="Write no report: print how two report.json differ.", show_default="none"
        ),
    ] = None,
) -> None:
    """Write report.json and report.html: the verdict, the figures, and pictures of sealed images and guesses.

    The exit status is 1 if a control failed, because the report is then invalid.
    """
    from coordinator.exchange.audit.scores_file import read_scores
    from coordinator.exchange.audit.signature import require_signer
    from coordinator.exchange.records import write_record
    from coordinator.report.build import build_report
    from coordinator.report.page import render
    from coordinator.report.pictures import gather, require_public, with_public_plain
    from coordinator.report.roster import require_on_roster
    from coordinator.report.training_section import require_same_study, training_of
    from coordinator.report.verdict_text import require_valid, summary_lines
    from crypto.identity import PublicIdentity

    # What only a report has. That --signed-by is left out of a comparison must not look like a signature that fits.
    of_a_report = (guesses, sealed, public_plain, None if out == Path() else out, allow_invalid or None)
    if compare is not None:
        if any(value is not None for value in (*of_a_report, scores, check, study, signed_by)):
            raise CipherwardError("--compare makes no report", "give it two report.json and nothing else")
        _print_comparison(*compare)
        return
    if check is not None:
        if scores is None or any(value is not None for value in of_a_report):
            raise CipherwardError(
                "--check makes no report", "cipherward-coordinator report SCORES --check REPORT.json"
            )
        _check_report(check, scores, signed_by, study)
        return
    if scores is None or guesses is None or sealed is None:
        raise CipherwardError(
            "a report needs scores, --guesses and --sealed",
            "cipherward-coordinator report SCORES --guesses GUESSES --sealed SEALED, or report --compare A B",
        )
    _require_place(out)
    numbers = read_scores(scores)
    if signed_by is not None:
        require_signer(numbers, PublicIdentity.parse(_read_line(signed_by)), str(scores))
    if study is not None:
        require_on_roster(numbers, study, str(scores))
    training = training_of(study)
    if study is not None and training is not None:
        require_same_study(numbers, study)
    name = _study_name(study, guesses, training)
    record = build_report(numbers, name, training)
    pictures = gather(guesses, record, numbers, _find_set(sealed, numbers.audited[0].set_digest))
    if public_plain is not None:
        require_public(numbers, str(scores))
        pictures = with_public_plain(pictures, public_plain)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    page = render(record, pictures, public=public_plain is not None)
    with disk_errors(out / "report.html"):
        # A page of an earlier report must not stand beside this record, wherever this is killed.
        (out / "report.html").unlink(missing_ok=True)
    write_record(out / "report.json", record)
    # Guesses may show patients' images, also where no attack reached the rule's thresholds.
    write_text(out / "report.html", page, 0o600 if public_plain is None else 0o666)
    for line in summary_lines(record):
        result.print(line)
    result.print(str(out / "report.html"))
    if not allow_invalid:
        require_valid(record)


def _require_place(out: Path) -> None:
    """Raise CipherwardError if a report written there might leave a hospital, or cost another file."""
    from coordinator.report.page import PAGE_MARK
    from coordinator.report.records import SCHEMA as REPORT_MARK

    require_stays(out, "a report may show patients' images")
    require_replaceable(out / "report.json", REPORT_MARK.rpartition("/")[0])
    require_replaceable(out / "report.html", PAGE_MARK)


def _check_report(path: Path, scores: Path, signed_by: Path | None, study: Path | None) -> None:
    """Check a report.json against signed scores, and print its verdict, who signed, and what no signature covers."""
    from coordinator.exchange.audit.scores_file import read_scores
    from coordinator.exchange.audit.signature import require_signer
    from coordinator.report.check import require_made_of, unsigned_parts
    from coordinator.report.report_file import read_report
    from coordinator.report.roster import require_on_roster
    from coordinator.report.verdict_text import headline
    from coordinator.report.wording import listed
    from crypto.identity import PublicIdentity

    record, numbers = read_report(path), read_scores(scores)
    if signed_by is not None:
        require_signer(numbers, PublicIdentity.parse(_read_line(signed_by)), str(scores))
    is_of_roster = study is not None and require_on_roster(numbers, study, str(scores))
    require_made_of(record, numbers, str(path), str(scores))
    result.print(f"{path} is what {scores} makes: {headline(record).sentence}")
    if record.signer is None:
        result.print(
            "unsigned: nothing shows who wrote the scores, or whether they were changed afterwards"
        )
    else:
        known = (
            "the expected identity"
            if signed_by or is_of_roster
            else "compare the fingerprint with the hospital"
        )
        result.print(f"signed by {record.scorer}, fingerprint {record.signer.fingerprint}: {known}")
    result.print(f"no signature covers {listed(unsigned_parts(record))}")


def _print_comparison(first: Path, second: Path) -> None:
    """Print what differs between two report.json as a table, and name what is the same."""
    from rich.table import Column, Table
    from rich.text import Text

    from coordinator.report.comparison import cautions
    from coordinator.report.comparison import compare as facts_of
    from coordinator.report.report_file import read_report

    reports = read_report(first), read_report(second)
    facts = facts_of(*reports)
    table = Table(
        "",
        Column(Text(str(first)), overflow="fold"),
        Column(Text(str(second)), overflow="fold"),
        show_lines=True,
    )
    for fact in facts:
        if fact.differs:
            table.add_row(fact.name, Text(fact.first), Text(fact.second))
    if table.row_count:
        result.print(table)
    else:
        result.print("The two reports do not differ in anything that is compared.")
    same = ", ".join(fact.name for fact in facts if not fact.differs)
    result.print(f"the same in both: {same or 'nothing'}")
    for line in cautions(*reports):
        result.print(line)


def _read_line(path: Path) -> str:
    """Return the text of a file that holds one line."""
    try:
        return read_regular(path).decode(errors="replace")
    except OSError as error:
        raise CipherwardError(
            f"cannot read {path}: {error.strerror}", "name the hospital's identity.pub"
        ) from None


def _find_set(path: Path, digest: str) -> SealedDataset:
    """Return the sealed set at a path, or in a folder of sets the one that has this digest.

    Raises:
        CipherwardError: If no set can be read there, or none of several is it.
    """
    from crypto.sets.dataset import SealedDataset

    manifests = [] if (path / "manifest.json").exists() else sorted(path.glob("*/manifest.json"))
    for manifest in manifests:
        dataset = SealedDataset.open(manifest.parent)
        if dataset.digest == digest:
            return dataset
    if manifests:
        raise CipherwardError(
            f"none of the sealed sets in {path} is the one that was scored",
            "name the folder of sealed sets that was attacked: --sealed",
        )
    return SealedDataset.open(path)


def _study_name(study: Path | None, guesses: Path, training: Training | None) -> str:
    """Return the name of the study, or `NO_STUDY` without one.

    Raises:
        CipherwardError: if the attacks observed the training of another study.
    """
    from coordinator.adversary.run.cell import study_digest
    from coordinator.exchange.audit.guesses import read_draws
    from coordinator.exchange.plan import FILE, load_plan
    from coordinator.report.records import NO_STUDY

    observed = read_draws(guesses)[1].get("study")
    if study is None:
        return NO_STUDY
    digests = {observed} if observed else set()
    if training is not None and training.update_attack is not None:
        digests.add(training.update_attack.study)
    if digests and digests != {study_digest(study)}:
        raise CipherwardError(
            f"the attacks observed another training than that in {study}",
            "name the study that they observed",
        )
    return load_plan(study / FILE).study
