"""Plans and settings: every shipped one is sound; what is wrong is told with the known names."""

from __future__ import annotations

import pytest
import yaml

from coordinator.exchange.plan import CARRIED, Plan, read_plan, write_plan
from crypto.errors import CipherwardError
from crypto.scheme import SCHEMES
from parties.sealing.place import Place, find_place
from tests.support import paths

CONFIGS = sorted(paths.CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_plans_are_sound_and_say_their_command(path, tmp_path):
    (tmp_path / "w.safetensors").touch()
    changes = (
        {"images": str(tmp_path), "weights": str(tmp_path / "w.safetensors")} if path.stem != "demo" else {}
    )
    plan = read_plan(path, changes)
    assert plan.study == path.stem
    head = path.read_text().split("\nstudy:")[0]
    assert f"cipherward-coordinator simulate configs/{path.name}" in head


def test_a_plan_survives_being_written(tmp_path):
    plan = read_plan(CONFIGS[-1])
    assert read_plan(write_plan(plan, tmp_path)) == plan
    with pytest.raises(Exception, match="frozen"):
        plan.rounds = 3


def wrong(tmp_path, **changes):
    path = tmp_path / "plan.yaml"
    base = {"study": "t", "counts": [9, 9, 9], "image_size": 32, "block": 8}
    path.write_text(yaml.safe_dump({k: v for k, v in (base | changes).items() if v is not None}))
    with pytest.raises(CipherwardError) as error:
        read_plan(path)
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return f"{error.value.message} | {error.value.hint}"


def test_what_is_wrong_with_a_plan_is_told(tmp_path):
    said = wrong(tmp_path, epochz=3)
    assert "unknown key 'epochz'" in said and "local_epochs" in said
    said = wrong(tmp_path, scheme="caesar")
    assert "unknown scheme 'caesar'" in said and all(name in said for name in SCHEMES)
    assert "blocks of 8 do not divide an image of 33×33" in wrong(tmp_path, image_size=33)
    assert "key 'study' is missing" in wrong(tmp_path, study=None)
    assert "a quorum of 4 is more than the 3 parties" in wrong(tmp_path, quorum=4)
    assert "pools: sizes must rise" in wrong(tmp_path, pools=[5, 2])
    assert "counts: the phantom needs" in wrong(tmp_path, counts=[9, 9, 1])
    assert "no weights file at" in wrong(tmp_path, weights="/nowhere/w.safetensors")
    assert "the folder source needs images" in wrong(tmp_path, source="folder")
    assert "rounds: " in wrong(tmp_path, rounds="many")
    assert "lr: " in wrong(tmp_path, lr=-1)


def test_files_that_are_no_plans(tmp_path):
    with pytest.raises(CipherwardError, match="no plan at"):
        read_plan(tmp_path / "absent.yaml")
    (tmp_path / "a.yaml").write_text("a: [1\nb: 2")
    with pytest.raises(CipherwardError, match=r"is not YAML \(line 2\)"):
        read_plan(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- 1\n")
    with pytest.raises(CipherwardError, match="holds no settings"):
        read_plan(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CipherwardError, match="cannot read the plan"):
        read_plan(tmp_path / "c.yaml")


def test_every_key_of_a_plan_stands_in_a_shipped_one_or_has_a_default():
    shown = set().union(*(yaml.safe_load(p.read_text()) for p in CONFIGS))
    assert shown <= set(Plan.model_fields)


def test_a_party_finds_its_place(tmp_path):
    Place.of(tmp_path / "parties" / "hospital-1", {"party": "b"}).keep()
    Place.of(tmp_path / "mine", {"party": "c"}).keep()
    assert find_place({"partition-id": 1}, {"study-dir": str(tmp_path)}).settings.party == "b"
    assert find_place({"party-dir": str(tmp_path / "mine"), "partition-id": 1}, {}).settings.party == "c"
    with pytest.raises(CipherwardError, match="this run names no study") as error:
        find_place({"partition-id": 0}, {"study-dir": ""})
    assert "cipherward-coordinator simulate configs/demo.yaml --until seal" in error.value.hint
    with pytest.raises(CipherwardError, match=r"no party\.yaml in"):
        find_place({"partition-id": 5}, {"study-dir": str(tmp_path)})
    (tmp_path / "mine" / "party.yaml").write_text("party: x\nkez: y\n")
    with pytest.raises(CipherwardError, match="unknown key 'kez'"):
        Place.open(tmp_path / "mine")


@pytest.mark.parametrize("mode", ["private", "plain"])
def test_stem_modes_are_refused_where_no_stem_can_be_carried(tmp_path, mode):
    for scheme in ("block_pixel", "pe", "ele", "etc", "le", "noise"):
        said = wrong(tmp_path, stem=mode, scheme=scheme)
        assert f"stem {mode}: a stem cannot be carried for {scheme}" in said
        assert all(name in said.split("|")[1] for name in CARRIED)
    said = wrong(tmp_path, stem=mode, scheme="value_shuffle", key_scope="image")
    assert "with a key for every image there are no coordinates" in said


def test_stem_modes_that_are_sound(tmp_path):
    (tmp_path / "p").mkdir()
    for scheme in CARRIED:
        for scope in ("consortium", "party"):
            plan = {"study": "t", "counts": (9, 9, 9), "image_size": 32, "block": 8, "scheme": scheme}
            plan |= {"key_scope": scope, "stem": "private", "stem_frozen": True}
            assert read_plan(write_plan(Plan.model_validate(plan), tmp_path / "p")).stem_frozen
    assert "stem_frozen goes with stem private or plain" in wrong(tmp_path, stem_frozen=True)
    assert "stem: " in wrong(tmp_path, stem="public")
