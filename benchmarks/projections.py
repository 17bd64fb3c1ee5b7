"""Measure what breaks block_projection, patch_shuffle and neuracrypt on real images.

    python -m benchmarks.projections --data FOLDER [--hours 1] [--json FILE]

FOLDER holds brain_mri/{train,test}/CLASS/*.jpg, cifar10_jpeg.npz, pneumoniamnist.npz and tissue/*/*.png. Cells of
block_projection and patch_shuffle are one attack at one pool size in one draw of key, pool and audit images, scored
with the product's own measures of suite/1. Cells of neuracrypt are the matching challenge of its authors: the
adversary holds ciphertexts and their plain images in another order, no pair of them, and says which belongs to which
(`match_tokens`). The part `kinds` is that challenge on every kind of picture of picture_sources.py, and `network`
what known pairs of neuracrypt open of other ciphertexts.

Finished cells are kept in --out, so that a stopped run continues. With --update, lines without a cell in the journal
keep the figures of an earlier file of docs/results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.audit_table import SEED, Row, cells_of, read_mri, summarise_row
from benchmarks.command_line import add_data, add_json, make_parser, write_figures
from benchmarks.picture_measures import share_named
from benchmarks.picture_sources import KINDS, read_kind, side_of
from coordinator.adversary.contract import Budget, Knowledge
from coordinator.adversary.opened import open_images
from coordinator.adversary.pairs import known_pairs
from coordinator.adversary.pairs.match_tokens import match_images
from coordinator.exchange.pool import MemoryPool
from coordinator.report.build import machine
from crypto.arrays import Images
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.measures import ssims

SCHEMA = "cipherward.projections/1"


def _projection(pools: tuple[int, ...], **options: Any) -> Row:
    """Return a row of block_projection on gray MRI of 224×224 with blocks of 16."""
    return Row("block_projection", "mri", "consortium", "moment_matching", 16, pools, 3, 300.0, options)


ROWS = (
    _projection((20, 100, 400)),
    _projection((20, 100), noise=0),
    _projection((20, 100), shuffle=False),
    Row("patch_shuffle", "mri", "image", "jigsaw", 16, (1,), 1, 300.0),
    Row("patch_shuffle", "cifar", "image", "jigsaw", 4, (1,), 1, 300.0),
    _projection((100,), noise=0, matrix="uniform"),
    Row("block_projection", "mri", attack="as_is", pools=(1,), draws=1),
    Row("neuracrypt", "mri", attack="as_is", pools=(1,), draws=1, options={"width": 256}),
    _projection((20, 100), shuffle=False, matrices="shared"),
    _projection((400,), noise=200),
    _projection((100, 400), matrix="uniform"),
)


@dataclass(frozen=True)
class Challenge:
    """One matching challenge: images of a set, sealed under one key and handed over in another order."""

    data: str
    block: int
    images: int
    draws: int = 3
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name in the journal of cells."""
        options = "".join(f" {key}={value}" for key, value in self.options.items())
        return f"neuracrypt{options}, {self.data}, blocks of {self.block}, {self.images} images"


CHALLENGES = (
    Challenge("pneumonia", 7, 200),
    Challenge("pneumonia", 7, 1000),
    Challenge("mri", 16, 200, 1),
    Challenge("pneumonia", 7, 1000, 1, {"width": 256}),
    Challenge("pneumonia", 7, 1000, 1, {"depth": 0}),
)

#: Block sides by image side. Images of 28 have blocks of 7, because 8 does not divide 28.
BLOCKS = {224: 16, 64: 8, 32: 4, 28: 7}
#: The same for every kind of picture: as many images as there are tiles of tissue, rounded down.
KIND_CHALLENGES = tuple(Challenge(kind, BLOCKS[side_of(kind)], 150, 5) for kind in KINDS)

#: Kinds of pictures on which known pairs of neuracrypt are measured, numbers of them, and draws of each.
NETWORK_KINDS = ("mri 64", "pneumonia 28", "cifar 32", "tissue 32", "phantoms 64")
NETWORK_PAIRS, NETWORK_DRAWS = (8, 20, 50, 100), 3
#: Options of block_projection and numbers of known pairs; and how many other images the key then opens.
PAIRS = tuple(
    (options, pairs)
    for options in ({"noise": 0}, {}, {"noise": 0, "matrix": "uniform"}, {"matrix": "uniform"})
    for pairs in (2, 10, 50)
)
OPENED, GALLERY = 32, 100


def read_pneumonia(folder: Path) -> Images:
    """Return the training images of PneumoniaMNIST, uint8 [n, 28, 28, 1]."""
    with np.load(folder / "pneumoniamnist.npz") as stored:
        return np.ascontiguousarray(stored["train_images"].reshape(-1, 28, 28, 1))


def _read(data: str, folder: Path) -> Images:
    """Return the images that a challenge draws from, uint8 [n, h, w, c]."""
    if data in KINDS:
        return read_kind(folder, data)
    return read_mri(folder, "train")[0] if data == "mri" else read_pneumonia(folder)


def challenge_cell(challenge: Challenge, draw: int, folder: Path) -> dict[str, Any]:
    """Seal, shuffle, match, and count how many ciphertexts were matched with their own images."""
    source = _read(challenge.data, folder)
    rng = np.random.default_rng([SEED, draw])
    plain = source[rng.choice(len(source), challenge.images, replace=False)]
    spec = describe("neuracrypt", plain.shape[1:], challenge.block, options=challenge.options)
    sealed = np.asarray(load(spec).cipher(SecretKey.generate()).encrypt(plain))
    order = rng.permutation(challenge.images)
    started = time.monotonic()
    pool = MemoryPool(spec, sealed[order])
    every = np.arange(challenge.images)
    matching = match_images(Knowledge(pool, every, every, Budget(600.0), public=plain))
    right = plain[matching.images] == plain[order]
    return {
        "row": challenge.name,
        "draw": draw,
        "images": challenge.images,
        # Equal plain images are interchangeable.
        "right": float(right.all((1, 2, 3)).mean()),
        "first": float((plain[matching.first] == plain[order]).all((1, 2, 3)).mean()),
        "fit": matching.fit,
        "seconds": time.monotonic() - started,
    }


def pairs_cell(options: dict[str, Any], pairs: int, folder: Path) -> dict[str, Any]:
    """Recover the key of block_projection from known pairs of MRI, and open other images with it."""
    plain = read_mri(folder, "train")[0]
    plain = plain[np.random.default_rng([SEED, pairs]).permutation(len(plain))[: pairs + OPENED]]
    spec = describe("block_projection", plain.shape[1:], 16, options=options)
    sealed = np.asarray(load(spec).cipher(SecretKey.generate()).encrypt(plain))
    started = time.monotonic()
    key, note = known_pairs.solve(spec, plain[OPENED:], sealed[OPENED:])
    seconds = time.monotonic() - started
    opened = open_images(spec, sealed[:OPENED], key)
    return {
        "row": _pairs_name(options, pairs),
        "draw": 0,
        "pairs": pairs,
        "ssim": float(np.nanmedian(ssims(opened, plain[:OPENED]))),
        "error": float(np.abs(opened.astype(int) - plain[:OPENED]).mean()),
        "note": note,
        "seconds": seconds,
    }


def network_cell(kind: str, pairs: int, draw: int, folder: Path) -> dict[str, Any]:
    """Open neuracrypt ciphertexts with what known pairs tell of the network, and say how many pictures are named."""
    images = read_kind(folder, kind)
    images = images[np.random.default_rng([SEED, pairs, draw]).permutation(len(images))]
    plain, known, gallery = images[:OPENED], images[OPENED : OPENED + pairs], images[OPENED + pairs :]
    spec = describe("neuracrypt", images.shape[1:], BLOCKS[side_of(kind)])
    sealed = np.asarray(load(spec).cipher(SecretKey.generate()).encrypt(np.concatenate([plain, known])))
    every = np.arange(OPENED)
    knowledge = Knowledge(MemoryPool(spec, sealed[:OPENED]), every, every, known=(known, sealed[OPENED:]))
    started = time.process_time()
    guess = known_pairs.attack(knowledge)
    seconds = time.process_time() - started
    return {
        "row": _network_name(kind, pairs),
        "draw": draw,
        "kind": kind,
        "pairs": pairs,
        "ssim": float(np.nanmedian(ssims(guess.images, plain))),
        "named": share_named(guess.images, np.concatenate([plain, gallery])[:GALLERY]),
        "gallery": min(GALLERY, len(images) - pairs),
        "fit": guess.fits[0].value,
        "seconds": seconds,
    }


def _network_name(kind: str, pairs: int) -> str:
    return f"neuracrypt, {kind}, {pairs} known pairs"


def _pairs_name(options: dict[str, Any], pairs: int) -> str:
    words = "".join(f" {key}={value}" for key, value in options.items())
    return f"block_projection{words}, mri, {pairs} known pairs"


def run(args: argparse.Namespace) -> None:
    """Run the missing cells until the time is over."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 3600 * args.hours
    for draw in range(max(challenge.draws for challenge in KIND_CHALLENGES)):
        for cell in _missing(draw, args):
            append_line(args.out, json.dumps(cell))
            print(cell["row"], draw, cell.get("broken_by", cell.get("right")), flush=True)
            if time.monotonic() > until:
                return


def _missing(draw: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the missing cells of a draw, as they are computed."""
    for part, challenges in (("challenges", CHALLENGES), ("kinds", KIND_CHALLENGES)):
        for challenge in challenges if part in args.parts else ():
            done = {(c["row"], c["draw"]) for c in read_lines(args.out)}
            if draw < challenge.draws and (challenge.name, draw) not in done:
                yield challenge_cell(challenge, draw, args.data)
    for kind in NETWORK_KINDS if "network" in args.parts and draw < NETWORK_DRAWS else ():
        for pairs in NETWORK_PAIRS:
            done = {(c["row"], c["draw"]) for c in read_lines(args.out)}
            if (_network_name(kind, pairs), draw) not in done:
                yield network_cell(kind, pairs, draw, args.data)
    for options, pairs in PAIRS:
        done = {(c["row"], c["draw"]) for c in read_lines(args.out)}
        if draw == 0 and (_pairs_name(options, pairs), 0) not in done and "pairs" in args.parts:
            yield pairs_cell(options, pairs, args.data)
    for row in ROWS:
        cells = {(c["row"], c["draw"], c.get("pool", 0)) for c in read_lines(args.out)}
        if draw < row.draws and "rows" in args.parts:
            for cell in cells_of(row, draw, args.data, cells):
                yield {**cell, "row": row.name}


def summarise(
    cells: Sequence[dict[str, Any]], earlier: Mapping[str, Sequence[dict[str, Any]]] | None = None
) -> dict[str, Any]:
    """Return the lines of the result; those of which no cell was measured are as an earlier result has them."""
    challenges = []
    for challenge in (*CHALLENGES, *KIND_CHALLENGES):
        mine = [cell for cell in cells if cell["row"] == challenge.name]
        challenges.append(
            {
                "name": challenge.name,
                "images": challenge.images,
                "draws": len(mine),
                **{
                    name: float(np.median([cell[name] for cell in mine])) if mine else None
                    for name in ("right", "first", "fit", "seconds")
                },
                "least": min((cell["right"] for cell in mine), default=None),
            }
        )
    pairs = [
        cell for case in PAIRS for cell in cells if cell["row"] == _pairs_name(*case) and "pairs" in cell
    ]
    result = {
        "rows": [summarise_row(row, cells) for row in ROWS],
        "challenges": challenges,
        "pairs": pairs,
        "network_pairs": _summarise_network(cells),
    }
    measured = {cell["row"] for cell in cells}
    return {part: _kept(lines, (earlier or {}).get(part, ()), measured) for part, lines in result.items()}


def _summarise_network(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for every kind of picture and number of known pairs of neuracrypt."""
    lines = []
    for kind in NETWORK_KINDS:
        for pairs in NETWORK_PAIRS:
            mine = [cell for cell in cells if cell["row"] == _network_name(kind, pairs)]
            if mine:
                figures = {
                    name: float(np.median([cell[name] for cell in mine]))
                    for name in ("ssim", "named", "fit", "seconds")
                }
                lines.append(
                    {
                        "row": mine[0]["row"],
                        "kind": kind,
                        "pairs": pairs,
                        "draws": len(mine),
                        "gallery": mine[0]["gallery"],
                        **figures,
                        "fewest_named": min(cell["named"] for cell in mine),
                    }
                )
    return lines


def _kept(
    lines: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]], measured: Collection[str]
) -> list[dict[str, Any]]:
    """Return a part of the result, with earlier lines where nothing was measured now."""
    old = [line for line in earlier if _row_name(line) not in measured]
    names = {_row_name(line) for line in old}
    return [*old, *(line for line in lines if _row_name(line) not in names)]


def _row_name(line: Mapping[str, Any]) -> str:
    """Return the name that a line of the result has in the journal."""
    return str(line["row"] if "row" in line else line["name"])


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--hours", type=float, default=1.0, help="time for the missing cells")
    parser.add_argument("--parts", default="rows,challenges,kinds,network,pairs", help="which parts to run")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/projections/cells.jsonl"), help="the journal of cells"
    )
    parser.add_argument(
        "--update", type=Path, help="an earlier file of docs/results, for what is not measured"
    )
    add_json(parser)
    args = parser.parse_args()
    run(args)
    earlier = json.loads(args.update.read_text())["result"] if args.update else None
    result = summarise(read_lines(args.out), earlier)
    table = Table("scheme, data, scope, attack", "pool", "draws", "broken", "SSIM", "R", "V")
    for line in result["rows"]:
        for pool in line["pools"]:
            if pool["draws"]:
                figures = [f"{pool[name]:.2f}" for name in ("ssim", "R", "V")]
                table.add_row(
                    line["name"], str(pool["pool"]), str(pool["draws"]), str(pool["broken"]), *figures
                )
    for line in result["challenges"]:
        if line["draws"]:
            table.add_row(line["name"], str(line["images"]), str(line["draws"]), "", f"{line['right']:.3f}")
    Console().print(table)
    write_figures(args.json, {"schema": SCHEMA, "machine": machine(), **result})


if __name__ == "__main__":
    main()
