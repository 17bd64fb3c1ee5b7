"""One flat vector against Flower's array of each tensor: bytes, objects and seconds of one message.

    python -m benchmarks.records [--model vit_tiny_patch16_224] [--repeats 5] [--json FILE]

Flower takes a message apart into objects, sends each in a request of its own, and puts them together again. Here it
does so with its own functions in one process: the bytes are those of the objects, the objects are those that go over
the wire, and the seconds are those of taking apart, hashing and putting together. The requests themselves are not
timed: over TLS each costs more.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import timm
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_json, make_parser, write_figures
from coordinator.report.build import machine


def measure(tensors: dict[str, np.ndarray[Any, Any]], repeats: int) -> dict[str, float]:
    """Take a message of these arrays apart and put it together again, several times.

    Args:
        tensors: the arrays, by name.
        repeats: how often.

    Returns:
        Bytes and number of objects, and the median seconds of both directions.

    Raises:
        AssertionError: if the arrays that come out are others.
    """
    # Message() reads these; a real runtime sets them when it starts a task.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    packing, unpacking = [], []
    contents: dict[str, bytes] = {}
    for _ in range(repeats):
        started = time.perf_counter()
        arrays = ArrayRecord({name: Array(array) for name, array in tensors.items()})
        message = Message(RecordDict({"arrays": arrays}), dst_node_id=2, message_type="train")
        contents = {name: item.deflate() for name, item in get_all_nested_objects(message).items()}
        identity = message.object_id
        packing.append(time.perf_counter() - started)
        started = time.perf_counter()
        received: Any = inflate_object_from_contents(identity, dict(contents))
        values = {name: array.numpy() for name, array in received.content["arrays"].items()}
        unpacking.append(time.perf_counter() - started)
        assert values.keys() == tensors.keys()
        assert all(np.array_equal(values[name], tensors[name]) for name in tensors)
    return {
        "bytes": sum(map(len, contents.values())),
        "objects": len(contents),
        "pack_seconds": statistics.median(packing),
        "unpack_seconds": statistics.median(unpacking),
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="a model of timm")
    parser.add_argument("--repeats", type=int, default=5)
    add_json(parser)
    args = parser.parse_args()
    torch.manual_seed(0)
    state = timm.create_model(args.model, num_classes=2).state_dict()
    tensors = {name: tensor.numpy() for name, tensor in state.items() if tensor.is_floating_point()}
    flat = np.concatenate([array.ravel() for array in tensors.values()])
    records = [
        {"form": "one flat vector", "arrays": 1, **measure({"model": flat}, args.repeats)},
        {"form": "an array for each tensor", "arrays": len(tensors), **measure(tensors, args.repeats)},
    ]
    table = Table(
        *records[0], title=f"one message with {args.model}, {flat.nbytes / 1e6:.1f} MB of weights"
    )
    for record in records:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in record.values()))
    Console().print(table)
    figures = {"schema": "cipherward.records/1", "machine": machine(), "model": args.model}
    write_figures(args.json, {**figures, "weight_bytes": flat.nbytes, "records": records})


if __name__ == "__main__":
    main()
