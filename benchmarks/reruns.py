"""Train cells of the comparison twice, under the same key, and compare every figure.

    python -m benchmarks.reruns --data FOLDER [--cells pneumonia:vit:plain:1,…] [--json FILE]

A cell is a data set, a network, a row and a seed of benchmarks/table1.py. Both trainings begin from nothing, in a
folder each. A cell of the table gets a fresh key, so only rows that are not sealed can be compared with the kept
table, too: `kept` is the accuracy that docs/results/14-table1.json has for them.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command_line import ROOT, add_data, add_json, make_parser, split_list, write_figures
from benchmarks.pages.comparison import find_cell
from benchmarks.pages.comparison import reruns as as_lines
from benchmarks.table1 import cell_folder, train_cell
from benchmarks.table1_inputs import Inputs, digest_of, inputs_of
from benchmarks.table1_protocol import Section, read_protocol
from coordinator.model.training import use_all_cores
from coordinator.report.build import machine
from crypto.errors import CipherwardError, unknown
from crypto.files import write_json
from crypto.key import SecretKey
from crypto.keyfile import write_key

SCHEMA = "cipherward.reruns/1"
_CELLS = (
    "pneumonia:vit:plain:1,pneumonia:vit:block_pixel_shuffle:0,pneumonia:vit:block_pixel_shuffle private:0"
)
_COMPARED = ("best_epoch", "val", "test")


def train_twice(section: Section, row: str, seed: int, data: Path, inputs: Inputs) -> list[dict[str, Any]]:
    """Return the figures of two trainings of one cell under one fresh key."""
    key, cells = SecretKey.generate(), []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            place = cell_folder(Path(folder), section, row, seed)
            place.mkdir(parents=True)
            write_key(place / "secret.key", key)
            write_json(place / "inputs.json", inputs(section, row))
            cells.append(train_cell(section, row, seed, data, Path(folder), math.inf, inputs))
    return [{name: cell[name] for name in (*_COMPARED, "seconds")} for cell in cells if cell]


def kept_rate(kept: Path, section: Section, row: str, seed: int) -> float | None:
    """Return the accuracy that the kept table has for a cell that no key changes, or None."""
    if row != "plain":
        return None
    for record in json.loads(kept.read_text())["result"]["sections"]:
        if (record["data"], record["network"]) == (section.data, section.network):
            cell = find_cell(record, row, seed)
            return float(cell["test"]["rate"]) if cell else None
    return None


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument(
        "--cells", type=split_list, default=split_list(_CELLS), help="data:network:row:seed"
    )
    add_json(parser)
    args: argparse.Namespace = parser.parse_args()
    use_all_cores()
    sections = {
        (s.data, s.network): s for s in read_protocol(ROOT / "configs" / "table1" / "cpu.yaml").sections
    }
    inputs = functools.partial(inputs_of, args.data, functools.cache(digest_of))
    rows = []
    for name in args.cells:
        data, network, row, seed = name.split(":")
        if (data, network) not in sections:
            known = [":".join(pair) for pair in sections]
            raise SystemExit(f"error: {unknown('section', f'{data}:{network}', known).message}")
        section = sections[data, network]
        try:
            first, second = train_twice(section, row, int(seed), args.data, inputs)
        except CipherwardError as error:
            raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None
        is_equal = all(first[field] == second[field] for field in _COMPARED)
        kept = kept_rate(ROOT / "docs" / "results" / "14-table1.json", section, row, int(seed))
        about = {"data": data, "network": network, "row": row, "seed": int(seed)}
        rows.append({**about, "runs": [first, second], "equal": is_equal, "kept": kept})
        print(rows[-1], flush=True)
    result = {"schema": SCHEMA, "machine": machine(), "rows": rows}
    print("\n".join(as_lines(result)))
    write_figures(args.json, result)


if __name__ == "__main__":
    main()
