"""The control sets of an audit, and which attacks meet which. The results they must have: report/control_checks.py.

The hospital that scores seals them all, from public images and under keys made for this purpose. The cloud receives
them beside the sets that it attacks: in folders of these names, or among the sets whose names tell nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "control-"
#: How the names of the sets begin that are of the audited scheme and not told apart by name: the one under the
#: hospital's own key, those under throwaway keys, and the blind controls among them. The hospital keeps the map.
BLIND_PREFIX = "set-"
#: Sets that every attack of an audit meets.
GENERAL = ("control-known", "control-noise", "control-permuted", "control-plain")
#: Those of them that can be declared as the audited scheme, where their ciphertexts have its form: what nothing
#: opens, and the scheme itself under another key. Then no name tells an attack that they are controls.
MAY_BE_HIDDEN = ("control-known", "control-noise", "control-permuted")
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
#: Schemes whose key the suite is known to recover. An audit whose key recovery fails on them measures nothing. If the
#: audited scheme is one of them, it is its own control; otherwise the first one is.
KNOWN_BROKEN = ("block_pixel_shuffle", "value_shuffle", "etc", "pe", "sub_block_etc")
#: The control instead of the first one where the side of a block is odd, which that one cannot halve. It falls to one
#: image too, and knows no blocks.
_KNOWN_OF_ODD_BLOCKS = "pe"
#: Most noise, in gray levels, with which `noisy_orthogonal` is its own control of moment matching. Measured on the
#: control's images, gray and in colour, 3 pools of 1, 10 and 68 images: at 128, V holds in at least 16 % of the rows
#: (all of them from 10 images on); at 256, in none of some pools.
_MOST_NOISE = 128


def scheme_of(
    name: str, scheme: str, options: Mapping[str, Any], block: int
) -> tuple[str, Mapping[str, Any]]:
    """Return the scheme of a control set and its options.

    Args:
        name: The set's name.
        scheme: The audited scheme.
        options: Its options, as far as they are not the defaults.
        block: The side of its blocks, in pixels.
    """
    kind = name.removeprefix(PREFIX)
    if kind == "known":
        other = _KNOWN_OF_ODD_BLOCKS if block % 2 else KNOWN_BROKEN[0]
        return (scheme, options) if scheme in KNOWN_BROKEN else (other, {})
    if kind == "orthogonal" and scheme == "noisy_orthogonal" and options.get("sigma", 0) <= _MOST_NOISE:
        return scheme, options
    return {"signs": "pe", "public": "plain"}.get(kind, kind), {}


def meets(attack: str, name: str) -> bool:
    """Return whether an attack of the audit is run on the set in the folder of this name."""
    return name != PUBLIC and attack in TARGETED.get(name, (attack,))


def positive_control(attack: str) -> str:
    """Return the set that this attack must break, its name without the prefix; "" if there is none."""
    general = {"as_is": "plain", "pooled_key_recovery": "known"}
    targeted = [name.removeprefix(PREFIX) for name, attacks in TARGETED.items() if attack in attacks]
    return general.get(attack, targeted[0] if targeted else "")
