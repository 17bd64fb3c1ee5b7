"""The stems that a hospital keeps under stem mode `private`, and the final model as a hospital reads it.

The stems are in HOSPITAL/private/stem.safetensors, in plain coordinates: those of the last two rounds, in case a
round is asked for again, and that of the best round, for the test.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from safetensors.torch import load_file
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.model.shares import missing_weights, shared_names
from coordinator.model.vit import build_model, load_state
from crypto.arrays import Float32Array
from crypto.errors import CipherwardError
from crypto.files import write_bytes
from parties.sealing.place import Place
from parties.training.stem import Stem, carry, copy_stem, hospital_coordinates, replace_stem

FILE = "stem.safetensors"


def require_weights(plan: Plan, what: str) -> None:
    """Raise CipherwardError if the plan names public weights, which `what` starts from, and they are not here."""
    path = missing_weights(plan)
    if path:
        raise CipherwardError(
            f"{what} starts from the plan's public weights, and {path} is not here",
            "copy that file to the same path in this hospital",
        )


@functools.lru_cache(maxsize=1)
def _common_stem(plan_json: str, classes: int) -> Stem:
    """Return the stem that all hospitals start from."""
    plan = Plan.model_validate_json(plan_json)
    return copy_stem(build_model(plan.model_copy(update={"share": "all"}), classes))


def read_own_stem(place: Place, plan: Plan, classes: int, round_: int) -> Stem:
    """Return the hospital's stem after a round, in plain coordinates.

    This is the last stem that was kept up to that round. If none of this study was kept, it is the common stem, from
    the plan's public weights or seed.

    Raises:
        CipherwardError: if the common stem is needed and the plan's weights file is not here.
    """
    stems = {} if plan.stem_frozen else _read_stems(place, plan)
    rounds = [r for r in stems if r <= round_]
    if rounds:
        return stems[max(rounds)]
    require_weights(plan, "stem private")
    return _common_stem(plan.model_dump_json(), classes)


def write_own_stem(place: Place, plan: Plan, model: nn.Module, round_: int, best: int) -> None:
    """Write the model's stem as that of a round, beside the stems of the previous and of the best round.

    A frozen stem is not written.

    Args:
        place: the hospital.
        plan: identifies the study.
        model: its stem is in plain coordinates.
        round_: the round that the model was trained in.
        best: the best round so far.
    """
    if plan.stem_frozen:
        return
    stems = _read_stems(place, plan)
    previous = max((r for r in stems if r < round_), default=0)
    best = max((r for r in stems if r <= best), default=0)
    kept: dict[int, Stem] = {r: stems[r] for r in (previous, best) if r in stems}
    kept[round_] = copy_stem(model)
    tensors = {f"{r}/{name}": value for r, stem in kept.items() for name, value in stem.items()}
    write_bytes(place.private / FILE, save(tensors, metadata={"study": _study_digest(plan)}))


def _study_digest(plan: Plan) -> str:
    """Return a digest that identifies the study: a stem fits only the encoder that it was trained with."""
    fields = {"study", "seed", "model", "model_args", "weights", "stem"}
    # Share `all` is left out, so that the digest of stems from before the plan had `share` stays the same.
    text = plan.model_dump_json(include=fields | ({"share"} if plan.share != "all" else set()))
    return hashlib.sha256(text.encode()).hexdigest()


def _read_stems(place: Place, plan: Plan) -> dict[int, dict[str, Float32Array]]:
    """Return the kept stems by round, empty if there is no file or it belongs to another study."""
    path = place.private / FILE
    stems: dict[int, dict[str, Float32Array]] = {}
    if not path.exists():
        return stems
    try:
        with safe_open(str(path), framework="numpy") as file:
            if (file.metadata() or {}).get("study") != _study_digest(plan):
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


def load_final_model(plan: Plan, place: Place, classes: int, path: Path) -> nn.Module:
    """Load the federation's final model so that it reads this hospital's sealed images, with this hospital's stem.

    Under stem modes `private` and `plain` this opens the hospital's key.

    Args:
        plan: the study's plan.
        place: the hospital.
        classes: the number of classes.
        path: the study's cloud/model.safetensors.
    """
    # The file has its adapters merged, and lacks nothing except private stems.
    merged_plan = plan.model_copy(update={"weights": "", "share": "all"})
    model = build_model(merged_plan, classes)
    load_state(model, load_file(str(path)), path, shared_names(model, merged_plan))
    if plan.stem == "private":
        with safe_open(str(path), framework="numpy") as file:
            round_ = int((file.metadata() or {}).get("round", "0"))
        replace_stem(model, read_own_stem(place, plan, classes, round_))
    if plan.stem != "learn":
        carry(model, hospital_coordinates(place, place.sealed("test")))
    return model
