"""What the audit as a library finds if it is not told which scheme a function is, beside the suite that knows it.

    python -m benchmarks.library --data FOLDER [--only etc,le] [--hours 1] [--json FILE]

FOLDER is described in picture_sources.py; CIFAR-10 at 32×32 is used, with blocks of 4 pixels. Each scheme of this
program is audited twice as a Python function with fresh keys: under its own name, and as an unknown scheme. AES-CTR
under a nonce for each image is the scheme that must not be broken. Finished audits are kept in --out, so that a
stopped run continues.
"""

from __future__ import annotations

import argparse
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from benchmarks.command_line import add_data, add_json, make_parser, split_list, write_figures
from benchmarks.picture_sources import read_kind
from cipherward.audit import audit
from coordinator.report.build import machine
from crypto.arrays import Images
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load

SCHEMA = "cipherward.library/1"
KIND, BLOCK, IMAGES = "cifar 32", 4, 300
SCHEMES = ("block_pixel_shuffle", "value_shuffle", "etc", "le", "pe")
STRONG = "AES-CTR"
#: Draws of a scheme that must be broken, and of the one that must not.
DRAWS, STRONG_DRAWS = 3, 10
SETTINGS: dict[str, Any] = {
    "sizes": (1, 2, 5, 10),
    "rows": 64,
    "gallery": 200,
    "block": BLOCK,
    "budget_s": 120.0,
}


def function_of(scheme: str) -> Callable[[Images, bytes], Images]:
    """Return a scheme as a function of images uint8 [n, h, w, c] and 32 bytes."""

    def encrypt(images: Images, key: bytes) -> Images:
        spec = describe(scheme, images.shape[1:], BLOCK)
        return np.asarray(load(spec).cipher(SecretKey(key)).encrypt(images))

    return _stream if scheme == STRONG else encrypt


def _stream(images: Images, key: bytes) -> Images:
    """Encrypt every image by AES-CTR; its nonce is a MAC of the image."""
    sealed = []
    for image in images:
        nonce = hmac.digest(key, image.tobytes(), "sha256")[:16]
        cipher = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()
        sealed.append(np.frombuffer(cipher.update(image.tobytes()), np.uint8).reshape(image.shape))
    return np.stack(sealed)


def measure(scheme: str, images: Images, *, is_told: bool) -> dict[str, Any]:
    """Audit a scheme as a function; return what was found at the pool that broke it, else at the largest."""
    draws = STRONG_DRAWS if scheme == STRONG else DRAWS
    started = time.monotonic()
    result = audit(
        function_of(scheme),
        images,
        draws=draws,
        family=scheme if is_told else "",
        name=scheme if is_told or scheme == STRONG else "a function",
        **SETTINGS,
    )
    at = result.broken_from or max(SETTINGS["sizes"])
    here = [f for f in result.report.findings if f.pool_size == at]
    broken = {f.draw for f in here if f.broken}
    chosen = [f for f in here if f.attack == "pooled_key_recovery"]
    return {
        "scheme": scheme,
        "told": is_told,
        "valid": result.valid,
        "broken": result.broken,
        "broken_from": result.broken_from,
        "broken_by": list(result.report.verdict.broken_by),
        "draws": draws,
        "draws_broken": len(broken),
        "chosen": sorted({f.fit.split(";")[0].removeprefix("chosen: ") for f in chosen})
        if not is_told
        else [],
        "chosen_broken": sum(f.broken for f in chosen),
        "seconds": time.monotonic() - started,
    }


def run(args: argparse.Namespace) -> None:
    """Measure what is missing until the time is over."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    until, images = time.monotonic() + 3600 * args.hours, read_kind(args.data, KIND)[:IMAGES]
    done = {(line["scheme"], line["told"]) for line in read_lines(args.out)}
    planned = [(scheme, told) for scheme in (*SCHEMES, STRONG) for told in (False, True)]
    for scheme, told in planned:
        is_wanted = not args.only or scheme in split_list(args.only)
        if (scheme, told) in done or not is_wanted or (scheme == STRONG and told):
            continue
        if time.monotonic() > until:
            return
        line = measure(scheme, images, is_told=told)
        append_line(args.out, json.dumps(line))
        print(line, flush=True)


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    add_data(parser)
    parser.add_argument("--only", default="", help="schemes, separated by commas")
    parser.add_argument("--hours", type=float, default=1.0, help="time for the missing audits")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/library/audits.jsonl"), help="the journal of audits"
    )
    add_json(parser)
    args = parser.parse_args()
    run(args)
    planned = [*SCHEMES, STRONG]
    settings = {"pictures": KIND, "images": IMAGES, **SETTINGS}
    lines = read_lines(args.out)
    write_figures(
        args.json,
        {"schema": SCHEMA, "machine": machine(), "planned": planned, "settings": settings, "audits": lines},
    )


if __name__ == "__main__":
    main()
