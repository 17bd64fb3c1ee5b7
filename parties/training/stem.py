"""Carries a Vision Transformer's stem into a key's coordinates, so that it reads sealed images, and back.

A stem is the patch embedding and the positions. With tokens z0 = [cls; X·E] + Epos, X [N, V] the flattened blocks
of an image, and ciphertext X̂ = Pb·X·Pp (Pb permutes blocks, Pp the values of a block or turns them):

    Ê = Ppᵀ·E     and rows 1…N of Epos permuted by Pb

give the same set of tokens, in another order, to an encoder that does not look at the order. Logits are those of
the plain model on the plain image, to float rounding. Input is v / 127.5 - 1, which `orthogonal`, centred at 127.5,
commutes with. Source: the model transform of Kiya 2022 (2207.05366) and Nagamori 2023 (2309.02556).

What that gives, and what it does not: SGD on the carried stem is SGD on the plain one, step by step; AdamW is, where
the map permutes (not under `orthogonal`). So are all gradients of the encoder: updates protect nothing that plain
federated learning would not protect. A stem carried into a key's coordinates, beside the plain one, gives the key
away; that is why it is carried back before it is sent or kept. Under `orthogonal` that is not enough for AdamW, whose
steps are signs in the key's coordinates: carried back, they show the matrix, so plans refuse it.

Under stem mode `private` every hospital keeps its stems, in plain coordinates, in HOSPITAL/private/stem.safetensors:
those of the last two rounds, for a round that is asked for again, and of the best round, for the test.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from safetensors.torch import load_file
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.shares import missing_weights
from coordinator.model.vit import build_model, in_stem, load_state, shared_names
from crypto.errors import CipherwardError, unknown
from crypto.files import write_bytes
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.schemes.block_pixel_shuffle import BlockPixelShuffle
from crypto.schemes.value_shuffle import ValueShuffle
from crypto.sets.dataset import SealedDataset
from crypto.spec import SchemeSpec
from parties.sealing.place import Place

FILE = "stem.safetensors"
Stem = Mapping[str, np.ndarray]  # name in the model's state → float32


@dataclass(frozen=True, repr=False)  # as secret as the key that it came from
class Coordinates:
    """Where a key puts blocks and the values in them; row-major blocks, values in (row, column, channel) order.

    order: int64 [N], block i of the ciphertext is plain block order[i]; None keeps them.
    values: int64 [V], value k of a sealed block is value values[k] of the plain one; None keeps them.
    matrix: float32 [V, V], orthogonal: sealed block = plain block @ matrix; None where values are permuted.
    """

    order: np.ndarray | None = None
    values: np.ndarray | None = None
    matrix: np.ndarray | None = None


Parts = Mapping[str, np.ndarray]


def _block_pixel_shuffle(spec: SchemeSpec, parts: Parts) -> Coordinates:
    pixels = BlockPixelShuffle(spec).table(parts).inner
    assert pixels is not None
    channels = spec.image_shape[2]
    return Coordinates(parts["K1"], (pixels[0][:, None] * channels + np.arange(channels)).ravel())


def _value_shuffle(spec: SchemeSpec, parts: Parts) -> Coordinates:
    table = ValueShuffle(spec).table(parts)
    assert table.inner is not None
    return Coordinates(table.order, table.inner[0])


CARRIES: dict[str, Callable[[SchemeSpec, Parts], Coordinates]] = {
    "block_pixel_shuffle": _block_pixel_shuffle,
    "value_shuffle": _value_shuffle,
    "orthogonal": lambda spec, parts: Coordinates(matrix=parts["matrix"]),
    "plain": lambda spec, parts: Coordinates(),
}


def coordinates(spec: SchemeSpec, key: SecretKey) -> Coordinates:
    """The coordinates of a key. Raises CipherwardError for a scheme, or a key scope, that has none for all images."""
    if spec.name not in CARRIES:
        raise unknown("scheme whose stem can be carried", spec.name, CARRIES)
    scheme = load(spec)
    if scheme.row_keys:
        raise CipherwardError("a stem cannot be carried where every image has a key of its own")
    return CARRIES[spec.name](spec, scheme.parts(key))


def coordinates_of(place: Place, sealed: SealedDataset) -> Coordinates:
    """Those of a hospital's sealed set: opens its key. Raises CipherwardError where it is not that set's key."""
    key = place.key()
    sealed.require_key(key)
    return coordinates(sealed.spec, key)


def carry(model: nn.Module, to: Coordinates) -> None:
    """Carries the model's stem into a key's coordinates, in place: it then reads images sealed under that key."""
    _move(model, to, back=False)


def carry_back(model: nn.Module, of: Coordinates) -> None:
    """Undoes `carry`, in place: the stem then reads plain images."""
    _move(model, of, back=True)


@torch.no_grad()
def _move(model: nn.Module, where: Coordinates, back: bool) -> None:
    state = model.state_dict()
    values = where.values if where.matrix is None else where.matrix
    if values is not None:
        weight = state["patch_embed.proj.weight"]  # [D, c, P, P]
        across = weight.permute(0, 2, 3, 1)  # [D, P, P, c]
        flat = across.reshape(len(weight), -1)  # [D, V]
        _must_fit("values in a patch", flat.shape[1], values)
        if where.matrix is not None:
            turn = torch.from_numpy(values.T if back else values)
            # In float64, so that only the result is rounded.
            flat = (flat.double() @ turn.double()).to(weight.dtype)
        else:
            flat = flat[:, np.argsort(values) if back else values]
        weight.copy_(flat.reshape(across.shape).permute(0, 3, 1, 2))
    if where.order is not None and "pos_embed" in state:
        # Class and register tokens come first, where they have positions at all.
        rows = state["pos_embed"][0]
        blocks = rows[len(rows) - model.patch_embed.num_patches :]  # type: ignore[union-attr, operator]
        _must_fit("patches", len(blocks), where.order)
        blocks.copy_(blocks[np.argsort(where.order) if back else where.order])


def _must_fit(what: str, found: int, part: np.ndarray) -> None:
    if len(part) != found:
        raise CipherwardError(
            f"the model has {found} {what}, the key's coordinates {len(part)}: the stem cannot be carried",
            "the ViT's patch must be the scheme's block, and its input the sealed image",
        )


def stem_of(model: nn.Module) -> Stem:
    """Copies of the stem's weights."""
    return {k: v.detach().numpy().copy() for k, v in model.state_dict().items() if in_stem(k)}


@torch.no_grad()
def put_stem(model: nn.Module, stem: Stem) -> None:
    """Replaces the stem's weights. Raises CipherwardError where they are another model's."""
    own = {k: v for k, v in model.state_dict().items() if in_stem(k)}
    if {k: tuple(v.shape) for k, v in own.items()} != {k: v.shape for k, v in stem.items()}:
        raise CipherwardError(f"the stem in {FILE} is another model's", "remove that file to start it anew")
    for name, value in own.items():
        value.copy_(torch.from_numpy(stem[name]))


def require_weights(plan: Plan, what: str) -> None:
    """Raises CipherwardError where the plan's public weights, which `what` starts from, are named and not here."""
    path = missing_weights(plan)
    if path:
        raise CipherwardError(
            f"{what} starts from the plan's public weights, and {path} is not here",
            "copy that file to the same path in this hospital",
        )


@functools.lru_cache(maxsize=1)
def _first_stem(plan_json: str, classes: int) -> Stem:
    plan = Plan.model_validate_json(plan_json)
    return stem_of(build_model(plan.model_copy(update={"share": "all"}), classes))


def own_stem(place: Place, plan: Plan, classes: int, round_: int) -> Stem:
    """The hospital's stem after a round, in plain coordinates: the last one it kept up to that round.

    Where it kept none of this study, the common one that the plan's public weights or seed give. Raises
    CipherwardError where the plan's weights file is not here.
    """
    kept = {} if plan.stem_frozen else _read(place, plan)
    rounds = [r for r in kept if r <= round_]
    if rounds:
        return kept[max(rounds)]
    require_weights(plan, "stem private")
    return _first_stem(plan.model_dump_json(), classes)


def keep_stem(place: Place, plan: Plan, model: nn.Module, round_: int, best: int) -> None:
    """Keeps the stem of a round beside that of the round before it and of the best one."""
    if plan.stem_frozen:
        return
    kept = _read(place, plan)
    before = max((r for r in kept if r < round_), default=0)
    best = max((r for r in kept if r <= best), default=0)
    chosen = {r: kept[r] for r in (before, best) if r in kept} | {round_: stem_of(model)}
    tensors = {f"{r}/{name}": value for r, stem in chosen.items() for name, value in stem.items()}
    write_bytes(place.private / FILE, save(tensors, metadata={"study": _study(plan)}))


def _study(plan: Plan) -> str:
    """Tells apart the studies that a hospital took part in: a stem goes with one encoder alone."""
    what = {"study", "seed", "model", "model_args", "weights", "stem"}
    # `all` is left out: stems that were kept before a plan could say more stay what they are.
    about = plan.model_dump_json(include=what | ({"share"} if plan.share != "all" else set()))
    return hashlib.sha256(about.encode()).hexdigest()


def _read(place: Place, plan: Plan) -> dict[int, dict[str, np.ndarray]]:
    """Stems by round; none where the file is of another study, or not there."""
    path = place.private / FILE
    stems: dict[int, dict[str, np.ndarray]] = {}
    if not path.exists():
        return stems
    try:
        with safe_open(str(path), framework="numpy") as file:
            if (file.metadata() or {}).get("study") != _study(plan):
                return stems
            for key in file.keys():  # noqa: SIM118 - not a dict
                round_, name = key.split("/", 1)
                stems.setdefault(int(round_), {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError, ValueError) as error:
        raise CipherwardError(
            f"the hospital's stem {path} cannot be read: {type(error).__name__}",
            "remove it to start from the common stem again",
        ) from None
    return stems


def final_model(plan: Plan, place: Place, classes: int, path: Path) -> nn.Module:
    """The federation's final model as it reads this hospital's sealed images: under its key, with its stem.

    path: cloud/model.safetensors. Under stem modes `private` and `plain` it opens the hospital's key.
    """
    # Adapters are merged in it, and it lacks nothing but private stems.
    whole = plan.model_copy(update={"weights": "", "share": "all"})
    model = build_model(whole, classes)
    load_state(model, load_file(str(path)), path, shared_names(model, whole))
    if plan.stem == "private":
        with safe_open(str(path), framework="numpy") as file:
            round_ = int((file.metadata() or {}).get("round", "0"))
        put_stem(model, own_stem(place, plan, classes, round_))
    if plan.stem != "learn":
        carry(model, coordinates_of(place, place.sealed("test")))
    return model
