"""report.html: one file that a browser opens without network or scripts, and a printer prints on A4.

Numbers come from report.json as they are; this module only groups them over draws and words them. How
draws are put together: medians of the draws' medians, sums of their hits, and the bounds of the draw
that is worst on either side (each draw is judged alone, so summed rows would feign narrower bounds).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from coordinator.report.charts import key_curve, learning_curve, ssim_curve
from coordinator.report.pictures import Pictures
from coordinator.report.wording import images, linked, listed, percent, power, score, seconds, size

_SMALL = 100  # pixels; images with shorter sides are shown enlarged, pixel by pixel
_OPTIONAL = (
    *("model", "weights", "stem", "strategy", "classes", "best_round", "test_accuracy", "test_auc", "test"),
    *("plain", "wrong_key", "linear_accuracy", "histogram_accuracy"),
    *("share", "confusion", "per_class", "calibration"),
)
_ROUND = ("val_accuracy", "val_auc", "val_loss", "train_loss", "seconds", "bytes_down", "bytes_up")
_TIERS = {
    "T0": "needs one sealed image",
    "T1": "needs a pool of sealed images under one key",
    "T2": "needs a pool and public images",
    "T3": "needs known pairs of plain and sealed images",
    "T4": "needs to choose images that get sealed",
    "T5": "needs weights or updates",
}


@dataclass(frozen=True)
class Row:
    """One attack at one pool size, over its draws. done holds the findings that were scored."""

    attack: str
    tier: str
    size: int
    draws: int
    broken: int
    marked: bool  # the smallest pool size at which this attack counts as a break
    done: list[Mapping[str, Any]]

    @property
    def idle(self) -> int:
        return sum(bool(f.get("idle")) for f in self.done)

    @property
    def by(self) -> str:
        counts = {letter: sum(letter in f["broken_by"] for f in self.done) for letter in "KRV"}
        return " · ".join(f"{letter} {n}" for letter, n in counts.items() if n)

    def middle(self, *path: str) -> float | None:
        """The median over draws of a figure, by its place in a finding; None where no draw has it."""
        values = []
        for finding in self.done:
            value: Any = finding
            for name in path:
                value = value and value.get(name)
            if value is not None:
                values.append(float(value))
        return median(values) if values else None

    @property
    def baseline(self) -> float | None:
        best = [max(f["baseline_ssim"].values()) for f in self.done if f["baseline_ssim"]]
        return median(best) if best else None

    def rate(self, which: str) -> dict[str, Any] | None:
        """R, V or classified: hits and rows summed over draws, bounds from the draws' lowest to their highest."""
        shares = [f[which] for f in self.done if f.get(which)]
        if not shares:
            return None
        hits, n = sum(s["hits"] for s in shares), sum(s["n"] for s in shares)
        low, high = min(s["low"] for s in shares), max(s["high"] for s in shares)
        return {"hits": hits, "n": n, "rate": hits / max(1, n), "low": low, "high": high}


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """The findings by attack and pool size, in the report's order of attacks."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for attack in dict.fromkeys(f["attack"] for f in report["findings"]):
        mine = [f for f in report["findings"] if f["attack"] == attack]
        for f in sorted(mine, key=lambda f: f["pool_size"]):
            groups.setdefault((attack, f["pool_size"]), []).append(f)
    return [
        Row(
            attack=attack,
            tier=same[0]["tier"],
            size=n,
            draws=len(same),
            broken=sum(f["broken"] for f in same),
            marked=report["verdict"]["broken_at"].get(attack) == n,
            done=[f for f in same if "V" in f],
        )
        for (attack, n), same in groups.items()
    ]


def headline(report: Mapping[str, Any]) -> tuple[str, str]:
    """(state, sentence): state is `invalid`, `broken` or `open`."""
    verdict = report["verdict"]
    if not report["valid"]:
        return "invalid", "INVALID: a control failed"
    if not verdict["broken"]:
        if not verdict["largest_pool"]:
            return "open", "Nothing is known: no attack was run to its end."
        if not verdict["pool_attacked"]:
            return "open", "Nothing is known of a pool: no attack was run that could use one."
        return "open", f"Not broken by {report['suite']} up to {images(verdict['largest_pool'], 'sealed')}."
    n = verdict["smallest_pool"]
    first = [a for a in verdict["broken_by"] if verdict["broken_at"][a] == n]
    taken = ""
    if verdict["seconds"] is not None:
        # Every cell runs on one thread, whatever machine writes the report.
        taken = f" in {seconds(verdict['seconds'])} on one core,"
    name = report["scheme"]["name"]
    return "broken", f"Broken. {name} falls to {images(n, 'sealed')},{taken} by {listed(first)}."


def reasons(report: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """Sentences under the verdict: what broke it and how surely, or the bounds of what was not seen."""
    verdict, said = report["verdict"], []
    for row in (r for r in rows if r.marked and r.size == verdict["smallest_pool"]):
        every, key = row.by, row.middle("K", "median_ssim")
        words = [f"{row.attack}, {row.broken} of {row.draws} draws"]
        if "K" in every and key is not None:
            opened = sum("K" in f["broken_by"] for f in row.done)
            where = "" if opened == row.draws else f", in {opened} of {row.draws} draws by the rule's .90"
            words.append(f"the key it finds opens other images at median SSIM {score(key)} (K{where})")
        found, seen = row.rate("R"), row.rate("V")
        if "R" in every and found:
            words.append(f"{percent(found['rate'])} of its guesses name the right image of the gallery (R)")
        if "V" in every and seen:
            words.append(f"{percent(seen['rate'])} show more of the plain image than any baseline (V)")
        said.append(f"{words[0]}: {listed(words[1:])}.")
    later = [
        f"{a} from {images(n)}" for a, n in verdict["broken_at"].items() if n != verdict["smallest_pool"]
    ]
    if later:
        said.append(f"Also broken by {listed(later)}.")
    ended = verdict["finished_at"]
    largest = {r.attack: r for r in rows if r.done and r.size in ended.get(r.attack, ())}.values()
    if not verdict["broken"] and largest:
        high = {w: max(share["high"] for r in largest if (share := r.rate(w))) for w in "RV"}
        said.append(
            f"95 % upper bounds, each attack at its largest pool: at most {percent(high['R'])} of guesses name "
            f"the right image of the gallery (R), and {percent(high['V'])} show more of the plain image than "
            "any baseline (V)."
        )
    # A break that too few draws show is not a verdict, and no reader should miss it.
    early: dict[str, Row] = {}
    for r in rows:
        if r.broken and r.size < verdict["broken_at"].get(r.attack, r.size + 1):
            early.setdefault(r.attack, r)
    if early:
        words = [f"{r.attack} at {images(r.size)} ({r.broken} of {r.draws})" for r in early.values()]
        said.append(f"Some draws fell without counting as a break: {listed(words)}.")
    return said


def png(image: np.ndarray) -> str:
    """uint8 [h, w, c], c 1 or 3 → a data URI."""
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(out, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def gallery(pictures: Pictures | None) -> dict[str, Any] | None:
    """Captions and rows of data URIs, plain images first; None where there is nothing to show."""
    if pictures is None or not pictures.columns:
        return None
    columns = dict(sorted(pictures.columns.items(), key=lambda item: item[0] != "plain"))
    some = next(iter(columns.values()))
    return {
        "captions": list(columns),
        "rows": list(zip(*([png(i) for i in column] for column in columns.values()), strict=True)),
        "small": max(some.shape[1:3]) < _SMALL,
        "plain": "plain" in columns,
    }


def training_view(training: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The section with every optional figure present, and the accuracies in one list for comparison."""
    if training is None:
        return None
    empty: dict[str, Any] = {"parties": [], "absent": [], "refused": {}}
    view = {**dict.fromkeys(_OPTIONAL), "per_party": [], **training}
    view["rounds"] = [{**dict.fromkeys(_ROUND), **empty, **row} for row in training.get("rounds") or []]
    plain = (view["plain"] or {}).get("accuracy")
    compared = [
        ("sealed", "sealed images, right key", view["test"] or view["test_accuracy"]),
        ("plain", "plain images, same model and rounds", plain),
        ("other", "sealed images, wrong key", view["wrong_key"]),
        ("other", "no ViT: linear on plain pixels", view["linear_accuracy"]),
        ("other", "no ViT: nearest histogram", view["histogram_accuracy"]),
    ]
    view["compared"] = [
        {
            "kind": kind,
            "what": what,
            "value": value if isinstance(value, float) else value.get("rate", value.get("mean")),
            "low": None if isinstance(value, float) else value["low"],
            "high": None if isinstance(value, float) else value["high"],
        }
        for kind, what, value in compared
        if value is not None
    ]
    view["chart"] = Markup(learning_curve(view))  # our own SVG, its texts escaped
    return view


def _told_class(draws: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Which share of plain images and of ciphertexts the stand-in classifier tells: medians over draws."""
    told = [d["classified"] for d in draws if d.get("classified")]
    return {k: median(t[k]["rate"] for t in told) for k in ("plain", "ciphertext")} if told else None


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for written in (score, percent, seconds, size, power, images):
        environment.filters[written.__name__] = written
    return environment.get_template("page.html")


def render(report: Mapping[str, Any], pictures: Pictures | None) -> str:
    """report.html from report.json's content (see audit.py) and the pictures of one draw, if any.

    Pure: the same arguments give the same text. `report["public"]` True says that plain pictures may
    leave the hospital; without it they are marked as what stays.
    """
    rows = rows_of(report)
    state, sentence = headline(report)
    draws = report["draws"]
    names = dict.fromkeys(name for d in draws for name in d["baselines"])
    baselines = {
        n: median(d["baselines"][n]["median"] for d in draws if n in d["baselines"]) for n in names
    }
    charts = [ssim_curve(report["findings"], draws), key_curve(report["findings"])]
    return _template().render(
        report=report,
        state=state,
        sentence=sentence,
        reasons=reasons(report, rows),
        linked=linked(report),
        told_class=_told_class(draws),
        rows=rows,
        attacks=list(dict.fromkeys(r.attack for r in rows)),
        tiers=_TIERS,
        baselines=sorted(baselines.items(), key=lambda item: -item[1]),
        charts=[Markup(chart) for chart in charts if chart],
        pictures=gallery(pictures),
        public=bool(report.get("public")),
        training=training_view(report["training"]),
    )
