"""Sub-keys cover every field of a spec: no sealing gives away a part of another one's key.

The attack here compares the parts of two specs that differ in one field. It finds them related under the earlier
derivation, which covered name, version, scope, nonce and row only, and nothing under the present one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import crypto.scheme
from crypto.arrays import AnyArray
from crypto.errors import CipherwardError
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load, sub_key
from crypto.spec import KEY_SCOPES, SchemeSpec
from tests.support import reference
from tests.support.scheme_checks import with_nonce

KEY = SecretKey(bytes(range(32)))
KEYED = [name for name in SCHEMES if name != "plain"]
SHAPE, BLOCK = (32, 32, 3), 8
#: Another allowed value of every option that a scheme has.
OPTIONS: dict[str, dict[str, Any]] = {
    "value_shuffle": {"fixed_blocks": 3, "fixed_values": 40},
    "le": {"mask": "independent"},
    "ele": {"mask": "independent"},
    "pe": {"colour_shuffle": True},
    "etc": {"form": "gray"},
    "sub_block_etc": {"sub_block": 2},
    "noisy_orthogonal": {"sigma": 64},
    "block_projection": {"noise": 25},
    "neuracrypt": {"width": 16, "depth": 1},
}
#: Options that differ from the defaults, whose networks would take seconds.
USUAL: dict[str, dict[str, Any]] = {"neuracrypt": {"width": 64}}
SubKey = Callable[[SchemeSpec, SecretKey, int], SecretKey]


def earlier_sub_key(spec: SchemeSpec, key: SecretKey, row: int = 0) -> SecretKey:
    """Return what `sub_key` returned before it covered the whole spec."""
    nonce = str(spec.options.get("nonce", ""))
    return key.derive(spec.name, str(spec.version), spec.key_scope, nonce, str(row) if nonce else "")


def base(name: str, scope: str = "consortium", **options: Any) -> SchemeSpec:
    """Return a scheme's spec with a fixed nonce where it has one."""
    return with_nonce(describe(name, SHAPE, BLOCK, scope, {**USUAL.get(name, {}), **options}), 0)


def changes(name: str, scope: str = "consortium") -> Iterator[tuple[str, SchemeSpec, SchemeSpec]]:
    """Yield (field, spec, spec that differs in this field alone) of a scheme."""
    spec = base(name, scope)
    yield "image_shape", spec, dataclasses.replace(spec, image_shape=(64, 96, 3))
    yield "image_shape", spec, dataclasses.replace(spec, image_shape=(32, 64, 3))
    yield "block", spec, dataclasses.replace(spec, block=4)
    for option, value in OPTIONS.get(name, {}).items():
        yield option, spec, dataclasses.replace(spec, options={**spec.options, option: value})


def is_prefix(a: AnyArray, b: AnyArray) -> bool:
    """Return whether the shorter of two flat arrays begins the longer one, which no chance explains."""
    n = min(len(a), len(b))
    if n >= 12 and a.dtype == b.dtype == np.float32:
        # Floats tell each other in any scale.
        return bool(abs(np.corrcoef(a[:n], b[:n])[0, 1]) > 0.95)
    return n >= 12 and bool(np.mean(a[:n] == b[:n]) > 0.95)


def is_related(a: AnyArray, b: AnyArray) -> bool:
    """Return whether one part of a key tells the other: as its beginning, or as its order of the first entries."""
    short, long = sorted((a.ravel(), b.ravel()), key=len)
    if (
        short.dtype.kind == "i"
        and len(short) >= 12
        and np.array_equal(np.sort(short), np.arange(len(short)))
    ):
        return np.array_equal(long[long < len(short)], short)
    return is_prefix(short, long)


def related_parts(a: SchemeSpec, b: SchemeSpec) -> list[str]:
    """Return the names of the parts of two specs' keys of which one tells the other."""
    first, second = load(a).parts(KEY, 5), load(b).parts(KEY, 5)
    return [name for name in first if name in second and is_related(first[name], second[name])]


@pytest.fixture(params=["present", "earlier"])
def finds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether the attack must find something: sub-keys are derived as now, or as earlier."""
    if request.param == "earlier":
        monkeypatch.setattr(crypto.scheme, "sub_key", earlier_sub_key)
    return bool(request.param == "earlier")


@pytest.mark.parametrize("scope", KEY_SCOPES)
@pytest.mark.parametrize("name", KEYED)
def test_no_field_of_a_spec_leaves_parts_related(name: str, scope: str, finds: bool) -> None:
    by_field: dict[str, list[str]] = {}
    for field, spec, other in changes(name, scope):
        by_field.setdefault(field, []).extend(related_parts(spec, other))
    assert set(by_field) == {"image_shape", "block", *OPTIONS.get(name, {})}
    if not finds:
        assert not any(by_field.values()), by_field
        return
    # `orthogonal` draws a matrix, of which another size shows nothing; the same size shows all.
    blind = {"orthogonal": {"block"}}.get(name, set())
    assert all(related for field, related in by_field.items() if field not in blind), by_field


def test_a_pilot_of_small_images_tells_nothing_of_large_ones(finds: bool) -> None:
    def parts(name: str, side: int, block: int, **options: Any) -> dict[str, AnyArray]:
        channels = 3 if name in ("le", "pe") else 1
        return load(describe(name, (side, side, channels), block, options=options)).parts(KEY)

    pilot, production = parts("block_pixel_shuffle", 64, 8), parts("block_pixel_shuffle", 224, 16)
    assert np.array_equal(production["K1"][production["K1"] < 64], pilot["K1"]) == finds
    masks = [parts("block_pixel", 224, block)["mask"].ravel() for block in (8, 16)]
    assert np.array_equal(masks[0], masks[1]) == finds
    tied, independent = (parts("le", 32, 4, mask=mask)["key"] for mask in ("tied", "independent"))
    assert np.array_equal(tied, independent) == finds
    signs = [parts("pe", 32, 4, colour_shuffle=shuffle)["negative"] for shuffle in (False, True)]
    assert np.array_equal(signs[0], signs[1]) == finds
    values = [parts("value_shuffle", side, 16)["K2"] for side in (64, 224)]
    assert np.array_equal(values[0], values[1]) == finds


def test_every_change_of_a_field_changes_the_sub_key() -> None:
    specs = [base(name, scope) for name in SCHEMES for scope in KEY_SCOPES]
    for name in SCHEMES:
        for scope in KEY_SCOPES:
            specs += [other for _, _, other in changes(name, scope)]
            specs.append(dataclasses.replace(base(name, scope), version=99))
    assert len({sub_key(spec, KEY, 5).id for spec in specs}) == len({spec.canonical() for spec in specs})
    assert len({spec.canonical() for spec in specs}) == len(specs)
    # The row counts where every image has a key of its own, and nowhere else.
    for spec in specs:
        has_row_keys = spec.key_scope == "image" or "nonce" in spec.options
        assert (sub_key(spec, KEY, 5) != sub_key(spec, KEY, 6)) == has_row_keys
    nonces = [dataclasses.replace(base("noise"), options={"nonce": f"{i:032x}"}) for i in range(3)]
    assert len({sub_key(spec, KEY, 5).id for spec in nonces}) == 3


def test_the_context_is_the_documented_text() -> None:
    spec = describe("value_shuffle", (16, 24, 1), 4, "party", {"fixed_values": 2})
    text = (
        '{"block":4,"image_shape":[16,24,1],"key_scope":"party","name":"value_shuffle",'
        '"options":{"fixed_blocks":0,"fixed_values":2},"version":2}'
    )
    assert spec.canonical() == text == reference.spec_text(spec.to_json())
    assert sub_key(spec, KEY) == KEY.derive("scheme", text, "")
    # It is one text whatever the order of options, and after a journey through JSON.
    turned = {"fixed_values": 2, "fixed_blocks": 0}
    assert dataclasses.replace(spec, options=turned).canonical() == text
    assert SchemeSpec.from_json(json.loads(json.dumps(spec.to_json()))).canonical() == text
    # Values that Python holds equal stay apart.
    assert dataclasses.replace(spec, options={**turned, "fixed_values": True}).canonical() != text


@pytest.mark.parametrize("name", SCHEMES)
def test_sets_of_earlier_versions_are_refused_by_name(name: str) -> None:
    spec = base(name)
    assert spec.version >= 2
    for version in range(1, spec.version):
        with pytest.raises(CipherwardError, match=f"{name} version {version} was asked for") as error:
            load(dataclasses.replace(spec, version=version))
        assert "seal it again" in error.value.hint
