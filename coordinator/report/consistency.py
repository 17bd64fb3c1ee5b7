"""Recompute what report.json derives from its counts: rates, broken_by, the verdict, and whether it is valid.

Nobody needs to believe a verdict. It is judged again from the findings in the same file, and a report whose verdict
says otherwise is refused, with the field named. What this cannot find is an edit of the counts themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.exchange.audit.consistency import (
    check_confidence,
    check_figures,
    check_looks,
    check_rates,
    file_name,
    is_close,
    require,
)
from coordinator.exchange.audit.scores import DrawScores, Finding
from coordinator.exchange.audit.suite2 import counts_looks, require_known
from coordinator.report.records import JudgedFinding, Report, Signer, Training, Verdict
from coordinator.report.verdict import judge
from crypto.identity import PublicIdentity


def check_report(report: Report, where: str) -> None:
    """Check every figure of report.json that follows from others.

    Args:
        report: What the file holds.
        where: The file, as it stands in messages.

    Raises:
        ContradictionError: If one does not; the message names its field.
        CipherwardError: If this version does not know the rule that the report names.
    """
    require_known(report.suite, where)
    check_rates(report, where)
    names = [draw.draw for draw in report.draws]
    require(len(set(names)) == len(names), where, "draws", "two draws have one name")
    looks = {draw.second_looks for draw in report.draws}
    if counts_looks(report.suite):
        problem = f"{report.suite} asks for a second look at every draw, alike: {sorted(map(str, looks))}"
        require(len(looks) == 1 and None not in looks, where, "draws", problem)
    for index, finding in enumerate(report.findings):
        place = f"findings.{index}"
        require(finding.draw in names, where, f"{place}.draw", f"{finding.draw!r:.60} is none of the draws")
        require(
            bool(finding.error) or finding.figures is not None, where, f"{place}.R", "it has no figures"
        )
        check_confidence(finding, where, place)
        if finding.figures is not None:
            check_figures(finding.figures, where, place)
            draw = report.draws[names.index(finding.draw)]
            check_looks(draw.second_looks, finding, where, place)
            named = finding.figures.reidentified
            require(
                named.n == draw.rows, where, f"{place}.R.n", f"{named.n} rows, the draw has {draw.rows}"
            )
            same = named.gallery == draw.gallery
            require(same, where, f"{place}.R.gallery", f"{named.gallery}, the draw has {draw.gallery}")
    _check_verdict(report, where)
    failed = report.failed_controls
    problem = f"{report.valid}, but of the controls {', '.join(failed) or 'none'} failed"
    require(bool(report.controls), where, "controls", "there are none")
    require(report.valid == (not failed), where, "valid", problem)
    if report.signer is not None:
        _check_signer(report.signer, report.scorer, where)
    if report.training is not None:
        _check_training(report.training, where)


def _check_signer(signer: Signer, scorer: str, where: str) -> None:
    """Check that the fingerprint is the identity's, and the identity the scorer's."""
    identity = PublicIdentity.parse(signer.identity)
    problem = f"{signer.fingerprint!r:.80} is not that of the identity, {identity.fingerprint}"
    require(signer.fingerprint == identity.fingerprint, where, "signer.fingerprint", problem)
    problem = f"{identity.name} signed, but {scorer} scored"
    require(identity.name == scorer, where, "signer.identity", problem)


def _check_verdict(report: Report, where: str) -> None:
    """Judge the findings again, and compare."""
    expected, verdict = judge(_draws_of(report), report.suite)
    require(len(report.key_ids) == len(report.draws), where, "key_ids", "not one for each draw")
    judged = {(f.draw, f.attack, f.pool_size): f for f in expected}
    require(len(judged) == len(report.findings), where, "findings", "one attack twice at one pool size")
    for index, finding in enumerate(report.findings):
        computed = judged[finding.draw, finding.attack, finding.pool_size]
        for name in ("broken_by", "broken", "readable_by", "baseline_ssim"):
            stated, right = getattr(finding, name), getattr(computed, name)
            require(stated == right, where, f"findings.{index}.{name}", _differs(stated, right))
    # Earlier versions named attacks that tried nothing beside those that broke the scheme: such reports are sound.
    _, earlier = judge(_draws_of(report), report.suite, name_untried=True)
    if (report.verdict.broken_by, report.verdict.readable_at) == (earlier.broken_by, earlier.readable_at):
        verdict = earlier
    for name in type(verdict).model_fields:
        stated, right = getattr(report.verdict, name), getattr(verdict, name)
        same = stated == right
        if name == "seconds":
            same = is_close(stated, right) or is_close(stated, _slower_median(verdict, expected))
        require(same, where, f"verdict.{file_name(verdict, name)}", _differs(stated, right))


def _slower_median(verdict: Verdict, findings: Sequence[JudgedFinding]) -> float | None:
    """Return the time as earlier versions stated it: of two times in the middle, the longer one."""
    size = verdict.smallest_pool
    spent = sorted(
        f.seconds for f in findings if f.pool_size == size and verdict.broken_at.get(f.attack) == size
    )
    return spent[len(spent) // 2] if spent else None


def _differs(stated: object, right: object) -> str:
    return f"{stated!r:.200} does not follow from the findings, which make {right!r:.200}"


def _draws_of(report: Report) -> Sequence[DrawScores]:
    """Return the draws as the scores had them, as far as the verdict needs them: a report holds no more."""
    draws = []
    for draw in report.draws:
        mine = [_finding_of(finding) for finding in report.findings if finding.draw == draw.draw]
        fields = {name: getattr(draw, name) for name in type(draw).model_fields}
        draws.append(DrawScores.model_construct(**fields, findings=tuple(mine)))
    return draws


def _finding_of(judged: JudgedFinding) -> Finding:
    """Return a finding without what was judged of it."""
    names = judged.model_fields_set & set(Finding.model_fields)
    return Finding.model_construct(names, **{name: getattr(judged, name) for name in names})


def _check_training(training: Training, where: str) -> None:
    """Check the accuracies against the counts that they are of."""
    test, table = training.test, training.confusion
    if test is not None:
        accuracy = training.test_accuracy
        problem = f"{accuracy} does not follow from {test.hits} of {test.n}"
        require(is_close(accuracy, test.rate), where, "training.test_accuracy", problem)
    if test is not None and table:
        total = sum(map(sum, table))
        right = sum(row[index] for index, row in enumerate(table) if index < len(row))
        counts = (right, total) == (test.hits, test.n)
        problem = f"{right} of {total} on the diagonal, the test has {test.hits} of {test.n}"
        require(counts, where, "training.confusion", problem)
    if training.plain is not None:
        stated, right_rate = training.plain_accuracy, training.plain.accuracy.rate
        problem = f"{stated}, but training.plain.accuracy has {right_rate}"
        require(is_close(stated, right_rate), where, "training.plain_accuracy", problem)
