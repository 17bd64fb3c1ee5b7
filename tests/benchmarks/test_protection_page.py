"""The page of what protections of the updates leave says how far its confirmations can be believed."""

from __future__ import annotations

from typing import Any

from benchmarks.pages.protection import protection

AUC = {"auc": 0.5, "auc_low": 0.4, "auc_high": 0.6}


def page_of(**changes: Any) -> str:
    """Return the page of one record of a step, 3 and 48 candidates of which as many others did not take part."""
    record = {
        "data": "pneumonia",
        "part": "step",
        "protection": "nothing",
        "seed": 0,
        "calibrated": "decoys",
    }
    record |= {"solve SSIM": [0.9], "flat SSIM": [0.1], "solved": 3, "images": 3, "gradient match": AUC}
    for name, count in (("single", 3), ("batch", 48)):
        record |= {f"{name} confirmed": count, f"{name} members": count, f"{name} others": count}
        record |= {f"{name} wrongly": 0, f"{name} by chance": 0.0}
    result = {"records": [record | changes], "settings": {"protections": ["nothing"]}}
    return "\n".join(protection(result))


def test_what_chance_confirms_is_said_where_decoys_lie_as_near_as_members() -> None:
    page = page_of(**{"single by chance": 0.5, "batch by chance": 4.0})
    assert "chance alone confirms candidates: about 4.5 in all tests of this table" in page


def test_chance_is_not_named_where_no_decoy_lies_near() -> None:
    assert "chance alone" not in page_of() and "not run again since" not in page_of()
