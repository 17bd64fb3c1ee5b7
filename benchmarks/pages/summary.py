"""The one-page summary of all results, and the table in the README: what each scheme claims and what breaks it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages.audit import CONTROLS, data_name, is_uncertain, shown_pool, tried_pools
from benchmarks.pages.comparison import DATA_NAMES, NETWORK_NAMES, find_cell, sized_name
from benchmarks.pages.entries import Entry, audited_rows, of_kind
from benchmarks.pages.markdown import number, percent, table
from crypto.scheme import describe, load

Record = Mapping[str, Any]

#: Each scheme's paper, in the order of the tables.
PAPERS = {
    "block_pixel_shuffle": "Qi 2022",
    "block_pixel": "Al Amin 2024",
    "le": "Tanaka 2018",
    "pe": "Sirichotedumrong 2019",
    "etc": "Chuman 2018",
    "sub_block_etc": "Hamano 2023",
    "ele": "Madono 2020",
    "value_shuffle": "after Qi 2022",
    "orthogonal": "Kiya's school",
    "noisy_orthogonal": "after arXiv 2305.04146",
    "block_projection": "DisguisedNets 2022",
    "neuracrypt": "Yala 2021",
    "patch_shuffle": "PEViT 2023",
}
#: The schemes and the data sets in the README's table.
README_SCHEMES = ("block_pixel_shuffle", "block_pixel", "le", "pe", "etc", "ele")
README_DATA = ("mri", "cifar")
#: Side of the images whose accuracies the README shows: the leaderboard has all.
README_SIDE = 224
_SHAPES = {
    "mri": (224, 224, 1),
    "mri64": (64, 64, 1),
    "pneumonia": (28, 28, 1),
    "cifar": (32, 32, 3),
    "cifar224": (224, 224, 3),
}
#: An audited study's name → the data set's name.
_STUDIES = {"brain_mri": "mri"}

INTRO = """# Results

How many encrypted images break each scheme, and what accuracy a model reaches on ciphertext. Every figure comes
from a run whose output is a JSON file in [docs/results/](results/). `make results` writes these pages from those
files; nothing is typed by hand. What is not here was not run. Runs of before 28 November 2026 may have used earlier
versions of the schemes, which derive other sub-keys; the steps, which the attacks use, are the same.

Contents: [what breaks each scheme](#what-breaks-each-scheme) · [legend](#legend) ·
[all results](#all-results) · [not run](#not-run)

## What breaks each scheme

A ciphertext-only attack on images that are sealed under one shared key: the adversary holds ciphertexts and the
algorithm, never the key.
"""

NOTES = """*Claimed key space* is the paper's formula for the audited images; it bounds brute force only. *Images
that break it* is the smallest pool of ciphertexts that was broken in at least two thirds of the draws of
key and images, by the rule of the [suite](suite.md); the [leaderboard](leaderboard.md) says which. Each scheme
is shown on that set of images (brain MRI or CIFAR-10) which took most, of those that the suite audited; small or
unusual pictures can take more.
*Smallest tried* means that smaller pools were not attacked; *20: 3 of 5 draws* means that 20 images were
enough in three of five draws. *Seconds* is the median time of the attack. Accuracy is that of a Vision
Transformer on test images that are sealed under the training's key; in brackets, the same training on
plain images.
"""

#: What the short names on all pages mean, one line each.
LEGEND = {
    "K, R, V": "ways to be broken: the key opens other images (K), guesses are matched to their originals (R), "
    "guesses look like their originals (V)",
    "K1, K2": "the two parts of a shuffling key: the order of the blocks, and the order of the pixels in a block",
    "Dc, Nc, Lc": "how well a picture is reassembled (in the JSON files): share of blocks in their place, of "
    "neighbours side by side, of blocks in the largest connected part",
    "T0": "the adversary holds the algorithm and one ciphertext, never the key",
    "T1": "… and a pool of ciphertexts under one key",
    "T2": "… and public plain images",
    "T3": "… and pairs of plain images and their ciphertexts (known plaintext); not part of an audit",
    "T4": "… and ciphertexts of images of its own choice (chosen plaintext); not part of an audit",
    "T5": "the adversary holds the weights and updates of a training",
    "stem `learn`": "the part of the model that meets the image first is trained on ciphertext, as in the papers",
    "stem `private`": "each hospital carries that part into the coordinates of its key, and keeps it",
    "stem `plain`": "as `private`, but the hospitals train that part together, in the coordinates of plain images",
    "draw": "one repetition with another key and other images",
    "SSIM": "structural similarity to the plain image, 1 = identical; in audits over the windows with texture",
    "AUC": "area under the ROC curve, 0.5 = chance, 1 = perfect",
}

TOPICS = {
    "audit": (
        "What breaks each scheme",
        (
            "audit-table",
            "audit",
            "picture-kinds",
            "textbook",
            "key-recovery",
            "pool-size",
            "false-alarms",
            "library",
            "noise-bound",
            "jpeg",
            "projections",
            "projection-fit",
        ),
    ),
    "accuracy": (
        "Accuracy on ciphertext",
        ("table1", "split-leak", "reruns", "recipes", "image-keys", "audit", "stem-accuracy"),
    ),
    "speed": (
        "Speed and traffic",
        (
            "schemes",
            "sealing",
            "federation",
            "many-hospitals",
            "attention",
            "score-speed",
            "time-to-verdict",
            "silence",
            "options",
        ),
    ),
    "deployment": ("Deployment: faults, time and traffic", ("faults", "deployment", "records")),
    "updates": (
        "What a training reveals",
        ("updates", "stems", "protection", "secure-rounds", "secure-sum", "sum-faults"),
    ),
    "privacy": ("Differential privacy", ("privacy",)),
    "networks": ("Attacks by trained networks", ("gan",)),
    "inputs": ("Files of images, and locked-down machines", ("input-files", "dicom-study", "environments")),
    "correctness": ("Correctness of the schemes", ("properties",)),
    "other": ("Other runs", ("",)),
}


def page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results.md."""
    lines = [INTRO, *main_table(entries), NOTES, "## Legend", ""]
    lines += [*table(["term", "meaning"], list(LEGEND.items())), "## All results", ""]
    rows = []
    for topic, (title, kinds) in TOPICS.items():
        runs = [entry for kind in kinds for entry in of_kind(entries, kind)]
        if runs:
            rows.append([f"[{title}](results/{topic}.md)", "; ".join(entry.title for entry in runs)])
    lines += table(["page", "runs"], rows)
    lines += [
        "Commands on these pages are quoted as they were run; today a benchmark is started with "
        "`python -m benchmarks.NAME`.",
        "",
    ]
    return [*lines, "## Not run", "", *not_run(entries), ""]


def main_table(entries: Sequence[Entry]) -> list[str]:
    """Return the table of every audited scheme."""
    headers = [
        "scheme (paper)",
        "claimed key space",
        "audited on",
        "images that break it",
        "seconds",
        "accuracy on ciphertext (on plain images)",
    ]
    rows = []
    for scheme in PAPERS:
        row = hardest_row(entries, scheme)
        if row is not None:
            name, key_space, smallest, seconds = audited_cells(row)
            rows.append(
                [
                    name,
                    key_space,
                    f"{data_name(row)}, {row['tier']}",
                    smallest,
                    seconds,
                    accuracies(entries, scheme),
                ]
            )
    return [*table(headers, rows), *nearest_thumbnails(entries)]


def nearest_thumbnails(
    entries: Sequence[Entry], data: Sequence[str] = tuple(DATA_NAMES), least_side: int = 0
) -> list[str]:
    """Return what the nearest training image names without any network: an accuracy is to be read beside it."""
    rows = [row for entry in of_kind(entries, "split-leak")[-1:] for row in entry.result["rows"]]
    words = [
        f"{sized_name(row['data'], row['side'])}: {percent(row['nearest']['rate'])} %"
        for row in rows
        if row["data"] in data and row["side"] >= least_side
    ]
    if not words:
        return []
    return [
        "How many test images get the right label from the nearest plain training image (32×32 thumbnails), without "
        f"any network: {'; '.join(words)}. An accuracy that is no higher says little.",
        "",
    ]


def readme_table(entries: Sequence[Entry]) -> list[str]:
    """Return the README's table: six schemes, what breaks them, and a column of accuracies for each data set."""
    headers = [
        "scheme",
        "claimed key space",
        "images that break it",
        "seconds",
        "images attacked",
        *(f"accuracy, {sized_name(data, README_SIDE)}: ciphertext (plain)" for data in README_DATA),
    ]
    rows = []
    for scheme in README_SCHEMES:
        row = hardest_row(entries, scheme)
        if row is not None:
            trained = _comparison_cells(entries, scheme)
            by_data = [
                "; ".join(rates for name, side, rates in trained if (name, side) == (data, README_SIDE))
                for data in README_DATA
            ]
            rows.append([*audited_cells(row), data_name(row), *(cell or "not run" for cell in by_data)])
    return [*table(headers, rows), *nearest_thumbnails(entries, README_DATA, README_SIDE)]


def hardest_row(entries: Sequence[Entry], scheme: str) -> Record | None:
    """Return a scheme's row of the audit under a shared key, on the images that resisted longest; None without.

    A scheme that draws its key for every image, whatever the scope, has its rows under that scope.
    """
    rows = [
        row
        for row in audited_rows(entries)
        if row["scheme"] == scheme
        and not row["options"]
        # A look at the ciphertexts is no attack on them.
        and row["attack"] != "as_is"
        and (is_shared(row) or is_drawn_for_each(row))
    ]
    audited = [row for row in rows if shown_pool(row) is not None]
    return max(audited, key=lambda row: float(row["smallest_pool"] or math.inf), default=None)


def is_shared(row: Record) -> bool:
    """Return whether a row is about one key for all images."""
    return bool(row["scope"] == "consortium")


def is_drawn_for_each(row: Record) -> bool:
    """Return whether a row's scheme draws what it does anew for every image, under a shared key as well."""
    spec = describe(row["scheme"], _SHAPES[row["data"]], row["block"], "consortium", row["options"])
    return load(spec).is_each_alone


def audited_cells(row: Record) -> list[str]:
    """Return a row's scheme, claimed key space, smallest pool and seconds."""
    pool = shown_pool(row)
    assert pool is not None
    smaller = [p for p in tried_pools(row) if p["pool"] < pool["pool"]]
    if pool.get("idle") == pool["draws"]:
        smallest = "no attack was run"
    elif pool["pool"] != row["smallest_pool"]:
        is_judged = pool["pool"] <= row["largest_pool"]
        smallest = f"not broken up to {pool['pool']}" if is_judged else "too few draws"
        if is_judged and is_uncertain(pool):
            smallest = f"attack uncertain at {pool['pool']}"
    else:
        smallest = f"**{pool['pool']}**"
        if not smaller and pool["pool"] > 1:
            smallest += " (smallest tried)"
        elif smaller and smaller[-1]["broken"]:  # broken, but in too few draws
            below = smaller[-1]
            smallest += f" ({below['pool']}: {below['broken']} of {below['draws']} draws)"
    scheme = str(row["scheme"])
    return [f"`{scheme}` ({PAPERS[scheme]})", claimed_key_space(row), smallest, f"{pool['seconds']:.3g}"]


def claimed_key_space(row: Record) -> str:
    """Return the key space by the paper's formula, for the audited images."""
    spec = describe(row["scheme"], _SHAPES[row["data"]], row["block"], row["scope"], row["options"])
    bits = load(spec).formula_bits()
    return f"2^{bits:,.0f}" if bits >= 10_000 else f"2^{bits:.0f}"


def accuracies(
    entries: Sequence[Entry], scheme: str, data: Sequence[str] = tuple(DATA_NAMES), least_side: int = 0
) -> str:
    """Return a scheme's test accuracy on these data sets, as far as models were trained, or "not run".

    Args:
        entries: the runs.
        scheme: the scheme.
        data: the data sets' short names.
        least_side: the comparison's smaller images are left out.
    """
    texts = [
        *_federated_accuracies(entries, scheme, data),
        *_comparison_accuracies(entries, scheme, data, least_side),
    ]
    return "; ".join(texts) or "not run"


def _federated_accuracies(entries: Sequence[Entry], scheme: str, data: Sequence[str]) -> list[str]:
    """Return the accuracies of audited studies. The demo's pictures are artificial, and are not counted."""
    texts = []
    for entry in of_kind(entries, "audit"):
        report, training = entry.result, entry.result["training"]
        name = _STUDIES.get(report["study"], "")
        if training and report["scheme"]["name"] == scheme and name in data:
            plain = training["plain"]["accuracy"]["rate"] if training["plain"] else None
            texts.append(f"{DATA_NAMES[name]}, federated: {_rates_text(training['test']['rate'], plain)}")
    return texts


def _comparison_accuracies(
    entries: Sequence[Entry], scheme: str, data: Sequence[str], least_side: int
) -> list[str]:
    """Return the accuracies of the comparison's Vision Transformer, each with its images."""
    return [
        f"{sized_name(name, side)}: {rates}"
        for name, side, rates in _comparison_cells(entries, scheme)
        if name in data and side >= least_side
    ]


def _comparison_cells(entries: Sequence[Entry], scheme: str) -> list[tuple[str, int, str]]:
    """Return data set, side and accuracies of the comparison: the means of the seeds that were trained."""
    cells = []
    for entry in of_kind(entries, "table1"):
        for section in entry.result["sections"]:
            rate, plain = (_mean_rate(section, row) for row in (scheme, "plain"))
            if section["network"] == "vit" and rate is not None:
                cells.append((section["data"], section["plan"]["image_size"], _rates_text(rate, plain)))
    return cells


def _mean_rate(section: Record, row: str) -> float | None:
    """Return the mean test accuracy of a row's seeds; None if one diverged or none is finished."""
    cells = [cell for cell in section["cells"] if cell["row"] == row]
    if not cells or any("diverged" in cell for cell in cells):
        return None
    return sum(float(cell["test"]["rate"]) for cell in cells) / len(cells)


def _rates_text(rate: float, plain: float | None) -> str:
    return f"{percent(rate)} %" + ("" if plain is None else f" ({percent(plain)} %)")


def not_run(entries: Sequence[Entry]) -> list[str]:
    """Return what the audit and the comparison planned and did not run, one line each."""
    lines = []
    for row in audited_rows(entries):
        if row["scheme"] in CONTROLS:
            continue
        pool = shown_pool(row)
        if pool is None:
            lines.append(f"- Audit: {row['name']}.")
        elif pool.get("idle") == pool["draws"]:
            lines.append(
                f"- Audit: {row['name']}: the attack found nothing to work with and returned the ciphertexts, "
                "which says nothing about the scheme's strength."
            )
    for entry in of_kind(entries, "table1"):
        for section in entry.result["sections"]:
            rows = [row for row in section["rows"] if row not in section["none"]]
            missing = [row for row in rows if find_cell(section, row) is None]
            if missing:
                which = "no scheme" if len(missing) == len(rows) else f"not {', '.join(missing)}"
                name = sized_name(section["data"], section["plan"]["image_size"])
                name += f" with {NETWORK_NAMES[section['network']]}"
                lines.append(f"- Comparison of accuracies: {name}: {which} was run.")
    unaudited = [scheme for scheme in PAPERS if hardest_row(entries, scheme) is None]
    lines += [f"- Audit: {scheme} under a shared key." for scheme in unaudited]
    untrained = [scheme for scheme in PAPERS if accuracies(entries, scheme) == "not run"]
    if untrained:
        lines.append(f"- Accuracy: no model was trained on images sealed by {', '.join(untrained)}.")
    return lines or ["Everything that was planned was run."]


def other_page(entries: Sequence[Entry]) -> list[str]:
    """Return the lines of docs/results/other.md: the single figures of runs that have no page of their own."""
    lines = ["# Other runs", ""]
    for entry in of_kind(entries, ""):
        scalars = {k: v for k, v in entry.result.items() if not isinstance(v, list | dict)}
        rows = [[name.replace("_", " "), number(value)] for name, value in scalars.items()]
        lines += [*entry.heading(), *table(["figure", "value"], rows), ""]
    return lines
