"""The app's bundle is built once for the tests of a deployment: Flower looks at every file of the checkout for it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from coordinator.deployment import provision
from coordinator.deployment.bundle import build_bundle


@pytest.fixture(scope="session", autouse=True)
def built_bundle() -> Iterator[None]:
    """Let all provisioned folders get the bundle that the first one got."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provision, "build_bundle", functools.cache(build_bundle))
        yield
