"""Guesses, plain images and key → scores. This runs in the hospital, and only aggregates leave it.

The rule is `suite/2` (docs/suite.md). For each guess, one element of the declared orbit is chosen on the even audit
rows, and the odd ones are scored. Where every image has its own key, or was opened alone, each has its own element.
V is the share of rows whose SSIM beats every baseline, R the share that names its own image in a gallery, and K says
whether the recovered key opens images.

The cloud can use a scorer as an oracle. So the scorer trusts nothing in a guesses folder: the scheme is that of its
own sealed set, the rows follow from the seed and are as many as the hospital asks, and keys must be permutations.
Figures are medians of many rows, and coarse if the images are not public. Key shares are told for throwaway keys
only. It answers one question about a sealed set: the ledger remembers which guesses were scored against it, with how
many rows and which gallery, and everything else is refused. What guesses can still ask is in docs/suite.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.exchange.audit.guesses import Draw, StoredGuess, load_guess
from coordinator.exchange.audit.scores import (
    SCHEMA,
    AttackedBy,
    ClassRates,
    DrawScores,
    Figures,
    Finding,
    Scores,
)
from coordinator.exchange.audit.suite1 import PICTURED, SSIM_STEP
from coordinator.exchange.audit.suite2 import SUITE
from coordinator.exchange.time_left import Countdown
from coordinator.exchange.versions import installed_versions
from crypto.arrays import Float64Array, Parts
from crypto.files import folder_lock
from crypto.identity import Identity
from crypto.key import SecretKey
from crypto.scheme import load
from parties.agent.identity_file import ensure_identity
from parties.scoring.figures import MeasuredPictures, compute_figures, degenerate_figures, is_degenerate
from parties.scoring.hospital_run import attack_blind_controls
from parties.scoring.key_share import key_of_form
from parties.scoring.ledger import accept, read_submission, require_same_question, scored_at
from parties.scoring.measures import summarise
from parties.scoring.second_look import SecondTruth, second_truth
from parties.scoring.signing import sign_scores
from parties.scoring.true_key import check_true_key
from parties.scoring.truth import (
    OPENS_EACH_ALONE,
    Truth,
    baseline_ssims,
    build_truth,
    classified_rate,
    linkable_rate,
)
from parties.sealing.audit_sets import is_audit_set, role_of
from parties.sealing.place import Place
from parties.sealing.seal import DecodedImages, plan_sealing

Log = Callable[[str], None]


def score(
    place: Place,
    guesses: Path,
    rows: int,
    gallery: int,
    log: Log = lambda _: None,
    *,
    attacked_by: AttackedBy = "cloud",
    identity: Identity | None = None,
) -> Scores:
    """Score all draws of a guesses folder that are about this hospital's sealed sets, once.

    Args:
        place: The hospital.
        guesses: The folder with guesses.json.
        rows: How many audit images the hospital asks for; half of them are scored, the others register. Guesses about
            fewer are refused if the set holds more.
        gallery: How many plain images a guess can name.
        log: Called with a line of progress.
        attacked_by: Who ran the attacks. Blind controls are attacked here as well if it was a cloud.
        identity: Signs the scores; by default the hospital's own, which is made on first use.

    Raises:
        CipherwardError: If no draw is about this hospital, if a guess is malformed or was changed after it was
            frozen, or if other guesses about the same set, or with other rows or another gallery, were scored before.
    """
    identity = identity or ensure_identity(
        place
    )  # before the ledger: unsigned scores would use up the sets
    submission = read_submission(place, guesses, rows)
    require_same_question(place, submission, rows, gallery)
    own = attack_blind_controls(place, submission, log) if attacked_by == "cloud" else {}
    with folder_lock(place.private):
        draws, decoded = [], DecodedImages()
        accept(place, submission, rows, gallery, log, decoded)
        counted = _CountedLog(log, sum(len(draw.guesses) for draw, _ in submission.draws))
        for draw, name in submission.draws:
            log(f"{draw.name}: {draw.spec.name} as {name}")
            truth = build_truth(place, draw, name, rows, gallery, decoded)
            is_declared = draw.name in submission.declared
            scored = _score_draw(place, draw, name, truth, guesses, counted, is_declared=is_declared)
            if is_audit_set(name):
                run = _hospital_run(place, name, truth, *own[name]) if name in own else ()
                scored = scored.model_copy(update={"role": role_of(place, name), "hospital_run": run})
            draws.append(scored)
    scores = Scores(
        schema_id=SCHEMA,
        suite=SUITE,
        party=place.settings.party,
        guesses_sha256=submission.sha256,
        seed=submission.seed,
        budget_s=submission.budget_s,
        rows_asked=rows,
        gallery_asked=gallery,
        draws=tuple(draws),
        attacked_by=attacked_by,
        scored_at=scored_at(place, submission),
        scored_with=installed_versions()["cipherward"] or None,
        images_public=place.plain("train").public,
    )
    return sign_scores(scores, identity)


class _CountedLog:
    """A log of guesses that says how many of all are scored, and how long the rest will take."""

    def __init__(self, log: Log, total: int) -> None:
        """Start at the first of so many guesses."""
        self._log, self._countdown, self._done = log, Countdown(total), 0

    def __call__(self, line: str) -> None:
        """Log that a guess is being scored."""
        self._log(f"{line}; scored {self._countdown.after(self._done)}")
        self._done += 1


def _hospital_run(place: Place, name: str, truth: Truth, draw: Draw, folder: Path) -> tuple[Finding, ...]:
    """Score the hospital's own guesses about a blind control."""
    is_coarse = not plan_sealing(place, name).source.public
    baselines, second = baseline_ssims(truth), second_truth(truth)
    return tuple(_score_guesses(draw, truth, baselines, folder, None, second, is_coarse=is_coarse))


def _score_draw(
    place: Place,
    draw: Draw,
    name: str,
    truth: Truth,
    folder: Path,
    log: Log,
    *,
    is_declared: bool = False,
) -> DrawScores:
    """Score all guesses of one draw. is_declared: whether the attacks took a control for the audited scheme."""
    sealing = plan_sealing(place, name)
    key, is_coarse = sealing.key(), not sealing.source.public
    scheme = load(draw.spec)
    plain = truth.plain[truth.odd]
    ssim, is_exact = check_true_key(scheme, key, truth, draw.rows[truth.pick])
    baselines, second = baseline_ssims(truth), second_truth(truth)
    # Over many submissions, shares of a real key would give the key itself away.
    secret = key if sealing.throwaway and not scheme.row_keys else None
    findings = _score_guesses(
        draw,
        truth,
        baselines,
        folder,
        secret,
        second,
        is_coarse=is_coarse,
        is_declared=is_declared,
        log=log,
    )
    return DrawScores(
        draw=draw.name,
        set_name=name,
        spec=draw.spec,
        key_id=draw.key_id,
        set_digest=draw.digests[0],
        pool_images=draw.images,
        parties=len(draw.digests),
        rows=len(truth.odd),
        gallery=len(truth.gallery),
        pictured=tuple(truth.pick[truth.odd][:PICTURED].tolist()),
        tolerance=scheme.tolerance,
        true_key_ssim=ssim,
        true_key_exact=is_exact,
        baselines={k: summarise(v, SSIM_STEP if is_coarse else 0.0) for k, v in baselines.items()},
        linkable=linkable_rate(truth),
        classified=ClassRates(
            plain=classified_rate(plain, truth),
            ciphertext=classified_rate(scheme.picture(truth.sealed[truth.odd]), truth),
        ),
        second_looks=second.looks,
        findings=tuple(findings),
    )


@dataclass(frozen=True)
class _Against:
    """What guesses about a draw are scored against; the fields are arguments of `compute_figures`."""

    truth: Truth
    baselines: Mapping[str, Float64Array]
    second: SecondTruth
    measured: MeasuredPictures


def _each_alone(truth: Truth) -> _Against:
    """Return what guesses are scored against that open every image alone, and so in a turn and sign of its own.

    The baselines, and every image of the gallery that a guess is compared with, are granted the same.
    """
    own = truth.each_alone()
    return _Against(own, baseline_ssims(own), second_truth(own), MeasuredPictures())


def _score_guesses(
    draw: Draw,
    truth: Truth,
    baselines: Mapping[str, Float64Array],
    folder: Path,
    secret: SecretKey | None,
    second: SecondTruth,
    *,
    is_coarse: bool,
    is_declared: bool = False,
    log: Log = lambda _: None,
) -> list[Finding]:
    """Return the figures of all guesses about a draw."""
    findings = []
    shared, alone = _Against(truth, baselines, second, MeasuredPictures()), None
    for guess in draw.guesses:
        log(f"  {guess.attack} at {guess.pool_size}")
        figures = None
        against = shared
        if guess.attack in OPENS_EACH_ALONE and not truth.row_keys:
            against = alone = alone or _each_alone(truth)
        if not guess.error:
            images, stored_key = load_guess(folder, guess)
            guessed_key: Parts | None = stored_key
            if is_declared:
                guessed_key = key_of_form(guess, images, stored_key, draw.spec, len(draw.rows))
            images = images[truth.pick]
            if is_degenerate(images, truth):
                figures = degenerate_figures(truth, against.second)
            else:
                figures = compute_figures(
                    images,
                    guessed_key,
                    against.truth,
                    against.baselines,
                    secret,
                    against.second,
                    coarse=is_coarse,
                    measured=against.measured,
                )
        findings.append(_finding(guess, figures))
    return findings


def _finding(guess: StoredGuess, figures: Figures | None) -> Finding:
    """Return what is public about a guess, and its figures."""
    notes = [guess.note, figures.degenerate if figures else ""]
    return Finding(
        attack=guess.attack,
        tier=guess.tier,
        uses_pool=guess.uses_pool,
        pool_size=guess.pool_size,
        seconds=guess.seconds,
        note="; ".join(filter(None, notes)),
        error=guess.error,
        idle=guess.idle,
        fit=guess.fit,
        uncertain=guess.uncertain,
        confidence=guess.confidence,
        figures=figures,
    )
