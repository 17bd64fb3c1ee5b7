"""A parsed report.html: its tags, and its visible text."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags, attributes and visible text of a page.

    Attributes:
        tags: Every opening tag with its attributes.
        open: Tags that are not closed yet; empty for a sound page.
    """

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
        """The visible text, its white space collapsed."""
        return " ".join("".join(self.parts).split())


def verdict_panel(page: str) -> str:
    """Return what stands in the verdict's panel, without tags."""
    panel = page[page.index('id="verdict"') : page.index('class="facts"')]
    return " ".join(re.sub(r"<[^>]*>", " ", panel).split())
