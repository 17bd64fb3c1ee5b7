"""The frontier of accuracy against breakability: which choices exist, and which of them another one dominates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from benchmarks.command_line import ROOT
from benchmarks.pages.comparison import AUDITED, options_of, sized_name
from benchmarks.pages.entries import Entry, Verdict, audited_images, of_kind, verdict_of
from benchmarks.pages.markdown import percent, table
from coordinator.exchange.plan import Plan, read_plan

Record = Mapping[str, Any]

#: The plan that benchmarks/stem_accuracy.py trains.
STEM_PLAN = ROOT / "configs" / "brain_mri_private.yaml"
#: The ε of the reference line with differential privacy.
PROMISED = 8
_SCOPES = {"consortium": "one key", "image": "a key for each image"}


@dataclass(frozen=True)
class Choice:
    """One way to seal and to train, its accuracy, and the pool that breaks it.

    Attributes:
        data: The data set's short name.
        size: Side of the images in pixels.
        scheme: The scheme.
        scope: consortium, or image.
        stem: learn, private or plain.
        training: central, federated, or one hospital: it has all images and its key, and seals altered views of them.
        rate: Test accuracy, a share of 1.
        low: Its lower 95 % bound.
        high: Its upper 95 % bound.
        seeds: How many trainings the accuracy is the mean of.
        pool: The smallest pool that breaks it, or the largest that was tried; None if it was not audited.
        broken: Whether that pool broke it.
        bound: Whether no smaller pool was tried, so that fewer images may be enough.
        uncertain: Whether the attacks say themselves that they failed: that is no resistance.
    """

    data: str
    size: int
    scheme: str
    scope: str
    stem: str
    training: str
    rate: float
    low: float
    high: float
    seeds: int
    pool: int | None
    broken: bool
    bound: bool = False
    uncertain: bool = False

    @property
    def name(self) -> str:
        """The choice in words, without its data set."""
        scope = "" if self.scope == "consortium" else f", {_SCOPES[self.scope]}"
        training = "" if self.training == "central" else f", {self.training}"
        return f"{self.scheme}, stem {self.stem}{scope}{training}"

    def to_json(self) -> dict[str, Any]:
        """Return the choice as a JSON object."""
        return {
            "data": self.data,
            "size": self.size,
            "scheme": self.scheme,
            "scope": self.scope,
            "stem": self.stem,
            "training": self.training,
            "accuracy": self.rate,
            "low": self.low,
            "high": self.high,
            "seeds": self.seeds,
            "pool": self.pool,
            "broken": self.broken,
            "bound": self.bound,
            "uncertain": self.uncertain,
        }


@dataclass(frozen=True)
class Line:
    """A reference: the accuracy of a training without sealed images. It has no pool."""

    data: str
    size: int
    name: str
    rate: float

    def to_json(self) -> dict[str, Any]:
        """Return the line as a JSON object."""
        return {"data": self.data, "size": self.size, "name": self.name, "accuracy": self.rate}


def choices_of(entries: Sequence[Entry]) -> list[Choice]:
    """Return every choice whose accuracy was measured: by a ViT of the comparison, with image keys, or federated.

    The trainings of several seeds are one choice: the mean of their accuracies, between the lowest lower bound and
    the highest upper bound.
    """
    audited = audited_images(entries)
    choices = []
    for entry in of_kind(entries, "table1"):
        for section in entry.result["sections"]:
            if section["network"] != "vit":
                continue
            for row in section["rows"]:
                cells = [c for c in section["cells"] if c["row"] == row and "diverged" not in c]
                if row != "plain" and cells:
                    block, options = section["plan"]["block"], options_of(section, row)
                    choices.append(_choice(_sealed(section, row), block, _tests(cells), audited, options))
    for entry in of_kind(entries, "image-keys"):
        choices += _with_image_keys(entry.result, audited)
    choices += _federated(entries, audited)
    for entry in of_kind(entries, "recipes"):
        choices += _recipes(entry.result, audited)
    return choices


def _tests(cells: Sequence[Record]) -> list[Record]:
    """Return the test figures of cells."""
    return [cell["test"] for cell in cells]


def _sealed(section: Record, row: str) -> tuple[str, int, str, str, str, str]:
    """Return what a row of the comparison is as a choice: a Choice's first six fields."""
    scheme, _, private = row.partition(" ")
    plan = section["plan"]
    scope, stem = plan.get("key_scope", "consortium"), "private" if private else "learn"
    return section["data"], int(plan["image_size"]), scheme, scope, stem, "central"


def _stem_plan() -> Plan:
    """Return the plan of the federated trainings, all of brain MRI."""
    return read_plan(STEM_PLAN, {"images": "brain_mri"})  # the images are named, never opened


def _federated(entries: Sequence[Entry], audited: Sequence[Record]) -> list[Choice]:
    """Return the federated choices of the benchmark of stems: brain MRI, the scheme of the plan that it trains."""
    plan = _stem_plan()
    choices = []
    for stem in ("learn", "private"):
        if tests := _federated_tests(entries, stem):
            sealed = ("mri", plan.image_size, plan.scheme, plan.key_scope, stem, "federated")
            choices.append(_choice(sealed, plan.block, tests, audited))
    return choices


def _federated_tests(entries: Sequence[Entry], stem: str) -> list[Record]:
    """Return the test figures of a stem mode, from the run of the benchmark of stems that val preferred."""
    kept = []
    for entry in of_kind(entries, "stem-accuracy"):
        if runs := [run for run in entry.result["records"] if run["run"] == f"federated, stem {stem}"]:
            kept.append(runs)
    preferred = max(kept, key=lambda runs: mean(_best_on_val(run) for run in runs), default=[])
    return [{"rate": run["test accuracy"], "low": run["low"], "high": run["high"]} for run in preferred]


def _best_on_val(run: Record) -> float:
    """Return the accuracy of a training's best round on val."""
    return max(map(float, run["val by round"].split(", ")))


def _recipes(result: Record, audited: Sequence[Record]) -> list[Choice]:
    """Return the `learn` recipe on brain MRI that one hospital trained on views.

    Of the recipes of most seeds that were read on test, it is the one that val preferred.
    """
    plan = _stem_plan()
    grouped: dict[str, list[Record]] = {}
    for line in result["recipes"]:
        changes = line["changes"]
        alone = changes.get("parties") == 1 and changes.get("augment", "none") != "none"
        if line.get("test") and alone and line["recipe"].startswith("learn"):
            grouped.setdefault(line["recipe"], []).append(line)
    sealed = ("mri", plan.image_size, "block_pixel_shuffle", "consortium", "learn", "one hospital")
    most = max(
        grouped.values(), key=lambda lines: (len(lines), mean(x["best"] for x in lines)), default=None
    )
    return [] if most is None else [_choice(sealed, plan.block, _tests(most), audited)]


def _with_image_keys(result: Record, audited: Sequence[Record]) -> list[Choice]:
    """Return the choices of the benchmark of keys of each image. Rows without a scheme are references there."""
    grouped: dict[tuple[str, str], list[Record]] = {}
    for cell in result["cells"]:
        if cell["row"] == result["rows"][cell["row"]]["scheme"] and cell["row"] not in ("plain", "noise"):
            grouped.setdefault((cell["data"], cell["row"]), []).append(cell)
    choices = []
    for (data, scheme), cells in grouped.items():
        sealed = (data, int(cells[0]["side"]), scheme, "image", "learn", "central")
        choices.append(_choice(sealed, cells[0]["settings"]["block"], _tests(cells), audited))
    return choices


def _choice(
    sealed: tuple[str, int, str, str, str, str],
    block: int,
    tests: Sequence[Record],
    audited: Sequence[Record],
    options: Record | None = None,
) -> Choice:
    """Return a choice with the mean accuracy of its trainings.

    Args:
        sealed: A Choice's first six fields.
        block: The block side in pixels.
        tests: The figures on the test images, training by training.
        audited: The result of `audited_images`.
        options: The scheme's options that are not its defaults.
    """
    data, size, scheme, scope, *_ = sealed
    verdict = verdict_of(audited, scheme, scope, AUDITED.get((data, size)), block, options)
    return Choice(
        *sealed,
        sum(test["rate"] for test in tests) / len(tests),
        min(test["low"] for test in tests),
        max(test["high"] for test in tests),
        len(tests),
        verdict.pool if verdict else None,
        verdict is not None and verdict.is_broken,
        verdict is not None and verdict.is_bound,
        verdict is not None and verdict.is_uncertain,
    )


def lines_of(entries: Sequence[Entry]) -> list[Line]:
    """Return the accuracies on plain images: of the comparison, and of plain federated learning."""
    lines = []
    for entry in of_kind(entries, "table1"):
        for section in entry.result["sections"]:
            cells = [c for c in section["cells"] if c["row"] == "plain" and "diverged" not in c]
            if section["network"] == "vit" and cells:
                mean = sum(cell["test"]["rate"] for cell in cells) / len(cells)
                size = int(section["plan"]["image_size"])
                lines.append(Line(section["data"], size, "plain images, central training", mean))
    if tests := _federated_tests(entries, "plain"):
        name = "plain federated learning: its updates give images away"
        mean = sum(test["rate"] for test in tests) / len(tests)
        lines.append(Line("mri", _stem_plan().image_size, name, mean))
    for entry in of_kind(entries, "privacy"):
        rates = [
            record["test"]["rate"]
            for record in entry.result.get("accuracy", ())
            if record["epsilon"] == PROMISED and record.get("share", "head") == "head"
        ]
        if rates:
            name = f"… with differential privacy, ε = {PROMISED:g}, head only"
            lines.append(Line("mri", _stem_plan().image_size, name, sum(rates) / len(rates)))
    return lines


def dominated(choices: Sequence[Choice]) -> dict[Choice, str]:
    """Return the choices that another one on the same images beats, and the name of the best that does.

    One choice dominates another if it is no less accurate, needs no fewer sealed images to be broken, and is better
    in one of the two, as far as the pools that were tried say. Choices that were not audited, or whose attacks are
    uncertain, are left out.
    """
    audited = [choice for choice in choices if choice.pool is not None and not choice.uncertain]
    beaten = {}
    for choice in audited:
        better = [other for other in audited if _dominates(other, choice)]
        if better:
            beaten[choice] = max(better, key=lambda other: (_resistance(other), other.rate)).name
    return beaten


def _dominates(one: Choice, other: Choice) -> bool:
    if (one.data, one.size) != (other.data, other.size):
        return False
    is_better = one.rate > other.rate or _resistance(one) > _resistance(other)
    return is_better and one.rate >= other.rate and _needs_no_fewer(one, other)


def _needs_no_fewer(one: Choice, other: Choice) -> bool:
    """Return whether a choice is known to need as many images as another: of "n or fewer" nothing is known."""
    assert one.pool is not None and other.pool is not None
    if one.broken and not other.broken:
        return False
    return (1 if one.broken and one.bound else one.pool) >= other.pool


def _resistance(choice: Choice) -> tuple[bool, int]:
    """Order by what breaks a choice; what was not broken at all resists longest."""
    return not choice.broken, choice.pool or 0


def frontier(entries: Sequence[Entry]) -> list[str]:
    """Return the section of the accuracy page: the chart, and the choices behind it."""
    choices = choices_of(entries)
    worse = dominated(choices)
    body = []
    for choice in choices:
        if choice.pool is None:
            pool = "not audited on these images"
        else:
            pool = str(Verdict(choice.pool, choice.broken, choice.bound, choice.uncertain)).removeprefix(
                "broken by "
            )
        rate = f"{percent(choice.rate)} % ({percent(choice.low)}–{percent(choice.high)})"
        data = sized_name(choice.data, choice.size)
        beaten = worse.get(choice, "–" if choice.pool is not None and not choice.uncertain else "")
        body.append([data, choice.name, rate, choice.seeds, pool, beaten])
    if not body:
        return []
    headers = [
        "images",
        "choice",
        "test accuracy (bounds)",
        "seeds",
        "sealed images that break it",
        "dominated by",
    ]
    return [
        "## What each choice is worth: accuracy against the images that break it",
        "",
        "    make frontier",
        "",
        "![Accuracy against the number of sealed images that break a choice](../frontier.png)",
        "",
        "A choice is *dominated* (hollow in the chart) if another one on the same images is no less accurate, "
        "needs no fewer images to be broken, and is better in one of the two. A choice that was broken by the "
        "smallest pool tried (“or fewer”) is not known to need more than one. Recipes differ: `central` was trained "
        "for a few epochs, `federated` and `one hospital` by the recipes of their own sections. "
        "Bounds are 95 % bounds of one training; of several seeds they reach from the lowest to the highest of any. "
        "Differences within the bounds may be chance. Of several runs or recipes that were read on test, the one "
        "shown is that which val preferred. "
        "Circled in the chart: a key for each image. "
        "Moment matching, which breaks `orthogonal`, needs public images of the kind besides. "
        "The stem mode does not change how many sealed images break a scheme; "
        "what updates reveal is on [another page](updates.md). Figures: [frontier.json](../frontier.json).",
        "",
        *table(headers, body),
        "",
    ]
