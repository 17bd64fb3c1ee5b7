"""Look at the files of a source, all of them or a sample, and describe them in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from crypto.arrays import Float64Array
from crypto.cores import cores
from parties.checking.glance import Header, Look, look, read_header
from parties.sources.catalog import Item
from parties.sources.folder import Folder


@dataclass(frozen=True)
class Seen:
    """The images of a source, and what was looked at: None where nothing was, a text where it cannot be used."""

    items: Sequence[Item]
    splits: Sequence[str]
    headers: list[Header | str | None]
    looks: list[Look | str | None]


def _spread(rows: Sequence[int], count: int) -> list[int]:
    """Return at most `count` of some rows, evenly."""
    if len(rows) <= count:
        return list(rows)
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, count)]


def look_at(
    folder: Folder,
    items: Sequence[Item],
    splits: Sequence[str],
    sample: tuple[int, int, int],
    on_progress: Callable[[int], None],
) -> Seen:
    """Look at headers and pictures, as many of each class as the sample allows."""
    by_class = [
        [i for i, item in enumerate(items) if item.label == label] for label in range(len(folder.classes))
    ]
    share = [max(1, most // max(1, len(by_class))) for most in sample[:2]]
    headers: list[Header | str | None] = [None] * len(items)
    looks: list[Look | str | None] = [None] * len(items)
    done = 0
    with ThreadPoolExecutor(cores()) as pool:
        rows = [i for part in by_class for i in _spread(part, share[0])]
        for i, header in zip(
            rows, pool.map(lambda i: read_header(folder.path, items[i], folder.reading), rows), strict=True
        ):
            headers[i] = header
        rows = [i for part in by_class for i in _spread(part, share[1])]
        for i, seen in zip(
            rows, pool.map(lambda i: look(folder.path, items[i], folder.reading), rows), strict=True
        ):
            looks[i] = seen
            done += 1
            if done % 16 == 0:
                on_progress(done)
    return Seen(items, splits, headers, looks)


def looks_of(seen: Seen) -> list[Look | None]:
    """Return the pictures that could be looked at."""
    return [entry if isinstance(entry, Look) else None for entry in seen.looks]


def features_of(seen: Seen) -> dict[str, Float64Array]:
    """Return the properties of the files that may tell the class, float64 [n, k]; NaN where nothing was looked at."""

    def column(values: list[str | None]) -> Float64Array:
        names = sorted({v for v in values if v is not None})
        table = np.array(
            [[v == name for name in names] if v is not None else [np.nan] * len(names) for v in values]
        )
        return table.astype(np.float64).reshape(len(values), len(names))

    def numbers(values: list[list[float] | None], width: int) -> Float64Array:
        return np.array([v if v is not None else [np.nan] * width for v in values], np.float64)

    headers = [entry if isinstance(entry, Header) else None for entry in seen.headers]
    features = {
        "file format": column([h.format if h else None for h in headers]),
        "mode": column([h.mode if h else None for h in headers]),
        "size": numbers([[h.width, h.height] if h else None for h in headers], 2),
        "aspect ratio": numbers([[h.width / max(1, h.height)] if h else None for h in headers], 1),
        "border": numbers([list(s.border) if s else None for s in looks_of(seen)], 8),
    }
    if any(item.site for item in seen.items):
        features["site"] = column([item.site or None for item in seen.items])
    return {name: values for name, values in features.items() if values.size}
