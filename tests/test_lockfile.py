"""constraints.txt, the lockfile: it pins every requirement of pyproject.toml, in a version that fits."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions, version
from itertools import chain

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for line in chain(PROJECT["dependencies"], *GROUPS.values())]


def name_of(requirement: str) -> str:
    """Return a package name as pip compares it."""
    return re.sub(r"[-_.]+", "-", requirement).lower()


PINS = {
    name_of(name): pinned
    for name, _, pinned in (
        line.partition("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_every_requirement_has_a_pin_that_fits(requirement: Requirement) -> None:
    assert requirement.specifier.contains(PINS[name_of(requirement.name)])


def test_what_is_installed_is_what_is_pinned() -> None:
    """The loggers' extras are in no set-up of ours: they are compared where somebody installed them."""
    names = {name_of(requirement.name) for requirement in REQUIREMENTS}
    needed = {name_of(Requirement(line).name) for line in (*PROJECT["dependencies"], *GROUPS["dev"])}
    assert names - needed == {"tensorboard", "mlflow-skinny"}
    found = names & {name_of(part.name) for part in distributions()}
    assert needed <= found
    assert {name: version(name).split("+")[0] for name in found} == {name: PINS[name] for name in found}


def test_a_pin_that_does_not_fit_is_noticed() -> None:
    assert not Requirement("numpy>=2.0").specifier.contains("1.26.4")
