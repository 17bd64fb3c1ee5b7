"""The protocol of the comparison: which network is trained on which data and how, and the plan of each cell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from benchmarks.table1_data import CHANNELS
from coordinator.exchange.plan import Plan
from coordinator.exchange.settings import Settings, build, read_yaml

PRIVATE = "block_pixel_shuffle private"
#: From a row of the table to the adaptation network before a convolutional network.
PAIRS = {
    "plain": "none",
    "le": "block",
    "etc": "none",
    "ele": "blocks",
    "pe": "pixel",
    "block_pixel_shuffle": "block",
    PRIVATE: "none",
    "value_shuffle": "block",
    "block_pixel": "blocks",
    "orthogonal": "block",
    "noisy_orthogonal": "none",
    "sub_block_etc": "none",
    "block_projection": "none",
    "patch_shuffle": "none",
    "neuracrypt": "none",
}
#: Rows that only a ViT has: other networks have no stem to carry; no paper has an adaptation network for the rest.
VIT_ROWS = (PRIVATE, "noisy_orthogonal", "sub_block_etc", "block_projection", "patch_shuffle", "neuracrypt")
#: The rows that a section of several seeds repeats.
SEEDED = ("plain", "block_pixel_shuffle", PRIVATE)
#: The settings that may differ between the rows of a section.
OF_ROWS = frozenset({"optimizer", "lr", "momentum", "weight_decay", "warmup_steps", "clip"})


class Section(Settings):
    """One network on one data set, and its training under every scheme.

    Attributes:
        data: The data set.
        network: The network.
        minutes: What a cell is expected to take.
        seeds: How many seeds plain and block_pixel_shuffle are trained with; the other rows have one.
        counts: Most images of train, val and test; 0 is all.
        choose: What the best epoch is chosen by, on val.
        plan: Settings of the plan, the same for every row.
        row_plans: Settings of the optimizer by row, which replace those of `plan`; chosen on val.
    """

    data: Literal["pneumonia", "cifar", "mri"]
    network: Literal["vit", "resnet18", "shake_pyramidnet"]
    minutes: float = Field(gt=0)
    seeds: int = Field(1, ge=1)
    counts: tuple[int, int, int] = (0, 0, 0)
    choose: Literal["accuracy", "auc"] = "accuracy"
    plan: dict[str, Any]
    row_plans: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("row_plans")
    @classmethod
    def _check_rows(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for row, settings in value.items():
            if row not in PAIRS:
                raise ValueError(f"no row is called {row}")
            for name in settings.keys() - OF_ROWS:
                raise ValueError(f"{name} is the same for all rows: move it to plan")
        return value


class Protocol(Settings):
    """A named list of sections."""

    protocol: str = Field(pattern=r"^[a-z0-9_-]+$")
    sections: tuple[Section, ...] = Field(min_length=1)


def read_protocol(path: Path) -> Protocol:
    """Read a protocol from a YAML file. Raises CipherwardError with file and key if a cell has no valid plan."""
    protocol = build(Protocol, read_yaml(path, "protocol"), str(path))
    for section in protocol.sections:
        for row, _ in cells_of(section):
            plan_of(section, row, 0)
    return protocol


def cells_of(section: Section) -> list[tuple[str, int]]:
    """Return (row, seed) of the section's cells: all rows of the first seed before any of the next."""
    rows = [row for row in PAIRS if row not in VIT_ROWS or section.network == "vit"]
    return [(row, seed) for seed in range(section.seeds) for row in rows if not seed or row in SEEDED]


def plan_of(section: Section, row: str, seed: int, folder: Path | None = None) -> Plan:
    """Return the plan of one cell. Its weights, if it has any, are in `folder`; without a folder they are omitted."""
    scheme, _, private = row.partition(" ")
    values = {
        "study": "table1",
        "seed": seed,
        "parties": 1,
        "counts": (1, 1, 1),
        **settings_of_row(section, row),
    }
    values |= {"scheme": scheme, "channels": CHANNELS[section.data], "train": "central"}
    values["scheme_options"] = scheme_options_of(row, values["block"])
    if private:
        values |= {"train": "federated", "stem": "private"}
    if section.network != "vit" and (adapt := PAIRS[row]) != "none":
        settings = {"adapt": adapt, "adapt_block": values["block"]}
        values["model_args"] = {**values.get("model_args", {}), **settings}
    name = values.pop("weights", "")
    values["weights"] = str(folder / name) if name and folder else ""
    return build(Plan, values, f"{section.data} × {section.network} × {row}")


def scheme_options_of(row: str, block: int) -> dict[str, Any]:
    """Return the options of a row's scheme that are not its defaults."""
    # Sub-blocks of 4, the default, divide a patch of 4 into one: nothing would be shuffled inside.
    return {"sub_block": 2} if row == "sub_block_etc" and block < 16 else {}


def settings_of_row(section: Section, row: str) -> dict[str, Any]:
    """Return the settings of the plan that a row is trained with."""
    return {**section.plan, **section.row_plans.get(row, {})}


def settings_of(section: Section, row: str) -> str:
    """Return a digest of what a row is trained with: all settings, except `minutes` and the number of seeds."""
    own = section.model_copy(update={"plan": settings_of_row(section, row)})
    text = own.model_dump_json(exclude={"minutes", "seeds", "row_plans"})
    if options := scheme_options_of(row, own.plan["block"]):
        text += json.dumps(options, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
