"""What secure aggregation costs: seconds, bytes and error of the protocol itself, without network and training.

    python -m benchmarks.secure_sum [--parameters 5500000] [--hospitals 3 20 50] [--json FILE]

Every hospital and the cloud work in this process, in turns, on one thread. "Dropped" repeats the round with as many
hospitals that vanish after their shares as the threshold allows: the cloud then removes their masks one by one.
Plain is the same mean of float32 vectors, as a round without protection takes it.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_json, make_parser, write_figures
from coordinator.exchange.secure_sum import (
    decode_mean,
    encode_update,
    vector_length,
    write_record,
)
from coordinator.report.build import machine
from crypto.arrays import Float32Array
from crypto.identity import Identity
from crypto.secure_sum.collector import Collector
from crypto.secure_sum.fixed_point import FixedPoint
from crypto.secure_sum.member import Member
from crypto.secure_sum.transcript import RoundId, Rules

#: Root mean square of the updates: about that of a round of ViT-Ti with AdamW 3e-4.
_UPDATE_RMS = 1e-3
_Result = TypeVar("_Result")


@dataclass
class Costs:
    """Seconds and bytes of one round."""

    hospital_seconds: float = 0.0
    cloud_seconds: float = 0.0
    extra_up: int = 0
    extra_down: int = 0

    def hospital(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """Do a step of one of the hospitals, and add its seconds."""
        started = time.perf_counter()
        result = work(*args)
        self.hospital_seconds += time.perf_counter() - started
        return result

    def cloud(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """Do a step of the cloud, and add its seconds."""
        started = time.perf_counter()
        result = work(*args)
        self.cloud_seconds += time.perf_counter() - started
        return result


def run_round(
    identities: Sequence[Identity], updates: Sequence[Float32Array], dropped: int
) -> tuple[Costs, Float32Array]:
    """Run one round in which all hospitals have the same weight; return its costs and the mean.

    Args:
        identities: the hospitals', in the order of their names.
        updates: float32 [parameters] of each.
        dropped: how many of the first hospitals vanish after their shares.
    """
    rules = Rules({i.public.name: i.public for i in identities})
    update_of = {i.public.name: update for i, update in zip(identities, updates, strict=True)}
    names, point, costs = sorted(rules.roster), FixedPoint(1.0, len(identities)), Costs()
    by_name = {i.public.name: i for i in identities}
    round_id = RoundId("ab" * 32, 1, secrets.token_hex(16), "cd" * 32)
    collector = Collector(round_id, vector_length(updates[0].size), rules)
    members = {}
    for name in names:
        members[name] = costs.hospital(Member.start, by_name[name], round_id)
        own = members[name].keys()
        costs.extra_up += size({"keys": own.to_json()})
        costs.cloud(collector.add_keys, name, own)
    keys = costs.cloud(collector.close_keys)
    costs.extra_down += len(names) * size({"keys": {n: k.to_json() for n, k in keys.items()}})
    for name in names:
        shares = costs.hospital(members[name].share, keys, rules)
        costs.extra_up += size({"shares": shares})
        costs.cloud(collector.add_shares, name, shares)
    incoming = costs.cloud(collector.close_shares)
    for name in names[dropped:]:
        costs.extra_down += size({"shares": incoming[name]})

        def mask(name: str = name) -> Any:
            vector, _ = encode_update(update_of[name], 1.0, 1.0, point)
            return members[name].mask(incoming[name], vector, rules)[0]

        masked = costs.hospital(mask)
        costs.cloud(collector.add_vector, name, masked)
    survivors = collector.close_vectors()
    costs.extra_down += len(survivors) * size({"survivors": survivors})
    for name in survivors:
        signature = costs.hospital(members[name].confirm, survivors, by_name[name], rules)
        costs.extra_up += size({"signature": signature})
        costs.cloud(collector.add_signature, name, signature)
    signatures = collector.close_signatures()
    costs.extra_down += len(survivors) * size({"signatures": signatures})
    for name in survivors:
        shown = costs.hospital(members[name].reveal, signatures, rules)
        costs.extra_up += size({"self_masks": dict(shown.self_masks), "mask_keys": dict(shown.mask_keys)})
        costs.cloud(collector.add_revelation, name, shown)
    total = costs.cloud(collector.unmask)
    mean, _, _ = costs.cloud(decode_mean, total, float(len(survivors)), point)
    costs.hospital_seconds /= len(survivors)
    return costs, mean.astype(np.float32)


def size(value: dict[str, Any]) -> int:
    """Return the bytes of a record on the wire."""
    return int(write_record(value).count_bytes())


def measure(hospitals: int, parameters: int) -> dict[str, Any]:
    """Return the figures of a number of hospitals."""
    rng = np.random.default_rng(0)
    update = rng.normal(0, _UPDATE_RMS, parameters).astype(np.float32)
    identities = [Identity.generate(f"hospital-{i:03d}") for i in range(hospitals)]
    started = time.perf_counter()
    total = np.zeros(parameters, np.float64)
    for _ in range(hospitals):
        total += update
    plain_seconds = time.perf_counter() - started
    allowed = hospitals - max(3, 2 * hospitals // 3 + 1)
    whole, mean = run_round(identities, [update] * hospitals, 0)
    failed, _ = run_round(identities, [update] * hospitals, allowed)
    per_hospital = 4 * parameters
    return {
        "hospitals": hospitals,
        "hospital_seconds": whole.hospital_seconds,
        "cloud_seconds": whole.cloud_seconds,
        "plain_cloud_seconds": plain_seconds,
        "dropped": allowed,
        "cloud_seconds_dropped": failed.cloud_seconds,
        "bytes_up_ratio": 1 + whole.extra_up / hospitals / per_hospital,
        "bytes_down_ratio": 1 + whole.extra_down / hospitals / per_hospital,
        "relative_error": float(np.linalg.norm(mean - update) / np.linalg.norm(update)),
    }


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--parameters", type=int, default=5_500_000, help="numbers of an update")
    parser.add_argument(
        "--hospitals", type=int, nargs="+", default=[3, 20, 50], help="numbers of hospitals"
    )
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    rows = [measure(count, args.parameters) for count in args.hospitals]
    table = Table(title=f"secure aggregation of {args.parameters:,} numbers")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console().print(table)
    result = {
        "schema": "cipherward.secure-sum/1",
        "machine": machine(),
        "parameters": args.parameters,
        "rows": rows,
    }
    write_figures(args.json, result)


if __name__ == "__main__":
    main()
