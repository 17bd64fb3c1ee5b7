"""guesses + plain images + key → numbers. Runs in the hospital; only aggregates leave.

The rule is `suite/1` (docs/suite.md). In short, for each guess: one element of the declared orbit is chosen
on the even audit rows, the odd ones are scored; V is the share of rows whose SSIM beats every
baseline, R the share that names its own image in a gallery, K whether the recovered key opens images.

A scorer is an oracle in the cloud's hands, so it trusts nothing in a guesses folder: the scheme is that of
its own training set, the rows follow from the seed and are as many as the hospital wants, keys must be permutations,
figures are medians of many rows, coarse where the images are not public, and key shares are told for throwaway keys
only. It answers once about a sealed set: private/score-ledger.jsonl remembers which guesses were scored against
it, and others are refused. What guesses can still ask: docs/suite.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from coordinator.exchange.guesses import FILE, Draw, StoredGuess, load_guess, read_draws
from coordinator.report.control_checks import is_control
from coordinator.report.pictures import Pictures, gather
from crypto.errors import CipherwardError
from crypto.files import only_one, sha256_file, write_bytes, write_json
from crypto.key import SecretKey
from crypto.scheme import load
from crypto.sets.dataset import SealedDataset
from parties.scoring.key_share import assembled, key_share, opened_by, values_right
from parties.scoring.ledger import check, must_be_enough, must_be_ours, remember
from parties.scoring.measures import coarse_share, floored, nearest, psnr, share, ssims, summary, tells
from parties.scoring.registration import nearest_each
from parties.scoring.truth import Truth, baselines, classified, linkable, registered, truth_of
from parties.sealing.place import Place
from parties.sealing.seal import plain_rows, sealing

SCHEMA = "cipherward.scores/1"
SUITE = "suite/1"
PICTURED = 6
_MARGIN = 0.10
_OPENS = 0.90
_STEP = 0.01  # of SSIM, and 1 dB, where the images are not public
_TELLING = 0.75  # of the rows must have a guess of their own
Log = Callable[[str], None]


def score(
    place: Place, guesses: Path, rows: int, gallery: int, log: Log = lambda line: None
) -> dict[str, Any]:
    """Scores all draws of a guesses folder that are about this place's sealed sets, once.

    rows: how many audit images the hospital wants, scored and registering; guesses about fewer are refused where the
    set holds more. Returns what scores.json holds. Raises CipherwardError where no draw is about this place, where a
    guess is malformed or changed after it was frozen, and where other guesses about the same set were scored before.
    """
    draws, about = read_draws(guesses)
    names = {
        SealedDataset.open(folder).digest: folder.name
        for folder in sorted((place.folder / "sealed").glob("*"))
        if (folder / "manifest.json").exists()
    }
    mine = [(draw, names[draw.digests[0]]) for draw in draws if draw.digests[0] in names]
    if not mine:
        raise CipherwardError(
            f"{guesses} holds no guesses about images of {place.settings.party}",
            "the first sealed set given to `attack` decides whose images are scored",
        )
    stamp = sha256_file(guesses / FILE)
    seed, asked = about.get("seed", -1), about.get("rows", 0)
    for index, draw in enumerate(draws):
        for name in (n for d, n in mine if d is draw):
            must_be_ours(place, name, draw, index, seed, asked)
            must_be_enough(place, name, draw, index, seed, rows)
    if len({draw.digests[0] for draw, _ in mine}) < len(mine):
        raise CipherwardError("two draws of the guesses are about one sealed set", "attack each set once")
    with only_one(place.private):
        # What is refused burns no set, so all of it is checked before the ledger is written.
        for draw, name in mine:
            check(place, draw, name, guesses, rows)
        remember(place, [draw for draw, _ in mine], stamp)
        scored = []
        for draw, name in mine:
            log(f"{draw.name}: {draw.spec.name} as {name}")
            scored.append(_score_draw(place, draw, name, guesses, rows, gallery, log))
    return {
        "schema": SCHEMA,
        "suite": SUITE,
        "party": place.settings.party,
        "guesses_sha256": stamp,
        "seed": seed,
        "budget_s": _seconds(about.get("budget_s")),
        "draws": scored,
    }


def _seconds(stated: object) -> float | None:
    """The budget of an attack as the cloud states it; None where it states none, or something else."""
    return float(stated) if isinstance(stated, int | float) and stated > 0 else None


def _score_draw(
    place: Place, draw: Draw, name: str, folder: Path, rows: int, gallery: int, log: Log
) -> dict[str, Any]:
    what = sealing(place, name)
    key, coarse = what.key(), not what.source.public
    truth = truth_of(place, draw, name, rows, gallery)
    scheme = load(draw.spec)
    opened = scheme.cipher(key)
    decrypted = np.stack(
        [opened.decrypt(truth.sealed[i : i + 1], first=int(draw.rows[truth.pick[i]]))[0] for i in truth.odd]
    )
    error = np.abs(decrypted.astype(np.int16) - truth.plain[truth.odd])
    bases = baselines(truth)
    # Shares of a real key, over many submissions, would give the key itself away.
    secret = key if what.throwaway and not scheme.row_keys else None
    findings = []
    for guess in draw.guesses:
        log(f"  {guess.attack} at {guess.pool_size}")
        figures = {} if guess.error else _score_guess(truth, bases, secret, folder, guess, coarse)
        public = {k: v for k, v in guess.__dict__.items() if k not in ("file", "sha256")}
        if "degenerate" in figures:
            public["note"] = "; ".join(filter(None, [guess.note, figures["degenerate"]]))
        findings.append({**public, **figures})
    return {
        "draw": draw.name,
        "set": name,
        "spec": draw.spec.to_json(),
        "key_id": draw.key_id,
        "set_digest": draw.digests[0],
        "pool_images": draw.images,
        "parties": len(draw.digests),
        "rows": len(truth.odd),
        "gallery": len(truth.gallery),
        "pictured": truth.pick[truth.odd][:PICTURED].tolist(),
        "tolerance": scheme.tolerance,
        "true_key_ssim": summary(ssims(decrypted, truth.plain[truth.odd]))["median"],
        "true_key_exact": bool((error <= scheme.tolerance).all()),
        "baselines": {k: summary(v, _STEP if coarse else 0.0) for k, v in bases.items()},
        "linkable": linkable(truth),
        "classified": {
            "plain": classified(truth.plain[truth.odd], truth),
            "ciphertext": classified(scheme.picture(truth.sealed[truth.odd]), truth),
        },
        "findings": findings,
    }


def _score_guess(
    truth: Truth,
    bases: Mapping[str, np.ndarray],
    secret: SecretKey | None,
    folder: Path,
    guess: StoredGuess,
    coarse: bool,
) -> dict[str, Any]:
    images, key = load_guess(folder, guess)
    images = images[truth.pick]
    telling = tells(images)
    if min(telling[truth.even].mean(), telling[truth.odd].mean()) < _TELLING:
        return _degenerate(truth)
    return figures_of(images, key, truth, bases, secret, coarse=coarse)


def _degenerate(truth: Truth) -> dict[str, Any]:
    """The figures of guesses that are mostly flat or one picture: not broken, and nothing of what the others say."""
    n = len(truth.odd)
    named = share(0, n) | {"gallery": len(truth.gallery)}
    unsaid = ("move", "ssim", "psnr", "derangement_ssim", "classified", "K", "grid", "values_right", "key")
    return {
        "degenerate": "no figures: more than a quarter of the guessed pictures are flat, or one picture",
        "n": n,
        "V": share(0, n),
        "R": named,
        "R_deranged": dict(named),
        **dict.fromkeys(unsaid),
    }


def figures_of(
    images: np.ndarray,
    key: Mapping[str, np.ndarray] | None,
    truth: Truth,
    bases: Mapping[str, np.ndarray],
    secret: SecretKey | None = None,
    *,
    coarse: bool = False,
) -> dict[str, Any]:
    """The figures of suite/1 for one guess: images uint8 [r, h, w, c] of the rows that count, and a key, if any.

    bases: from `baselines`. secret: the true key, where its share in the guessed one may be told. coarse: whether the
    images are not public, so that all but V, R and their bounds is told in steps, of the rows whose guess tells
    something.
    """
    step = _STEP if coarse else 0.0
    guessed, move = registered(images, truth)
    odd = truth.plain[truth.odd]
    s = ssims(guessed, odd)
    # Guess i against image j ≠ i: what the guesses reach without being about the image.
    turns = [t for t in (1, 2, 3) if t < len(odd)]
    deranged = np.stack([ssims(np.roll(guessed, t, axis=0), odd) for t in turns])
    ceiling = float(np.nanpercentile(deranged, 99))
    best = np.nanmax(np.stack([*bases.values(), deranged[0]]), axis=0)
    textured = np.isfinite(s)
    hit = textured & (s >= best + _MARGIN) & (s > ceiling)
    if truth.row_keys:
        named = nearest_each(images[truth.odd], truth.gallery, truth.block, truth.orbit)
    else:
        named = nearest(guessed, truth.gallery)
    found = named == truth.odd
    # The same guesses against the next row's image: a measure that finds them right there is wrong.
    amiss = named == np.roll(truth.odd, -1)
    seen = tells(images)[truth.odd] if coarse else np.ones(len(odd), bool)
    missed = (
        coarse_share(int(amiss.sum()), len(amiss), up=True) if coarse else share(amiss.sum(), len(amiss))
    )
    figures: dict[str, Any] = {
        "n": int(textured.sum()),
        "move": None if move is None else asdict(move),
        "ssim": summary(s[seen], step),
        "psnr": summary(psnr(guessed, odd)[seen], 100 * step),
        "derangement_ssim": summary(deranged[:, seen].ravel(), step),
        "V": share(int(hit.sum()), int(textured.sum())),
        "R": share(int(found.sum()), len(found)) | {"gallery": len(truth.gallery)},
        "R_deranged": missed | {"gallery": len(truth.gallery)},
        "classified": classified(guessed, truth, coarse=coarse),
        "K": None,
        "grid": None,
        "values_right": None,
        "key": None,
    }
    if key is not None and move is not None and {"gather", "matrix"} & set(key):
        by_key = ssims(move.apply(opened_by(key, truth.sealed[truth.odd], truth.spec), truth.block), odd)
        opens = summary(by_key)["median"] >= _OPENS
        figures["K"] = {"median_ssim": summary(by_key, step)["median"], "n": len(odd), "opens": bool(opens)}
        if secret is not None:
            scheme = load(truth.spec)
            cipher = scheme.cipher(secret)
            figures["values_right"] = floored(values_right(key, cipher, truth, move))
            figures["grid"] = floored(assembled(key, cipher, truth, move))
            figures["key"] = floored(key_share(scheme.parts(secret), key, truth))
    return figures


def write_scores(scores: Mapping[str, Any], out: Path) -> None:
    """Writes scores.json; the same guesses give the same file."""
    write_json(out, scores)


def pictured_plain(place: Place, scores: Mapping[str, Any], guesses: Path) -> np.ndarray:
    """uint8 [r, h, w, c]: the plain images of the rows that a report shows. They stay in the hospital."""
    scored = next(d for d in scores["draws"] if not is_control(d))
    if sha256_file(guesses / FILE) != scores["guesses_sha256"]:
        raise CipherwardError(
            f"{guesses} does not hold the guesses that were scored", "name the folder that was scored"
        )
    draws, _ = read_draws(guesses)
    draw = next(d for d in draws if d.name == scored["draw"])
    return plain_rows(place, scored["set"], draw.rows[np.array(scored["pictured"], np.int64)])


def public_plain(place: Place, scores: Mapping[str, Any], guesses: Path, out: Path) -> None:
    """Writes the pictured plain images for the coordinator's report, where the source is public only."""
    if all(is_control(d) for d in scores["draws"]) or not place.plain("train").public:
        return
    images = pictured_plain(place, scores, guesses)
    write_bytes(out, save({"plain": images}))


def private_pictures(
    place: Place, report: Mapping[str, Any], scores: Mapping[str, Any], guesses: Path
) -> Pictures:
    """A report's pictures with the hospital's own plain images in the first column."""
    scored = next(d for d in scores["draws"] if not is_control(d))
    seen = gather(guesses, report, scores, place.sealed(scored["set"]))
    return Pictures({"plain": pictured_plain(place, scores, guesses), **seen.columns})
