"""The protocol of the comparison: which network is trained how on which data, and the plan of each cell."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from benchmarks.table1_data import CHANNELS
from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import Settings, build, read_yaml

PRIVATE = "block_pixel_shuffle private"
#: Row of the table → the adaptation network before a convolutional network.
PAIRS = {
    "plain": "none",
    "le": "block",
    "etc": "none",
    "ele": "blocks",
    "pe": "pixel",
    "block_pixel_shuffle": "block",
    PRIVATE: "none",
}
SEEDED = ("plain", "block_pixel_shuffle", PRIVATE)  # the rows that a section of several seeds repeats


class Section(Settings):
    """One network on one data set, and its training under every scheme. counts: train, val, test images; 0: all."""

    data: Literal["pneumonia", "cifar", "mri"]
    network: Literal["vit", "resnet18", "shake_pyramidnet"]
    minutes: float = Field(gt=0)
    seeds: int = Field(1, ge=1)
    counts: tuple[int, int, int] = (0, 0, 0)
    choose: Literal["accuracy", "auc"] = "accuracy"
    plan: dict[str, Any]


class Protocol(Settings):
    protocol: str = Field(pattern=r"^[a-z0-9_-]+$")
    sections: tuple[Section, ...] = Field(min_length=1)


def read_protocol(path: Path) -> Protocol:
    """The protocol in a YAML file, each of its cells a sound plan. Raises CipherwardError with the file and key."""
    protocol = build(Protocol, read_yaml(path, "protocol"), str(path))
    for section in protocol.sections:
        for row, _ in cells_of(section):
            plan_of(section, row, 0)
    return protocol


def cells_of(section: Section) -> list[tuple[str, int]]:
    """(row, seed) of the section's cells, all rows under the first seed before any under the next."""
    rows = [row for row in PAIRS if row != PRIVATE or section.network == "vit"]
    return [(row, seed) for seed in range(section.seeds) for row in rows if not seed or row in SEEDED]


def plan_of(section: Section, row: str, seed: int, folder: Path | None = None) -> Plan:
    """The plan of one cell. folder: where its weights are, if it starts from any; without, they are left out."""
    scheme, _, private = row.partition(" ")
    values = {"study": "table1", "seed": seed, "parties": 1, "counts": (1, 1, 1), **section.plan}
    values |= {"scheme": scheme, "channels": CHANNELS[section.data], "train": "central"}
    if private:
        values |= {"train": "federated", "stem": "private"}
    if section.network != "vit" and (adapt := PAIRS[row]) != "none":
        settings = {"adapt": adapt, "adapt_block": values["block"]}
        values["model_args"] = {**values.get("model_args", {}), **settings}
    name = values.pop("weights", "")
    values["weights"] = str(folder / name) if name and folder else ""
    return build(Plan, values, f"{section.data} × {section.network} × {row}")


def settings_of(section: Section) -> str:
    """What tells a cell of these settings from one of others: neither `minutes` nor the number of seeds is in it."""
    about = section.model_dump_json(exclude={"minutes", "seeds"})
    return hashlib.sha256(about.encode()).hexdigest()[:16]
