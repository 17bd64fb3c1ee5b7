"""The JSON Schemas in docs/schema: current, and true of real files."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest

from coordinator.report.json_schema import schemas
from tests.support.paths import ROOT
from tests.support.reports import TRAINED, make_report, scored_draw


def test_the_committed_schemas_are_current() -> None:
    for name, schema in schemas().items():
        assert json.loads((ROOT / "docs" / "schema" / name).read_text()) == schema, f"{name}: make schema"


def test_reports_fit_their_schema_and_damaged_ones_do_not() -> None:
    check = jsonschema.Draft202012Validator(schemas()["report.schema.json"])
    kept = json.loads((ROOT / "docs" / "results" / "1-demo.json").read_text())["result"]
    for report in (kept, make_report(training=TRAINED).to_json()):
        value = json.loads(json.dumps(report))
        check.validate(value)
        for place, wrong in (("verdict", None), ("seed", "0"), ("unheard_of", 1)):
            damaged = {**copy.deepcopy(value), place: wrong}
            with pytest.raises(jsonschema.ValidationError):
                check.validate(damaged)
        lost = copy.deepcopy(value)
        scored = next(finding for finding in lost["findings"] if "V" in finding)
        del scored["V"]
        with pytest.raises(jsonschema.ValidationError):
            check.validate(lost)


def test_a_scored_draw_fits_the_schema_of_scores() -> None:
    whole = schemas()["scores.schema.json"]
    draw = {"$ref": "#/$defs/DrawScores", "$defs": whole["$defs"]}
    jsonschema.Draft202012Validator(draw).validate(json.loads(json.dumps(scored_draw(0, 1.0).to_json())))
