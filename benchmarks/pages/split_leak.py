"""The table of how much of a test set is in its training set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.comparison import DATA_NAMES
from benchmarks.pages.markdown import rate, table

Record = Mapping[str, Any]

LEAD = """The accuracies on this page are of the data sets' own splits. Brain MRI is split by groups of near-identical
slices, not by patient: nobody published whose slices they are, and slices of one patient may be on both sides. Two
images are near-duplicates if their 32×32 thumbnails correlate by more than .97. *Nearest thumbnail*: the label of the
training image that correlates best, without any network. A model on ciphertext that is no better than that says
little.
"""


def split_leak(result: Record) -> list[str]:
    """Return the table of what benchmarks/split_leak.py measured."""
    headers = [
        "images",
        "training",
        "test",
        "test images with a near-duplicate in training",
        "of the same class",
        "nearest thumbnail",
        "on the other test images",
    ]
    body = [
        [
            f"{DATA_NAMES[row['data']]}, {row['side']}×{row['side']}",
            f"{row['train']:,}",
            f"{row['test']:,}",
            f"{row['near']:,}",
            f"{row['near_of_its_class']:,}",
            rate(row["nearest"]),
            rate(row["nearest_of_others"]),
        ]
        for row in result["rows"]
    ]
    return [LEAD, *table(headers, body)]
