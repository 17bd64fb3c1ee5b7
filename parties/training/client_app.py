"""The hospital's side of a federation: a Flower ClientApp.

What leaves: updated weights, counts and figures of training, and the public facts of the sealed set. Under stem
mode `learn` it opens no key. Under `private` and `plain` it does, to carry the stem into the key's coordinates for
training and evaluation; `private` then keeps the stem, and `plain` sends it carried back to plain coordinates.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import build
from coordinator.exchange.wire import decode, reply
from coordinator.model.metrics import tables
from coordinator.model.shares import base_digest
from coordinator.model.training import measure, probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, shared_names, unpack
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset
from parties.sealing.place import Place, find_place
from parties.training.stem import (
    Coordinates,
    Stem,
    carry,
    carry_back,
    coordinates_of,
    keep_stem,
    own_stem,
    put_stem,
    require_weights,
    stem_of,
)
from parties.training.views import views_of

app = ClientApp()


def _plan(message: Message) -> Plan:
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    return build(Plan, json.loads(str(config["plan"])), "the coordinator's plan")


@functools.lru_cache(maxsize=1)
def _built(plan_json: str, classes: int) -> tuple[nn.Module, str]:
    """(the model, the digest of what of it does not travel). A process that serves many messages builds it once."""
    plan = build(Plan, json.loads(plan_json), "the coordinator's plan")
    if plan.share == "all":
        # Weights from the coordinator replace every value, or the hospital's own stem does: no file is needed.
        plan = plan.model_copy(update={"weights": ""})
    else:
        require_weights(plan, f"share {plan.share}")
    model = build_model(plan, classes)
    return model, base_digest(model, plan)


def _model(
    message: Message, plan: Plan, place: Place, sealed: SealedDataset, round_: int
) -> tuple[nn.Module, Coordinates, np.ndarray, Stem]:
    """The model received, its stem carried into the coordinates of the set's key where the plan wants that; its
    coordinates; the weights received, float32 [parameters]; and its stem before it was carried.

    round_: the round whose stem of the hospital's own it gets under `private`. Raises CipherwardError where what does
    not travel is not what the coordinator has.
    """
    classes = len(sealed.classes)
    model, base = _built(plan.model_dump_json(), classes)
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    if config.get("base", base) != base:
        raise CipherwardError(
            f"the encoder that this hospital starts from under share {plan.share} is not the coordinator's",
            f"copy the coordinator's {Path(plan.weights).name or 'version of torch'} here",
        )
    arrays = message.content["arrays"]
    assert isinstance(arrays, ArrayRecord)
    weights = decode(arrays["model"].numpy(), plan.wire)
    unpack(model, weights, shared_names(model, plan))
    if plan.stem == "learn":
        return model, Coordinates(), weights, {}
    if plan.stem == "private":
        put_stem(model, own_stem(place, plan, classes, round_))
    where, stem = coordinates_of(place, sealed), stem_of(model)
    carry(model, where)
    return model, where, weights, stem


def _place(context: Context) -> Place:
    return find_place(context.node_config, context.run_config)


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Who this party is and what it sealed: public facts, asked for once before the first round."""
    place = _place(context)
    facts: dict[str, dict] = {}
    classes: list[str] = []
    for split in ("train", "val", "test"):
        sealed = place.sealed(split)
        if classes and sealed.classes != classes:
            raise CipherwardError(f"the classes of {split} are not those of train: {sealed.classes}")
        classes = sealed.classes
        sealed.check_digests()  # an altered shard is named now, not learnt from
        facts[split] = {"rows": len(sealed), "digest": sealed.digest, "key_id": sealed.key_id}
    about = {
        "party": place.settings.party,
        "classes": classes,
        "spec": sealed.spec.to_json() | {"options": {}},
        "splits": facts,
    }
    return Message(RecordDict({"about": ConfigRecord({"json": json.dumps(about)})}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local epochs on the sealed training images, from the weights received."""
    started = time.perf_counter()
    use_all_cores()
    plan, place = _plan(message), _place(context)
    sealed = place.sealed("train")
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    round_, best = int(config["server-round"]), int(config["best-round"])  # type: ignore[arg-type]
    model, where, weights, stem = _model(message, plan, place, sealed, round_ - 1)
    data = sealed if plan.augment == "none" else views_of(place, sealed)
    proximal = float(config.get("proximal-mu", 0.0))  # type: ignore[arg-type]
    done = train_locally(model, data, plan, round_, place.settings.party, proximal)
    if plan.stem_frozen:
        # As it came: carried there and back, a stem is rounded in a way that depends on the key.
        put_stem(model, stem)
    elif plan.stem != "learn":
        carry_back(model, where)
    if plan.stem == "private":
        keep_stem(place, plan, model, round_, best)
    metrics = MetricRecord(
        {
            "num-examples": len(sealed),
            "loss": done["loss"],
            "steps": int(done["steps"]),
            "seconds": time.perf_counter() - started,
        }
    )
    answer = reply(pack(model, shared_names(model, plan)), weights, plan.wire)
    content = RecordDict(
        {
            "arrays": ArrayRecord({"model": Array(answer)}),
            "metrics": metrics,
            "about": ConfigRecord({"party": place.settings.party}),
        }
    )
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Accuracy, loss, AUC and tables on the sealed images of the split that the coordinator names."""
    use_all_cores()
    plan, place = _plan(message), _place(context)
    config = message.content["config"]
    assert isinstance(config, ConfigRecord)
    split = str(config["split"])
    if split not in ("val", "test"):
        raise CipherwardError("the coordinator asked for another split than val or test")
    sealed = place.sealed(split)
    # After the last round, the test asks for the best one.
    model, *_ = _model(message, plan, place, sealed, int(config["server-round"]))  # type: ignore[arg-type]
    scores, labels = probabilities(model, sealed), np.asarray(sealed.labels)
    figures = dict(measure(scores, labels))
    defined = int(np.isfinite(figures["auc"]))
    figures |= {"auc": figures["auc"] if defined else 0.0, "auc-defined": defined}
    metrics = MetricRecord({"num-examples": len(sealed), **figures})
    about = ConfigRecord({"party": place.settings.party})
    sums = ConfigRecord(tables(scores, labels))  # type: ignore[arg-type]
    content = RecordDict({"metrics": metrics, "about": about, "tables": sums})
    return Message(content, reply_to=message)
