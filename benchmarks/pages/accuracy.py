"""The page of the accuracies: models trained on ciphertext, and the same models trained on plain images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.comparison import comparison, reruns
from benchmarks.pages.entries import Entry, audited_images, of_kind
from benchmarks.pages.frontier import frontier
from benchmarks.pages.image_keys import image_keys
from benchmarks.pages.markdown import number, percent, rate, table
from benchmarks.pages.recipes import recipes
from benchmarks.pages.split_leak import split_leak

Record = Mapping[str, Any]

INTRO = """# Accuracy on ciphertext

Test accuracy of models that were trained on sealed images, and of the same models trained on plain images. The
best round or epoch is chosen on the val images; the test images are read once, at the end. The
[legend](../results.md#legend) explains the stem modes `learn`, `private` and `plain`.
"""

IMAGE_KEYS = """A key for every image leaves no coordinates that two images share. Each network here reads only what
its scheme leaves unchanged under every key. `plain` is the same network on plain images, `plain sorted` sees bags of
blocks without places, `histogram` one histogram of the image, `noise` nothing at all. An accuracy near that of
`histogram` needs no shapes. Of gray images `plain sorted`, `block_pixel_shuffle` and `value_shuffle` read the same:
how far they differ is the chance of one training.
"""


def page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/accuracy.md."""
    lines = [INTRO]
    for entry in of_kind(entries, "table1"):
        lines += [*entry.heading(), *comparison(entry.result, audited_images(entries)), ""]
    for entry in of_kind(entries, "split-leak"):
        lines += [*entry.heading(), *split_leak(entry.result), ""]
    for entry in of_kind(entries, "reruns"):
        lines += [*entry.heading(), *reruns(entry.result), ""]
    for entry in of_kind(entries, "recipes"):
        lines += [*entry.heading(), *recipes(entry.result), ""]
    for entry in of_kind(entries, "image-keys"):
        lines += [*entry.heading(), IMAGE_KEYS, *image_keys(entry.result, audited_images(entries)), ""]
    lines += frontier(entries)
    for entry in of_kind(entries, "audit"):
        if entry.result["training"]:
            lines += [*entry.heading(), *training(entry.result["training"]), ""]
    for entry in of_kind(entries, "stem-accuracy"):
        lines += [*entry.heading(), *stem_accuracy(entry.result), ""]
    return lines


def training(figures: Record) -> list[str]:
    """Return what the training of an audited study reached."""
    rows = [["federated, on ciphertext", rate(figures["test"]), f"{figures['test_auc']:.3f}"]]
    if figures["plain"]:
        rows.append(["the same federation, on plain images", rate(figures["plain"]["accuracy"]), ""])
    if figures["wrong_key"]:
        wrong = figures["wrong_key"]
        text = f"{percent(wrong['mean'])} % (of the mean over keys: {percent(wrong['low'])}–{percent(wrong['high'])})"
        rows.append([f"images sealed under {len(wrong['each'])} wrong keys, mean", text, ""])
    if figures["linear_accuracy"] is not None:
        rows.append(["linear model on plain pixels", f"{percent(figures['linear_accuracy'])} %", ""])
        rows.append(["nearest plain histogram", f"{percent(figures['histogram_accuracy'])} %", ""])
    first = figures["rounds"][0]
    by_round = ", ".join(f"{r['val_accuracy']:.3f}" for r in figures["rounds"])
    megabytes = (first["bytes_down"] + first["bytes_up"]) / 1e6
    return [
        *table(["model", "test accuracy (95 % bounds)", "AUC"], rows),
        f"Validation accuracy by round: {by_round}. Traffic: {megabytes:.1f} MB a round.",
        "",
    ]


def stem_accuracy(result: Record) -> list[str]:
    """Return the accuracy of each stem mode over several seeds, and of each run."""
    differences = sorted(
        {name for record in result["summary"] for name in record if name.startswith("minus ")}
    )
    headers = ["run", "seeds", "test accuracy: mean ± standard deviation (range)", *differences]
    names = ("run", "seeds", "test accuracy", *differences)
    summary = [[number(record.get(name)) for name in names] for record in result["summary"]]
    run_headers = ["run", "seed", "test accuracy (95 % bounds)", "AUC", "val accuracy by round"]
    runs = [
        [
            record["run"],
            record["seed"],
            f"{number(record['test accuracy'])} ({record['low']:.4f}–{record['high']:.4f})",
            *(number(record.get(name)) for name in ("AUC", "val by round")),
        ]
        for record in result["records"]
    ]
    kinds = {record["run"] for record in result["records"]}
    unaltered = (
        " Central training sees the images unaltered: a provider has no key to alter sealed ones."
        if "central, plain images" in kinds and "augment" in result["protocol"]
        else ""
    )
    return [
        f"Protocol: {result['protocol']}. Accuracies are shares of 1.{unaltered}",
        "",
        *table(headers, summary),
        *table(run_headers, runs),
    ]
