"""What the attacks of a hospital's own audit are told of a set does not say whether it is a control."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.adversary.run import suite
from coordinator.exchange.audit.guesses import read_draws
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from parties.scoring.blind_sets import BlindSets, are_named, name_guesses, prepare_blind_sets
from parties.scoring.local_audit import plan_audit
from parties.scoring.score import score
from parties.sealing.place import Place
from parties.sealing.seal import seal

DRAWS = 2


def make_place(folder: Path, **changes: Any) -> tuple[Place, list[str]]:
    """Seal an audit's sets of phantoms; return the place and their names."""
    settings = {"party": "h", "source": "phantom", "counts": [60, 4, 4], "image_size": 32, "block": 8}
    place = Place.from_settings(folder, {**settings, "audit_images": 48, **changes})
    place.save()
    sealings = plan_audit(place, DRAWS)
    for sealing in sealings:
        seal(place, sealing)
    return place, [sealing.name for sealing in sealings]


def told(folder: Path) -> dict[str, Any]:
    """Return all that a set tells but ciphertexts, and what is random for every set."""
    sealed = SealedDataset.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    spec = {**manifest["spec"], "options": sorted(manifest["spec"].get("options", {}))}
    shards = [{"rows": s["rows"], "bytes": s["bytes"], "file": s["file"]} for s in manifest["shards"]]
    times = sorted({int(path.stat().st_mtime) for path in [folder, *folder.iterdir()]})
    modes = sorted({path.stat().st_mode for path in folder.iterdir()})
    lengths = [len(manifest["key_id"]), len(manifest["mac"]), *(len(s["mac"]) for s in manifest["shards"])]
    sealed.check_digests()
    rest = {k: manifest[k] for k in ("schema", "rows", "classes")}
    return {
        **rest, "spec": spec, "shards": shards, "times": times, "modes": modes, "lengths": lengths,
        "links": sorted(path.stat().st_nlink for path in folder.iterdir()),
    }  # fmt: skip


@pytest.mark.parametrize("scheme", ["etc", "orthogonal", "pe"])
def test_copies_differ_in_nothing_but_their_ciphertexts(tmp_path: Path, scheme: str) -> None:
    place, names = make_place(
        tmp_path, scheme=scheme, key_scope="image" if scheme == "pe" else "consortium"
    )
    sets = prepare_blind_sets(place, names)
    controls = {"control-noise", "control-permuted", *(["control-known"] if scheme == "etc" else [])}
    assert set(sets.copies.values()) == {"audit-1", "audit-2", *controls}
    first, *others = [told(folder) for folder in sets.copies]
    assert all(other == first for other in others)
    assert [folder.name for folder in sets.copies] == sorted(folder.name for folder in sets.copies)
    # The ciphertexts are those of the real sets; noise is declared as the audited scheme.
    for folder, name in sets.copies.items():
        copy, real = SealedDataset.open(folder), place.sealed(name)
        assert copy.spec.name == scheme and copy.sealed_dtype == place.sealed("audit-1").sealed_dtype
        if real.sealed_dtype == copy.sealed_dtype:
            assert np.array_equal(copy.images(0, len(copy)), real.images(0, len(real)))
        assert not np.array_equal(copy.images(0, 1), 0)
    assert {path.name for path in sets.open_sets} == set(names) - set(sets.copies.values())


def test_labels_tell_no_control(tmp_path: Path) -> None:
    """Draws hold different images. Copies with the classes of one of them would all agree with it, and only they."""
    place, names = make_place(tmp_path, counts=[400, 4, 4], audit_images=100)
    sets = prepare_blind_sets(place, names)
    counts = {
        name: tuple(np.bincount(SealedDataset.open(folder).labels)) for folder, name in sets.copies.items()
    }
    controls = {count for name, count in counts.items() if name.startswith("control-")}
    assert len(controls) > 1


def run(place: Place, names: list[str], out: Path) -> BlindSets:
    sets = prepare_blind_sets(place, names)
    settings = suite.Settings(["as_is", "pooled_key_recovery"], [4], 16, 0, 60.0)
    suite.run_suite([SealedDataset.open(folder) for folder in sets.folders], out, settings)
    return sets


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["block_pixel_shuffle", "orthogonal"])
def test_guesses_get_the_real_names_back_and_can_be_scored(tmp_path: Path, scheme: str) -> None:
    place, names = make_place(tmp_path / "h", scheme=scheme)
    guesses = tmp_path / "h" / "guesses"
    sets = run(place, names, guesses)
    assert not are_named(place, guesses)
    # An audit that is stopped here goes on with the same random names.
    assert prepare_blind_sets(place, names).copies == sets.copies
    name_guesses(place, guesses, sets)
    assert are_named(place, guesses) and not (place.folder / "blinded").exists()
    scores = score(place, guesses, 16, 48, attacked_by="hospital")
    assert {draw.set_name for draw in scores.draws} == {*names} - {
        "control-public",
        "control-orthogonal",
        "control-signs",
    }
    assert scores.suite == "suite/2"
    by_set = {draw.set_name: draw for draw in scores.draws}
    assert by_set["control-noise"].spec.name == "noise"
    assert {f.pool_size for f in by_set["control-permuted"].of("pooled_key_recovery")} == {4}
    draws, about = read_draws(guesses)
    assert about["rows"] == 16 and len(draws) == len(scores.draws)


def test_a_damaged_map_is_named(tmp_path: Path) -> None:
    place, names = make_place(tmp_path)
    prepare_blind_sets(place, names)
    (place.private / "blinded.json").write_text('{"set-00000000": "audit-1"}')
    with pytest.raises(CipherwardError, match="damaged"):
        prepare_blind_sets(place, names)
