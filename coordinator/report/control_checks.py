"""The controls of an audit: cases whose answer is known beforehand. Where one fails, the report is invalid."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from coordinator.exchange.control_sets import FOR, PREFIX, meets, positive_control
from coordinator.exchange.suite1 import above_chance, broken_by

Draw = Mapping[str, Any]
Control = dict[str, Any]


def is_control(draw: Draw) -> bool:
    return str(draw["set"]).startswith(PREFIX)


def controls_of(draws: Sequence[Draw]) -> dict[str, Control]:
    """Each control with `ok` and, in words, what was seen. A control that was not run has failed.

    Sets made for some attacks alone are asked for where the audit runs one of those.
    """
    every = {"true_key": _true_key(draws)}
    checks = {"plain": _plain, "known": _known, "noise": _noise, "permuted": _permuted}
    audited = {f["attack"] for d in draws if not is_control(d) for f in d["findings"]}
    for name, check in checks.items():
        run = [d for d in draws if d["set"] == PREFIX + name]
        every[name] = _met(run[0], audited, check(run[0])) if run else {"ok": False, "said": "not run"}
    for name, attacks in FOR.items():
        wanted = [attack for attack in attacks if attack in audited]
        run = [d for d in draws if d["set"] == name]
        if wanted:
            done = _positive(run[0], wanted) if run else {"ok": False, "said": "not run"}
            every[name.removeprefix(PREFIX)] = done
    every["derangement"] = _derangement(draws)
    return every


def without_control(draws: Sequence[Draw]) -> list[str]:
    """What no positive control says: attacks of an audit that have none, and key recovery of other schemes."""
    audited = [d for d in draws if not is_control(d)]
    attacks = dict.fromkeys(f["attack"] for d in audited for f in d["findings"])
    said = [
        f"no positive control was run for {attack}" for attack in attacks if not positive_control(attack)
    ]
    known = [d["spec"]["name"] for d in draws if d["set"] == f"{PREFIX}known"]
    names = [d["spec"]["name"] for d in audited]
    if "pooled_key_recovery" in attacks and known and names and known[0] != names[0]:
        said.append(
            f"key recovery's positive control is {known[0]}: none was run for its part on {names[0]}"
        )
    return said


def _true_key(draws: Sequence[Draw]) -> Control:
    if not draws:
        return {"ok": False, "said": "no draw was scored"}
    worst = min(d["true_key_ssim"] for d in draws)
    return {
        "ok": all(d["true_key_exact"] and d["true_key_ssim"] >= _least(d) for d in draws),
        "said": f"the true key opens the scored rows of {len(draws)} sealed sets, least median SSIM {worst:.3f}",
    }


def _met(draw: Draw, audited: Collection[str], seen: Control) -> Control:
    """What was seen of a set, failed where an attack of the audit that meets it has no finding about it."""
    met = {f["attack"] for f in draw["findings"]}
    absent = sorted(a for a in audited if meets(a, draw["set"]) and a not in met)
    if not absent:
        return seen
    return {"ok": False, "said": f"{seen['said']}; but {', '.join(absent)} did not meet it"}


def _least(draw: Draw) -> float:
    """The SSIM that the true key must reach: 1, but for schemes whose round trip is not exact."""
    return 1.0 if draw.get("tolerance", 0.0) == 0 else 0.95


def _unbroken(draw: Draw, name: str) -> Control:
    """What holds of a set that nothing can open: whatever breaks it measures something else."""
    hits = [f"{f['attack']} at {f['pool_size']}" for f in draw["findings"] if broken_by(f)]
    crashed = [f["attack"] for f in draw["findings"] if f["error"]]
    said = "broken by " + ", ".join(hits) if hits else "broken by no attack"
    if crashed or not draw["findings"]:
        said = f"not attacked to the end: {', '.join(sorted(set(crashed))) or 'no finding'}"
    return {
        "ok": draw["spec"]["name"] == name and not hits and not crashed and bool(draw["findings"]),
        "said": said,
    }


def _permuted(draw: Draw) -> Control:
    """A fresh permutation of all values for each image: its histogram is there, and no picture."""
    return _unbroken(draw, "permuted")


def _noise(draw: Draw) -> Control:
    """A one-time mask for each image: not even a histogram is left to link it by."""
    seen, named = _unbroken(draw, "noise"), draw.get("linkable")
    if named is not None and above_chance(named):
        return {"ok": False, "said": f"{seen['said']}; but {named['hits']} of {named['n']} are linkable"}
    return seen


def _known(draw: Draw) -> Control:
    """A scheme that key recovery is known to open, on public images: if it does not, an audit measures nothing."""
    recovered = [f for f in draw["findings"] if f["attack"] == "pooled_key_recovery"]
    if not recovered:
        return {"ok": True, "said": "no attack that is known to break it was run"}
    # One cut short says nothing where another ran to its end; one that crashed is a fault.
    ended = [f for f in recovered if "truncated" not in f["note"]] or recovered
    last = max(ended, key=lambda f: f["pool_size"])
    crashed = ", ".join(str(f["pool_size"]) for f in recovered if f["error"])
    opens = "K" in broken_by(last)
    said = f"key recovery at {last['pool_size']} {'opens' if opens else 'does not open'} "
    said += f"what it is known to break: {draw['spec']['name']}"
    return {"ok": opens and not crashed, "said": f"{said}; it crashed at {crashed}" if crashed else said}


def _plain(draw: Draw) -> Control:
    bare = [f for f in draw["findings"] if f["attack"] == "as_is"]
    ok, said = True, []
    if bare:
        ok = any(broken_by(f) for f in bare)
        said.append("as_is breaks it" if ok else "as_is does not break it")
    recovered = [f for f in draw["findings"] if f["attack"] == "pooled_key_recovery"]
    if recovered:
        last = max(recovered, key=lambda f: f["pool_size"])
        key = last.get("key")
        same = bool(key) and key["block_order"] == key["pixel_order"] == 1.0
        ok = ok and same
        words = "the identity" if same else "something else than the identity"
        said.append(f"key recovery at {last['pool_size']} finds {words} (up to a whole-block shift)")
    named = draw.get("linkable")
    if named is not None and not above_chance(named):
        ok = False
        said.append(f"only {named['hits']} of {named['n']} images are linkable")
    return {"ok": ok, "said": "; ".join(said) or "no attack that is known to break it was run"}


def _positive(draw: Draw, wanted: Sequence[str]) -> Control:
    """A scheme that each of these attacks is known to break: one that does not break it did not really run.

    By K or V: R alone may come of the ciphertext as it is (blocks in their places keep their contrast).
    """
    falls = {
        attack: any(
            f["attack"] == attack and not f.get("idle") and {"K", "V"} & set(broken_by(f))
            for f in draw["findings"]
        )
        for attack in wanted
    }
    said = [f"{attack} {'breaks' if fell else 'does not break'} it" for attack, fell in falls.items()]
    return {"ok": all(falls.values()), "said": f"{draw['spec']['name']}: {', '.join(said)}"}


def _derangement(draws: Sequence[Draw]) -> Control:
    """Every guess scored as if it were of the next row's image: that must come out as chance does."""
    scored = [(d, f) for d in draws for f in d["findings"] if f.get("R_deranged") is not None]
    if not scored:
        return {"ok": False, "said": "not run"}
    missing = [
        f["attack"] for d in draws for f in d["findings"] if not f["error"] and not f.get("R_deranged")
    ]
    if missing:
        return {"ok": False, "said": f"not run of {', '.join(sorted(set(missing)))}"}
    amiss = [(d, f) for d, f in scored if above_chance(f["R_deranged"])]
    if amiss:
        named = ", ".join(f"{f['attack']} at {f['pool_size']} in {d['draw']}" for d, f in amiss)
        return {"ok": False, "said": f"guesses name images that they are not about: {named}"}
    most = max(f["R_deranged"]["rate"] for _, f in scored)
    said = f"{len(scored)} sets of guesses name the images of other rows in {most:.1%} of cases at most"
    return {"ok": True, "said": said}
