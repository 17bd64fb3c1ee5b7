"""How many images break each scheme, by kind of picture, and the cells in which pooled key recovery fails.

    python -m benchmarks.picture_kinds --data FOLDER [--only le,pe] [--kinds "cifar 32"] [--hours 2] [--json FILE]

FOLDER is described in picture_sources.py. Every draw is a random pool of one kind of picture, sealed under a key of
its own. Finished cells are kept in --out, so that a stopped run continues.

Four things are measured in a cell, more simply than by suite/1:

- exact: whether all values of four opened images of the pool equal the plain ones, under the one element of the
  scheme's orbit that suits best. Only values that vary in the pool count, because a place that is constant in every
  image of the pool cannot be told from others.
- opens (K): whether the key opens eight images outside the pool at a median SSIM of at least .90.
- names (R): whether at least half of those eight are nearest to their own image, by correlation, among 100 images.
- shows (V): whether at least half of those eight are more alike their own image, by .10 in SSIM, than the ciphertext,
  the mean of the 100 and the picture opened next to it are.

An image count breaks a scheme if K or R holds in two thirds of the draws. No attack sees the plain images of the
pool, or the eight. Where no recovery from ciphertexts alone is known (`orthogonal`, `noisy_orthogonal`,
`block_projection`, `neuracrypt`), moment matching has public images: those of the same kind that are left over.
`patch_shuffle` orders every image anew: each is a pool of its own, with a move of its own. K is not asked, and R
grants every image of the gallery the move that suits it best. Nor is K asked of `neuracrypt`, whose ciphertexts no
key opens.

A cell that takes longer than --most-seconds is kept, and its row gets no further draw at that pool size or a larger
one. With --update, pools without a cell in the journal keep the figures of an earlier file of docs/results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_data, add_json, make_parser, split_list, write_figures
from benchmarks.picture_measures import put_in_place, share_named, share_named_by_moves
from benchmarks.picture_rows import ROWS, Row
from benchmarks.picture_sources import KINDS, read_kind
from benchmarks.picture_targets import LEAST_DRAWS
from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.registry import ATTACKS
from coordinator.exchange.audit.suite1 import MARGIN
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import Images
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.measures import ssims

SCHEMA = "cipherward.picture-kinds/2"
COMPARED, OUTSIDE, GALLERY = 4, 8, 100
OPENS_FROM, NAMED_FROM, SHOWN_FROM = 0.90, 0.5, 0.5
BUDGET_SECONDS = 300.0
SEED = 7
#: Schemes whose cells take minutes. They come last.
_SLOW = ("ele", "block_pixel")
#: The pools that are measured before the others.
_FIRST_POOLS = (100, 10, 5, 2)


def measure(
    row: Row, images: Images, size: int, draw: int, budget_seconds: float = BUDGET_SECONDS
) -> dict[str, Any]:
    """Attack one pool and return what it opened."""
    chosen = np.random.default_rng([SEED, size, draw]).permutation(len(images))
    sealed_rows, others = chosen[: size + OUTSIDE], chosen[size + OUTSIDE :]
    plain = images[sealed_rows]
    scheme = load(describe(row.scheme, plain.shape[1:], row.block, options=row.options))
    # Not drawn: every version of the attacks meets the same pool.
    key = SecretKey(hashlib.sha256(f"{row.name} {size} {draw}".encode()).digest())
    sealed = scheme.cipher(key).encrypt(plain)
    pool = MemoryPool(scheme.spec, sealed)
    inside = np.arange(min(COMPARED, size))
    shown = np.concatenate([inside, np.arange(size, len(plain))])
    public = images[others] if row.attack == "moment_matching" else None
    started, began = time.monotonic(), time.process_time()
    guess = ATTACKS[row.attack].attack(
        Knowledge(pool, np.arange(size), shown, Budget(budget_seconds), public)
    )
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - began
    # With a key for every image, the images outside the pool are attacked like those in it.
    alone, orbit = scheme.row_keys, scheme.orbit
    asks_key = scheme.is_invertible and not alone
    count = len(plain) if alone else len(inside)
    varied = np.ptp(plain[:size], axis=0) > 0 if size > 1 else np.ones(plain.shape[1:], bool)
    whole = np.ones(plain.shape[1:], bool)
    put = put_in_place(guess.images, plain[shown], orbit, row.block, varied, alone)
    opened, outside = put[len(inside) :], plain[size:]
    gallery = np.concatenate([outside, images[others[: GALLERY - OUTSIDE]]])
    opened_ssims = ssims(opened, outside)
    # Public images are not granted to a baseline that the attack does not use: the mean is that of the gallery.
    mean = np.broadcast_to(gallery.mean(0).round().astype(np.uint8), outside.shape)
    another = np.roll(opened, 1, 0)
    others_ssims = [
        ssims(guess_of_none, outside)
        for guess_of_none in (
            put_in_place(scheme.picture(sealed[size:]), outside, orbit, row.block, whole, alone),
            mean,
            put_in_place(another, outside, orbit, row.block, whole, alone) if alone else another,
        )
    ]
    named = (
        share_named_by_moves(opened, gallery, orbit, row.block) if alone else share_named(opened, gallery)
    )
    return {
        "row": row.name,
        "pool": size,
        "draw": draw,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "right": float((put[:count] == plain[shown][:count])[:, varied].mean()),
        "ssim": float(np.nanmedian(opened_ssims)),
        "shown": float((opened_ssims >= np.nanmax(others_ssims, axis=0) + MARGIN).mean()),
        "named": named,
        # None: there is no key to be found that opens all images.
        "has_key": guess.key is not None if asks_key else None,
        "idle": guess.idle,
        "uncertain": guess.is_uncertain or (guess.key is None and asks_key),
        "fits": [str(fit) for fit in guess.fits],
        "note": guess.note,
    }


def run(rows: Sequence[Row], args: argparse.Namespace) -> None:
    """Measure the missing cells until the time is over."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 3600 * args.hours
    measured = read_lines(args.out)
    done = {(c["row"], c["pool"], c["draw"]) for c in measured}
    slow = {(c["row"], c["pool"]) for c in measured if c["seconds"] > args.most_seconds}
    sizes = [int(size) for size in split_list(args.pools) if size]
    cells = [
        (row, size, draw)
        for row in rows
        for size in row.pools
        if not sizes or size in sizes
        for draw in range(args.draws)
    ]
    # The telling pools first, so that a run that is cut short has all draws of them; schemes of minutes last.
    rank = {size: place for place, size in enumerate(_FIRST_POOLS)}
    cells.sort(key=lambda c: (c[0].scheme in _SLOW, rank.get(c[1], len(rank)), c[2], c[0].kind))
    for row, size, draw in cells:
        is_slow = any((row.name, other) in slow for other in row.pools if other <= size)
        if (row.name, size, draw) in done or is_slow:
            continue
        if time.monotonic() > until:
            return
        cell = measure(row, read_kind(args.data, row.kind), size, draw, args.budget)
        append_line(args.out, json.dumps(cell))
        if cell["seconds"] > args.most_seconds:
            slow.add((row.name, size))
        print(row.scheme, row.kind, size, draw, cell["right"], cell["ssim"], cell["fits"], flush=True)


def summarise(
    rows: Sequence[Row], cells: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return one line a row, with the figures of every pool size and the smallest that breaks it.

    Args:
        rows: The rows of the table.
        cells: What was measured.
        earlier: Lines of an earlier table. Pools of which no cell was measured keep their figures.
    """
    kept = {(line["scheme"], line["kind"], json.dumps(line["options"])): line["pools"] for line in earlier}
    lines = []
    for row in rows:
        known = {p["pool"]: p for p in kept.get((row.scheme, row.kind, json.dumps(row.options)), ())}
        for size in {c["pool"] for c in cells if c["row"] == row.name}:
            known[size] = _summarise_pool(
                size, [c for c in cells if (c["row"], c["pool"]) == (row.name, size)]
            )
        pools = [known[size] for size in sorted(known)]
        lines.append(
            {**asdict(row), "pools": pools, **{f"{k}_at": _least(pools, f) for k, f in _AT.items()}}
        )
    return lines


#: The figures whose smallest pool a line states, by the line's word for them.
_AT = {"broken": "broken", "opened": "opens", "shown": "shows", "exact": "exact"}


def _least(pools: Sequence[dict[str, Any]], figure: str) -> int | None:
    """Return the smallest pool at which two thirds of the draws reach a figure; None if there is none.

    Pools with fewer draws than LEAST_DRAWS are shown, and decide nothing.
    """
    reached = [
        pool["pool"]
        for pool in pools
        if pool["draws"] >= LEAST_DRAWS
        and pool.get(figure) is not None
        and 3 * pool[figure] >= 2 * pool["draws"]
    ]
    return min(reached, default=None)


def _summarise_pool(size: int, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one pool size over its draws."""
    opens = [bool(c["has_key"]) and c["ssim"] >= OPENS_FROM for c in cells]
    names = [c["has_key"] is not False and c["named"] >= NAMED_FROM for c in cells]
    asks_key = any(c["has_key"] is not None for c in cells)
    broken = [k or r for k, r in zip(opens, names, strict=True)]
    # Journals from before these were measured have no such figure.
    shown = [c["shown"] for c in cells if "shown" in c]
    # On a busy machine the clock tells little.
    spent = [c["cpu_seconds"] for c in cells if "cpu_seconds" in c]
    return {
        "pool": size,
        "draws": len(cells),
        "exact": sum(c["right"] == 1.0 for c in cells),
        "opens": sum(opens) if asks_key else None,
        "names": sum(names),
        "shows": sum(s >= SHOWN_FROM for s in shown) if len(shown) == len(cells) else None,
        "broken": sum(broken),
        "uncertain": sum(c["uncertain"] and not b for c, b in zip(cells, broken, strict=True)),
        "idle": sum(c.get("idle", False) for c in cells),
        "right": float(np.median([c["right"] for c in cells])),
        "worst": min(c["right"] for c in cells),
        "ssim": float(np.median([c["ssim"] for c in cells])),
        "seconds": float(np.median([c["seconds"] for c in cells])),
        "cpu_seconds": float(np.median(spent)) if len(spent) == len(cells) else None,
        "notes": sorted({note for c in cells for note in (*c["fits"], c["note"]) if note})[:3],
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--only", default="", help="schemes, separated by commas")
    parser.add_argument("--kinds", default="", help="kinds of pictures, separated by commas")
    parser.add_argument("--draws", type=int, default=5, help="pools of each size")
    parser.add_argument(
        "--pools", default="", help="pool sizes, separated by commas; default: each row's own"
    )
    parser.add_argument("--hours", type=float, default=2.0, help="time for the missing cells")
    parser.add_argument("--most-seconds", type=float, default=180.0, help="the time of one cell, see above")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_SECONDS, help="seconds that an attack may take, by the clock"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/picture_kinds/cells.jsonl"), help="the journal of cells"
    )
    parser.add_argument(
        "--update", type=Path, help="an earlier file of docs/results, for what is not measured"
    )
    add_json(parser)
    args = parser.parse_args()
    schemes, kinds = split_list(args.only), split_list(args.kinds)
    rows = [
        row
        for row in ROWS
        if (not args.only or row.scheme in schemes) and (not args.kinds or row.kind in kinds)
    ]
    run(rows, args)
    earlier = json.loads(args.update.read_text())["result"]["rows"] if args.update else ()
    lines = summarise(ROWS, read_lines(args.out), earlier)
    table = Table("scheme", "pictures", "images that break it", "K from", "exact from")
    for line in lines:
        options = "".join(f" {name}={value}" for name, value in line["options"].items())
        words = [str(line[name] or "-") for name in ("broken_at", "opened_at", "exact_at")]
        table.add_row(line["scheme"] + options, line["kind"], *words)
    Console(width=120).print(table)
    write_figures(args.json, {"schema": SCHEMA, "machine": machine(), "kinds": KINDS, "rows": lines})


if __name__ == "__main__":
    main()
