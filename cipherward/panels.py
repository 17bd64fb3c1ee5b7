"""The same audit on several kinds of pictures: how many images break a scheme on each, and on all of them.

    from cipherward.panels import audit_panels

    result = audit_panels(encrypt, {"gray scan": scans, "stained tissue": tiles, "natural": photographs})
    print(result)

How many images break a scheme depends on the pictures: key recovery lives on their texture and edges, and on how far
their colours agree. An audit of one kind says nothing about others. So a claim about a *scheme* names a fixed panel
of three kinds, and its worst cases: the panel that fell with the fewest images, and the one that resisted longest.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cipherward.arguments import as_images, as_settings
from cipherward.audit import audit
from cipherward.draws import images_of_draw, require_distinct, require_enough
from cipherward.folder import Stack, read_stack
from cipherward.function import Function
from cipherward.result import AuditResult
from coordinator.report.reach import attacked_up_to
from coordinator.report.wording import images as images_text
from coordinator.report.wording import listed
from crypto.errors import CipherwardError

__all__ = ["PANELS", "PanelResult", "audit_panels"]

#: The kinds of pictures of the fixed panel, and what each must hold. No pictures come with this program.
PANELS = {
    "gray scan": "medical scans in gray, such as MRI or X-ray: dark borders, smooth textures",
    "stained tissue": "microscope images in colour: fine texture, colours that agree, no borders",
    "natural": "photographs in colour: edges, many scenes",
}


@dataclass(frozen=True, repr=False)
class PanelResult:
    """What the audits of the panels found. Printing it shows every verdict, and the worst cases.

    Attributes:
        panels: The result of each panel, by its name.
    """

    panels: Mapping[str, AuditResult]

    @property
    def valid(self) -> bool:
        """Whether every control of every panel passed."""
        return all(result.valid for result in self.panels.values())

    @property
    def broken(self) -> bool:
        """Whether the scheme is broken on a panel: it protects no pictures better than those it protects least."""
        return any(result.broken for result in self.panels.values())

    @property
    def broken_from(self) -> dict[str, int | None]:
        """The smallest pool that breaks the scheme, by panel; None where no attack did at any size."""
        return {name: result.broken_from for name, result in self.panels.items()}

    @property
    def least(self) -> int | None:
        """The worst case for whoever relies on the scheme: the fewest images that break it, over the panels."""
        return min((size for size in self.broken_from.values() if size is not None), default=None)

    @property
    def most(self) -> int | None:
        """The worst case for the attacks: so many images break the scheme on every panel; None if not on all."""
        sizes = [size for size in self.broken_from.values() if size is not None]
        return max(sizes) if len(sizes) == len(self.panels) else None

    @property
    def missing(self) -> list[str]:
        """The kinds of the fixed panel that were not audited."""
        return [name for name in PANELS if name not in self.panels]

    @property
    def verdict(self) -> str:
        """The verdict over all panels in a few sentences."""
        invalid = [name for name, result in self.panels.items() if not result.valid]
        if invalid:
            return f"INVALID: controls failed on {listed(invalid)}."
        sentence = self._valid_verdict()
        if self.missing:
            sentence += (
                f" Not audited on {listed(self.missing)}: the worst cases are not those of the fixed panel."
            )
        return sentence

    def _valid_verdict(self) -> str:
        first = next(iter(self.panels.values()))
        name, suite = first.report.scheme.name, first.report.suite
        defects = list(dict.fromkeys(d for result in self.panels.values() for d in result.defects))
        if defects:
            return f"Broken without an attack: {'; '.join(defects)}."
        if self.least is None:
            least = min(self._reached().values())
            if not least:
                why = "no attack that can use one ran to its end and is sure of what it found"
                return f"Nothing is known about pools of {name}: {why}.{self._doubt()}"
            return f"{name} was broken on no panel by {suite}, up to {images_text(least)}.{self._doubt()}"
        soonest = [panel for panel, size in self.broken_from.items() if size == self.least]
        sentence = f"Broken. {images_text(self.least)} break {name} on {listed(soonest)}"
        if self.most is None:
            reached = self._reached()
            withstood = {panel: size for panel, size in reached.items() if size}
            unknown = [panel for panel, size in reached.items() if not size]
            if withstood:
                reach = images_text(min(withstood.values()))
                sentence += f"; no attack broke it on {listed(list(withstood))}, up to {reach}"
            if unknown:
                sentence += f"; nothing is known of pools on {listed(unknown)}"
            return f"{sentence}.{self._doubt()}"
        if self.most == self.least:
            return f"{sentence}." if len(self.panels) == 1 else f"{sentence}: the same on every panel."
        latest = [panel for panel, size in self.broken_from.items() if size == self.most]
        return f"{sentence}, and {images_text(self.most)} on every panel; {listed(latest)} took the most."

    def _doubt(self) -> str:
        """Name the panels that were not broken, and on which the attacks say themselves that they failed."""
        panels = self.panels.items()
        uncertain = [panel for panel, result in panels if result.uncertain and result.broken_from is None]
        return f" The attacks are uncertain on {listed(uncertain)}." if uncertain else ""

    def _reached(self) -> dict[str, int]:
        """Return the pool size that attacks reached on each panel that they did not break; 0 if they reached none."""
        unbroken = {name: r.report for name, r in self.panels.items() if r.broken_from is None}
        return {name: attacked_up_to(r) if r.verdict.pool_attacked else 0 for name, r in unbroken.items()}

    def __repr__(self) -> str:
        """Return the verdict in one line."""
        return f"<PanelResult: {self.verdict}>"

    def __str__(self) -> str:
        """Return the verdict over all panels, and each panel's own with its caveats."""
        parts = [f"[{name}]\n{result}" for name, result in self.panels.items()]
        return "\n\n".join([self.verdict, *parts])

    def write(self, folder: Path | str) -> list[Path]:
        """Write report.json and report.html of each panel below a folder; return the pages' paths.

        The pages show plain images: they must stay where they may be seen.
        """
        return [result.write(Path(folder) / _folder_of(name)) for name, result in self.panels.items()]


def _folder_of(panel: str) -> str:
    """Return the name of a panel's folder."""
    return panel.replace(" ", "-")


def audit_panels(encrypt: Function, panels: Mapping[str, Stack], **settings: Any) -> PanelResult:
    """Audit a scheme that is a Python function on several kinds of pictures, with the same settings.

    Args:
        encrypt: As `cipherward.audit.audit` takes it.
        panels: Plain images by the name of their kind, each an array or a folder as `audit` takes them. The names of
            the fixed panel are those of `PANELS`; a result that lacks one says so. Other kinds can be added.
        **settings: What `audit` takes besides. `labels` is not among them: panels have labels of their own.

    Raises:
        CipherwardError: If there is no panel, or a panel's images cannot be audited; the message names the panel.
    """
    if not isinstance(panels, Mapping):
        raise CipherwardError(
            f"the panels came as {type(panels).__name__}",
            "name each kind of pictures: {'gray scan': images, …}",
        )
    folders: dict[str, str] = {}
    for name in panels:
        if not isinstance(name, str) or not name.isprintable() or not re.fullmatch(r"\w[^/\\]*", name):
            raise CipherwardError(f"{name!r:.60} is no name of a panel", "one line of text without slashes")
        other = folders.setdefault(_folder_of(name).casefold(), name)
        if other != name:
            raise CipherwardError(f"{other!r} and {name!r} would be written into one folder", "rename one")
    if not panels:
        raise CipherwardError(
            "no panel of images was handed over", f"name some: {', '.join(map(repr, PANELS))}"
        )
    if "labels" in settings:
        raise CipherwardError(
            "labels belong to one panel", "audit a panel with labels of its own: audit(…)"
        )
    for name, images in panels.items():
        with _naming(name):
            _require_auditable(images, settings)
    results = {}
    for name, images in panels.items():
        with _naming(name):
            results[name] = audit(encrypt, images, **settings)
    return PanelResult(results)


@contextlib.contextmanager
def _naming(panel: str) -> Iterator[None]:
    """Put a panel's name before the error that its audit raises."""
    try:
        yield
    except CipherwardError as error:
        raise CipherwardError(f"{panel}: {error.message}", error.hint) from None


def _require_auditable(images: Stack, settings: Mapping[str, Any]) -> None:
    """Raise CipherwardError if a panel's images cannot be audited: the panels before it may take hours."""
    own = inspect.signature(audit).parameters
    chosen = as_settings({name: value for name, value in settings.items() if name not in own})
    plain, _ = as_images(read_stack(images)[0])
    require_enough(chosen, len(plain))
    chosen.specs(plain.shape[1:])
    sets = [images_of_draw(chosen, len(plain), index + 1) for index in range(chosen.draws)]
    require_distinct(chosen, plain, sets)
