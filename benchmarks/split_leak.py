"""How much of a test set is in its training set: near-duplicates, and what they alone would name.

    python -m benchmarks.split_leak [--folder FOLDER] [--json FILE]

The folder of the data is $CIPHERWARD_DATA, or --folder. Test and training images are those of the comparison of
accuracies (benchmarks/table1.py): as many, and of the same sizes, as its protocols say. Two images are
near-duplicates by the suite's own rule: their 32×32 thumbnails correlate by more than .97. Beside them stands what
the label of the nearest training thumbnail names: a network that is no better may have remembered pictures.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.command_line import ROOT, add_folder, add_json, make_parser, run_on_folder
from benchmarks.table1_data import read
from benchmarks.table1_protocol import read_protocol
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.audit.suite1 import NEAR_DUPLICATE
from coordinator.model.training import PlainImages
from coordinator.report.build import machine
from crypto.files import write_json
from parties.scoring.measures import thumbnails

SCHEMA = "cipherward.split-leak/1"
#: The protocols whose images are measured.
PROTOCOLS = ("cpu", "pretrained")
#: Side of the thumbnails of the suite's rule (parties/scoring/measures.py).
_SIDE = 32
#: Test images that are compared at a time: 1,000 × 50,000 correlations take 200 MB.
_AT_ONCE = 1000


def measure(train: PlainImages, test: PlainImages) -> dict[str, Any]:
    """Return how many test images are near a training image, and what the nearest one's label reaches."""
    known, asked = thumbnails(train.images, _SIDE), thumbnails(test.images, _SIDE)
    nearest = np.empty(len(asked), np.int64)
    likeness = np.empty(len(asked), np.float32)
    for start in range(0, len(asked), _AT_ONCE):
        scores = asked[start : start + _AT_ONCE] @ known.T
        nearest[start : start + len(scores)] = scores.argmax(1)
        likeness[start : start + len(scores)] = scores.max(1)
    right = train.labels[nearest] == test.labels
    is_near = likeness > NEAR_DUPLICATE
    others = int((~is_near).sum())
    return {
        "train": len(known),
        "test": len(asked),
        "near": int(is_near.sum()),
        "near_of_its_class": int(right[is_near].sum()),
        "nearest": rate_of(int(right.sum()), len(asked)).to_json(),
        "nearest_of_others": rate_of(int(right[~is_near].sum()), others).to_json(),
    }


def compared_images() -> list[tuple[str, int, tuple[int, int, int]]]:
    """Return data set, size and numbers of images of everything that the protocols train on, each once."""
    protocols = [read_protocol(ROOT / "configs" / "table1" / f"{name}.yaml") for name in PROTOCOLS]
    sections = [section for protocol in protocols for section in protocol.sections]
    return list(dict.fromkeys((s.data, int(s.plan["image_size"]), s.counts) for s in sections))


def run(options: argparse.Namespace) -> None:
    """Measure every data set, print the figures and write them."""
    rows = []
    for data, side, counts in compared_images():
        splits = read(options.folder, data, side, counts)
        rows.append({"data": data, "side": side, **measure(splits["train"], splits["test"])})
        print(rows[-1], flush=True)
    if options.json:
        write_json(options.json, {"schema": SCHEMA, "machine": machine(), "rows": rows})


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_folder(parser)
    add_json(parser)
    run_on_folder(parser.parse_args(), run)


if __name__ == "__main__":
    main()
