"""The result of an audit of a function: a verdict in words, its report, and the pages to keep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cipherward.pairs import PairsFinding
from coordinator.exchange.records import write_record
from coordinator.report.page import render
from coordinator.report.pictures import Pictures
from coordinator.report.records import Report
from coordinator.report.verdict_text import headline, summary_lines, uncertain_attacks
from crypto.errors import CipherwardError
from crypto.files import disk_errors, folder_lock, write_text
from crypto.plural import counted

REPORT, PAGE = "report.json", "report.html"


@dataclass(frozen=True, repr=False)
class AuditResult:
    """What an audit found. Printing it shows the verdict and every caveat.

    Attributes:
        report: What report.json holds: findings, controls, verdict and doubts.
        pictures: Plain images, ciphertexts and guesses of a few rows, for the page.
        pairs: What attacks with known or chosen plaintext reached. The verdict does not count them.
    """

    report: Report
    pictures: Pictures
    pairs: tuple[PairsFinding, ...]

    @property
    def verdict(self) -> str:
        """The verdict in one sentence, as the report words it."""
        return headline(self.report).sentence

    @property
    def valid(self) -> bool:
        """Whether every control passed. An invalid audit has no verdict."""
        return self.report.valid

    @property
    def broken(self) -> bool:
        """Whether the scheme is broken: by an attack on ciphertexts, or because it hides nothing or needs no key."""
        return headline(self.report).state == "broken"

    @property
    def broken_from(self) -> int | None:
        """The smallest pool of ciphertexts that breaks the scheme; None if no attack did at any size."""
        return self.report.verdict.smallest_pool if self.valid else None

    @property
    def uncertain(self) -> bool:
        """Whether nothing broke the scheme and the attacks cannot say that they failed: no finding either way."""
        return self.valid and not self.broken and bool(uncertain_attacks(self.report.verdict))

    @property
    def defects(self) -> tuple[str, ...]:
        """What is wrong with the scheme whatever an attack finds: it ignores its key, or leaves images plain."""
        return self.report.defects

    def __repr__(self) -> str:
        """Return the scheme and its verdict in one line."""
        return f"<AuditResult of {self.report.scheme.name}: {self.verdict}>"

    def __str__(self) -> str:
        """Return the verdict, what it rests on, and every caveat, a line each."""
        report = self.report
        draws = report.verdict.draws
        height, width, channels = report.scheme.image_shape
        first = (
            f"{report.scheme.name}, {report.suite}, {counted(draws, 'draw')} of key and pool, "
            f"images of {height}×{width}×{channels}"
        )
        failed = [
            f"  control failed: {name}: {report.controls[name].message}" for name in report.failed_controls
        ]
        beside = [f"  beside the verdict: {finding}" for finding in self.pairs]
        return "\n".join([first, *summary_lines(report), *failed, *beside])

    def write(self, folder: Path | str) -> Path:
        """Write report.json and report.html, the page last; return the page's path.

        The page shows plain images: it must stay where they may be seen.

        Raises:
            CipherwardError: If the disk refuses, another process writes there, or the folder has a report that is
                not of this library, such as that of a study.
        """
        folder = Path(folder)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with folder_lock(folder):
            _require_own(folder / REPORT)
            page = render(self.report, self.pictures)
            with disk_errors(folder / PAGE):
                # A page of an earlier audit must not stand beside this report, wherever this is killed.
                (folder / PAGE).unlink(missing_ok=True)
            write_record(folder / REPORT, self.report)
            write_text(folder / PAGE, page, 0o600)  # it shows the images
        return folder / PAGE


def _require_own(path: Path) -> None:
    """Raise CipherwardError if a report is there that this library did not write: it would be lost."""
    if not path.exists():
        return
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("attacked_by") != "library":
        raise CipherwardError(f"{path} is no report of this library, and is kept", "name another folder")
