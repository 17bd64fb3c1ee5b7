"""What every scheme must hold: known answers, round trips, wrong keys, rows, key scopes, executors."""

from __future__ import annotations

import pytest

from crypto.scheme import SCHEMES
from tests.support import scheme_checks


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("check", scheme_checks.PROPERTIES, ids=lambda check: check.__name__)
def test_property(check, name):
    scheme_checks.run(check, name, scheme_checks.file_of(name))


@pytest.mark.parametrize("name", SCHEMES)
def test_known_answers(name):
    vectors = scheme_checks.vectors(scheme_checks.file_of(name))
    assert vectors
    for vector in vectors:
        assert vector["spec"]["name"] == name
        scheme_checks.check_known_answer(vector)
