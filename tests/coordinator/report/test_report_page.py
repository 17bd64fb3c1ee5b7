"""report.html from made-up scores of every kind: the page must cope with them, and say what they say."""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordinator.model.metrics import pooled, tables
from coordinator.report import charts
from coordinator.report import wording as words
from coordinator.report.page import headline, png, render, rows_of
from coordinator.report.pictures import Pictures
from parties.scoring.measures import share
from tests.support.reports import BARE, TRAINED, pictures, report


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.parts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.parts).split())


def verdict_of(page: str) -> str:
    """What stands in the verdict's panel, without tags."""
    panel = page[page.index('id="verdict"') : page.index('class="facts"')]
    return " ".join(re.sub(r"<[^>]*>", " ", panel).split())


VARIANTS: dict[str, tuple[dict[str, Any], Pictures | None]] = {
    "broken": (report(training=TRAINED), pictures()),
    "untrained": (report(), pictures(plain=True)),
    "bare training": (report(training=BARE), None),
    "no figures beside": (
        report(training={**TRAINED, "plain": None, "wrong_key": None, "rounds": []}),
        None,
    ),
    "open": (report(reach=0.0), pictures(channels=3)),
    "invalid": (report(noise=1.0, training=TRAINED), pictures(side=120)),
    "one draw": (report(draws=1), Pictures({})),
}


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of a page's time; tests of its words leave them out."""
    for name in ("ssim_curve", "key_curve", "learning_curve"):
        monkeypatch.setattr(f"coordinator.report.page.{name}", lambda *_: "")


@cache
def page_of(name: str) -> str:
    return render(*VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_one_closed_file(name: str) -> None:
    text = page_of(name)
    page = Page(text)
    assert page.open == []  # every tag is closed, and in order
    assert "http://" not in text
    assert "https://" not in text
    loads = [
        v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "srcset", "data", "action")
    ]
    assert loads
    assert all(v and v.startswith(("data:", "#")) for v in loads)
    assert not {"script", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text)
    assert not {"None", "nan", "Undefined"} & set(re.findall(r"\w+", page.text))
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [v[1:] for tag, a in page.tags if tag == "a" and (v := a.get("href"))]
    assert set(targets) <= set(ids)
    assert sum(tag == "caption" for tag, _ in page.tags) == sum(tag == "table" for tag, _ in page.tags)


@pytest.mark.parametrize("name", ["broken"])
def test_the_same_report_gives_the_same_bytes(name: str) -> None:
    assert render(*VARIANTS[name]) == page_of(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_verdict_calls_a_scheme_secure(name: str) -> None:
    text = page_of(name)
    assert "secure" not in verdict_of(text).lower()
    # The one place for the word: what "not broken" does not mean.
    said = Page(text).text.lower()
    assert said.count("secure") == said.count("“not broken” is not “secure”") == 1


@pytest.mark.usefixtures("without_charts")
def test_a_break_is_the_first_sentence() -> None:
    made = report()
    state, sentence = headline(made)
    n, taken = made["verdict"]["smallest_pool"], words.seconds(made["verdict"]["seconds"])
    assert n == 5
    assert state == "broken"
    said = f"falls to 5 sealed images, in {taken} on one core, by pooled_key_recovery."
    assert sentence == f"Broken. block_pixel_shuffle {said}"
    assert f"<h1>{sentence}</h1>" in render(made, None)


@pytest.mark.usefixtures("without_charts")
def test_a_break_in_too_few_draws_is_told() -> None:
    made = report()
    told = "Some draws fell without counting as a break: pooled_key_recovery at 2 images (1 of 3)."
    assert told in verdict_of(render(made, None))
    made["findings"] = [f for f in made["findings"] if f["pool_size"] != 2]
    assert "Some draws fell" not in verdict_of(render(made, None))


@pytest.mark.usefixtures("without_charts")
def test_what_was_not_broken_comes_with_upper_bounds() -> None:
    made = report(reach=0.0)
    said = verdict_of(render(made, None))
    assert "Not broken by suite/1 up to 100 sealed images." in said
    assert f"at most {words.percent(share(0, 64)['high'])} of guesses name" in said
    assert "out of time at 600 s" in said  # a doubt


@pytest.mark.usefixtures("without_charts")
def test_a_failed_control_replaces_the_verdict() -> None:
    made = report(noise=1.0)
    assert made["verdict"]["broken"]
    said = verdict_of(render(made, None))
    assert "INVALID: a control failed" in said
    assert "noise : broken by" in said
    assert "Broken. block_pixel_shuffle" not in said
    assert "plain :" not in said  # a control that passed


@pytest.mark.usefixtures("without_charts")
def test_links_stand_beside_the_verdict_and_not_in_it() -> None:
    made = report(reach=0.0)
    said = verdict_of(render(made, None))
    assert "Not broken by suite/1" in said
    assert (
        "Linkable: 192 of 192 ciphertexts name their own image among 1,000 by the histogram alone" in said
    )
    assert "Linkable" not in verdict_of(render(report(noise=1.0), None))
    old = report()
    del old["verdict"]["linkable"]
    for each in old["draws"]:
        del each["linkable"], each["classified"]
    for f in old["findings"]:
        del f["classified"], f["grid"]
    page = render(old, None)
    assert "Linkable: not run." in verdict_of(page) and "Nc" not in re.sub(r"(?s)<dl.*?</dl>", "", page)


def test_hostile_names_are_text() -> None:
    bad = '<script>alert("1")</script>'
    made = report(training={**TRAINED, "model": bad, "classes": [bad]}, study=bad)
    for f in made["findings"]:
        f["attack"] = bad if f["attack"] == "as_is" else f["attack"]
    made["verdict"] = {**made["verdict"], "broken_by": [bad], "broken_at": {bad: 1}, "smallest_pool": 1}
    made["doubts"] = [bad]
    made["key_ids"] = [bad]
    made["controls"] = {bad: {"ok": True, "said": bad}}
    text = render(made, Pictures({bad: pictures().columns["sealed"]}))
    assert "<script" not in text
    assert Page(text).text.count(bad) > 8
    assert not any(tag == "script" for tag, _ in Page(text).tags)


@pytest.mark.usefixtures("without_charts")
def test_plain_pictures_are_first_and_marked_unless_public() -> None:
    made = report()
    stays = "contains plain pictures: it stays in the hospital"
    private = render(made, pictures(plain=True))
    assert private.count(stays) == 2
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", private[private.index('class="pictures') :])
    assert heads[:2] == ["plain", "sealed"]
    public = render({**made, "public": True}, pictures(plain=True))
    assert stays not in public
    assert "of a public source" in public
    assert stays not in render(made, pictures())


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_keep_every_pixel(channels: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 7, channels), np.uint8)
    uri = png(image)
    assert uri.startswith("data:image/png;base64,")
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert (back.reshape(image.shape) == image).all()


@pytest.mark.usefixtures("without_charts")
def test_small_pictures_only_are_enlarged_pixel_by_pixel() -> None:
    assert 'class="pictures small"' in render(report(), pictures(side=28))
    assert 'class="pictures"' in render(report(), pictures(side=120))


def test_rows_put_draws_together() -> None:
    made = report()
    rows = rows_of(made)
    row = next(r for r in rows if r.marked)
    same = [f for f in made["findings"] if (f["attack"], f["pool_size"]) == (row.attack, row.size)]
    assert (row.draws, row.broken) == (3, 3)
    assert row.middle("ssim", "median") == sorted(f["ssim"]["median"] for f in same)[1]
    found = row.rate("R")
    assert found is not None
    assert (found["hits"], found["n"]) == (sum(f["R"]["hits"] for f in same), 192)
    assert found["low"] == min(f["R"]["low"] for f in same)
    assert found["high"] == max(f["R"]["high"] for f in same)
    assert row.baseline == 0.31


def test_an_attack_that_crashed_everywhere_is_shown_as_crashed() -> None:
    made = report(reach=0.0)
    kept = ("attack", "tier", "uses_pool", "pool_size", "seconds", "note", "draw", "baseline_ssim")
    gone = {"error": "ValueError: no", "broken": False, "broken_by": []}
    made["findings"] = [{**{k: f[k] for k in kept}, **gone} for f in made["findings"]]
    text = render(made, None)
    assert "3 crashed" in text
    assert "upper bounds" not in verdict_of(text)
    assert '<svg class="chart"' not in text
    assert "Nothing is known" in render(
        {**made, "findings": [], "verdict": {**made["verdict"], "largest_pool": 0}}, None
    )


def test_curves_are_bare_svg_whose_text_is_text() -> None:
    made = report()
    assert charts.key_curve([f for f in made["findings"] if f["key"] is None]) == ""
    svg = charts.ssim_curve(made["findings"], made["draws"])
    assert svg.startswith('<svg class="chart" viewBox="0 0 ')
    assert "<metadata" not in svg
    assert "pooled_key_recovery" in svg
    assert "best baseline" in svg
    for f in made["findings"]:
        f["attack"] = "$a_{1}$ <b>" if f["attack"] == "as_is" else f["attack"]
    assert "$a_{1}$ &lt;b&gt;" in charts.ssim_curve(made["findings"], made["draws"])


@pytest.mark.usefixtures("without_charts")
def test_training_figures_are_told_with_their_units() -> None:
    text = Page(render(report(training=TRAINED), None)).text
    for said in (
        "85.3 %",
        "96.0 %",
        "26.2 %",
        "70.1 %",
        "82.9 %",
        "66.3 MB",
        "3 min 32 s",
        "absent: hospital-2",
    ):
        assert said in text
    assert "refused hospital-1: weights that are not finite" in text
    assert "Expected calibration error" not in text  # an earlier version kept no tables
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    told = pooled([tables(scores, np.array([0, 1, 1, 1, 0]))])
    told |= {"classes": ["glioma", "<b>"], "share": "lora"}
    text = Page(render(report(training={**TRAINED, **told}), None)).text
    assert "glioma1150.0 %" in text and "<b>1266.7 %" in text  # cells side by side
    assert "Expected calibration error 0.350" in text and "low-rank adapters alone are trained" in text
    carried = Page(render(report(training={**TRAINED, "stem": "private"}), None)).text
    assert "inverting one gives plain images" in carried
    assert "inverting one gives sealed images" in text
