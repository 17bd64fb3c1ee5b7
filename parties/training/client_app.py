"""The hospital's side of a federation: a Flower ClientApp.

It sends updated weights, counts and figures of training, and the public facts of the sealed set. Under stem mode
`learn` it opens no key. Under `private` and `plain` it opens the hospital's key, to carry the stem into the key's
coordinates for training and evaluation. `private` then keeps the stem; `plain` sends it, carried back to plain
coordinates.

Importing this module must stay cheap, because Flower may start a new process for each message. timm and
torchvision load when a model is built.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import build
from coordinator.exchange.wire import decode, encode_reply
from coordinator.model.metrics import measure, tabulate
from coordinator.model.shares import base_digest, shared_names
from coordinator.model.training import predict_probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, unpack
from crypto.arrays import Float32Array
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place, find_place
from parties.training.stem import (
    Coordinates,
    Stem,
    carry,
    carry_back,
    copy_stem,
    hospital_coordinates,
    replace_stem,
)
from parties.training.stem_file import read_own_stem, require_weights, write_own_stem
from parties.training.views import open_views

app = ClientApp()


class _Received(NamedTuple):
    """A model as a message carried it.

    Attributes:
        model: the model, with its stem in the coordinates of the hospital's key unless stem mode is `learn`.
        coordinates: those coordinates.
        weights: the weights received, float32 [parameters].
        stem: the stem before it was carried; empty under stem mode `learn`.
    """

    model: nn.Module
    coordinates: Coordinates
    weights: Float32Array
    stem: Stem


def _config(message: Message) -> ConfigRecord:
    """Return a message's settings."""
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    return config


def _plan(message: Message) -> Plan:
    """Return the plan that a message carries, checked."""
    return build(Plan, json.loads(str(_config(message)["plan"])), "the coordinator's plan")


@functools.lru_cache(maxsize=1)
def build_base_model(plan_json: str, classes: int) -> tuple[nn.Module, str]:
    """Build the model that received weights are loaded into, once for all messages of a process.

    Args:
        plan_json: the plan as JSON.
        classes: the number of classes.

    Returns:
        The model, and the digest of its weights that are not sent.

    Raises:
        CipherwardError: if some weights are not sent, and the plan's public weights, which they come from, are not
            here.
    """
    plan = build(Plan, json.loads(plan_json), "the coordinator's plan")
    if plan.share == "all":
        # The coordinator's weights, or the hospital's own stem, replace every value: no file is needed.
        plan = plan.model_copy(update={"weights": ""})
    else:
        require_weights(plan, f"share {plan.share}")
    model = build_model(plan, classes)
    return model, base_digest(model, plan)


def _load_model(
    message: Message, plan: Plan, place: Place, sealed: SealedDataset, stem_round: int
) -> _Received:
    """Load the received weights into a model, and carry its stem into the key's coordinates if the plan wants that.

    stem_round: under stem mode `private`, the round whose own stem the model gets.

    Raises:
        CipherwardError: if the weights that are not sent differ from the coordinator's.
    """
    classes = len(sealed.classes)
    model, base = build_base_model(plan.model_dump_json(), classes)
    if _config(message).get("base", base) != base:
        raise CipherwardError(
            f"the encoder that this hospital starts from under share {plan.share} is not the coordinator's",
            f"copy the coordinator's {Path(plan.weights).name or 'version of torch'} here",
        )
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    weights = decode(arrays["model"].numpy(), plan.wire)
    unpack(model, weights, shared_names(model, plan))
    if plan.stem == "learn":
        return _Received(model, Coordinates(), weights, {})
    if plan.stem == "private":
        replace_stem(model, read_own_stem(place, plan, classes, stem_round))
    coordinates, stem = hospital_coordinates(place, sealed), copy_stem(model)
    carry(model, coordinates)
    return _Received(model, coordinates, weights, stem)


def _place(context: Context) -> Place:
    """Return the hospital that a Flower node stands for."""
    return find_place(context.node_config, context.run_config)


@app.query("hello")  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def hello(message: Message, context: Context) -> Message:
    """Say who this party is and what it sealed: public facts, asked for once before the first round."""
    place = _place(context)
    facts: dict[str, dict[str, Any]] = {}
    classes: list[str] = []
    for split in ("train", "val", "test"):
        sealed = place.sealed(split)
        if classes and sealed.classes != classes:
            raise CipherwardError(f"the classes of {split} are not those of train: {sealed.classes}")
        classes = sealed.classes
        sealed.check_digests()  # an altered shard is reported now, and not trained on
        facts[split] = {"rows": len(sealed), "digest": sealed.digest, "key_id": sealed.key_id}
    about = {
        "party": place.settings.party,
        "classes": classes,
        "spec": sealed.spec.to_json() | {"options": {}},
        "splits": facts,
    }
    return Message(RecordDict({"about": ConfigRecord({"json": json.dumps(about)})}), reply_to=message)


@app.train()  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def train(message: Message, context: Context) -> Message:
    """Train for a round on the sealed training images, from the weights received."""
    started = time.perf_counter()
    use_all_cores()
    plan, place, config = _plan(message), _place(context), _config(message)
    sealed = place.sealed("train")
    round_, best = int(config["server-round"]), int(config["best-round"])
    model, coordinates, weights, stem = _load_model(message, plan, place, sealed, round_ - 1)
    data = sealed if plan.augment == "none" else open_views(place, sealed)
    proximal = float(config.get("proximal-mu", 0.0))
    result = train_locally(model, data, plan, round_, place.settings.party, proximal)
    if plan.stem_frozen:
        # As received: carrying it there and back would round it in a way that depends on the key.
        replace_stem(model, stem)
    elif plan.stem != "learn":
        carry_back(model, coordinates)
    if plan.stem == "private":
        write_own_stem(place, plan, model, round_, best)
    metrics = MetricRecord(
        {
            "num-examples": len(sealed),
            "loss": result["loss"],
            "steps": int(result["steps"]),
            "seconds": time.perf_counter() - started,
        }
    )
    words = encode_reply(pack(model, shared_names(model, plan)), weights, plan.wire)
    content = RecordDict(
        {
            "arrays": ArrayRecord({"model": Array(words)}),
            "metrics": metrics,
            "about": ConfigRecord({"party": place.settings.party}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def evaluate(message: Message, context: Context) -> Message:
    """Send accuracy, loss, AUC and tables on the sealed images of the split that the coordinator names."""
    use_all_cores()
    plan, place, config = _plan(message), _place(context), _config(message)
    split = str(config["split"])
    if split not in ("val", "test"):
        raise CipherwardError("the coordinator asked for a split that is neither val nor test")
    sealed = place.sealed(split)
    # The test comes after the last round, and asks for the stems of the best one.
    model = _load_model(message, plan, place, sealed, int(config["server-round"])).model
    scores, labels = predict_probabilities(model, sealed), np.asarray(sealed.labels)
    figures = dict(measure(scores, labels))
    defined = int(np.isfinite(figures["auc"]))
    figures |= {"auc": figures["auc"] if defined else 0.0, "auc-defined": defined}
    metrics = MetricRecord({"num-examples": len(sealed), **figures})
    about = ConfigRecord({"party": place.settings.party})
    tables = ConfigRecord(tabulate(scores, labels))
    content = RecordDict({"metrics": metrics, "about": about, "tables": tables})
    return Message(content, reply_to=message)
