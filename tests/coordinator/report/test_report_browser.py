"""report.html in a real browser: at a desk and on a telephone, light and dark, and on paper.

Nothing is skipped on a machine with playwright and Chromium.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordinator.report.page import render
from coordinator.report.pictures import Pictures
from coordinator.report.records import Report
from coordinator.report.repeat import repeat_commands
from tests.support.browser import last_lines, open_browser, read_pdf
from tests.support.reports import TRAINED, make_pictures, make_report

pytestmark = pytest.mark.slow

DESK, TELEPHONE = (1280, 800), (390, 844)
#: How much darker or lighter than its ground a text must be (WCAG 2, level AA).
CONTRAST = 4.5

VARIANTS: dict[str, tuple[Report, Pictures | None]] = {
    "broken": (make_report(training=TRAINED), make_pictures(plain=True)),
    "open": (make_report(reach=0.0), make_pictures(channels=3)),
    "invalid": (make_report(noise=1.0, training=TRAINED), make_pictures(side=120)),
}
_CONTRASTS = """() => {
  const luminance = c => { const [r, g, b] = c.map(v => v / 255).map(v =>
      v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const ground = e => { for (; e; e = e.parentElement) { const c = colour(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const texts = [...document.querySelectorAll('main *, header *')].filter(e => !e.closest('svg') &&
    e.checkVisibility()
    && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return texts.map(e => { const [a, b] = [colour(getComputedStyle(e).color).slice(0, 3), ground(e)].map(luminance);
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName + ' ' + e.textContent.slice(0, 40)]; });
}"""
_CELLS = """() => [...document.querySelectorAll('tbody tr:not(.group)')].filter(r => !r.closest('.pictures'))
  .map(r => r.innerText.split(/\\s+/).filter(Boolean))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Give a headless Chromium."""
    yield from open_browser()


@cache
def _text_of(name: str) -> str:
    return render(*VARIANTS[name])


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Give a function that opens a variant's page at a size, in light or dark."""
    contexts = []

    def open_page(name: str, size: tuple[int, int] = DESK, colours: str = "light") -> Any:
        path = tmp_path / f"{name}.html"
        path.write_text(_text_of(name))
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=colours)
        contexts.append(context)
        page = context.new_page()
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


def _box(page: Any, selector: str) -> dict[str, float]:
    """Return the box of the first element that fits a selector."""
    box: dict[str, float] = page.locator(selector).first.bounding_box()
    return box


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [DESK, TELEPHONE], ids=["desk", "telephone"])
def test_the_page_never_scrolls_sideways(show: Any, name: str, size: tuple[int, int]) -> None:
    page = show(name, size)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]


@pytest.mark.parametrize("name", VARIANTS)
def test_at_a_desk_every_column_is_in_view(show: Any, name: str) -> None:
    hidden = show(name).evaluate(
        "[...document.querySelectorAll('.scroll')].map(e => [e.scrollWidth - e.clientWidth, e.ariaLabel])"
    )
    assert hidden and not [label for room, label in hidden if room > 0]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_text_can_be_read_on_its_ground(show: Any, name: str, colours: str) -> None:
    page = show(name, DESK, colours)
    low = [(round(ratio, 2), text) for ratio, text in page.evaluate(_CONTRASTS) if ratio < CONTRAST]
    assert not low, low
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is (colours == "light")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_screen_says_verdict_meaning_and_what_to_do(show: Any, name: str) -> None:
    page = show(name)
    for selector in ("h1", "#patients ~ p >> nth=-1", "#act", "#act + ol > li >> nth=-1"):
        box = _box(page, selector)
        assert box["y"] >= 0 and box["y"] + box["height"] <= DESK[1], (selector, box)


def test_what_was_recovered_stays_in_view_on_a_telephone(show: Any) -> None:
    page = show("broken", TELEPHONE)
    region = "[aria-label=Pictures]"
    room = page.locator(region).evaluate("e => e.scrollWidth - e.clientWidth")
    assert room > 0, "the table fits, so nothing was tried"
    for place in (0, room):
        page.locator(region).evaluate("(e, x) => { e.scrollLeft = x; }", place)
        cell = _box(page, "td.recovered")
        assert cell["x"] >= 0 and cell["x"] + cell["width"] <= TELEPHONE[0], place


@pytest.mark.parametrize("name", VARIANTS)
def test_every_image_is_decoded_and_described(show: Any, name: str) -> None:
    images = show(name).evaluate("[...document.images].map(i => [i.naturalWidth, i.alt])")
    assert images
    for width, text in images:
        assert width > 0 and text.startswith("Image ") and len(text) > 30, text
    charts = show(name).evaluate(
        "[...document.querySelectorAll('svg.chart')].map(c => c.getAttribute('aria-label'))"
    )
    assert charts and all(label and len(label) > 30 for label in charts)


@pytest.mark.parametrize("size", [DESK, TELEPHONE], ids=["desk", "telephone"])
def test_a_click_selects_a_whole_command_and_ctrl_c_copies_it(show: Any, size: tuple[int, int]) -> None:
    """The page has no script, so that it can be opened anywhere: one click selects, and the browser copies."""
    page = show("broken", size)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#provenance .command").first.click()
    page.keyboard.press("Control+c")
    command = repeat_commands(VARIANTS["broken"][0])[0]
    assert page.evaluate("getSelection().toString()").strip() == command
    assert page.evaluate("navigator.clipboard.readText()").strip() == command


@pytest.mark.parametrize("height", [297, 250, 210])
@pytest.mark.parametrize("name", VARIANTS)
def test_on_paper_no_heading_is_left_behind_and_no_row_is_split(show: Any, name: str, height: int) -> None:
    page = show(name)
    rows = page.evaluate(_CELLS)
    headings = set(page.locator("h2, h3, caption, figcaption, dt").all_inner_texts())
    content = page.pdf(width="210mm", height=f"{height}mm", print_background=True)
    pages = read_pdf(content)
    assert len(pages) > 2
    for line in last_lines(content):
        assert line not in headings, f"left at the foot of a page: {line}"
    words = [set(text.split()) for text in pages]
    for row in rows:
        assert any(set(row) <= held for held in words), f"split over two pages: {row}"


def test_paper_carries_the_warning_that_pictures_of_patients_are_in_it(show: Any) -> None:
    pages = read_pdf(show("broken").pdf(prefer_css_page_size=True))
    assert "This file contains plain pictures. It must stay in the hospital." in pages[0]
    assert "Broken." in pages[0] and "What to do" in pages[0]


def test_black_pictures_would_be_noticed(show: Any) -> None:
    """The pictures on the page are those of the report, not empty frames."""
    first = show("broken").locator(".pictures img").first.screenshot()
    assert np.asarray(Image.open(BytesIO(first)).convert("L")).std() > 5
