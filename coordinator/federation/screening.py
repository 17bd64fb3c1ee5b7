"""What a hospital sends, checked before anything uses it: introductions, replies to training and to evaluation.

All of it comes from outside. Each function returns why something cannot be used, in a few words, or "".
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, Message

from coordinator.exchange.statement import MAX_CLASSES, MAX_IMAGES, is_clean
from coordinator.exchange.wire import DTYPES, apply_reply
from coordinator.model.metrics import check_tables
from crypto.arrays import AnyArray, Float32Array

TRAIN_METRICS = frozenset({"num-examples", "loss", "steps", "seconds"})
#: Under differential privacy no figure leaves that depends on the images.
PRIVATE_TRAIN_METRICS = frozenset({"num-examples", "steps"})
EVALUATE_METRICS = frozenset({"num-examples", "accuracy", "loss", "auc", "auc-defined"})
#: The longest introduction in characters. It is stored with the results.
_MAX_INTRODUCTION = 1 << 20
#: The largest metric. Means of such values, and their sums, stay finite.
_MAX_METRIC = 1e12
#: The largest weight. Squares of it, which krum and fedadam take, stay finite in float32. Trained weights are below
#: 1e3.
_MAX_WEIGHT = 1e18
#: The longest header of an array in the format of NumPy. Those of vectors have 128 bytes.
_MAX_HEADER = 4096


def parse_introduction(reply: Message) -> tuple[dict[str, Any], str]:
    """Return what a party says of itself, and why that is impossible or ""."""
    if reply.has_error():
        return {}, f"error: {reply.error.reason}"
    try:
        text = str(reply.content["about"]["json"])
        if len(text) > _MAX_INTRODUCTION:
            return {}, "an introduction that is too long"
        about = json.loads(text)
        # NaN and infinity would spoil the file of results in the end.
        json.dumps(about, allow_nan=False)
        name, classes = about["party"], about["classes"]
        rows = [about["splits"][split]["rows"] for split in ("train", "val", "test")]
        texts = [name, *classes]
        numbers = [about[field] for field in ("run", "node", "time_ns")]
        signed = [about["manifest"], reply.content["about"]["signature"]]
        has_right_types = isinstance(about["spec"], dict) and isinstance(classes, list)
        has_right_types &= all(type(number) is int for number in numbers)
        has_right_types &= all(isinstance(text, str) for text in signed)
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}, "an introduction that cannot be read"
    if not has_right_types or not all(type(r) is int and 1 <= r <= MAX_IMAGES for r in rows):
        return {}, "an introduction with impossible values"
    if not all(isinstance(text, str) and is_clean(text) for text in texts):
        return {}, "an introduction without valid names"
    if not 1 <= len(set(classes)) == len(classes) <= MAX_CLASSES:
        return {}, "an introduction with impossible classes"
    return about, ""


def screen_training_reply(
    reply: Message, weights: Float32Array, wire: str, rows: int, is_private: bool = False
) -> str:
    """Return why a reply to training cannot be aggregated, or "" if it can.

    Args:
        reply: the reply.
        weights: the coordinator's own before the round, float32 [parameters].
        wire: the plan's `wire`.
        rows: the number of images that the party trains on.
        is_private: whether the plan has differential privacy.
    """
    error = _screen_records(reply, PRIVATE_TRAIN_METRICS if is_private else TRAIN_METRICS, 1, rows)
    if error:
        return error
    arrays = next(iter(reply.content.array_records.values()))
    if set(arrays) != {"model"}:
        return "unknown arrays"
    shape = read_shape(arrays["model"])
    if shape is None:
        return "unreadable weights"
    if shape != (weights.shape, DTYPES[wire]):
        return f"weights of {shape[1]} {shape[0]} instead of {DTYPES[wire]} {weights.shape}"
    try:
        update: AnyArray = arrays["model"].numpy()
    except Exception:  # bytes from outside: NumPy's reader raises a dozen kinds of errors
        return "unreadable weights"
    after = apply_reply(update, weights, wire)
    if not np.isfinite(after).all():
        return "weights that are not finite"
    if np.abs(after).max(initial=0) > _MAX_WEIGHT:
        return f"weights beyond {_MAX_WEIGHT:.0e}"
    return ""


def read_shape(array: Array) -> tuple[tuple[int, ...], np.dtype[Any]] | None:
    """Return shape and dtype of an array from outside, or None if they are unreadable.

    They are read from the header alone: a header can claim more memory than the machine has.
    """
    try:
        stream = io.BytesIO(array.data)
        # NumPy writes version 1.0 unless a header is longer than any of ours.
        if np.lib.format.read_magic(stream) != (1, 0):
            return None
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_MAX_HEADER)
    except Exception:  # bytes from outside: NumPy's reader raises a dozen kinds of errors
        return None
    return shape, dtype


def screen_evaluation_reply(reply: Message, classes: int, rows: int) -> str:
    """Return why a reply to evaluation does not count, or "" if it does.

    Args:
        reply: the reply.
        classes: the number of classes.
        rows: the number of images that the party evaluates.
    """
    error = _screen_records(reply, EVALUATE_METRICS, 0, rows) or check_tables(
        reply_tables(reply), classes, rows
    )
    if error:
        return error
    figures = {k: float(v) for k, v in next(iter(reply.content.metric_records.values())).items()}
    accuracy = np.trace(np.reshape(reply_tables(reply)["confusion"], (classes, classes))) / rows
    if abs(figures["accuracy"] - accuracy) > 0.5 / rows:
        return "an accuracy that its own table contradicts"
    if not (0 <= figures["auc"] <= 1 and figures["auc-defined"] in (0, 1) and figures["loss"] >= 0):
        return "an impossible AUC or loss"
    return ""


def reply_tables(reply: Message) -> dict[str, Any]:
    """Return the tables of a reply to evaluation, empty if it has none."""
    return dict(reply.content.config_records.get("tables", {}))


def _screen_records(reply: Message, metrics: frozenset[str], arrays: int, rows: int) -> str:
    """Return why the records of a reply are not those expected, or ""."""
    if reply.has_error():
        return f"error: {reply.error.reason}"
    content = reply.content
    if len(content.metric_records) != 1 or len(content.array_records) != arrays:
        return "wrong number of records"
    figures = next(iter(content.metric_records.values()))
    if set(figures) != metrics:
        return f"metrics {sorted(figures)} instead of {sorted(metrics)}"
    if not all(isinstance(v, int | float) and np.isfinite(v) for v in figures.values()):
        return "a metric is not a finite number"
    if max(abs(v) for v in figures.values()) > _MAX_METRIC:
        return f"a metric beyond {_MAX_METRIC:.0e}"
    if rows < 1 or figures["num-examples"] != rows:
        return f"{figures['num-examples']} examples instead of the {rows} of its introduction"
    try:
        sum(record.count_bytes() for record in content.values())
    except Exception:  # Flower cannot count an empty list, and the journal counts all records
        return "records that cannot be counted"
    return ""


def join_errors(errors: Iterable[str]) -> str:
    """Return error texts from outside on one line, each cut to 200 printable characters."""
    return "; ".join(_on_one_line(e) for e in errors) or "no reason given"


def _on_one_line(text: str) -> str:
    """Return a text from outside, cut to 200 characters, without any that control a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split())[:200])
