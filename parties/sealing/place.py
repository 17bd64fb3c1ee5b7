"""Where a hospital's files are: its folder, and the `party.yaml` in it.

hospital-0/
  party.yaml       source of the plain images, how they are sealed, the key file's name
  secret.key       mode 0600; opened by seal, unseal, verify, score and baseline alone
  sealed/          train/ val/ test/: what may leave
  private/         row names, quarantine list, score ledger, report with plain pictures: stays
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from coordinator.exchange.settings import Settings, build, read_yaml
from crypto.errors import CipherwardError
from crypto.files import disk_errors, write_text
from crypto.key import SecretKey
from crypto.keyfile import read_key
from crypto.sets.dataset import SealedDataset
from parties.sources.source import Request, Source, open_source, share_of

FILE = "party.yaml"


class PlaceSettings(Settings):
    """What `party.yaml` holds. `share` is (index, parties) where several hospitals split one folder."""

    party: str
    key: str = "secret.key"
    source: str = "folder"
    images: str = ""
    counts: tuple[int, int, int] = (0, 0, 0)
    image_size: int = Field(224, ge=8)
    channels: Literal[1, 3] = 1
    seed: int = 0
    share: tuple[int, int] | None = None
    partition: Literal["iid", "dirichlet"] = "iid"
    alpha: float = Field(0.5, gt=0)
    audit_images: int = Field(0, ge=0)
    scheme: str = "block_pixel_shuffle"
    block: int = Field(16, ge=1)
    key_scope: Literal["consortium", "party", "image"] = "consortium"
    scheme_options: dict[str, bool | int | str] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)  # settings hold a dict, so a place is hashed by identity
class Place:
    """A hospital's folder with its settings."""

    folder: Path
    settings: PlaceSettings

    @classmethod
    def open(cls, folder: Path) -> Place:
        """Reads party.yaml; raises CipherwardError where there is none, or it is wrong."""
        folder = Path(folder).resolve()
        if not (folder / FILE).is_file():
            raise CipherwardError(
                f"no {FILE} in {folder}",
                f"make one with: cipherward-party seal {folder} --images YOUR_IMAGES",
            )
        values = read_yaml(folder / FILE, "party file")
        return cls(folder, build(PlaceSettings, values, str(folder / FILE)))

    @classmethod
    def of(cls, folder: Path, settings: Mapping[str, Any]) -> Place:
        """A place with these settings, which `keep` writes down."""
        folder = Path(folder).resolve()
        return cls(folder, build(PlaceSettings, settings, str(folder / FILE)))

    def keep(self) -> None:
        """Writes party.yaml, replacing an earlier one."""
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_text(
            self.folder / FILE, yaml.safe_dump(self.settings.model_dump(mode="json"), sort_keys=False)
        )

    @property
    def key_path(self) -> Path:
        return self.folder / self.settings.key

    def key(self) -> SecretKey:
        """Opens the key file. Raises CipherwardError where it cannot be opened, or a rotation stopped midway."""
        if self.swap_note.exists():
            raise CipherwardError(
                f"a rotation of {self.folder} was interrupted while it put the new key in place",
                f"finish it: cipherward-party rotate {self.folder}",
            )
        return read_key(self.key_path)

    @property
    def rotation(self) -> Path:
        """Where `rotate` keeps the new epoch's row lists until they take their place."""
        return self.folder / "private" / "rotation"

    @property
    def swap_note(self) -> Path:
        """There while `rotate` puts the new epoch in the old one's place."""
        return self.rotation / "swap.json"

    @property
    def private(self) -> Path:
        """What never leaves the hospital; made on first use, and closed to other users whoever made it."""
        path = self.folder / "private"
        with disk_errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_mode & 0o077:
                path.chmod(0o700)
        return path

    def sealed_folder(self, split: str) -> Path:
        return self.folder / "sealed" / split

    def sealed(self, split: str) -> SealedDataset:
        return SealedDataset.open(self.sealed_folder(split))

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a listing of a folder, asked for again and again
    def plain(self, split: str) -> Source:
        """This hospital's plain images of a split."""
        s = self.settings
        request = Request(s.images, s.image_size, s.channels, s.seed, split, s.counts)
        source = open_source(s.source, request)
        if s.share is not None:
            index, parties = s.share
            source = share_of(source, index, parties, s.seed, s.partition, s.alpha)
        return source


def find_place(node_config: Mapping[str, Any], run_config: Mapping[str, Any]) -> Place:
    """The place of a Flower party: `party-dir` of the node, or the study's folder and the partition id."""
    if node_config.get("party-dir"):
        return Place.open(Path(str(node_config["party-dir"])))
    study = str(run_config.get("study-dir", ""))
    if not study:
        raise CipherwardError(
            "this run names no study",
            "prepare one with `cipherward-coordinator simulate configs/demo.yaml --until seal`, then "
            "`flwr run . --run-config 'study-dir=\"/absolute/path/of/runs/demo\"'`",
        )
    return Place.open(Path(study) / "parties" / f"hospital-{node_config['partition-id']}")
