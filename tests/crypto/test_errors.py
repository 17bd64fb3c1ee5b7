"""What an error says in the hospital, and what it says outside."""

from __future__ import annotations

from crypto.errors import CipherwardError
from parties.training.guard import RefusedError


def test_an_error_that_leaves_the_hospital_has_its_public_text_alone() -> None:
    error = RefusedError("privacy", "11 patients", "see the 11", "too few patients")
    public = error.for_outside()
    assert (str(public), public.message, public.hint, public.field) == (
        "too few patients",
        "too few patients",
        "",
        "privacy",
    )
    assert "11" not in repr(public) and str(error) == "11 patients (hint: see the 11)"
    plain = CipherwardError("a", "b")
    assert plain.for_outside() is plain
