"""The files below a folder, what each holds, and where they are: what a layout is recognised from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from crypto.errors import CipherwardError
from parties.sources.picture import UndecodableImageError
from parties.sources.reading import Reading
from parties.sources.walk import Parts, Tree, ignored_reason, look


@dataclass
class Found:
    """The files of a folder, and what was decided about them."""

    root: Path
    tree: Tree
    reading: Reading
    parts: dict[str, Parts] = field(default_factory=dict)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Of each folder: the folders in it, the images below it, and those in it.
    inner: dict[str, list[str]] = field(default_factory=dict)
    below: dict[str, list[str]] = field(default_factory=dict)
    direct: dict[str, list[str]] = field(default_factory=dict)

    def look_at_all(self) -> None:
        """Find out what every file holds."""
        self.ignored = list(self.tree.ignored)
        for name in self.tree.files:
            try:
                self.parts[name] = look(self.root, name, self.reading)
            except UndecodableImageError as error:
                self.refused.append((name, error.reason))
            except CipherwardError as error:
                if not (reason := ignored_reason(error)):
                    raise
                self.ignored.append((name, reason))

        for folder in self.tree.folders:
            above, _, name = folder.rpartition("/")
            self.inner.setdefault(above, []).append(name)
        for name in self.parts:
            ends = [i for i, letter in enumerate(name) if letter == "/"]
            for end in (0, *ends):
                self.below.setdefault(name[:end], []).append(name)
            self.direct.setdefault(name.rpartition("/")[0], []).append(name)

    def children(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        return self.inner.get(folder, [])

    def images(self, folder: str) -> list[str]:
        """Return the image files below a folder."""
        return self.below.get(folder, [])

    def direct_images(self, folder: str) -> list[str]:
        """Return the image files in a folder itself."""
        return self.direct.get(folder, [])

    def path(self, folder: str) -> Path:
        """Return the whole path of a folder."""
        return self.root / folder

    def describe_rest(self, folder: str) -> str:
        """Return what a folder without images holds instead."""
        prefix = f"{folder}/" if folder else ""
        reasons = Counter(r for n, r in (*self.ignored, *self.refused) if n.startswith(prefix))
        return "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(5))
