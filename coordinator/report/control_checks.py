"""The controls of an audit: cases whose answer is known beforehand. If one fails, the report is invalid."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from coordinator.exchange.audit.control_sets import PREFIX, TARGETED, meets, positive_control
from coordinator.exchange.audit.rates import GalleryRate
from coordinator.exchange.audit.scores import AttackedBy, DrawScores, Finding
from coordinator.exchange.audit.suite1 import is_above_chance, readable_by
from coordinator.exchange.audit.suite2 import broken_by
from coordinator.report.blind_controls import BLIND, check_blind
from coordinator.report.records import Control, Controls
from crypto.plural import agreeing, counted

#: Median SSIM that the true key must reach where a scheme's own round trip is not exact.
_INEXACT_SSIM = 0.95
_RECOVERY, _MATCHING = "pooled_key_recovery", "moment_matching"
#: Schemes for which moment matching has a program of its own. On all others it is the one that its control tries.
_OTHER_MATCHING = ("block_projection", "neuracrypt")


def check_controls(
    draws: Sequence[DrawScores], suite: str, attacked_by: AttackedBy | None = None
) -> Controls:
    """Return each control, by name, with what was observed. A control that was not run has failed.

    Control sets for particular attacks are required only where the audit runs one of those attacks. Blind controls
    are required of a cloud alone: a hospital that runs the attacks withholds nothing from itself.

    Args:
        draws: All scored draws, the controls among them.
        suite: The rule that they are judged by.
        attacked_by: Who ran the attacks; None where that was not recorded.
    """
    by_set = {draw.set_name: draw for draw in reversed(draws)}
    audited = {finding.attack for draw in draws if not draw.is_control for finding in draw.findings}
    controls = {"true_key": _check_true_key(draws)}
    checks = {
        "plain": _check_plain,
        "known": _check_known,
        "noise": _check_noise,
        "permuted": _check_permuted,
    }
    for name, check in checks.items():
        draw = by_set.get(PREFIX + name)
        controls[name] = _not_run() if draw is None else _require_all(draw, audited, check(draw, suite))
    for set_name, attacks in TARGETED.items():
        required = [attack for attack in attacks if attack in audited]
        if required:
            draw = by_set.get(set_name)
            controls[set_name.removeprefix(PREFIX)] = (
                _not_run() if draw is None else _check_positive(draw, required, suite)
            )
    controls["derangement"] = _check_derangement(draws)
    if attacked_by == "cloud" or any(draw.is_blind_control for draw in draws):
        controls[BLIND] = check_blind(draws, suite)
    return controls


def missing_positive_controls(draws: Sequence[DrawScores]) -> list[str]:
    """Return, one sentence each, what no positive control covers.

    These are the audit's attacks without a positive control, key recovery of another scheme than the control's, and
    moment matching by another program than the control's, or through more noise. An attack that tried nothing needs
    no control.
    """
    audited = [draw for draw in draws if not draw.is_control]
    tried = dict.fromkeys(
        finding.attack for draw in audited for finding in draw.findings if not finding.idle
    )
    doubts = [
        f"no positive control was run for {attack}" for attack in tried if not positive_control(attack)
    ]
    specs = {draw.set_name.removeprefix(PREFIX): draw.spec for draw in reversed(draws) if draw.is_control}
    spec = audited[0].spec if audited else None
    known, orthogonal = specs.get("known"), specs.get("orthogonal")
    if spec and known and _RECOVERY in tried and known.name != spec.name:
        doubts.append(
            f"key recovery's positive control is {known.name}: none was run for its part on {spec.name}"
        )
    if spec and orthogonal and _MATCHING in tried and spec.name in _OTHER_MATCHING:
        doubts.append(
            f"moment matching's positive control is {orthogonal.name}: none was run for its part on {spec.name}"
        )
    noise = spec.options.get("sigma") if spec else None
    if noise and orthogonal and _MATCHING in tried and orthogonal.options.get("sigma") != noise:
        doubts.append(
            f"moment matching's positive control is {orthogonal.name}: none was run with noise of {noise} gray levels"
        )
    return doubts


def _not_run() -> Control:
    return Control(ok=False, message="not run")


def _check_true_key(draws: Sequence[DrawScores]) -> Control:
    """Check that the true key opens every scored row; where no key does, that it seals it to its ciphertext again."""
    if not draws:
        return Control(ok=False, message="no draw was scored")
    opened = [(draw.true_key_ssim, draw) for draw in draws if draw.true_key_ssim is not None]
    resealed = [draw for draw in draws if draw.true_key_ssim is None]
    messages = []
    if opened:
        worst = min(ssim for ssim, _ in opened)
        messages.append(
            f"the true key opens the scored rows of {counted(len(opened), 'sealed set')}, least median SSIM "
            f"{worst:.3f}"
        )
    if resealed:
        exact = sum(draw.true_key_exact for draw in resealed)
        messages.append(
            f"no key opens {resealed[0].spec.name}: the true key seals the plain rows to their ciphertexts again in "
            f"{exact} of {counted(len(resealed), 'sealed set')}"
        )
    return Control(
        ok=all(draw.true_key_exact for draw in draws)
        and all(ssim >= _required_ssim(draw) for ssim, draw in opened),
        message="; ".join(messages),
    )


def _required_ssim(draw: DrawScores) -> float:
    return 1.0 if draw.tolerance == 0 else _INEXACT_SSIM


def _require_all(draw: DrawScores, audited: Collection[str], control: Control) -> Control:
    """Fail the control if an attack of the audit that must meet this set has no finding about it."""
    met = {finding.attack for finding in draw.findings}
    absent = sorted(attack for attack in audited if meets(attack, draw.set_name) and attack not in met)
    if not absent:
        return control
    return Control(ok=False, message=f"{control.message}; but {', '.join(absent)} did not meet it")


def _check_unbroken(draw: DrawScores, scheme: str, suite: str) -> Control:
    """Check that nothing breaks a set that nothing can open: whatever breaks it measures something else."""
    breaks = [
        finding.cell for finding in draw.findings if broken_by(finding, suite) or readable_by(finding)
    ]
    crashed = sorted({finding.attack for finding in draw.findings if finding.error})
    is_complete = bool(draw.findings) and not crashed
    if is_complete:
        message = "broken by " + (", ".join(breaks) or "no attack")
    else:
        message = f"not attacked to the end: {', '.join(crashed) or 'no finding'}"
    return Control(ok=draw.spec.name == scheme and not breaks and is_complete, message=message)


def _check_permuted(draw: DrawScores, suite: str) -> Control:
    """Check images under a fresh permutation of all values each: the histogram is left, but no picture."""
    return _check_unbroken(draw, "permuted", suite)


def _check_noise(draw: DrawScores, suite: str) -> Control:
    """Check images under a one-time mask each: not even a histogram is left to link them by."""
    control, rate = _check_unbroken(draw, "noise", suite), draw.linkable
    if rate is None or not is_above_chance(rate):
        return control
    return Control(ok=False, message=f"{control.message}; but {rate.hits} of {rate.n} are linkable")


def _check_known(draw: DrawScores, suite: str) -> Control:
    """Check a scheme that key recovery is known to open: if it does not, an audit measures nothing."""
    recovered = draw.of(_RECOVERY)
    if not recovered:
        return Control(ok=True, message="no attack that is known to break it was run")
    # A run that was cut short says nothing if another ran to its end. A crash is a fault.
    finished = [finding for finding in recovered if "truncated" not in finding.note] or recovered
    last = _largest_pool(finished)
    crashed = ", ".join(str(finding.pool_size) for finding in recovered if finding.error)
    opens = "K" in broken_by(last, suite)
    message = (
        f"key recovery at {last.pool_size} {'opens' if opens else 'does not open'} "
        f"what it is known to break: {draw.spec.name}"
    )
    if crashed:
        message += f"; it crashed at {crashed}"
    return Control(ok=opens and not crashed, message=message)


def _check_plain(draw: DrawScores, suite: str) -> Control:
    """Check images that are not encrypted at all: every attack that is known to break them must."""
    ok, messages = True, []
    as_is, recovered = draw.of("as_is"), draw.of(_RECOVERY)
    if as_is:
        ok = any(broken_by(finding, suite) for finding in as_is)
        messages.append("as_is breaks it" if ok else "as_is does not break it")
    if recovered:
        last = _largest_pool(recovered)
        key = last.figures.key if last.figures else None
        is_identity = key is not None and key.block_order == key.pixel_order == 1.0
        ok = ok and is_identity
        result = "the identity" if is_identity else "something other than the identity"
        messages.append(f"key recovery at {last.pool_size} finds {result} (up to a whole-block shift)")
    rate = draw.linkable
    if rate is not None and not is_above_chance(rate):
        ok = False
        messages.append(
            f"only {rate.hits} of {counted(rate.n, 'image')} {agreeing(rate.hits, 'is', 'are')} linkable"
        )
    return Control(ok=ok, message="; ".join(messages) or "no attack that is known to break it was run")


def _check_positive(draw: DrawScores, attacks: Sequence[str], suite: str) -> Control:
    """Check a scheme that each of these attacks is known to break: one that does not break it did not really run.

    K or V must show it. R alone is not enough: it can come from the ciphertext as it is, because blocks that stay
    in their places keep their contrast.
    """
    breaks = {
        attack: any(
            not finding.idle and {"K", "V"} & set(broken_by(finding, suite)) for finding in draw.of(attack)
        )
        for attack in attacks
    }
    words = [f"{attack} {'breaks' if does else 'does not break'} it" for attack, does in breaks.items()]
    return Control(ok=all(breaks.values()), message=f"{draw.spec.name}: {', '.join(words)}")


def _check_derangement(draws: Sequence[DrawScores]) -> Control:
    """Check every guess against the next row's image: it must name that image no more often than chance."""
    rates: list[tuple[DrawScores, Finding, GalleryRate]] = []
    missing = set()
    for draw in draws:
        for finding in draw.findings:
            rate = finding.figures.reidentified_deranged if finding.figures else None
            if rate is not None:
                rates.append((draw, finding, rate))
                look = finding.figures.second_look if finding.figures else None
                rates += [(draw, finding, look.reidentified_deranged)] if look else []
            elif not finding.error:
                missing.add(finding.attack)
    if not rates:
        return _not_run()
    if missing:
        return Control(ok=False, message=f"not run for {', '.join(sorted(missing))}")
    wrong = [f"{finding.cell} in {draw.draw}" for draw, finding, rate in rates if is_above_chance(rate)]
    if wrong:
        return Control(ok=False, message=f"guesses name images that they are not about: {', '.join(wrong)}")
    most = max(rate.rate for *_, rate in rates)
    guesses = len({(draw.draw, finding.cell) for draw, finding, _ in rates})
    twice = ", at the first look and the second" if len(rates) > guesses else ""
    return Control(
        ok=True,
        message=f"{counted(guesses, 'set of guesses names', 'sets of guesses name')} the images of other rows "
        f"in {100 * most:.1f} % of cases at most{twice}",
    )


def _largest_pool(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding.pool_size)
