"""report.html from made-up scores of every kind: the page must cope with them, and say what they say."""

from __future__ import annotations

import base64
import io
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordinator.exchange.audit.rates import rate_of
from coordinator.report import wording as words
from coordinator.report.page import png, render
from coordinator.report.pictures import Pictures
from coordinator.report.records import Control, Report
from coordinator.report.report_file import parse_report
from coordinator.report.verdict_text import headline, summary_lines
from tests.support.html_page import Page, verdict_panel
from tests.support.reports import BARE, TRAINED, make_pictures, make_report
from tests.support.verdicts import make_finding, three_draws
from tests.support.verdicts import make_report as verdict_report

VARIANTS: dict[str, tuple[Report, Pictures | None]] = {
    "broken": (make_report(training=TRAINED), make_pictures()),
    "untrained": (make_report(), make_pictures(plain=True)),
    "bare training": (make_report(training=BARE), None),
    "no figures beside": (
        make_report(training=TRAINED.model_copy(update={"plain": None, "wrong_key": None, "rounds": ()})),
        None,
    ),
    "open": (make_report(reach=0.0), make_pictures(channels=3)),
    "invalid": (make_report(noise=1.0, training=TRAINED), make_pictures(side=120)),
    "one draw": (make_report(draws=1), Pictures({})),
}


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the charts, which take most of a page's time, in tests of its words."""
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


@pytest.mark.parametrize("name", ["broken", "bare training"])
def test_every_row_of_a_table_has_a_header_that_a_screen_reader_says(name: str) -> None:
    """All rows below a table's head begin with their header; pictures are named by their texts instead."""
    tables = re.findall(
        r"<table class=\"(?!pictures).*?</table>|<table>.*?</table>", page_of(name), re.DOTALL
    )
    bodies = [re.findall(r"<tbody>(.*?)</tbody>", table, re.DOTALL) for table in tables]
    rows = [row for parts in bodies for part in parts for row in re.findall(r"<tr[^>]*>\s*(<[^>]*>)", part)]

    assert len(tables) > 3
    assert rows
    assert {row.split(" colspan")[0].rstrip(">") for row in rows} <= {
        '<th scope="row"',
        '<th scope="rowgroup"',
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_one_thing_is_named_in_the_singular(name: str) -> None:
    """No page says "1 draws"."""
    nouns = "draws|images|rows|rounds|classes|hospitals|updates|sets|ciphertexts|caveats|times"
    text = " ".join(Page(page_of(name)).text.split())

    assert not re.findall(rf"(?<![\d.,–-])1 (?:scored |sealed |kept )?(?:{nouns})\b", text)


@pytest.mark.parametrize("name", ["broken"])
def test_the_same_report_gives_the_same_bytes(name: str) -> None:
    assert render(*VARIANTS[name]) == page_of(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_no_verdict_calls_a_scheme_secure(name: str) -> None:
    text = page_of(name)
    # Secure aggregation is the name of a protocol, and no verdict.
    assert "secure" not in verdict_panel(text).lower().replace("secure aggregation", "")
    # The one place for the word: what "not broken" does not mean.
    visible = Page(text).text.lower().replace("secure aggregation", "")
    assert visible.count("secure") == visible.count("“not broken” is not “secure”") == 1


@pytest.mark.usefixtures("without_charts")
def test_a_break_is_the_first_sentence() -> None:
    report = make_report()
    verdict = headline(report)
    assert report.verdict.smallest_pool == 5
    assert verdict.state == "broken"
    time = words.seconds(report.verdict.seconds)
    assert verdict.sentence == (
        f"Broken. pooled_key_recovery breaks block_pixel_shuffle with 5 sealed images, in {time} on one core."
    )
    assert f"<h1>{verdict.sentence}</h1>" in render(report, None)


@pytest.mark.usefixtures("without_charts")
def test_a_break_in_too_few_draws_is_named() -> None:
    report = make_report()
    sentence = (
        "Some draws were broken, but too few to count as a break: pooled_key_recovery at 2 images (1 of 3)."
    )
    assert sentence in verdict_panel(render(report, None))
    larger = tuple(finding for finding in report.findings if finding.pool_size != 2)
    others = report.model_copy(update={"findings": larger})
    assert "Some draws were broken" not in verdict_panel(render(others, None))


@pytest.mark.usefixtures("without_charts")
def test_what_was_not_broken_comes_with_upper_bounds() -> None:
    panel = verdict_panel(render(make_report(reach=0.0), None))
    assert "Not broken by suite/1 up to 100 sealed images." in panel
    assert f"at most {words.percent(rate_of(0, 64).high)} of guesses name" in panel
    assert "out of time at 600 s" in panel  # a doubt


@pytest.mark.usefixtures("without_charts")
def test_a_failed_control_replaces_the_verdict() -> None:
    report = make_report(noise=1.0)
    assert report.verdict.broken
    panel = verdict_panel(render(report, None))
    assert "INVALID: a control failed: noise." in panel
    assert "noise : broken by" in panel
    assert "breaks block_pixel_shuffle" not in panel
    assert "plain :" not in panel  # a control that passed


@pytest.mark.usefixtures("without_charts")
def test_links_stand_beside_the_verdict_and_not_in_it() -> None:
    panel = verdict_panel(render(make_report(reach=0.0), None))
    assert "Not broken by suite/1" in panel
    assert (
        "Linkable: 192 of 192 ciphertexts name their own image among 1,000 by the histogram alone" in panel
    )
    assert "Linkable" not in verdict_panel(render(make_report(noise=1.0), None))


@pytest.mark.usefixtures("without_charts")
def test_a_report_of_an_earlier_version_is_shown_without_later_figures() -> None:
    value: dict[str, Any] = make_report().to_json()
    del value["verdict"]["linkable"], value["verdict"]["linkable_draws"]
    for draw in value["draws"]:
        del draw["linkable"], draw["classified"]
    for finding in value["findings"]:
        del finding["classified"], finding["grid"]
    page = render(parse_report(value), None)
    assert "Linkable: not run." in verdict_panel(page)
    assert "Nc" not in re.sub(r"(?s)<dl.*?</dl>", "", page)


def test_hostile_names_are_text() -> None:
    bad = '<script>alert("1")</script>'
    report = make_report(training=TRAINED.model_copy(update={"model": bad, "classes": (bad,)}), study=bad)
    findings = tuple(
        finding.model_copy(update={"attack": bad if finding.attack == "as_is" else finding.attack})
        for finding in report.findings
    )
    verdict = report.verdict.model_copy(
        update={"broken_by": (bad,), "broken_at": {bad: 1}, "smallest_pool": 1}
    )
    changes = {
        "findings": findings,
        "verdict": verdict,
        "doubts": (bad,),
        "key_ids": (bad,),
        "controls": {bad: Control(ok=True, message=bad)},
    }
    shown = Pictures({bad: make_pictures().columns["sealed"]})
    text = render(report.model_copy(update=changes), shown)
    assert "<script" not in text
    assert Page(text).text.count(bad) > 8
    assert not any(tag == "script" for tag, _ in Page(text).tags)


@pytest.mark.usefixtures("without_charts")
@pytest.mark.usefixtures("without_charts")
def test_a_page_says_when_and_where_what_was_done() -> None:
    report = make_report()
    assert "not recorded: the scores may be older than this file." in Page(render(report, None)).text
    scored = {"scored_at": "2025-03-01T12:00:00Z", "scored_with": "0.1.0", "attacked_by": "cloud"}
    cloud = report.model_copy(update={**scored, "budget_s": 60.0})
    text = Page(render(cloud, None)).text
    assert (
        "2025-03-01 12:00:00 UTC, with cipherward 0.1.0. Attacks that were found later are not in" in text
    )
    assert "2026-01-15 08:30:00 UTC: when this file was written" in text
    assert "that wrote this file, not the one that attacked: 2 cores" in text
    assert "as the cloud states; so are the times of attacks" in text
    assert any(line.endswith(", of 2025-03-01.") for line in summary_lines(cloud))


@pytest.mark.usefixtures("without_charts")
def test_characters_that_hide_or_turn_others_are_escapes() -> None:
    """A note of the cloud could show "no break" where the text says otherwise."""
    report = make_report()
    note, name = "kaerb on \u202e\u2066\x1b[31m\n", "s\u200btudy\ufeff\U000e0041"
    page = render(report.model_copy(update={"doubts": (note,), "study": name}), make_pictures())
    assert not any(c in page for c in "\u202e\u2066\x1b\u200b\ufeff\U000e0041")
    text = Page(page).text
    assert r"kaerb on \u202e\u2066\x1b[31m\n" in text and r"s\u200btudy\ufeff\U000e0041" in text
    assert "日本 ü\u200c" in render(report.model_copy(update={"study": "日本 ü\u200c"}), None)


def test_plain_pictures_are_first_and_marked_unless_public() -> None:
    report = make_report()
    stays = "must stay in the hospital"
    private = render(report, make_pictures(plain=True))
    assert private.count(stays) == 2
    assert "This file contains plain pictures." in private
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", private[private.index('class="pictures') :])
    assert heads[:2] == ["plain", "sealed"]
    public = render(report, make_pictures(plain=True), public=True)
    assert stays not in public
    assert "from a public source" in public
    assert stays not in render(report, make_pictures())


PATIENTS = "pictures of patients' images"


@pytest.mark.usefixtures("without_charts")
def test_a_page_with_recovered_pictures_says_that_they_are_patients_images() -> None:
    text = Page(render(make_report(), make_pictures())).text
    assert text.count(PATIENTS) == 2 and "Treat it as patient data." in text
    assert "no plain picture" not in text and "contains no" not in text
    # Whatever replaces the verdict: a failed control, or too few broken draws.
    assert PATIENTS in Page(render(make_report(noise=1.0), make_pictures())).text
    lucky = make_report(reach=0.0)
    first, *others = lucky.findings
    broken = first.model_copy(update={"broken": True, "broken_by": ("V",)})
    lucky = lucky.model_copy(update={"findings": (broken, *others)})
    assert not lucky.verdict.broken and PATIENTS in Page(render(lucky, make_pictures())).text


@pytest.mark.usefixtures("without_charts")
def test_a_page_of_public_or_unbroken_images_does_not_say_so() -> None:
    public = Page(render(make_report(), make_pictures(plain=True), public=True)).text
    assert PATIENTS not in public
    withstood = Page(render(make_report(reach=0.0), make_pictures())).text
    assert PATIENTS not in withstood
    assert "its guesses may show parts of patients' images" in withstood
    # Without pictures there is nothing to say.
    assert PATIENTS not in Page(render(make_report(), None)).text
    # The hospital's own page says that it stays there.
    assert "must stay in the hospital" in render(make_report(), make_pictures(plain=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_keep_every_pixel(channels: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 7, channels), np.uint8)
    uri = png(image)
    assert uri.startswith("data:image/png;base64,")
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert (back.reshape(image.shape) == image).all()


@pytest.mark.usefixtures("without_charts")
def test_small_pictures_only_are_enlarged_pixel_by_pixel() -> None:
    assert 'class="pictures small"' in render(make_report(), make_pictures(side=28))
    assert 'class="pictures"' in render(make_report(), make_pictures(side=120))


@pytest.mark.usefixtures("without_charts")
def test_an_attack_that_crashed_everywhere_is_shown_as_crashed() -> None:
    report = make_report(reach=0.0)
    crash = {"error": "ValueError: no", "broken": False, "broken_by": (), "figures": None}
    crashed = tuple(finding.model_copy(update=crash) for finding in report.findings)
    text = render(report.model_copy(update={"findings": crashed}), None)
    assert "3 crashed" in text
    assert "upper bounds" not in verdict_panel(text)
    assert '<svg class="chart"' not in text
    verdict = report.verdict.model_copy(update={"largest_pool": 0})
    nothing = report.model_copy(update={"findings": (), "verdict": verdict})
    assert "Nothing is known" in render(nothing, None)


def test_clipped_updates_and_refused_test_figures_are_shown() -> None:
    """Whoever reads the accuracy must see whose figures it leaves out, and whose updates were cut."""
    rounds = list(make_report(training=TRAINED).training.rounds)  # type: ignore[union-attr] # it has a training
    rounds[2] = rounds[2].model_copy(update={"clipped": {"hospital-2": 41.26}})
    refused = {"hospital-1": "tables that <are> not counts"}
    training = TRAINED.model_copy(update={"rounds": tuple(rounds), "test_refused": refused})
    page = render(make_report(training=training), None)
    assert "clipped hospital-2: 41.3 times the median norm" in page
    assert "hospital-1 (tables that &lt;are&gt; not counts)" in page
    assert "the test accuracy leaves out hospital-1, whose figures were refused" in page
    plain_page = render(make_report(training=TRAINED), None)
    assert "clipped" not in plain_page and "do not count" not in plain_page


def test_what_an_attack_needs_is_said_of_each_of_its_pool_sizes() -> None:
    """One image and a pool need different things; the heading spoke of the first row alone."""
    findings = [
        make_finding(pool=1, tier="T0"),
        make_finding(pool=10, r=64),
        make_finding("as_is", 1, tier="T0"),
    ]
    report = verdict_report(three_draws(*findings)).model_copy(update={"valid": True})
    heads = re.findall(r"<div>(\w+) <span>(.*?)</span>", render(report, None))
    assert dict(heads) == {
        "pooled_key_recovery": "T0: needs one sealed image (from 1); T1: needs a pool of sealed images under one key "
        "(from 10)",
        "as_is": "T0: needs one sealed image",
    }
