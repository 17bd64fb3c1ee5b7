"""The hospital's side of a federation: a Flower ClientApp.

It sends updated weights, counts and figures of training, and the public facts of the sealed set. Under stem mode
`learn` it opens the hospital's key only to augment images. Under `private` and `plain` it opens it to carry the stem
into the key's coordinates for training and evaluation. `private` then keeps the stem; `plain` sends it, carried back
to plain coordinates.

It obeys the hospital's own policy, and not the plan of a message (parties/training/guard.py).

Importing this module must stay cheap, because Flower may start a new process for each message. timm and
torchvision load when a model is built.
"""

from __future__ import annotations

import functools
import json
import time
from typing import NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from torch import nn

from coordinator.exchange.introduction import sign_introduction
from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import build
from coordinator.exchange.wire import decode, encode_reply
from coordinator.model.metrics import measure, tabulate
from coordinator.model.private_layers import require_private_layers
from coordinator.model.shares import base_digest, shared_names
from coordinator.model.training import predict_probabilities, train_locally, use_all_cores
from coordinator.model.vit import build_model, pack, unpack
from crypto.arrays import AnyArray, Float32Array
from crypto.errors import CipherwardError
from crypto.spec import spec_without_nonce
from parties.agent.identity_file import read_identity
from parties.sealing.place import Place, find_place
from parties.training.guard import Request, admit, admit_introduction, require_length
from parties.training.policy_file import require_weights
from parties.training.private_release import release_once
from parties.training.private_training import PrivateRound, train_privately
from parties.training.provisional_stem import commit_stem, keep_provisional_stem
from parties.training.secure_sum import answer_step, begin_sum
from parties.training.stem import (
    Coordinates,
    Stem,
    carry,
    carry_back,
    copy_stem,
    hospital_coordinates,
    replace_stem,
)
from parties.training.stem_file import read_own_stem
from parties.training.views import open_views


def keep_figures_inside(message: Message, context: Context, answer: ClientAppCallable) -> Message:
    """Answer a message. An error that holds figures of this hospital leaves without them."""
    try:
        return answer(message, context)
    except CipherwardError as error:
        if not error.outside:
            raise
        # Flower sends the text of whatever is raised here.
        raise error.for_outside() from None


app = ClientApp(mods=[keep_figures_inside])


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


@functools.lru_cache(maxsize=1)
def build_base_model(plan_json: str, classes: int, weights_sha256: str) -> tuple[nn.Module, str]:
    """Build the model that received weights are loaded into, once for all messages of a process.

    Args:
        plan_json: the accepted plan as JSON; its weights are the hospital's own file.
        classes: the number of classes.
        weights_sha256: the digest of that file in the hospital's policy.

    Returns:
        The model, and the digest of its weights that are not sent.

    Raises:
        CipherwardError: if some weights are not sent, and the plan's public weights, which they come from, are not
            here or are not those that the hospital accepted.
    """
    plan = build(Plan, json.loads(plan_json), "the accepted plan")
    if plan.share == "all":
        # The coordinator's weights, or the hospital's own stem, replace every value: no file is needed.
        plan = plan.model_copy(update={"weights": ""})
    else:
        require_weights(plan, weights_sha256, f"share {plan.share}")
    model = build_model(plan, classes)
    return model, base_digest(model, plan)


def _load_model(place: Place, request: Request, stem_round: int) -> _Received:
    """Load the received weights into a model, and carry its stem into the key's coordinates if the plan wants that.

    stem_round: under stem mode `private`, the round whose own stem the model gets.

    Raises:
        CipherwardError: if the weights that are not sent differ from the coordinator's.
    """
    plan, policy, sealed = request.plan, request.policy, request.sealed
    classes = len(sealed.classes)
    model, base = build_base_model(plan.model_dump_json(), classes, policy.weights_sha256)
    if request.settings.base not in (None, base):
        raise CipherwardError(
            f"the encoder that this hospital starts from under share {plan.share} is not the coordinator's",
            f"copy the coordinator's {policy.weights or 'version of torch'} here, and accept the plan again",
        )
    _require_length(place, request, model)
    weights = decode(request.words.numpy(), plan.wire)
    unpack(model, weights, shared_names(model, plan))
    if plan.stem == "learn":
        return _Received(model, Coordinates(), weights, {})
    if plan.stem == "private":
        replace_stem(model, read_own_stem(place, plan, classes, stem_round, policy))
    coordinates, stem = hospital_coordinates(place, sealed), copy_stem(model)
    carry(model, coordinates)
    return _Received(model, coordinates, weights, stem)


def _require_length(place: Place, request: Request, model: nn.Module) -> None:
    """Refuse a message with more or fewer weights than those of the plan's model that travel."""
    state = model.state_dict()
    require_length(place, request, sum(state[name].numel() for name in shared_names(model, request.plan)))


def _place(context: Context) -> Place:
    """Return the hospital that a Flower node stands for."""
    return find_place(context.node_config, context.run_config)


@app.query("hello")  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def hello(message: Message, context: Context) -> Message:
    """Say who this party is and what it sealed: public facts, signed for this run and this node."""
    place = _place(context)
    manifest, sets = admit_introduction(place, message)
    for sealed in sets.values():
        sealed.check_digests()  # an altered shard is reported now, and not trained on
    train_set = sets["train"]
    about = {
        "party": place.settings.party,
        "classes": train_set.classes,
        "spec": spec_without_nonce(train_set.spec),
        "splits": {
            split: {"rows": len(sealed), "digest": sealed.digest, "key_id": sealed.key_id}
            for split, sealed in sets.items()
        },
        "manifest": manifest.digest,
        "run": context.run_id,
        "node": context.node_id,
        "time_ns": time.time_ns(),
    }
    identity = read_identity(place)
    if identity.public.line != manifest.statements[place.settings.party].identity:
        raise CipherwardError(
            f"the identity of {place.settings.party} is not the one that it stated in the study manifest",
            "restore private/identity.pem; or state the sets again: cipherward-party declare",
        )
    record = ConfigRecord(sign_introduction(identity, about))
    return Message(RecordDict({"about": record}), reply_to=message)


@app.train()  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def train(message: Message, context: Context) -> Message:
    """Train for a round on the sealed training images, from the weights received."""
    started = time.perf_counter()
    use_all_cores()
    place = _place(context)
    request = admit(place, message, "train")
    if request.plan.sums_securely:
        return Message(
            begin_sum(place, request, functools.partial(_answer, place, request)), reply_to=message
        )
    words, figures = _answer(place, request)
    commit_stem(place, request.policy, request.name)
    if "loss" in figures:
        figures["seconds"] = time.perf_counter() - started
    content = RecordDict(
        {
            "arrays": ArrayRecord({"model": Array(words)}),
            "metrics": MetricRecord({"num-examples": len(request.sealed), **figures}),
            "about": ConfigRecord({"party": place.settings.party}),
        }
    )
    return Message(content, reply_to=message)


def _answer(place: Place, request: Request) -> tuple[AnyArray, dict[str, float | int]]:
    """Train for a round; return the words to send, and the figures that may leave with them."""
    if not request.plan.privacy.is_on:
        words, result = _train_round(place, request)
        return words, {"loss": result["loss"], "steps": int(result["steps"])}
    # No loss, and no time that depends on how many images were drawn: the noise does not cover them.
    classes, sha256 = len(request.sealed.classes), request.policy.weights_sha256
    model, _ = build_base_model(request.plan.model_dump_json(), classes, sha256)
    require_private_layers(model, request.plan)
    _require_length(place, request, model)  # before it costs any privacy
    words = release_once(place, request, lambda private: _train_round(place, request, private)[0])
    return words, {"steps": request.plan.steps_per_round(len(request.sealed))}


def _train_round(
    place: Place, request: Request, private: PrivateRound | None = None
) -> tuple[AnyArray, dict[str, float]]:
    """Train for a round; return the words to send, and the figures of a training that is not private."""
    plan, settings, round_ = request.plan, request.settings, request.settings.round
    model, coordinates, weights, stem = _load_model(place, request, round_ - 1)
    data = request.sealed if plan.augment == "none" else open_views(place, request.sealed)
    result: dict[str, float] = {}
    if private is None:
        result = train_locally(model, data, plan, round_, place.settings.party, settings.proximal)
    else:
        train_privately(model, data, plan, round_, private, settings.proximal)
    if plan.stem_frozen:
        # As received: carrying it there and back would round it in a way that depends on the key.
        replace_stem(model, stem)
    elif plan.stem != "learn":
        carry_back(model, coordinates)
    if plan.stem == "private":
        keep_provisional_stem(place, request.policy, request.name, model, round_, settings.best_round)
    return encode_reply(pack(model, shared_names(model, plan)), weights, plan.wire), result


@app.query("shares")  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def shares(message: Message, context: Context) -> Message:
    """Send the other hospitals of a secure sum their shares, encrypted."""
    return Message(answer_step(_place(context), message, "shares"), reply_to=message)


@app.query("masked")  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def masked(message: Message, context: Context) -> Message:
    """Send the masked update."""
    return Message(answer_step(_place(context), message, "masked"), reply_to=message)


@app.query("confirm")  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def confirm(message: Message, context: Context) -> Message:
    """Sign whose updates are summed."""
    return Message(answer_step(_place(context), message, "confirm"), reply_to=message)


@app.query("reveal")  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def reveal(message: Message, context: Context) -> Message:
    """Send the shares that unmask the sum."""
    return Message(answer_step(_place(context), message, "reveal"), reply_to=message)


@app.evaluate()  # type: ignore[untyped-decorator]  # flwr is not typed for mypy here
def evaluate(message: Message, context: Context) -> Message:
    """Send accuracy, loss, AUC and tables on the sealed images of the split that the coordinator names."""
    use_all_cores()
    place = _place(context)
    request = admit(place, message, "evaluate")
    sealed = request.sealed
    # The test comes after the last round, and asks for the stems of the best one.
    model = _load_model(place, request, request.settings.round).model
    scores, labels = predict_probabilities(model, sealed), np.asarray(sealed.labels)
    figures = dict(measure(scores, labels))
    defined = int(np.isfinite(figures["auc"]))
    figures |= {"auc": figures["auc"] if defined else 0.0, "auc-defined": defined}
    metrics = MetricRecord({"num-examples": len(sealed), **figures})
    about = ConfigRecord({"party": place.settings.party})
    tables = ConfigRecord(tabulate(scores, labels))
    content = RecordDict({"metrics": metrics, "about": about, "tables": tables})
    return Message(content, reply_to=message)
