"""How many images break each scheme, by kind of picture, and the cells in which pooled key recovery fails.

    python -m benchmarks.picture_kinds --data FOLDER [--only le,pe] [--kinds "cifar 32"] [--hours 2] [--json FILE]

FOLDER is described in picture_sources.py. Every draw is a random pool of one kind of picture, sealed under a key of
its own. Finished cells are kept in --out, so that a stopped run continues.

Three things are measured in a cell, more simply than by suite/1:

- exact: whether all values of four opened images of the pool equal the plain ones, under the one element of the
  scheme's orbit that suits best. Only values that vary in the pool count, because a place that is constant in every
  image of the pool cannot be told from others.
- opens (K): whether the key opens eight images outside the pool at a median SSIM of at least .90.
- names (R): whether at least half of those eight are nearest to their own image, by correlation, among 100 images.

An image count breaks a scheme if K or R holds in two thirds of the draws. No attack sees the plain images.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_data, add_json, make_parser, split_list, write_figures
from benchmarks.picture_sources import KINDS, read_kind
from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.recover.pooled_key_recovery import attack
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import BoolArray, Float64Array, Images
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from crypto.symmetry import Move, Orbit
from parties.scoring.measures import ssims

SCHEMA = "cipherward.picture-kinds/2"
COMPARED, OUTSIDE, GALLERY = 4, 8, 100
OPENS_FROM, NAMED_FROM = 0.90, 0.5
BUDGET_SECONDS = 300.0
SEED = 7
#: Moves whose block means suit best, which are then compared value by value.
_CLOSE_MOVES = 8


@dataclass(frozen=True)
class Row:
    """One scheme on one kind of picture."""

    scheme: str
    kind: str
    block: int
    pools: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The row's name in the journal."""
        return json.dumps([self.scheme, self.kind, self.block, self.options])


COLOURS = {"colour_shuffle": True}
_BLOCKS = {"224": 16, "64": 8, "32": 4, "28": 4}
_GRAY = ("mri 224", "pneumonia 28", "phantoms 64")


def _rows() -> Iterator[Row]:
    """Yield a row for every scheme that pooled key recovery attacks and every kind that it is meant for."""
    for kind in KINDS:
        size = next(part for part in kind.split() if part.isdigit())
        block, is_small = _BLOCKS[size], size in ("32", "28")
        quick = (1, 2, 5, 10, 20)
        for scheme in ("block_pixel_shuffle", "value_shuffle", "etc", "pe"):
            yield Row(scheme, kind, block, quick)
        if kind not in _GRAY:
            yield Row("pe", kind, block, quick, COLOURS)
        if is_small:
            yield Row("le", kind, 4, quick)
            # There are 162 tiles of tissue.
            yield Row("ele", kind, 4, (50, 100) if "tissue" in kind else (50, 100, 500))
        if kind in ("mri 224", "tissue 224"):
            yield Row("block_pixel", kind, block, (20, 100) if kind == "tissue 224" else (20, 100, 300))


ROWS = tuple(_rows())
#: Schemes whose cells take minutes. They come last.
_SLOW = ("ele", "block_pixel")
#: The pools that are measured before the others.
_FIRST_POOLS = (10, 5, 2)


def share_right(
    guess: Images, plain: Images, move: Move, block: int, counted: BoolArray | None = None
) -> float:
    """Return the share of values that are right under an element of the orbit, of those that count.

    Args:
        guess: uint8 [n, h, w, c].
        plain: uint8 [n, h, w, c].
        move: The element of the orbit.
        block: The block side in pixels.
        counted: bool [h, w, c], the values that count; all by default.
    """
    right = move.apply(guess, block) == plain
    return float((right if counted is None else right[:, counted]).mean())


def best_move(guess: Images, plain: Images, orbit: Orbit, block: int) -> Move:
    """Return the one element of an orbit that suits best: by block means first, the closest ones value by value."""

    def means(images: Images) -> Images:
        n, height, width, channels = images.shape
        blocks = images.reshape(n, height // block, block, width // block, block, channels)
        rounded: Images = blocks.mean((2, 4)).round().astype(np.uint8)
        return rounded

    small, plain_small = means(guess), means(plain).astype(np.int16)
    signs = (False, True) if orbit.negatives else (False,)
    moves: list[tuple[Any, ...]] = []
    for base, is_negative in itertools.product(orbit.orientations(plain.shape[1:]), signs):
        for down, across in orbit.shifts_in_reach():
            move = Move(base.turn, is_negative, base.order, down, across)
            moves.append((float(np.abs(move.apply(small, 1) - plain_small).mean()), len(moves), move))
    closest: list[Move] = [move for _, _, move in sorted(moves)[:_CLOSE_MOVES]]
    return max(closest, key=lambda move: share_right(guess, plain, move, block))


def share_named(guesses: Images, gallery: Images) -> float:
    """Return the share of guesses that correlate most with their own image: the first of the gallery, in order."""

    def scaled(images: Images) -> Float64Array:
        flat = images.reshape(len(images), -1).astype(np.float64)
        flat -= flat.mean(1, keepdims=True)
        unit: Float64Array = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
        return unit

    nearest = (scaled(guesses) @ scaled(gallery).T).argmax(1)
    return float((nearest == np.arange(len(guesses))).mean())


def measure(row: Row, images: Images, size: int, draw: int) -> dict[str, Any]:
    """Attack one pool and return what it opened."""
    chosen = np.random.default_rng([SEED, size, draw]).permutation(len(images))
    sealed_rows, others = chosen[: size + OUTSIDE], chosen[size + OUTSIDE :]
    plain = images[sealed_rows]
    scheme = load(describe(row.scheme, plain.shape[1:], row.block, options=row.options))
    # Not drawn: every version of the attacks meets the same pool.
    key = SecretKey(hashlib.sha256(f"{row.name} {size} {draw}".encode()).digest())
    pool = MemoryPool(scheme.spec, scheme.cipher(key).encrypt(plain))
    inside = np.arange(min(COMPARED, size))
    shown = np.concatenate([inside, np.arange(size, len(plain))])
    started = time.monotonic()
    guess = attack(Knowledge(pool, np.arange(size), shown, Budget(BUDGET_SECONDS)))
    seconds = time.monotonic() - started
    count = len(inside)
    move = best_move(guess.images, plain[shown], scheme.orbit, row.block)
    varied = np.ptp(plain[:size], axis=0) > 0 if size > 1 else np.ones(plain.shape[1:], bool)
    opened = move.apply(guess.images[count:], row.block)
    gallery = np.concatenate([plain[size:], images[others[: GALLERY - OUTSIDE]]])
    return {
        "row": row.name,
        "pool": size,
        "draw": draw,
        "seconds": seconds,
        "right": share_right(guess.images[:count], plain[inside], move, row.block, varied),
        "ssim": float(np.median(ssims(opened, plain[size:]))),
        "named": share_named(opened, gallery),
        "has_key": guess.key is not None,
        "uncertain": guess.is_uncertain or guess.key is None,
        "fits": [str(fit) for fit in guess.fits],
        "note": guess.note,
    }


def run(rows: Sequence[Row], args: argparse.Namespace) -> None:
    """Measure the missing cells until the time is over."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 3600 * args.hours
    done = {(c["row"], c["pool"], c["draw"]) for c in read_lines(args.out)}
    cells = [(row, size, draw) for row in rows for size in row.pools for draw in range(args.draws)]
    # The telling pools first, so that a run that is cut short has all draws of them; schemes of minutes last.
    rank = {size: place for place, size in enumerate(_FIRST_POOLS)}
    cells.sort(key=lambda c: (c[0].scheme in _SLOW, rank.get(c[1], len(rank)), c[2], c[0].kind))
    for row, size, draw in cells:
        if (row.name, size, draw) in done:
            continue
        if time.monotonic() > until:
            return
        cell = measure(row, read_kind(args.data, row.kind), size, draw)
        append_line(args.out, json.dumps(cell))
        print(row.scheme, row.kind, size, draw, cell["right"], cell["ssim"], cell["fits"], flush=True)


def summarise(rows: Sequence[Row], cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one line a row, with the figures of every pool size and the smallest that breaks it."""
    lines = []
    for row in rows:
        pools = []
        for size in row.pools:
            own = [c for c in cells if (c["row"], c["pool"]) == (row.name, size)]
            if own:
                pools.append(_summarise_pool(size, own))
        broken = [p["pool"] for p in pools if 3 * p["broken"] >= 2 * p["draws"]]
        opened = [p["pool"] for p in pools if 3 * p["opens"] >= 2 * p["draws"]]
        exact = [p["pool"] for p in pools if 3 * p["exact"] >= 2 * p["draws"]]
        lines.append(
            {
                **asdict(row),
                "pools": pools,
                "broken_at": min(broken, default=None),
                "opened_at": min(opened, default=None),
                "exact_at": min(exact, default=None),
            }
        )
    return lines


def _summarise_pool(size: int, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one pool size over its draws."""
    opens = [c["has_key"] and c["ssim"] >= OPENS_FROM for c in cells]
    names = [c["has_key"] and c["named"] >= NAMED_FROM for c in cells]
    broken = [k or r for k, r in zip(opens, names, strict=True)]
    return {
        "pool": size,
        "draws": len(cells),
        "exact": sum(c["right"] == 1.0 for c in cells),
        "opens": sum(opens),
        "names": sum(names),
        "broken": sum(broken),
        "uncertain": sum(c["uncertain"] and not b for c, b in zip(cells, broken, strict=True)),
        "right": float(np.median([c["right"] for c in cells])),
        "worst": min(c["right"] for c in cells),
        "ssim": float(np.median([c["ssim"] for c in cells])),
        "seconds": float(np.median([c["seconds"] for c in cells])),
        "notes": sorted({note for c in cells for note in (*c["fits"], c["note"]) if note})[:3],
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--only", default="", help="schemes, separated by commas")
    parser.add_argument("--kinds", default="", help="kinds of pictures, separated by commas")
    parser.add_argument("--draws", type=int, default=5, help="pools of each size")
    parser.add_argument("--hours", type=float, default=2.0, help="time for the missing cells")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/picture_kinds/cells.jsonl"), help="the journal of cells"
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
    lines = summarise(ROWS, read_lines(args.out))
    table = Table("scheme", "pictures", "images that break it", "K from", "exact from")
    for line in lines:
        options = " colours" if line["options"] else ""
        words = [str(line[name] or "-") for name in ("broken_at", "opened_at", "exact_at")]
        table.add_row(line["scheme"] + options, line["kind"], *words)
    Console(width=120).print(table)
    write_figures(args.json, {"schema": SCHEMA, "machine": machine(), "kinds": KINDS, "rows": lines})


if __name__ == "__main__":
    main()
