"""Key recovery from sealed images that were compressed to JPEG: does the attack survive?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.markdown import table

Record = Mapping[str, Any]


def sealed_jpegs(result: Record) -> list[str]:
    """Return what key recovery opens at each quality, beside what the true key opens."""
    rows = result["rows"]
    qualities = list(dict.fromkeys(row["quality"] for row in rows))
    settings = list(
        dict.fromkeys((row["scheme"], row["sub_block"], row["kind"], row["pool"]) for row in rows)
    )
    body = []
    for scheme, sub_block, kind, pool in settings:
        own = {
            row["quality"]: row
            for row in rows
            if (row["scheme"], row["sub_block"], row["kind"], row["pool"])
            == (scheme, sub_block, kind, pool)
        }
        name = f"{scheme}, sub-blocks of {sub_block}" if scheme == "sub_block_etc" else scheme
        body.append([name, kind, str(pool), *(_cell(own.get(quality)) for quality in qualities)])
    headers = ["scheme", "pictures", "images", *(f"quality {q}" if q else "no JPEG" for q in qualities)]
    lead = (
        "Main blocks of 16. Sealed images are compressed with 4:2:0 subsampling, and the attack has the decoded "
        "images alone. A cell is the median SSIM of images outside the pool, opened with the recovered key, and in "
        "brackets with the true key: JPEG's own loss on ciphertexts. Then in how many draws half of them name their "
        "own image among 100 (R)."
    )
    lost = sum(row["names"] < row["draws"] for row in rows)
    count = f"{len(rows) - lost} of {len(rows)} cells are broken in every draw."
    return [lead, "", f"**{count}**", "", *table(headers, body)]


def _cell(row: Record | None) -> str:
    if row is None:
        return "not run"
    return f"{row['ssim']:.2f} ({row['true_key_ssim']:.2f}), R in {row['names']} of {row['draws']}"
