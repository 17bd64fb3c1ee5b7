"""Peak memory of the coordinator's ServerApp in rounds of many hospitals, without the hospitals.

    python -m benchmarks.reply_memory --hospitals 50 --parameters 5500000

The hospitals' replies are made when the round loop asks for them, as they come over a network. What is measured is
the round loop of coordinator/federation, in a process of its own. The replies of 50 ViT-Ti are 1.1 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from coordinator.federation.rounds import run_rounds
from tests.support.fake_parties import federation_of, parties, plan
from tests.support.local_grid import FIRST_NODE, LocalGrid


class LazyGrid(LocalGrid):
    """A grid that makes a reply to training when it is asked for, and keeps none."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Keep messages to train for later, and handle the others as LocalGrid does."""
        ids = []
        for message in messages:
            if message.metadata.message_type == "train":
                message.metadata.__dict__["_message_id"] = f"train-{next(self._ids)}"
                ids.append(message.metadata.message_id)
                self._messages[message.metadata.message_id] = message
            else:
                ids += super().push_messages([message])
                self.sent.clear()
                self.received.clear()
        return ids

    _messages: dict[str, Message] = {}  # noqa: RUF012 - there is one grid in a process

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return replies; those to training are made here."""
        ids = list(message_ids)
        made = [self._train(self._messages.pop(i)) for i in ids if i in self._messages]
        return made + list(super().pull_messages([i for i in ids if not i.startswith("train-")]))

    def _train(self, message: Message) -> Message:
        weights = message.content["arrays"]["model"].numpy()
        party = message.metadata.dst_node_id - FIRST_NODE
        figures = {"num-examples": 10 * (party + 1), "loss": 1.0, "steps": 2, "seconds": 0.1}
        content: dict[str, Any] = {
            "arrays": ArrayRecord(
                {"model": Array((weights + np.float32(1e-3 * party)).astype(np.float32))}
            ),
            "metrics": MetricRecord(figures),
            "about": ConfigRecord({"party": f"p{party}"}),
        }
        return Message(RecordDict(content), reply_to=message)


def peak_mb() -> float:
    """Return the peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Run two rounds and print peak memory and seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=50)
    parser.add_argument("--parameters", type=int, default=5_500_000)
    parser.add_argument("--strategy", default="fedavg")
    arguments = parser.parse_args()
    count = arguments.hospitals
    grid = LazyGrid(parties(), [{"partition-id": i} for i in range(count)])
    images = 10 * count * (count + 1) // 2
    settings = plan(
        parties=count, rounds=2, deadline_s=600.0, strategy=arguments.strategy, counts=(images,) * 3
    )
    federation = federation_of(grid, settings)
    start = np.random.default_rng(0).normal(size=arguments.parameters).astype(np.float32)
    before, started = peak_mb(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run_rounds(federation, start, Path(folder))
    seconds = time.perf_counter() - started
    result = {"hospitals": count, "parameters": arguments.parameters, "strategy": arguments.strategy}
    result |= {
        "peak_mb_before": round(before),
        "peak_mb": round(peak_mb()),
        "seconds_a_round": round(seconds / 2, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
