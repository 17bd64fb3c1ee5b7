"""The control sets of an audit: which attacks meet which. What must come out: coordinator/report/control_checks.py.

The hospital that scores seals them all, of public images, under keys made for that alone. The cloud is handed them
beside the sets that it attacks, in folders of these names.
"""

from __future__ import annotations

PREFIX = "control-"
#: Met by every attack of an audit.
ALWAYS = ("control-known", "control-noise", "control-permuted", "control-plain")
#: Each must fall to these attacks, and meets no others.
FOR: dict[str, tuple[str, ...]] = {
    "control-signs": ("leading_bit", "edge_guided", "minimum_difference"),
    "control-orthogonal": ("moment_matching",),
}
#: Not attacked: images as plain as `control-orthogonal`'s, of the same source, public for the attacks on it.
PUBLIC = "control-public"
SETS = (*ALWAYS, *FOR, PUBLIC)
#: Attacked at the largest pool size alone; the others at every one.
LARGEST = ("control-permuted", *FOR)


def meets(attack: str, name: str) -> bool:
    """Whether an attack of the audit is run on the set in a folder of that name."""
    return name != PUBLIC and attack in FOR.get(name, (attack,))


def positive_control(attack: str) -> str:
    """The name, without its prefix, of the set that this attack must break; empty where there is none."""
    own = {"as_is": "plain", "pooled_key_recovery": "known"}
    found = [name.removeprefix(PREFIX) for name, attacks in FOR.items() if attack in attacks]
    return own.get(attack, found[0] if found else "")
