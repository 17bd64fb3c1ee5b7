"""The control sets of an audit, and which attacks meet which. The results they must have: report/control_checks.py.

The hospital that scores seals them all, from public images and under keys made for this purpose. The cloud receives
them beside the sets that it attacks, in folders of these names.
"""

from __future__ import annotations

PREFIX = "control-"
#: How the names of the sets begin that are of the audited scheme and not told apart by name: the one under the
#: hospital's own key, those under throwaway keys, and the blind controls among them. The hospital keeps the map.
BLIND_PREFIX = "set-"
#: Sets that every attack of an audit meets.
GENERAL = ("control-known", "control-noise", "control-permuted", "control-plain")
#: Sets for particular attacks: each of these attacks must break the set, and no other attack meets it.
TARGETED: dict[str, tuple[str, ...]] = {
    "control-signs": ("leading_bit", "edge_guided", "minimum_difference"),
    "control-orthogonal": ("moment_matching",),
}
#: Not attacked. Its images are public for the attacks on `control-orthogonal`, and come from the same source.
PUBLIC = "control-public"
SETS = (*GENERAL, *TARGETED, PUBLIC)
#: Sets that are attacked at the largest pool size only; the others are attacked at every size.
LARGEST_POOL_ONLY = ("control-permuted", *TARGETED)


def meets(attack: str, name: str) -> bool:
    """Return whether an attack of the audit is run on the set in the folder of this name."""
    return name != PUBLIC and attack in TARGETED.get(name, (attack,))


def positive_control(attack: str) -> str:
    """Return the set that this attack must break, its name without the prefix; "" if there is none."""
    general = {"as_is": "plain", "pooled_key_recovery": "known"}
    targeted = [name.removeprefix(PREFIX) for name, attacks in TARGETED.items() if attack in attacks]
    return general.get(attack, targeted[0] if targeted else "")
