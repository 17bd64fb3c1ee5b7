"""report.html: one file that a browser opens without network or scripts, and that a printer prints on A4.

All numbers come from report.json. This module only collects what the template shows: `rows.py` groups findings over
draws, `verdict_text.py` words the verdict, `charts.py` draws the curves.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from coordinator.exchange.audit.rates import Rate
from coordinator.exchange.audit.suite2 import counts_looks
from coordinator.report.advice import actions, meaning
from coordinator.report.charts import key_curve, learning_curve, ssim_curve
from coordinator.report.glossary import GLOSSARY, attack_words
from coordinator.report.inversion_bound import inversion_bound
from coordinator.report.pictures import Pictures
from coordinator.report.records import NO_STUDY, Report, ReportDraw, Training, WrongKeys
from coordinator.report.repeat import mends, repeat_commands
from coordinator.report.rows import Row, rows_of
from coordinator.report.verdict_text import attacked_by, headline, linkability, reasons, second_look
from coordinator.report.wording import images, percent, power, score, seconds, span
from crypto.arrays import Images, UInt8Array
from crypto.byte_size import size
from crypto.plural import counted
from crypto.printable import visible

#: Images with a shorter longest side, in pixels, are enlarged pixel by pixel.
_SMALL = 100
_TIERS = {
    "T0": "needs one sealed image",
    "T1": "needs a pool of sealed images under one key",
    "T2": "needs a pool and public images",
    "T3": "needs known pairs of plain and sealed images",
    "T4": "needs to choose images that get sealed",
    "T5": "needs weights or updates",
}


def needs_of(rows: Sequence[Row], attack: str) -> str:
    """Return what an attack needs: its tiers, each with its first pool size where it has several.

    Key recovery from one image needs less than from a pool.
    """
    first: dict[str, int] = {}
    for row in rows:
        if row.attack == attack:
            first.setdefault(row.tier, row.size)
    needs = [f"{tier}: {_TIERS.get(tier, 'needs more than ciphertexts')}" for tier in first]
    if len(first) == 1:
        return needs[0]
    return "; ".join(f"{need} (from {size:,})" for need, size in zip(needs, first.values(), strict=True))


@dataclass(frozen=True)
class Column:
    """A column of pictures.

    Attributes:
        caption: Its heading.
        seen: What a picture in it shows, for readers who do not see it.
        kind: "own" for plain images of a hospital, "recovered" for guesses of an attack that breaks the scheme.
    """

    caption: str
    seen: str
    kind: str = ""


@dataclass(frozen=True)
class Gallery:
    """The pictures of the page.

    Attributes:
        columns: Of the pictures, those that attacks recovered directly after the sealed ones.
        rows: Data URIs, one tuple an image.
        small: Whether the images are enlarged.
        plain: Whether the first column shows plain images.
    """

    columns: list[Column]
    rows: list[tuple[str, ...]]
    small: bool
    plain: bool


@dataclass(frozen=True)
class Accuracy:
    """One accuracy in the comparison of the training section; bounds where there are any."""

    kind: str
    label: str
    value: float
    low: float | None = None
    high: float | None = None


#: What every page begins with: a command that writes one replaces such a file, and no other.
PAGE_MARK = "<!doctype html>"


def render(report: Report, pictures: Pictures | None, *, public: bool = False) -> str:
    """Return report.html. The same arguments give the same text.

    Args:
        report: What report.json holds.
        pictures: The pictures of one draw, if any.
        public: Whether plain pictures may leave the hospital. If not, a page with plain pictures says that it stays
            there, and a page without says that the pictures which attacks recovered are patients' images.
    """
    verdict, rows, todo = headline(report), rows_of(report), actions(report)
    training = report.training
    charts = [ssim_curve(report.findings, report.draws), key_curve(report.findings)]
    return _template().render(
        report=report,
        subject=report.scheme.name + ("" if report.study == NO_STUDY else f", {report.study}"),
        state=verdict.state,
        sentence=verdict.sentence,
        meaning=meaning(report),
        actions=todo,
        sources=list(dict.fromkeys(name for action in todo for name in action.sources)),
        mends=mends(report),
        repeat=repeat_commands(report),
        glossary=GLOSSARY + attack_words(row.attack for row in rows),
        reasons=reasons(report, rows),
        linkability=linkability(report),
        second_look=second_look(report),
        looks_count=counts_looks(report.suite),
        inversion_bound=inversion_bound(report, rows),
        attacked_by=attacked_by(report),
        class_shares=_class_shares(report.draws),
        rows=rows,
        attacks=list(dict.fromkeys(row.attack for row in rows)),
        needs_of=needs_of,
        baselines=_baselines(report.draws),
        charts=[Markup(chart) for chart in charts if chart],
        pictures=_gallery(pictures, report, rows),
        public=public,
        recovered=not public and shows_patients(report),
        training=training,
        accuracies=_accuracies(training) if training else [],
        learning_chart=Markup(learning_curve(training))
        if training
        else "",  # our own SVG, its text escaped
    )


def shows_patients(report: Report) -> bool:
    """Return whether the guesses of a report, or its sealed images, are pictures of the hospital's own images.

    They are where an attack broke a draw, even if too few draws were broken for a verdict or a control failed. The
    scheme `plain` encrypts nothing.
    """
    is_broken = report.verdict.broken or any(f.broken or f.readable_by for f in report.findings)
    return is_broken or report.scheme.name == "plain"


def png(image: UInt8Array) -> str:
    """Return an image [h, w, c], c 1 or 3, as a data URI."""
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(out, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _gallery(pictures: Pictures | None, report: Report, rows: Sequence[Row]) -> Gallery | None:
    """Return the pictures: plain, sealed, recovered, then the other guesses; None if there are none.

    A narrow screen shows the first columns, and what an attack recovered must be among them.
    """
    if pictures is None or not pictures.columns:
        return None
    described = {caption: _column(caption, report, rows) for caption in pictures.columns}
    places = {"plain": 0, "sealed": 1}

    def place_of(caption: str) -> int:
        return places.get(caption, 2 if described[caption].kind == "recovered" else 3)

    columns = dict(sorted(pictures.columns.items(), key=lambda column: place_of(column[0])))
    first: Images = next(iter(columns.values()))
    return Gallery(
        columns=[described[caption] for caption in columns],
        rows=list(zip(*([png(image) for image in column] for column in columns.values()), strict=True)),
        small=max(first.shape[1:3]) < _SMALL,
        plain="plain" in columns,
    )


def _column(caption: str, report: Report, rows: Sequence[Row]) -> Column:
    """Return what a column of pictures shows, by the figures of the report."""
    if caption == "plain":
        return Column(caption, "the plain image, as the hospital holds it", "own")
    if caption == "sealed":
        baseline = dict(_baselines(report.draws)).get("ciphertext")
        return Column(caption, f"the ciphertext, as the cloud holds it{_similarity(baseline)}")
    attack = caption.split(", ", maxsplit=1)[0]
    reached = {**report.verdict.readable_at, **report.verdict.broken_at}
    own = [row for row in rows if row.attack == attack]
    size = reached.get(attack, max((row.size for row in own), default=0))
    ssim = next((row.ssim for row in own if row.size == size), None)
    given = images(size, "sealed")
    if attack in reached:
        return Column(caption, f"recovered by {attack} from {given}{_similarity(ssim)}", "recovered")
    return Column(caption, f"the guess of {attack} from {given}, no break{_similarity(ssim)}")


def _similarity(ssim: float | None) -> str:
    """Return how similar a column is to the plain images, in words."""
    return "" if ssim is None else f"; median similarity to the plain image (SSIM) {score(ssim)}"


def _accuracies(training: Training) -> list[Accuracy]:
    """Return the accuracies of a training that can be compared, those that were measured."""
    candidates = [
        ("sealed", "sealed images, right key", training.test or training.test_accuracy),
        (
            "plain",
            "plain images, same model and rounds",
            training.plain.accuracy if training.plain else None,
        ),
        ("other", "sealed images, wrong keys (bounds over keys)", training.wrong_key),
        ("other", "no ViT: linear on plain pixels", training.linear_accuracy),
        ("other", "no ViT: nearest histogram", training.histogram_accuracy),
    ]
    return [_accuracy(kind, label, value) for kind, label, value in candidates if value is not None]


def _accuracy(kind: str, label: str, value: Rate | WrongKeys | float) -> Accuracy:
    if isinstance(value, Rate):
        return Accuracy(kind, label, value.rate, value.low, value.high)
    if isinstance(value, WrongKeys):
        return Accuracy(kind, label, value.mean, value.low, value.high)
    return Accuracy(kind, label, value)


def _baselines(draws: Sequence[ReportDraw]) -> list[tuple[str, float]]:
    """Return each baseline with its median SSIM over draws, the best first."""
    names = dict.fromkeys(name for draw in draws for name in draw.baselines)
    medians = {
        name: median(draw.baselines[name].median for draw in draws if name in draw.baselines)
        for name in names
    }
    return sorted(medians.items(), key=lambda item: -item[1])


def _class_shares(draws: Sequence[ReportDraw]) -> dict[str, float] | None:
    """Return the shares of plain images and of ciphertexts of which the classifier tells the class, over draws."""
    classified = [draw.classified for draw in draws if draw.classified]
    if not classified:
        return None
    return {
        "plain": median(rates.plain.rate for rates in classified),
        "ciphertext": median(rates.ciphertext.rate for rates in classified),
    }


def _visible(value: object) -> object:
    """Return what the template is given, and in texts that others wrote no character that hides or turns others.

    The cloud names attacks and writes notes, and hospitals name themselves. HTML's own characters are escaped after
    this; markup is ours.
    """
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (score, percent, seconds, size, power, images, counted, span):
        environment.filters[function.__name__] = function
    return environment.get_template("page.html")
