"""Checks of every scheme: known answers, round trips, wrong keys, rows, key scopes, executors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crypto.scheme import SCHEMES
from tests.support import scheme_checks
from tests.support.scheme_checks import Case


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("check", scheme_checks.PROPERTIES, ids=lambda check: check.__name__)
def test_property(check: Callable[[Case], None], name: str) -> None:
    scheme_checks.run(check, name, scheme_checks.file_of(name))


@pytest.mark.parametrize("name", SCHEMES)
def test_known_answers(name: str) -> None:
    vectors = scheme_checks.vectors(scheme_checks.file_of(name))
    assert vectors
    for vector in vectors:
        assert vector["spec"]["name"] == name
        scheme_checks.check_known_answer(vector)
