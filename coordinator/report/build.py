"""report.json: scores of all draws, the training's figures, controls and the verdict of `suite/1`.

Nothing here softens or strengthens: a finding is broken where the rule says so, a failed control makes
the whole report invalid, and what was not run is absent or said.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coordinator.exchange.suite1 import above_chance, broken_by
from coordinator.report.control_checks import controls_of, is_control, without_control
from crypto.cores import cores
from crypto.errors import CipherwardError
from crypto.files import read_json
from crypto.scheme import load
from crypto.sets.dataset import same_but_nonce
from crypto.spec import SchemeSpec

SCHEMA = "cipherward.audit/1"
_SCORES = "cipherward.scores/1"
ATTACKS = ("as_is", "leading_bit", "pooled_key_recovery")  # what suite/1 runs
DRAWS = 3
ROWS = 64
GALLERY = 200
FURTHER = "audit-"  # the names of sets under throwaway keys, which no training had


def read_scores(path: Path) -> dict[str, Any]:
    """scores.json; raises CipherwardError where it is missing or not ours."""
    scores = read_json(path, "scores")
    if not isinstance(scores, dict) or scores.get("schema") != _SCORES:
        raise CipherwardError(f"{path} is not a {_SCORES} file")
    try:
        build_report(scores, "check")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CipherwardError(f"{path} is damaged: {error!r}") from None
    return scores


def judge(draws: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(findings, verdict) over the audit's draws, controls left out.

    Broken at n: in at least two thirds of the draws at n, crashed ones counted as not broken, and not refuted by the
    next larger n that decides. An n decides where enough draws fell, or where so many withstood that not enough
    could have: a crash, a time-out and an attack that did nothing are no resistance. Attacks on a training (T5) are
    judged over the draws of the training's own key. Linkable, a level apart from broken: in two thirds of the draws,
    ciphertexts name their own image by what the scheme leaves unchanged (None where that was not measured).
    """
    findings = [
        {"draw": draw["draw"], "broken_by": broken_by(f), "broken": bool(broken_by(f)), **f}
        for draw in draws
        for f in draw["findings"]
    ]
    for finding, draw in zip(findings, [d for d in draws for _ in d["findings"]], strict=True):
        finding["baseline_ssim"] = {k: v["median"] for k, v in draw["baselines"].items()}
    breaking: dict[str, int] = {}
    finished_at: dict[str, list[int]] = {}
    for attack in dict.fromkeys(f["attack"] for f in findings):
        own = draws_for(draws, attack)
        mine = [f for f in findings if f["attack"] == attack and f["draw"] in {d["draw"] for d in own}]
        finished_at[attack] = finished(draws, attack)
        smallest = _smallest(mine, len(own)) if own else None
        if smallest is not None:
            breaking[attack] = smallest
    smallest = min(breaking.values(), default=None)
    first = [a for a, n in breaking.items() if n == smallest]
    seconds = sorted(f["seconds"] for f in findings if f["attack"] in first and f["pool_size"] == smallest)
    named = [draw.get("linkable") for draw in draws]
    linking = sum(above_chance(n) for n in named if n is not None)
    pooling = {f["attack"] for f in findings if f["uses_pool"]}
    verdict = {
        "broken": bool(breaking),
        "broken_by": sorted(breaking, key=lambda a: (breaking[a], a)),
        "broken_at": breaking,
        "smallest_pool": smallest,
        "largest_pool": max((n for sizes in finished_at.values() for n in sizes), default=0),
        "finished_at": finished_at,
        "pool_attacked": any(finished_at[attack] for attack in pooling),
        "of_training": sorted({f["attack"] for f in findings if f["tier"] == "T5"}),
        "seconds": seconds[len(seconds) // 2] if seconds else None,
        "draws": len(draws),
        "draws_needed": needed_of(len(draws)),
        "linkable": None if not draws or None in named else linking >= needed_of(len(draws)),
        "linkable_draws": linking,
    }
    return findings, verdict


def needed_of(draws: int) -> int:
    """How many of so many draws make two thirds."""
    return math.ceil(2 * draws / 3)


def draws_for(draws: Sequence[Mapping[str, Any]], attack: str) -> list[Mapping[str, Any]]:
    """The draws that an attack can win: all, but for one on a training, whose key the further draws do not have."""
    tiers = {f["tier"] for d in draws for f in d["findings"] if f["attack"] == attack}
    return [d for d in draws if "T5" not in tiers or not str(d["set"]).startswith(FURTHER)]


def whole(finding: Mapping[str, Any]) -> bool:
    """Whether an attack ran to its end: it did not crash, time out, or hand the ciphertext back untried."""
    return not (finding["error"] or "truncated" in finding["note"] or finding.get("idle"))


def _smallest(findings: Sequence[Mapping[str, Any]], draws: int) -> int | None:
    """The smallest pool size at which one attack breaks, over so many draws."""
    needed = needed_of(draws)
    sizes = sorted({f["pool_size"] for f in findings})
    at = {n: [f for f in findings if f["pool_size"] == n] for n in sizes}
    for n in sizes:
        if sum(f["broken"] for f in at[n]) >= needed:
            for larger in (at[m] for m in sizes if m > n):
                fell = sum(f["broken"] and whole(f) for f in larger)
                withstood = sum(not f["broken"] and whole(f) for f in larger)
                if fell >= needed:
                    return n
                if withstood > draws - needed:
                    break  # refuted: a lucky size
            else:
                return n
    return None


def finished(draws: Sequence[Mapping[str, Any]], attack: str) -> list[int]:
    """The pool sizes at which an attack ran to its end in every draw that it can win, rising."""
    own = draws_for(draws, attack)
    done = [f["pool_size"] for d in own for f in d["findings"] if f["attack"] == attack and whole(f)]
    return sorted(n for n in set(done) if done.count(n) >= len(own))


def doubts_of(draws: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where an audit falls short of what suite/1 asks for: printed beside the verdict."""
    doubts = []
    findings = [f for d in draws for f in d["findings"]]
    for attack in ATTACKS:
        if not any(f["attack"] == attack for f in findings):
            doubts.append(f"{attack}, which suite/1 runs, was not run")
        elif not finished(draws, attack) and not all(
            f.get("idle") for f in findings if f["attack"] == attack
        ):
            doubts.append(f"{attack} finished at no pool size in every draw")
    if len(draws) < DRAWS:
        doubts.append(f"{len(draws)} draw of key and pool instead of {DRAWS}")
    rows = min((d["rows"] for d in draws), default=0)
    if rows < ROWS:
        doubts.append(f"{rows} scored rows a draw instead of {ROWS}")
    gallery = min((d["gallery"] for d in draws), default=0)
    if gallery < GALLERY:
        doubts.append(f"a gallery of {gallery} images instead of {GALLERY}")
    idle: dict[tuple[str, str], int] = {}
    for f in findings:
        if f.get("idle"):
            idle[f["attack"], f["note"]] = idle.get((f["attack"], f["note"]), 0) + 1
    for (attack, note), times in idle.items():
        of = sum(f["attack"] == attack for f in findings)
        doubts.append(f"{attack} did not attack, {times} of {of} times: {note or 'it does not say why'}")
    for draw in draws:
        for f in draw["findings"]:
            if f.get("idle"):
                continue
            if f["error"]:
                doubts.append(f"{f['attack']} at {f['pool_size']} crashed in {draw['draw']}: {f['error']}")
            elif f["note"]:
                doubts.append(f"{f['attack']} at {f['pool_size']} in {draw['draw']}: {f['note']}")
    return doubts


def build_report(
    scores: Mapping[str, Any],
    study: str,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole of report.json from scores and, where a study trained, its training section."""
    audited = [d for d in scores["draws"] if not is_control(d)]
    if not audited:
        raise CipherwardError("the scores hold controls only, no draw of the scheme")
    spec = SchemeSpec.from_json(audited[0]["spec"])
    for draw in audited[1:]:
        if not same_but_nonce(SchemeSpec.from_json(draw["spec"]), spec):
            raise CipherwardError("the draws are of different schemes: one verdict cannot cover them")
    scheme = load(spec)
    findings, verdict = judge(audited)
    controls = controls_of(scores["draws"])
    doubts = doubts_of(audited) + without_control(scores["draws"])
    absent = (training or {}).get("absent_from_test") or []
    if absent:
        doubts.append(f"the test accuracy leaves out {', '.join(absent)}, who did not answer")
    return {
        "schema": SCHEMA,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "study": study,
        "seed": scores["seed"],
        "suite": scores["suite"],
        "budget_s": scores.get("budget_s"),
        "versions": versions(),
        "machine": machine(),
        "scheme": {
            **{k: v for k, v in spec.to_json().items() if k != "options"},
            "formula_bits": scheme.formula_bits(),
            "effective_bits": scheme.effective_bits(),
        },
        "key_ids": [d["key_id"] for d in audited],
        "pool": {
            "images": audited[0]["pool_images"],
            "shape": list(spec.image_shape),
            "parties": audited[0]["parties"],
        },
        "scorer": scores["party"],
        "training": training,
        "controls": controls,
        "valid": all(c["ok"] for c in controls.values()),
        "doubts": doubts,
        "draws": [
            {k: d[k] for k in ("draw", "set", "rows", "gallery", "baselines")}
            | {k: d.get(k) for k in ("linkable", "classified")}
            for d in audited
        ],
        "findings": findings,
        "verdict": verdict,
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("cipherward", "flwr", "torch", "timm", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Cores and memory: what a reader needs to place the seconds."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cores": cores(), "memory_gib": round(memory, 1), "system": platform.system()}
