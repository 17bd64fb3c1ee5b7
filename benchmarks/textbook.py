"""How many images break ciphers of textbooks that are no schemes of this program, by kind of picture.

    python -m benchmarks.textbook --data FOLDER [--kinds "cifar 32"] [--ciphers lines] [--pools 100] [--hours 2]
        [--json FILE]

FOLDER is described in picture_sources.py. The ciphers are: one keystream for all images, XORed or added modulo 256;
one substitution of gray levels, for all colours or for each; one order of the rows and one of the columns; one order
of all pixels; one for each bit plane; one of all bits, with a keystream or without; an order of all pixels and a
keystream, or such an order and a substitution; and these, with every value chained to the ciphertext before it, as
ciphers by chaotic maps have them. Every draw is a random pool of one kind of picture under a key of its own.
Finished cells are kept in --out, so that a stopped run continues.

What is measured in a cell is that of picture_kinds.py: exact, opens (K), names (R), shows (V). The negative, turns,
mirror images and shifts by up to three times four pixels are granted, as the library grants them. In addition, each
attack is given 10 pools of noise at each pool size, as a nonce for each image makes it: how many it believes to have
opened.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.command_line import add_data, add_json, make_parser, split_list, write_figures
from benchmarks.picture_kinds import (
    GALLERY,
    NAMED_FROM,
    OPENS_FROM,
    OUTSIDE,
    SHOWN_FROM,
)
from benchmarks.picture_measures import best_move, share_named, share_right
from benchmarks.picture_sources import KINDS, read_kind
from benchmarks.textbook_ciphers import CIPHERS, stream
from coordinator.adversary.contract import Ciphertexts
from coordinator.adversary.opened import Key, open_images
from coordinator.adversary.recover.unknown_scheme import TEXTBOOK
from coordinator.adversary.time_budget import TimeLeft, until
from coordinator.exchange.audit.suite1 import MARGIN
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import Images, Rows
from crypto.files import append_line, read_lines
from crypto.scheme import describe
from crypto.symmetry import Orbit
from parties.scoring.measures import ssims

SCHEMA = "cipherward.textbook/1"
POOLS = (1, 2, 5, 10, 30, 100)
PICTURES = (
    "cifar 32",
    "cifar 32 gray",
    "pneumonia 28",
    "tissue 32",
    "phantoms 64",
    "mri 224",
    "cifar 224",
    "tissue 224",
)
SEED = 11
#: Pools of noise that each attack is tried on, at each pool size.
NOISE_POOLS = 10
NOISE = "noise 32"
#: Pictures of many kinds without colours, as an order of all bits is sought in: none of KINDS is both.
GRAY = "cifar 32 gray"
_KINDS = {**KINDS, GRAY: "CIFAR-10, in gray"}
_BUDGET_SECONDS = 300.0
#: What is granted, with blocks of this side.
_ORBIT, _BLOCK = Orbit(turns=True, negatives=True, shifts=True), 4


def measure(cipher: str, kind: str, images: Images, size: int, draw: int) -> dict[str, Any]:
    """Attack one pool and return what was opened."""
    chosen = np.random.default_rng([SEED, size, draw]).permutation(len(images))
    plain, others = images[chosen[: size + OUTSIDE]], images[chosen[size + OUTSIDE :]]
    _, seal, attack = CIPHERS[cipher]
    sealed = seal(plain, f"{cipher} {kind} {size} {draw}".encode())
    key, figures = _attack(TEXTBOOK[attack], sealed, size)
    figures = {"cipher": cipher, "kind": kind, "pool": size, "draw": draw, **figures}
    if key is None:
        return {**figures, "right": 0.0, "ssim": 0.0, "named": 0.0, "shown": 0.0}
    opened = open_images(describe("plain", plain.shape[1:], _BLOCK), sealed, key)
    varied = np.ptp(plain[:size], axis=0) > 0 if size > 1 else np.ones(plain.shape[1:], bool)
    move = best_move(opened, plain, _ORBIT, _BLOCK, varied)
    moved, outside = move.apply(opened, _BLOCK), plain[size:]
    gallery = np.concatenate([outside, others[: GALLERY - OUTSIDE]])
    mean = np.broadcast_to(gallery.mean(0).round().astype(np.uint8), outside.shape)
    baselines = (sealed[size:], mean, np.roll(moved[size:], 1, 0))
    found = ssims(moved[size:], outside)
    best = np.nanmax([ssims(guess, outside) for guess in baselines], axis=0)
    return {
        **figures,
        "right": share_right(opened[:size], plain[:size], move, _BLOCK, varied),
        "ssim": float(np.nanmedian(found)),
        "named": share_named(moved[size:], gallery),
        "shown": float((found >= best + MARGIN).mean()),
    }


def measure_noise(attack: str, size: int, draw: int) -> dict[str, Any]:
    """Attack a pool of noise and return whether the attack believes in what it opens."""
    seed = f"noise {size} {draw}".encode()
    _, figures = _attack(TEXTBOOK[attack], stream(seed, (size, 32, 32, 1)), size)
    return {"cipher": attack, "kind": NOISE, "pool": size, "draw": draw, **figures}


def _read(folder: Path, kind: str) -> Images:
    """Return the images of a kind, uint8 [n, h, w, c]."""
    if kind != GRAY:
        return read_kind(folder, kind)
    gray: Images = (
        (read_kind(folder, "cifar 32") @ [0.299, 0.587, 0.114])[..., None].round().astype(np.uint8)
    )
    return gray


def _attack(
    recover: Callable[[Ciphertexts, Rows, TimeLeft], Key | None], sealed: Images, size: int
) -> tuple[Key | None, dict[str, Any]]:
    pool = MemoryPool(describe("plain", sealed.shape[1:], 1), sealed)
    started, began = time.monotonic(), time.process_time()
    key = recover(pool, np.arange(size), until(started + _BUDGET_SECONDS))
    return key, {
        "seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time() - began,
        "has_key": key is not None,
        "uncertain": key is None or any(fit.is_poor for fit in key.fits),
        "fits": [] if key is None else [fit.value for fit in key.fits],
    }


def run(args: argparse.Namespace) -> None:
    """Measure the missing cells until the time is over."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 3600 * args.hours
    done = {(c["cipher"], c["kind"], c["pool"], c["draw"]) for c in read_lines(args.out)}
    for attack in TEXTBOOK:  # one small pool each first, so that no cell holds the compiling
        _attack(TEXTBOOK[attack], stream(b"first", (12, 16, 16, 1)), 12)
    noise = [(attack, NOISE, n, d) for attack in TEXTBOOK for n in POOLS for d in range(NOISE_POOLS)]
    cells = [
        (cipher, kind, n, d)
        for kind in split_list(args.kinds)
        for n in map(int, split_list(args.pools))
        for cipher in split_list(args.ciphers)
        for d in range(args.draws)
    ]
    for name, kind, size, draw in cells + noise:
        if (name, kind, size, draw) in done:
            continue
        if time.monotonic() > deadline:
            return
        cell = (
            measure_noise(name, size, draw)
            if kind == NOISE
            else measure(name, kind, _read(args.data, kind), size, draw)
        )
        append_line(args.out, json.dumps(cell))
        if kind != NOISE:
            print(name, kind, size, draw, round(cell["named"], 2), round(cell["ssim"], 2), flush=True)


def summarise(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of every cipher, kind of picture and pool size over its draws, and those of noise."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["cipher"], cell["kind"], cell["pool"]), []).append(cell)
    rows = [
        _summarise(*name, group) for name, group in sorted(groups.items(), key=_place) if name[1] != NOISE
    ]
    noise = [
        {"attack": attack, "pool": size, "draws": len(group), "believed": _believed(group)}
        for (attack, kind, size), group in sorted(groups.items(), key=_place)
        if kind == NOISE
    ]
    return {"rows": rows, "noise": noise}


def _place(item: tuple[tuple[str, str, int], Any]) -> tuple[int, int, int]:
    cipher, kind, size = item[0]
    names, kinds = [*CIPHERS, *TEXTBOOK], [*PICTURES, *_KINDS, NOISE]
    return names.index(cipher), kinds.index(kind), size


def _believed(group: list[dict[str, Any]]) -> int:
    return sum(not cell["uncertain"] for cell in group)


def _summarise(cipher: str, kind: str, size: int, group: list[dict[str, Any]]) -> dict[str, Any]:
    opens = [c["has_key"] and c["ssim"] >= OPENS_FROM for c in group]
    names = [c["has_key"] and c["named"] >= NAMED_FROM for c in group]
    broken = [k or r for k, r in zip(opens, names, strict=True)]
    return {
        "cipher": cipher,
        "kind": kind,
        "pool": size,
        "draws": len(group),
        "broken": sum(broken),
        "opens": sum(opens),
        "shows": sum(c["has_key"] and c["shown"] >= SHOWN_FROM for c in group),
        "exact": sum(c["right"] == 1.0 for c in group),
        "not_tried": sum(not c["has_key"] for c in group),
        "uncertain": sum(c["uncertain"] and not b for c, b in zip(group, broken, strict=True)),
        "right": float(np.median([c["right"] for c in group])),
        "ssim": float(np.median([c["ssim"] for c in group])),
        "named": float(np.median([c["named"] for c in group])),
        "seconds": float(np.median([c["seconds"] for c in group])),
        "cpu_seconds": float(np.median([c["cpu_seconds"] for c in group])),
    }


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--kinds", default=",".join(PICTURES))
    parser.add_argument("--ciphers", default=",".join(CIPHERS))
    parser.add_argument("--pools", default=",".join(map(str, POOLS)), help="images of a pool")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("runs/textbook/cells.jsonl"))
    add_json(parser)
    args = parser.parse_args()
    run(args)
    result = summarise(read_lines(args.out))
    shown = Table("cipher", "pictures", "images", "broken", "exact", "median SSIM", "seconds")
    for row in result["rows"]:
        broken = f"{row['broken']} of {row['draws']}"
        figures = (row["pool"], broken, row["exact"], f"{row['ssim']:.2f}", f"{row['seconds']:.1f}")
        shown.add_row(row["cipher"], row["kind"], *map(str, figures))
    Console().print(shown)
    kinds = {kind: _KINDS[kind] for kind in dict.fromkeys(row["kind"] for row in result["rows"])}
    ciphers = {name: words for name, (words, _, _) in CIPHERS.items()}
    write_figures(
        args.json,
        {"schema": SCHEMA, "machine": machine(), "kinds": kinds, "ciphers": ciphers, **result},
    )


if __name__ == "__main__":
    main()
