"""Plans and settings: every shipped plan is valid, and an error names the setting and the known names."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import pytest
import yaml

from coordinator.exchange.plan import Plan, read_plan, write_plan
from coordinator.model.vit import build_model
from crypto.errors import CipherwardError
from crypto.scheme import SCHEMES, stem_carriers
from parties.sealing.place import Place, find_place
from tests.support import paths

CONFIGS = sorted(paths.CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_plans_are_valid_and_show_their_command(path: Path, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").touch()
    changes = (
        {"images": str(tmp_path), "weights": str(tmp_path / "w.safetensors")} if path.stem != "demo" else {}
    )
    plan = read_plan(path, changes)
    assert plan.study == path.stem
    head = path.read_text().split("\nstudy:")[0]
    assert f"cipherward-coordinator simulate configs/{path.name}" in head


def test_a_written_plan_is_read_back(tmp_path: Path) -> None:
    plan = read_plan(CONFIGS[-1])
    assert read_plan(write_plan(plan, tmp_path)) == plan
    with pytest.raises(Exception, match="frozen"):
        plan.rounds = 3


def refusal(tmp_path: Path, **changes: object) -> str:
    """Return the message and the hint that a plan with these settings is refused with."""
    path = tmp_path / "plan.yaml"
    base = {"study": "t", "counts": [9, 9, 9], "image_size": 32, "block": 8}
    path.write_text(yaml.safe_dump({k: v for k, v in (base | changes).items() if v is not None}))
    with pytest.raises(CipherwardError) as raised:
        read_plan(path)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    return f"{raised.value.message} | {raised.value.hint}"


def test_an_error_says_what_is_wrong_with_a_plan(tmp_path: Path) -> None:
    error = refusal(tmp_path, epochz=3)
    assert "unknown key 'epochz'" in error and "local_epochs" in error
    error = refusal(tmp_path, scheme="caesar")
    assert "unknown scheme 'caesar'" in error and all(name in error for name in SCHEMES)
    assert "blocks of 8 do not divide an image of 33×33" in refusal(tmp_path, image_size=33)
    assert "key 'study' is missing" in refusal(tmp_path, study=None)
    assert refusal(tmp_path, study=None).endswith("| add a line `study: VALUE`")
    assert "another kind of file, with keys unknown here: sections" in refusal(
        tmp_path, study=None, sections=[]
    )
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "demo.yaml").touch()
    with pytest.raises(CipherwardError) as raised:
        read_plan(tmp_path / "plans")
    assert raised.value.hint == "it is a folder: it holds demo.yaml; name one of them"
    assert "a quorum of 4 is more than the 3 parties" in refusal(tmp_path, quorum=4)
    assert "pools: sizes must rise" in refusal(tmp_path, pools=[5, 2])
    assert "counts: the phantom needs" in refusal(tmp_path, counts=[9, 9, 1])
    assert "no weights file at" in refusal(tmp_path, weights="/nowhere/w.safetensors")
    assert "the folder source needs images" in refusal(tmp_path, source="folder")
    unread = refusal(
        tmp_path, images="/my/images"
    )  # a study of drawn images would be taken for one of these
    assert (
        "the phantom source draws its images, and would not read /my/images | --set source=folder" in unread
    )
    assert "would not read /my/labels.csv" in refusal(tmp_path, labels="/my/labels.csv")
    unused = refusal(tmp_path, window="auto", background=0)
    assert "window says how files are read | leave window, background out" in unused
    assert "rounds: " in refusal(tmp_path, rounds="many")
    assert "lr: " in refusal(tmp_path, lr=-1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 2**64),  # torch takes no such seed
        *(("parties", 10**9), ("draws", 100), ("lora_rank", 10**12)),
        *(("alpha", 1e300), ("budget_s", 1e-5)),
        *(
            (name, 1e300)
            for name in ("deadline_s", "grace_s", "budget_s", "lr", "server_lr", "proximal_mu")
        ),
        *((name, 1e38) for name in ("weight_decay", "lora_alpha", "stem_lr_scale", "position_lr_scale")),
        *((name, math.inf) for name in ("lr", "clip", "budget_s", "deadline_s", "alpha", "weight_decay")),
    ],
)
def test_numbers_that_nothing_can_work_with_are_refused_by_name(
    tmp_path: Path, name: str, value: float
) -> None:
    """Each ended in a crash or in an error that did not name it, most of them after the images were sealed."""
    error = refusal(tmp_path, **{name: value})
    assert f": {name}: " in error and error.endswith(f"| it is {value!r}")


def test_settings_that_contradict_one_another_are_not_shown_cut_short(tmp_path: Path) -> None:
    """The hint was the beginning of the whole plan: {'block': 8, 'image_size': 32, 'model_ar… and no more."""
    error = refusal(tmp_path, parties=2, quorum=3)
    assert "a quorum of 3 is more than the 2 parties" in error
    assert error.endswith("| change one of the settings that it names; docs/training.md explains each")


def test_a_number_of_model_args_that_is_not_finite_is_named(tmp_path: Path) -> None:
    error = refusal(tmp_path, model_args={"drop_rate": math.nan})
    assert ": model_args.drop_rate: " in error and error.endswith("| it is nan")


def test_a_setting_of_another_kind_says_what_it_is(tmp_path: Path) -> None:
    for name, text, hint in (
        ("rounds", "", "it is empty: give it a value, or leave the line out"),
        ("rounds", "[1, 2]", "it is [1, 2]"),
        ("stem", "{a: 1}", "it is {'a': 1}"),
        ("counts", "[1, 2, 3, 4]", "it is [1, 2, 3, 4]"),
        ("privacy", "8", "it is 8"),
        ("privacy.sum_clip", "1.0e-300", "it is 1e-300"),
        ("privacy.max_grad_norm", "1.0e-42", "it is 1e-42"),
        ("privacy", "", "it is empty: give it a value, or leave the line out"),
    ):
        (tmp_path / "plan.yaml").write_text(f"study: t\n{name}: {text}\n")  # `privacy.x`: as --set takes it
        with pytest.raises(CipherwardError, match=f": {name}: ") as raised:
            read_plan(tmp_path / "plan.yaml")
        assert raised.value.hint == hint and "Privacy" not in raised.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_heads", 0),
        ("patch_size", 0),
        ("drop_path_rate", 10**400),
        ("init_values", 10**400),
    ],
)
def test_arguments_that_break_a_network_are_one_line(name: str, value: int) -> None:
    small = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    p = Plan(study="t", counts=(9, 9, 9), image_size=32, block=8, model_args={**small, name: value})
    with pytest.raises(CipherwardError, match="cannot build vit_tiny_patch16_224"):
        build_model(p, 2)


@pytest.mark.parametrize("share", [(0, 0), (5, 2), (2, 2), (-1, 2)])
def test_a_share_that_no_hospital_has_is_refused(tmp_path: Path, share: tuple[int, int]) -> None:
    """Of those, -1 was taken for the last hospital."""
    with pytest.raises(CipherwardError, match=r"share: .*hospitals are counted from 0"):
        Place.from_settings(tmp_path, {"party": "p", "share": share})
    with pytest.raises(CipherwardError, match="seed: "):
        Place.from_settings(tmp_path, {"party": "p", "seed": -1})


@pytest.mark.parametrize(
    "name",
    [
        *(
            "hf-hub:attacker/beacon_vit",
            "hf_hub:attacker/beacon_vit",
            "hf_hub_x",
            "local-dir:/etc",
            "/etc/x",
        ),
        *("../vit", "a/b", "https://x", "", ".hidden", "vit\n", "vit tiny", "ｖit", "v" * 101),
    ],
)
def test_a_model_s_name_is_no_address_and_no_path(tmp_path: Path, name: str) -> None:
    assert "is not the name of a network" in refusal(tmp_path, model=name)


@pytest.mark.parametrize("name", ["cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg_overlay"])
def test_model_args_reach_no_file_and_no_network(tmp_path: Path, name: str) -> None:
    assert f"model_args: {name} is set by the study" in refusal(tmp_path, model_args={name: "/etc/passwd"})
    error = refusal(tmp_path, model_args={"pretrained_strict": True})
    assert "'pretrained_strict' is not an argument that a study may set" in error and "embed_dim" in error


def test_model_args_that_are_texts_where_a_number_or_a_switch_is_meant_are_refused(tmp_path: Path) -> None:
    """class_token: 'no' gave the network a class token, and depth: yes an error of linspace."""
    for text in ("no", "False", "16", "1e-1"):
        assert f"model_args: class_token is the text '{text}'" in refusal(
            tmp_path, model_args={"class_token": text}
        )
    assert "model_args: depth is True, and it is a number" in refusal(tmp_path, model_args={"depth": True})
    kept: dict[str, bool | int | float | str] = {
        "class_token": False,
        "global_pool": "avg",
        "drop_rate": 0.1,
        "norm_layer": "layernorm",
    }
    p = Plan(study="t", counts=(9, 9, 9), image_size=32, block=8, model_args=kept)
    assert p.model_args == kept


@pytest.mark.parametrize(
    ("name", "value"), [("depth", 10**9), ("embed_dim", 10**6), ("mlp_ratio", 1e9), ("depth", -1)]
)
def test_model_args_of_absurd_sizes_are_refused_before_a_network_is_built(
    tmp_path: Path, name: str, value: float
) -> None:
    assert f"model_args: {name} is {value:g}, and a network may have" in refusal(
        tmp_path, model_args={name: value}
    )
    p = Plan(study="t", counts=(9, 9, 9), image_size=32, block=8)
    with pytest.raises(CipherwardError, match="a network may have"):
        build_model(p.model_copy(update={"model_args": {name: value}}), 2)


def test_building_a_model_looks_up_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of a plan is not the only one: models are built from saved files, too."""
    looked_up: list[object] = []

    def look_up(host: object, *_: object, **__: object) -> None:
        looked_up.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    p = Plan(study="t", counts=(9, 9, 9), image_size=32, block=8)
    for changes in ({"model": "hf-hub:attacker/beacon"}, {"model_args": {"pretrained": True}}):
        with pytest.raises(CipherwardError):
            build_model(p.model_copy(update=changes), 2)
    assert not looked_up


def test_a_node_that_names_no_hospital_says_how(tmp_path: Path) -> None:
    for config in ({}, {"partition-id": "../../etc"}, {"partition-id": -1}, {"partition-id": True}):
        with pytest.raises(CipherwardError, match="does not say which hospital's folder") as error:
            find_place(config, {"study-dir": str(tmp_path)})
        assert "party-dir" in error.value.hint


def test_files_that_are_not_plans(tmp_path: Path) -> None:
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


def test_shipped_plans_hold_only_known_keys() -> None:
    shown = set().union(*(yaml.safe_load(p.read_text()) for p in CONFIGS))
    assert shown <= set(Plan.model_fields)


def test_a_party_finds_its_place(tmp_path: Path) -> None:
    Place.from_settings(tmp_path / "parties" / "hospital-1", {"party": "b"}).save()
    Place.from_settings(tmp_path / "mine", {"party": "c"}).save()
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
def test_stem_modes_are_refused_if_no_stem_can_be_carried(tmp_path: Path, mode: str) -> None:
    for scheme in ("block_pixel", "pe", "ele", "etc", "le", "noise"):
        error = refusal(tmp_path, stem=mode, scheme=scheme)
        assert f"stem {mode}: a stem cannot be carried for {scheme}" in error
        assert all(name in error.split("|")[1] for name in stem_carriers())
    error = refusal(tmp_path, stem=mode, scheme="value_shuffle", key_scope="image")
    assert "with a key for every image there are no coordinates" in error


def test_valid_stem_modes(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for scheme in stem_carriers():
        for scope in ("consortium", "party"):
            plan = {"study": "t", "counts": (9, 9, 9), "image_size": 32, "block": 8, "scheme": scheme}
            plan |= {"key_scope": scope, "stem": "private", "stem_frozen": True}
            assert read_plan(write_plan(Plan.model_validate(plan), tmp_path / "p")).stem_frozen
    assert "stem_frozen goes with stem private or plain" in refusal(tmp_path, stem_frozen=True)
    assert "stem: " in refusal(tmp_path, stem="public")
