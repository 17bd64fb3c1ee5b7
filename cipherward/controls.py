"""The control sets of the suite, sealed in memory: cases whose answer is known beforehand.

They are those of `cipherward-party audit`, sealed under fresh keys: public made pictures under no encryption, under
one-time masks, under a permutation for each image, and under a scheme that key recovery is known to open.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cipherward.draws import SealedDraw, draw_rows
from cipherward.settings import Settings
from coordinator.exchange.audit import control_sets
from crypto.arrays import AnyArray, Images, Rows
from crypto.cipher import Cipher
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.spec import SchemeSpec
from parties.sealing.place import Place
from parties.sealing.seal import plan_sealing


def control_draws(settings: Settings, specs: Sequence[SchemeSpec], first: int) -> list[SealedDraw]:
    """Return the control sets that the attacks of an audit must meet.

    Args:
        settings: Of the audit.
        specs: The schemes that the attacks on the audited scheme are told.
        first: The number of the first control's draw; controls follow the audited draws.
    """
    # A place that is never written: the suite's own plan of its controls.
    place = Place.from_settings(Path("audit"), _place_settings(settings, specs[0]))
    names = [
        name
        for name in sorted(control_sets.SETS)
        if any(control_sets.meets(a, name) for a in settings.attacks)
    ]
    return [_control(place, name, settings, specs, first + i) for i, name in enumerate(names)]


def public_of_controls(settings: Settings, spec: SchemeSpec) -> Images:
    """Return the public images for the attacks on targeted controls, uint8 [m, h, w, c]."""
    place = Place.from_settings(Path("audit"), _place_settings(settings, spec))
    source = plan_sealing(place, control_sets.PUBLIC).source
    return np.stack([source.read(row) for row in range(len(source))])


def _place_settings(settings: Settings, spec: SchemeSpec) -> dict[str, object]:
    """Return the settings of a hospital whose controls have the audited images' size and blocks.

    Controls are square: the shorter side counts.
    """
    height, width, channels = spec.image_shape
    side = min(height, width) // spec.block * spec.block
    return {
        "party": "audit",
        "source": "phantom",
        "image_size": side,
        "channels": channels,
        "block": spec.block,
        "seed": settings.seed,
        # Plans of controls look at the audited scheme only to see whether it is one that is known to be broken.
        "scheme": settings.family or "plain",
        "scheme_options": dict(settings.options),
    }


def _control(
    place: Place, name: str, settings: Settings, audited: Sequence[SchemeSpec], number: int
) -> SealedDraw:
    """Seal one control set in memory, under a fresh key."""
    sealing, key = plan_sealing(place, name), SecretKey.generate()
    source, spec = sealing.source, sealing.spec
    plain = np.stack([source.read(row) for row in range(len(source))])
    cipher = load(spec).cipher(key)
    sealed = np.asarray(cipher.encrypt(plain))
    rows, pool_rows = draw_rows(settings, len(plain), number, max(settings.sizes))
    # Where every key recovery is tried, it is tried with the same sides of a block as on the audited scheme.
    is_general = name in control_sets.GENERAL
    others = [other for other in _plain_specs(spec, audited) if is_general and not settings.family]
    return SealedDraw(
        name=f"draw-{number}",
        set_name=name,
        specs=(spec, *others),
        plain=plain,
        labels=source.labels,
        sealed=sealed,
        rows=rows,
        pool_rows=pool_rows,
        key=key,
        opened=_opened(cipher, sealed, rows),
    )


def _plain_specs(spec: SchemeSpec, audited: Sequence[SchemeSpec]) -> list[SchemeSpec]:
    """Return what attacks are told of a control with the further sides of a block: no encryption, in its shape."""
    height, width, _ = spec.image_shape
    return [
        describe("plain", spec.image_shape, other.block)
        for other in audited[1:]
        if not (height % other.block or width % other.block)
    ]


def _opened(cipher: Cipher, sealed: AnyArray, rows: Rows) -> Images:
    """Return rows of a set opened with the true key; a row may have a key of its own."""
    return np.concatenate([np.asarray(cipher.decrypt(sealed[i : i + 1], first=int(i))) for i in rows])
