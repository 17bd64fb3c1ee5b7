"""How often the rule says "broken" where nothing was recovered: whole audits of guesses that know nothing.

    python -m benchmarks.false_alarms [--folder FOLDER] [--audits 200] [--journal FILE] [--json FILE]

Every audit has three draws of real images with fresh keys, and the scheme changes from audit to audit; one of them
has a key for every image. What is judged
is not an attack but guesses that were made without the images that they are about: noise, noise with the spectrum of
pictures, the mean picture with such noise, other real pictures of the same kind, and the draw's own pictures in
another order. They are scored and judged by the product's own code, with everything that a scheme's orbit grants:
registration on half of the rows, baselines, the second look with shifts, by the rule of suite/2. A verdict "broken"
is a false alarm. An audit is one false alarm if any of its guesses is. With a journal, a run that was stopped goes on
where it was.

A control that must be found is counted too: guesses that show their images through strong noise.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command_line import add_json, make_parser, write_figures
from benchmarks.picture_sources import read_kind
from coordinator.exchange.audit.rates import rate_of
from coordinator.exchange.audit.scores import DrawScores, Finding
from coordinator.exchange.audit.suite2 import SUITE
from coordinator.report.build import machine
from coordinator.report.verdict import judge
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.files import append_line, read_lines
from crypto.key import SecretKey
from crypto.scheme import describe, load
from parties.scoring.figures import compute_figures, degenerate_figures, is_degenerate
from parties.scoring.second_look import second_truth
from parties.scoring.truth import Truth, baseline_ssims, distinct_rows, gallery_members

SCHEMA = "cipherward.false-alarms/1"
#: Kinds of pictures that are small enough for hundreds of audits (benchmarks/picture_sources.py).
KINDS = ("pneumonia 28", "cifar 32", "tissue 32", "phantoms 64")
#: Schemes and their key scopes.
SCHEMES = (
    *(
        (name, "consortium")
        for name in ("block_pixel_shuffle", "value_shuffle", "block_pixel", "etc", "pe", "le")
    ),
    ("ele", "consortium"),
    ("orthogonal", "consortium"),
    ("pe", "image"),
)
BLOCK, DRAWS, ROWS, GALLERY = 4, 3, 128, 200
#: The control.
SEEN = "the images, through noise"
#: Standard deviation of that noise in gray levels; and of the noise with a picture's spectrum.
_NOISE, _CONTRAST = 40.0, 50.0

Generator = np.random.Generator
#: Guesses for a draw's rows: of the draw's images, other images of their kind, and a generator.
Guesser = Callable[[Images, Images, Generator], Images]


def _pink(shape: tuple[int, ...], generator: Generator) -> Any:
    """Return noise with the spectrum of pictures, amplitude 1/f: float64 [n, h, w, c], standard deviation 1."""
    count, height, width, channels = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    white = np.fft.fft2(generator.normal(size=(count, channels, height, width)))
    noise = np.fft.ifft2(white / frequency).real
    noise /= noise.std(axis=(2, 3), keepdims=True)
    return noise.transpose(0, 2, 3, 1)


def _to_levels(values: Any) -> Images:
    levels: Images = np.rint(values).clip(0, 255).astype(np.uint8)
    return levels


def _derange(count: int, generator: Generator) -> Any:
    """Return an order in which nothing stands in its own place: one random cycle through all."""
    cycle, order = generator.permutation(count), np.empty(count, np.int64)
    order[cycle] = np.roll(cycle, 1)
    return order


GUESSERS: dict[str, Guesser] = {
    "noise": lambda own, _, generator: generator.integers(0, 256, own.shape, np.uint8),
    "noise with a picture's spectrum": lambda own, _, generator: _to_levels(
        127.5 + _CONTRAST * _pink(own.shape, generator)
    ),
    "the mean picture, with such noise": lambda own, others, generator: _to_levels(
        others.mean(0) + _CONTRAST / 2 * _pink(own.shape, generator)
    ),
    "other pictures of the kind": lambda own, others, generator: others[
        generator.choice(len(others), len(own), len(others) < len(own))
    ],
    "the draw's pictures in another order": lambda own, _, generator: own[_derange(len(own), generator)],
    SEEN: lambda own, _, generator: _to_levels(own + generator.normal(0, _NOISE, own.shape)),
}


def make_truth(images: Images, scheme: str, scope: str, seed: int) -> tuple[Truth, Images]:
    """Return the hospital's side of a draw under a fresh key, and the images that are not part of it.

    Args:
        images: Real images of one kind, uint8 [n, h, w, c].
        scheme: The scheme that seals them.
        scope: Its key scope.
        seed: Draws the images. The key is drawn by the operating system.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    own = images[order[: min(ROWS + ROWS // 2, len(images) // 2)]]
    pick = distinct_rows(own, ROWS)
    rest = images[order[len(own) :]]
    half = len(rest) // 2
    together = np.concatenate([own[pick], rest[:half]])
    gallery = together[gallery_members(together, len(pick))][: max(GALLERY, len(pick))]
    spec = describe(scheme, images.shape[1:], BLOCK, scope, {})
    built = load(spec)
    truth = Truth(
        pick=np.arange(len(pick)),
        plain=own[pick],
        sealed=built.cipher(SecretKey.generate()).encrypt(own[pick]),
        gallery=gallery,
        labels=np.zeros(len(gallery), np.int64),
        spec=spec,
        block=BLOCK,
        seed=seed,
        orbit=built.orbit,
        row_keys=scope == "image",
    )
    return truth, rest[half:]


def score_draw(truth: Truth, others: Images, name: str, generator: Generator) -> DrawScores:
    """Return the scores of all guesses about a draw, as `cipherward-party score` computes them."""
    baselines, second = baseline_ssims(truth), second_truth(truth)
    findings = []
    for guesser, guess in GUESSERS.items():
        images = guess(truth.plain, others, generator)
        figures = (
            degenerate_figures(truth, second)
            if is_degenerate(images, truth)
            else compute_figures(images, None, truth, baselines, None, second)
        )
        findings.append(
            Finding(
                attack=guesser, tier="T1", uses_pool=True, pool_size=len(images), seconds=0.0, note="", error="",
                figures=figures,
            )
        )  # fmt: skip
    return DrawScores(
        draw=name,
        set_name="train",
        spec=truth.spec,
        key_id="0" * 16,
        set_digest="0" * 64,
        pool_images=len(truth.plain),
        parties=1,
        rows=len(truth.odd),
        gallery=len(truth.gallery),
        pictured=(),
        true_key_ssim=1.0,
        true_key_exact=True,
        baselines={},
        second_looks=second.looks,
        findings=tuple(findings),
    )


def run_audit(number: int, images: Mapping[str, Images]) -> dict[str, Any]:
    """Make, score and judge one audit; return which guesses were called broken or readable."""
    kind, (scheme, scope) = KINDS[number % len(KINDS)], SCHEMES[number // len(KINDS) % len(SCHEMES)]
    draws = []
    for index in range(DRAWS):
        truth, others = make_truth(images[kind], scheme, scope, number * DRAWS + index)
        generator = np.random.default_rng([number, index])
        draws.append(score_draw(truth, others, f"draw-{index}", generator))
    _, verdict = judge(draws, SUITE)
    single = Counter(
        finding.attack
        for draw in draws
        for finding in draw.findings
        if finding.figures is not None
        and judge([draw.model_copy(update={"findings": (finding,)})], SUITE)[1].broken
    )
    return {
        "kind": kind,
        "scheme": scheme,
        "scope": scope,
        "broken": sorted(verdict.broken_at),
        "readable": sorted(verdict.readable_at),
        "draws broken": dict(single),
    }


def summarise(audits: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of false alarms, with 95 % Wilson bounds, and of controls that were found."""

    def count(word: str) -> dict[str, Any]:
        return rate_of(sum(bool(set(a[word]) - {SEEN}) for a in audits), len(audits)).to_json()

    guesses = [name for name in GUESSERS if name != SEEN]
    single = rate_of(
        sum(a["draws broken"].get(name, 0) for a in audits for name in guesses),
        DRAWS * len(guesses) * len(audits),
    )
    return {
        "broken": count("broken"),
        "readable": count("readable"),
        "single findings": single.to_json(),
        "by guess": {n: sum(n in a["broken"] or n in a["readable"] for a in audits) for n in GUESSERS},
        "found": rate_of(sum(SEEN in a["broken"] for a in audits), len(audits)).to_json(),
    }


def _journal(path: Path | None) -> list[dict[str, Any]]:
    """Return the audits of an earlier run, in their order.

    Raises:
        CipherwardError: If the journal is of other audits.
    """
    audits: list[dict[str, Any]] = read_lines(path) if path is not None and path.exists() else []
    for number, audit in enumerate(audits):
        kind, (scheme, scope) = KINDS[number % len(KINDS)], SCHEMES[number // len(KINDS) % len(SCHEMES)]
        if (audit["kind"], audit["scheme"], audit["scope"]) != (kind, scheme, scope):
            raise CipherwardError(f"{path} is of other audits", "name another journal")
    return audits


def run(options: argparse.Namespace) -> None:
    """Run the audits, say how far they are, and write the figures."""
    if options.audits < 1:
        raise CipherwardError("--audits must be 1 or more", "for example: --audits 200")
    if options.folder is None:
        raise CipherwardError(
            "the folder of the data is not given", "set CIPHERWARD_DATA, or name it with --folder"
        )
    images = {kind: read_kind(options.folder, kind) for kind in KINDS[: options.audits]}
    audits = _journal(options.journal)[: options.audits]
    for number in range(len(audits), options.audits):
        started = time.process_time()
        audit = run_audit(number, images)
        audits.append({**audit, "seconds": round(time.process_time() - started, 2)})
        if options.journal is not None:
            append_line(options.journal, json.dumps(audits[-1]))
        print(f"audit {number + 1} of {options.audits}: {audits[-1]}", flush=True)
    figures = {
        "schema": SCHEMA,
        "machine": machine(),
        "suite": SUITE,
        "draws": DRAWS,
        "rows": ROWS // 2,
        "gallery": GALLERY,
        "seconds": sum(audit["seconds"] for audit in audits),
        **summarise(audits),
        "audits": audits,
    }
    write_figures(options.json, figures)


def main() -> None:
    """Run the command line."""
    parser = make_parser(__doc__)
    default = os.environ.get("CIPHERWARD_DATA")
    parser.add_argument(
        "--folder", type=Path, default=default, help="where the data is; default: CIPHERWARD_DATA"
    )
    parser.add_argument("--audits", type=int, default=200, help="audits that are made and judged")
    parser.add_argument("--journal", type=Path, help="file that keeps the audits of a run that was stopped")
    add_json(parser)
    try:
        run(parser.parse_args())
    except CipherwardError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None


if __name__ == "__main__":
    main()
