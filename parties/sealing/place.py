"""A hospital's folder, and the settings in it (`party.yaml`).

hospital-0/
  party.yaml       source of the plain images, how they are sealed, name of the key file
  policy.yaml      what the hospital accepted of a study (`cipherward-party accept`); its client obeys nothing else
  identity.pub     its public identity, to hand out; statement.json: what it states of a study
  secret.key       mode 0600; only commands of the hospital open it
  sealed/          train/ val/ test/: what may leave
  audits/          audits that the hospital ran itself (parties/scoring/local_audit.py): mode 0700
  hospital-run/    its own guesses about blind controls, which may show its images: mode 0700
  private/         row lists, map of an audit's sets and the controls that it hides, identity, quarantine list, score
                   ledger, report with plain pictures, stems of each study, agreed study manifests, answers and
                   refusals to coordinators: what stays
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from coordinator.exchange.settings import (
    MAX_ALPHA,
    MAX_SEED,
    Settings,
    build,
    dump_yaml,
    mark_whole,
    read_yaml,
)
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_text
from crypto.key import SecretKey
from crypto.keyfile import read_key
from crypto.ownership import require_access, require_own_file, require_own_folder
from crypto.sets.dataset import SealedDataset
from parties.sources.catalog import Selection
from parties.sources.reading import Reading
from parties.sources.source import Request, Source, open_source, share_of

SETTINGS_FILE = "party.yaml"
POLICY_FILE = "policy.yaml"


#: What `save` writes above the settings of how images are read.
COMMENTS = {
    "images": "the folder of images, or a MedMNIST .npz file; `cipherward-party check` shows what is in it",
    "labels": "a CSV file of path,label[,patient,split,hospital]; empty: the class folders say the class",
    "hospital": "of a label file with several hospitals, the one whose rows are used",
    "groups": "what tells patients apart: folder (inside a class folder), tags (DICOM), none, or a pattern",
    "classes": "the classes of the consortium, the same list in every hospital; empty: the folders that are there",
    "window": "for images of more than 8 bits: auto, full or LOW,HIGH; empty: a DICOM file's own window",
    "fit": "how an image becomes square: stretch, pad or crop",
    "background": "gray value 0 to 255 behind transparent pixels; null: transparent images are refused",
    "allow_burned_in": "read DICOM images that say that names may be written into their pixels",
    "allow_leak": "seal although a patient is in two splits: figures of the test set then say too much",
}


def _no_settings(folder: Path) -> CipherwardError:
    """Return the error for a folder that is none of a hospital that sealed images."""
    above = next((outer for outer in folder.parents[:2] if (outer / SETTINGS_FILE).is_file()), None)
    if above is not None:
        return CipherwardError(
            f"no {SETTINGS_FILE} in {folder}", f"name the hospital's folder, which is {above}"
        )
    seal = f"cipherward-party seal {folder} --images YOUR_IMAGES"
    if (folder / "secret.key").is_file():
        return CipherwardError(
            f"no {SETTINGS_FILE} in {folder}", f"seal the hospital's images first: {seal}"
        )
    what = f"no {SETTINGS_FILE} in {folder}"
    return CipherwardError(
        what if folder.exists() else f"{what}: there is no such folder",
        f"name the hospital's folder; to make a new one: cipherward-party keygen {folder}, then {seal}",
    )


class PlaceSettings(Settings):
    """The content of `party.yaml`. `share` is (index, parties) if several hospitals split one folder.

    parties/sources/reading.py and parties/sources/catalog.py explain how images are selected and read.
    """

    party: str
    key: str = "secret.key"
    source: str = "folder"
    images: str = ""
    labels: str = ""
    hospital: str = ""
    groups: str = "folder"
    classes: list[str] = Field(default_factory=list)
    window: str = ""
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    background: int | None = Field(None, ge=0, le=255)
    allow_burned_in: bool = False
    allow_leak: bool = False
    counts: tuple[int, int, int] = (0, 0, 0)
    image_size: int = Field(224, ge=8)
    channels: Literal[1, 3] = 1
    seed: int = Field(0, ge=0, le=MAX_SEED)
    share: tuple[int, int] | None = None
    partition: Literal["iid", "dirichlet"] = "iid"
    alpha: float = Field(0.5, gt=0, le=MAX_ALPHA)
    audit_images: int = Field(0, ge=0)
    scheme: str = "block_pixel_shuffle"
    block: int = Field(16, ge=1)
    key_scope: Literal["consortium", "party", "image"] = "consortium"
    scheme_options: dict[str, bool | int | str] = Field(default_factory=dict)

    @field_validator("share")
    @classmethod
    def _check_share(cls, share: tuple[int, int] | None) -> tuple[int, int] | None:
        if share is not None and not 0 <= share[0] < share[1]:
            # A negative index would seal another hospital's share in silence.
            raise ValueError("is [hospital, hospitals], and hospitals are counted from 0")
        return share


@dataclass(frozen=True, eq=False)  # settings hold a dict, so a place is hashed by identity
class Place:
    """A hospital's folder with its settings."""

    folder: Path
    settings: PlaceSettings

    @classmethod
    def open(cls, folder: Path) -> Place:
        """Read party.yaml. Raises CipherwardError if there is none, or if it is wrong."""
        folder = Path(folder).resolve()
        if not (folder / SETTINGS_FILE).is_file():
            raise _no_settings(folder)
        require_own_folder(folder)
        require_access(folder, "private")
        settings_file = folder / SETTINGS_FILE
        values = read_yaml(settings_file, "party file", functools.partial(require_own_file, settings_file))
        return cls(folder, build(PlaceSettings, values, str(folder / SETTINGS_FILE)))

    @classmethod
    def from_settings(cls, folder: Path, settings: Mapping[str, Any]) -> Place:
        """Return a place with these settings. `save` writes them to disk."""
        folder = Path(folder).resolve()
        # Not the name of party.yaml: the fault is in what was stated now, such as an option.
        return cls(folder, build(PlaceSettings, settings, "the hospital's settings"))

    def save(self) -> None:
        """Write party.yaml. An existing one is replaced."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            require_own_folder(self.folder)
        text = dump_yaml(self.settings.model_dump(mode="json"))
        lines = []
        for line in text.splitlines():
            if comment := COMMENTS.get(line.partition(":")[0]):
                lines.append(f"# {comment}")
            lines.append(line)
        write_text(self.folder / SETTINGS_FILE, mark_whole("\n".join(lines) + "\n"))

    @property
    def reading(self) -> Reading:
        """How image files become pictures."""
        s = self.settings
        return Reading(s.window, s.fit, s.background, s.allow_burned_in)

    @property
    def selection(self) -> Selection:
        """Which files are images, of which class and patient."""
        s = self.settings
        return Selection(s.labels, s.hospital, s.groups, tuple(s.classes), s.allow_burned_in)

    @property
    def key_path(self) -> Path:
        """The hospital's key file."""
        return self.folder / self.settings.key

    @property
    def policy_file(self) -> Path:
        """What the hospital accepted of a study (parties/training/policy.py)."""
        return self.folder / POLICY_FILE

    def key(self) -> SecretKey:
        """Open the key file. Raises CipherwardError if that fails, or if a rotation is half done."""
        if self.swap_note.exists():
            raise CipherwardError(
                f"a rotation of {self.folder} was interrupted while it put the new key in place",
                f"finish it: cipherward-party rotate {self.folder}",
            )
        return read_key(self.key_path)

    @property
    def rotation(self) -> Path:
        """The folder in which `rotate` keeps the new row lists until they take their place."""
        return self.folder / "private" / "rotation"

    @property
    def swap_note(self) -> Path:
        """A file that exists while `rotate` puts the new key and sets in the place of the old ones."""
        return self.rotation / "swap.json"

    @property
    def private(self) -> Path:
        """The folder that never leaves the hospital. It is made on first use and closed to other users."""
        path = self.folder / "private"
        with disk_errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_mode & 0o077:
                path.chmod(0o700)
        return path

    def rows_file(self, name: str) -> Path:
        """Return the path of a sealed set's row list: which plain image stands behind each sealed row."""
        return self.private / f"rows-{name}.json"

    @property
    def hidden_controls(self) -> Path:
        """The folder of the controls that a cloud attacks as copies under other names (audit_sets.py)."""
        return self.folder / "private" / "controls"

    def sealed_folder(self, split: str) -> Path:
        """Return the folder of a sealed set, whether it exists or not."""
        hidden = self.hidden_controls / split
        return hidden if hidden.is_dir() else self.folder / "sealed" / split

    def sealed(self, split: str) -> SealedDataset:
        """Open a sealed set. Raises CipherwardError if it is missing or unfinished."""
        return SealedDataset.open(self.sealed_folder(split))

    @functools.lru_cache(maxsize=8)  # noqa: B019 - listing a folder is slow, and callers ask repeatedly
    def plain(self, split: str) -> Source:
        """Return the hospital's plain images of a split."""
        s = self.settings
        request = Request(
            s.images, s.image_size, s.channels, s.seed, split, s.counts, self.reading, self.selection
        )
        source = open_source(s.source, request)
        if s.share is not None:
            index, parties = s.share
            source = share_of(source, index, parties, s.seed, s.partition, s.alpha)
        return source


def find_place(node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Place:
    """Return the place of a Flower client: the node's `party-dir`, or a hospital's folder in the run's study."""
    if node_config.get("party-dir"):
        return Place.open(Path(str(node_config["party-dir"])))
    study = str(run_config.get("study-dir", ""))
    if not study:
        raise CipherwardError(
            "this run names no study",
            "prepare one with `cipherward-coordinator simulate configs/demo.yaml --until seal`, then "
            "`flwr run . --run-config 'study-dir=\"/absolute/path/of/runs/demo\"'`",
        )
    index = node_config.get("partition-id")
    if type(index) is not int or index < 0:
        raise CipherwardError(
            "this node does not say which hospital's folder it stands for",
            "start it with: flower-supernode … --node-config 'party-dir=\"/absolute/path/of/the/hospital\"'",
        )
    return Place.open(Path(study) / "parties" / f"hospital-{index}")
