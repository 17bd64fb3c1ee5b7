"""A headless Chromium for tests of pages, and the text of the PDF files that it prints."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

#: Names of the browser on Debian, Fedora and elsewhere.
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def open_browser() -> Iterator[Any]:
    """Yield a headless Chromium (a playwright Browser); skip the test without one."""
    pytest.importorskip("playwright", reason="no browser tests: playwright is not installed")
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("no browser tests: no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def read_pdf(content: bytes) -> list[str]:
    """Return the text of each page, its white space collapsed."""
    import pypdfium2

    pages = pypdfium2.PdfDocument(io.BytesIO(content))
    return [" ".join(page.get_textpage().get_text_bounded().split()) for page in pages]


def last_lines(content: bytes) -> list[str]:
    """Return the lowest line of text on each page of a PDF file."""
    import pypdfium2

    lowest = []
    for page in pypdfium2.PdfDocument(io.BytesIO(content)):
        text = page.get_textpage()
        boxes = [text.get_rect(i) for i in range(text.count_rects())]
        _, bottom, _, top = min(boxes, key=lambda box: box[1])
        line = text.get_text_bounded(0, bottom - 1, page.get_width(), top + 1)
        lowest.append(" ".join(line.split()))
    return lowest
