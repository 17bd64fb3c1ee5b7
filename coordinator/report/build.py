"""report.json: scores of all draws, the training's figures, controls, and the verdict by the scores' own rule.

A failed control makes the whole report invalid. What was not run is absent, or named among the doubts.
"""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from coordinator.exchange.audit.scores import DrawScores, Scores
from coordinator.exchange.audit.signature import check_signature, scores_digest
from coordinator.exchange.audit.suite2 import require_known
from coordinator.report.control_checks import check_controls, missing_positive_controls
from coordinator.report.doubts import doubts_of, doubts_of_origin
from coordinator.report.records import (
    SCHEMA,
    Machine,
    PoolFacts,
    Report,
    ReportDraw,
    SchemeFacts,
    Signer,
    Training,
)
from coordinator.report.verdict import judge
from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.scheme import load, without_nonce
from crypto.sets.dataset import equal_except_nonce
from crypto.spec import SchemeSpec


def build_report(scores: Scores, study: str, training: Training | None = None) -> Report:
    """Return the whole of report.json.

    Args:
        scores: What the hospital scored.
        study: The study's name.
        training: The training section, where the study trained a model.

    Raises:
        CipherwardError: If the scores hold controls only, or draws of different schemes, or were changed after they
            were signed, or name a rule that this version does not know.
    """
    require_known(scores.suite, "the scores")
    signer = _signer_of(scores)
    draws = scores.audited
    spec = _common_spec(draws)
    findings, verdict = judge(draws, scores.suite)
    controls = check_controls(scores.draws, scores.suite, scores.attacked_by)
    doubts = doubts_of_origin(scores) + doubts_of(draws, scores.suite)
    doubts += missing_positive_controls(scores.draws)
    if training is not None and training.absent_from_test:
        absent = ", ".join(training.absent_from_test)
        doubts.append(f"the test accuracy leaves out {absent}, who did not answer")
    if training is not None and training.test_refused:
        refused = ", ".join(training.test_refused)
        doubts.append(f"the test accuracy leaves out {refused}, whose figures were refused")
    return Report(
        schema_id=SCHEMA,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        study=study,
        seed=scores.seed,
        suite=scores.suite,
        budget_s=scores.budget_s,
        rows_asked=scores.rows_asked,
        gallery_asked=scores.gallery_asked,
        versions=versions(),
        machine=Machine(**machine()),
        scheme=_scheme_facts(spec),
        key_ids=tuple(draw.key_id for draw in draws),
        pool=PoolFacts(images=draws[0].pool_images, shape=spec.image_shape, parties=draws[0].parties),
        scorer=scores.party,
        training=training,
        controls=controls,
        valid=all(control.ok for control in controls.values()),
        doubts=tuple(doubts),
        draws=tuple(
            ReportDraw(**{name: getattr(draw, name) for name in ReportDraw.model_fields}) for draw in draws
        ),
        findings=tuple(findings),
        verdict=verdict,
        attacked_by=scores.attacked_by,
        signer=signer,
        scored_at=scores.scored_at,
        scored_with=scores.scored_with,
    )


def _signer_of(scores: Scores) -> Signer | None:
    """Return who signed the scores, after a check of the signature; None where they are unsigned."""
    identity = check_signature(scores)
    if identity is None or scores.signature is None:
        return None
    return Signer(
        identity=identity.line,
        fingerprint=identity.fingerprint,
        signature=scores.signature,
        scores_sha256=scores_digest(scores),
    )


def _common_spec(draws: list[DrawScores]) -> SchemeSpec:
    """Return the scheme that all audited draws are of."""
    if not draws:
        raise CipherwardError(
            "the scores hold controls only, no draw of the scheme",
            "attack the whole folder of sealed sets, and score the guesses: cipherward-party score",
        )
    if not all(equal_except_nonce(draw.spec, draws[0].spec) for draw in draws):
        raise CipherwardError(
            "the draws are of different schemes: one verdict cannot cover them",
            "attack and score the sets of each scheme in a folder of their own",
        )
    return draws[0].spec


def _scheme_facts(spec: SchemeSpec) -> SchemeFacts:
    scheme = load(spec)
    return SchemeFacts(
        name=spec.name,
        version=spec.version,
        image_shape=spec.image_shape,
        block=spec.block,
        key_scope=spec.key_scope,
        formula_bits=scheme.formula_bits(),
        effective_bits=scheme.effective_bits(),
        noise_sigma=scheme.noise_sigma,
        is_invertible=scheme.is_invertible,
        options=dict(without_nonce(spec).options),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    result = {"python": platform.python_version()}
    for name in ("cipherward", "flwr", "torch", "timm", "numpy"):
        try:
            result[name] = version(name)
        except PackageNotFoundError:
            result[name] = "not installed"
    return result


def machine() -> dict[str, Any]:
    """Return cores, memory and system: what a reader needs to interpret the seconds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cores": cores(), "memory_gib": round(memory, 1), "system": platform.system()}
