"""The commands that repeat an audit, and those that mend one whose controls failed."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from coordinator.exchange.audit.suite1 import AUDIT_ROWS, GALLERY_IMAGES
from coordinator.report.blind_controls import BLIND
from coordinator.report.records import Report

_NOT_RUN = "not run"
#: Controls whose answer the attacks must find: where one fails, the attacks do not work as they should.
_POSITIVE = ("plain", "known", "signs", "orthogonal")
#: Images of a pool at which every attack has broken its control. With fewer it fails by chance, whatever its time.
_ENOUGH = 10


@dataclass(frozen=True)
class Mend:
    """How to mend a failed control: its name, what it needs, and the commands, one a line."""

    control: str
    need: str
    commands: tuple[str, ...]


def repeat_commands(report: Report) -> list[str]:
    """Return the commands that repeat the audit, one a line. Words in capitals are the reader's own folders."""
    if report.attacked_by == "hospital":
        return [_audit_command(report)]
    if report.attacked_by == "library":
        return [_library_call(report)]
    if report.attacked_by == "simulation":
        return [f"cipherward-coordinator simulate PLAN --set seed={report.seed}"]
    return [_attack_command(report), *_after_attack(report)]


def _pools(report: Report, least: int = 0) -> list[int]:
    """Return the pool sizes of an audit, and a further one if none reaches so many images."""
    pools = sorted({finding.pool_size for finding in report.findings if finding.uses_pool})
    return [*pools, least] if pools and pools[-1] < least else pools


def _is_small(report: Report) -> bool:
    """Return whether all pools of an audit are so small that a control may fail by chance."""
    return len(_pools(report, _ENOUGH)) > len(_pools(report))


def _library_call(report: Report, times: float = 1, least: int = 0) -> str:
    """Return the call in Python that repeats an audit of a function; words in capitals are the caller's own."""
    pools = _pools(report, least) or [1]
    rows = 2 * max((draw.rows for draw in report.draws), default=AUDIT_ROWS // 2)
    budget = "" if report.budget_s is None else f", budget_s={report.budget_s * times:g}"
    return (
        f"cipherward.audit.audit(ENCRYPT, IMAGES, sizes={tuple(pools)}, draws={report.verdict.draws}, rows={rows}, "
        f"seed={report.seed}{budget})"
    )


def mends(report: Report) -> list[Mend]:
    """Return how each failed control is mended; nothing for a valid report."""
    return [_mend(report, name) for name in report.failed_controls]


def _mend_call(report: Report, name: str) -> Mend:
    """Return how a failed control of an audit of a function is mended."""
    if name not in _POSITIVE:
        need = "Repeat the audit. If it fails again, the scoring is at fault: report that as a bug."
        return Mend(name, need, (_library_call(report),))
    if _is_small(report):
        return Mend(name, _LARGER, (_library_call(report, least=_ENOUGH),))
    need = "Repeat the audit with more time: the attacks must break this control."
    return Mend(name, need, (_library_call(report, 2),))


def _mend(report: Report, name: str) -> Mend:
    if report.attacked_by == "library":
        return _mend_call(report, name)
    by_hospital = report.attacked_by == "hospital"
    fresh = _audit_command(report, "--out", "NEW_FOLDER")
    is_missing = report.controls[name].message == _NOT_RUN
    if name == "true_key":
        need = (
            "Score with the key that sealed these sets. Check the sets first: a damaged file does not open."
        )
        return Mend(name, need, ("cipherward-party verify SEALED", *_repeat_scoring(report, fresh)))
    if name == BLIND:
        if is_missing:
            need = "Score again in the hospital: it attacks the blind controls itself."
            return Mend(name, need, _repeat_scoring(report, fresh))
        need = "Do not rely on this cloud's results. Attack in the hospital, where nothing can be withheld."
        return Mend(name, need, (fresh,))
    if is_missing or "did not meet it" in report.controls[name].message:
        need = "Attack the whole folder of sealed sets, with the control sets in it, and score again."
        return Mend(
            name, need, (fresh,) if by_hospital else (_attack_command(report), *_after_attack(report))
        )
    if name in _POSITIVE:
        need, longer, least = _LONGER, _budget(report, 2), 0
        if _is_small(report):
            need, longer, least = _LARGER, _budget(report), _ENOUGH
        command = _audit_command(report, "--out", "NEW_FOLDER", budget=longer, least=least)
        again = (_attack_command(report, budget=longer, least=least), *_after_attack(report))
        return Mend(name, need, (command,) if by_hospital else again)
    need = "Repeat the audit in a new folder. If it fails again, the scoring is at fault: report that as a bug."
    return Mend(name, need, (fresh,))


_LONGER = "Give the attacks more time, on a machine that does nothing else. They must break this control."
_LARGER = (
    "Add a larger pool: with so few images an attack on this control fails by chance, however long it takes. The "
    "attacks must break this control."
)


def _repeat_scoring(report: Report, fresh: str) -> tuple[str, ...]:
    return (fresh,) if report.attacked_by == "hospital" else _after_attack(report)


def _after_attack(report: Report) -> tuple[str, ...]:
    """Return the commands that follow an attack in the cloud."""
    return (
        shlex.join(["cipherward-party", "score", "HOSPITAL", "GUESSES", *_rows(report), *_gallery(report)]),
        "cipherward-coordinator report HOSPITAL/scores.json --guesses GUESSES --sealed SEALED --out REPORT",
    )


def _audit_command(report: Report, *more: str, budget: list[str] | None = None, least: int = 0) -> str:
    """Return the one command of a hospital's own audit, with the settings that a report holds."""
    scheme = report.scheme
    height, width, channels = scheme.image_shape
    words = ["cipherward-party", "audit", "IMAGES", "--scheme", scheme.name, "--block", str(scheme.block)]
    words += ["--key-scope", scheme.key_scope]
    for name, value in sorted((scheme.options or {}).items()):
        words += ["--option", f"{name}={value}"]
    if height == width:
        words += ["--image-size", str(height)]
    words += ["--gray" if channels == 1 else "--rgb", "--draws", str(max(1, report.verdict.draws))]
    words += [*_rows(report), *_gallery(report), *_public(report)]
    words += [*_pools_and_attacks(report, least), *(_budget(report) if budget is None else budget), *more]
    return shlex.join(words)


def _attack_command(report: Report, budget: list[str] | None = None, least: int = 0) -> str:
    words = ["cipherward-coordinator", "attack", "SEALED", "--out", "GUESSES", "--seed", str(report.seed)]
    words += [*_rows(report), *_public(report)]
    words += [*_pools_and_attacks(report, least), *(_budget(report) if budget is None else budget)]
    return shlex.join(words)


def _rows(report: Report) -> list[str]:
    """Return the option for the number of audit images, where it is not the default."""
    rows = report.rows_asked
    if rows is None:  # half of the audit rows are scored
        rows = 2 * max((draw.rows for draw in report.draws), default=AUDIT_ROWS // 2)
    return [] if rows == AUDIT_ROWS else ["--rows", str(rows)]


def _gallery(report: Report) -> list[str]:
    """Return the option for the size of the gallery, where it is not the default.

    The draws do not say what was asked for: where a hospital has few images, a gallery is smaller than that.
    """
    asked = report.gallery_asked
    return [] if asked in (None, GALLERY_IMAGES) else ["--gallery", str(asked)]


def _public(report: Report) -> list[str]:
    """Return the option for public images, where an attack that needs some has run."""
    has_some = any(finding.tier == "T2" and not finding.idle for finding in report.findings)
    return ["--public", "PUBLIC"] if has_some else []


def _pools_and_attacks(report: Report, least: int = 0) -> list[str]:
    pools = _pools(report, least)
    attacks = dict.fromkeys(finding.attack for finding in report.findings)
    words = ["--pools", ",".join(map(str, pools))] if pools else []
    return [*words, "--attacks", ",".join(attacks)] if attacks else words


def _budget(report: Report, times: float = 1) -> list[str]:
    return [] if report.budget_s is None else ["--budget", f"{report.budget_s * times:g}s"]
