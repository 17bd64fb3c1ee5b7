"""The table of what was tried to train better, by accuracy on val."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.pages.markdown import percent, table

Record = Mapping[str, Any]

LEAD = """Each line changes the first of its part in what its name says. Recipes were chosen on the val images; the
test images were read for those with a test accuracy, once a seed. `learn` recipes train one model on sealed images in
one place, as the papers do, or in three hospitals where their name says so. With `flips and shifts` that place has
the key: it alters images before it seals them. `plain` recipes train in three hospitals on plain images, which under
stem `private` computes the same. A difference of less than three points between two single trainings may be chance.
Lines with `recovered` begin with the public weights in the coordinates of the key, as far as the line says: the
places of the blocks, the order of the pixels, or both. Nobody gave that key away: key recovery found it in {found}.
They say what `learn` loses, and that it loses it to nobody who attacks first.
Lines with `after 48 epochs` begin with the best model of the line of 2 rounds of 24 epochs, of the same seed, as a
study does whose plan names the model of an earlier one as its weights: the head is new, and the rate begins anew.
Their minutes are those of the further epochs alone.
Lines with `distilled` use no label: the student learns, from ciphertext, what a teacher says of the plain image,
which the hospital has. The teacher is the best model of a `plain` line of the first seed, and costs its minutes too.
With `features` it also learns what each block of the teacher gives, the class token and the mean of the others, and
`from its teacher` begins with the teacher's weights, as the lines with `after` do. Whoever can teach so holds the
key, and has the accuracy of plain images with stem `private`: such a student is for those who must query ciphertext.
`filters as means`, a patch embedding that begins by reading the mean of each block, had a setting that was not kept.
"""


def recipes(result: Record) -> list[str]:
    """Return the table of what benchmarks/recipes.py tried."""
    grouped: dict[str, list[Record]] = {}
    for line in result["recipes"]:
        grouped.setdefault(line["recipe"], []).append(line)
    body = [_row(name, lines) for name, lines in sorted(grouped.items(), key=lambda item: _rank(item[0]))]
    headers = [
        "recipe",
        "seeds",
        "best val accuracy",
        "test accuracy",
        "val accuracy, round by round (first seed)",
        "minutes",
    ]
    base = result["base"]
    settings = ", ".join(f"{name} {value}" for name, value in base.items() if name != "model_args")
    images = result["recipes"][0]["images"]
    flips = _flips(result)
    return [
        LEAD.format(found=_found(result)),
        *([flips, ""] if flips else []),
        *table(headers, body),
        f"- All: {settings}, {', '.join(f'{k} {v}' for k, v in base['model_args'].items())}; "
        f"{images[0]} training and {images[1]} val images of 224×224.",
        "",
    ]


def _flips(result: Record) -> str:
    """Say what reading each image and its mirror gave, beside the same trainings without; "" without such."""
    lines = [line for line in result["recipes"] if line.get("flipped")]
    if not lines:
        return ""
    val = np.mean([line["flipped"]["val"]["rate"] - line["best"] for line in lines])
    test = np.mean([line["flipped"]["test"]["rate"] - line["test"]["rate"] for line in lines])
    which = ", ".join(dict.fromkeys(f"`{line['recipe']}`" for line in lines))
    return (
        f"Flips at test time (the mean of an image and its mirror, both sealed): {100 * val:+.1f} points on val and "
        f"{100 * test:+.1f} on test, the mean of {len(lines)} trainings of {which}."
    )


def _found(result: Record) -> str:
    """Say from how many ciphertexts the keys of the lines with `recovered` were recovered, and how well."""
    found = [line["recovered"] for line in result["recipes"] if "recovered" in line]
    if not found:
        return "the training's ciphertexts"
    right = min(min(line["blocks"], line["pixels"]) for line in found)
    seconds = max(line["seconds"] for line in found)
    return (
        f"{max(line['images'] for line in found)} of the training's ciphertexts, in at most {seconds:.1f} s, with "
        f"{'every place' if right == 1 else f'{percent(right)} % of the places'} right"
    )


def _rank(name: str) -> tuple[str, bool, str]:
    """Order by what is trained, the base first."""
    part, _, what = name.partition(": ")
    return part, what != "base", what


def _row(name: str, lines: list[Record]) -> list[str]:
    best = percent(float(np.mean([line["best"] for line in lines])))
    by_round = ", ".join(f"{value:.3f}" for value in lines[0]["val"])
    minutes = f"{np.mean([line['seconds'] for line in lines]) / 60:.0f}"
    return [name, str(len(lines)), f"{best} %", _test(lines), by_round, minutes]


def _test(lines: list[Record]) -> str:
    """Return the mean test accuracy, and that of each seed; a dash if test was not read."""
    rates = [line["test"]["rate"] for line in lines if line.get("test")]
    if not rates:
        return "–"
    each = f" ({', '.join(percent(rate) for rate in rates)})" if len(rates) > 1 else ""
    return f"{percent(float(np.mean(rates)))} %{each}"
