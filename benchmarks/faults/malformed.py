"""Damaged replies: a kind for every record type and every way in which one can be wrong.

Flower checks types when a record is made in Python. What comes over the network was checked by nobody, so some of
these are put past Flower's own checks; `benchmarks.faults.liar` sends those that its wire format can express.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from crypto.arrays import AnyArray

#: Changes a reply's content.
Damage = Callable[[RecordDict], None]


def _npy(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=True)
    return stream.getvalue()


def _put(record: Callable[[], Any], name: str = "x") -> Damage:
    return lambda content: content.__setitem__(name, record())


def _put_metric(name: str, value: Any) -> Damage:
    # Past Flower's check of types, as bytes from the network are.
    return lambda content: dict.__setitem__(content["metrics"]._data, name, value)


def _put_weights(change: Callable[[AnyArray], Array]) -> Damage:
    def damage(content: RecordDict) -> None:
        content["arrays"] = ArrayRecord({"model": change(content["arrays"]["model"].numpy())})

    return damage


def _raw(weights: AnyArray, data: bytes, dtype: str = "", stype: str = "numpy.ndarray") -> Array:
    return Array(dtype or str(weights.dtype), weights.shape, stype, data)


def _as_objects(weights: AnyArray) -> Array:
    return _raw(weights, _npy(np.array([{}, *weights.ravel()[1:].tolist()], object)))


def _as_giant(weights: AnyArray) -> Array:
    shape = repr(weights.shape).encode() + b", "
    huge = b"(9" + b"9" * 9 + b",)"
    return _raw(weights, _npy(weights).replace(shape, huge.ljust(len(shape))))


#: Changes of a reply to training.
TRAINING: dict[str, Damage] = {
    "an empty list in a config record": _put(lambda: ConfigRecord({"a": []})),
    "an empty list in a second metric record": _put(lambda: MetricRecord({"a": []})),
    "an empty list among the metrics": _put_metric("loss", []),
    "a list among the metrics": _put_metric("loss", [1.0, 2.0]),
    "a text among the metrics": _put_metric("loss", "1"),
    "bytes among the metrics": _put_metric("loss", b"1"),
    "nothing among the metrics": _put_metric("loss", None),
    "no number": _put_metric("loss", float("nan")),
    "infinity": _put_metric("loss", float("inf")),
    "a number beyond float": _put_metric("steps", 10**400),
    "more images than there are": _put_metric("num-examples", 10**9),
    "no images": _put_metric("num-examples", 0),
    "fewer than no images": _put_metric("num-examples", -30),
    "a truth value for the images": _put_metric("num-examples", True),
    "another metric": _put_metric("more", 1.0),
    "a second array record": lambda content: content.__setitem__("x", content["arrays"]),
    "an empty array record": _put(lambda: ArrayRecord({}), "arrays"),
    "another array": lambda content: content.__setitem__(
        "arrays",
        ArrayRecord({"other": content["arrays"]["model"]}),
    ),
    "two arrays": lambda content: content.__setitem__(
        "arrays",
        ArrayRecord({"model": content["arrays"]["model"], "more": content["arrays"]["model"]}),
    ),
    "another shape": _put_weights(
        lambda w: Array(w.reshape(2, -1) if w.size % 2 == 0 else w.reshape(1, -1))
    ),
    "another dtype": _put_weights(lambda w: Array(w.astype(np.float64))),
    "big-endian": _put_weights(lambda w: Array(w.astype(">f4"))),
    "objects": _put_weights(_as_objects),
    "no bytes": _put_weights(lambda w: _raw(w, b"")),
    "half an array": _put_weights(lambda w: _raw(w, _npy(w)[:-3])),
    "another format": _put_weights(lambda w: _raw(w, _npy(w), stype="pickle")),
    "a header that claims the whole memory": _put_weights(_as_giant),
    "weights that are no numbers": _put_weights(lambda w: Array(w + np.array(np.nan, w.dtype))),
    "weights beyond all bounds": _put_weights(lambda w: Array(np.full_like(w, 3e38))),
    "no records": lambda content: content.clear(),
    "a config record in place of the weights": _put(lambda: ConfigRecord({"model": "x"}), "arrays"),
}

#: Changes of a reply to evaluation.
EVALUATION: dict[str, Damage] = {
    "an empty list in a config record": _put(lambda: ConfigRecord({"a": []})),
    "an empty list among the metrics": _put_metric("loss", []),
    "no number": _put_metric("loss", float("nan")),
    "more images than there are": _put_metric("num-examples", 10**9),
    "an impossible accuracy": _put_metric("accuracy", 7.0),
    "another metric": _put_metric("more", 1.0),
    "an empty confusion table": lambda content: content["tables"].__setitem__("confusion", []),
    "no tables": lambda content: content.__delitem__("tables"),
    "tables of another type": _put(lambda: MetricRecord({"confusion": [1]}), "tables"),
    "an array record as well": _put(lambda: ArrayRecord({"model": Array(np.zeros(3, np.float32))})),
    "no records": lambda content: content.clear(),
}
