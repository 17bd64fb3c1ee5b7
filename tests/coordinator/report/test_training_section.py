"""The training section takes along whose figures or updates did not count whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest

from coordinator.exchange.plan import Plan, load_plan, write_plan
from coordinator.exchange.statement import plan_digest
from coordinator.exchange.update_attack import UpdateAttack
from coordinator.report.page import render
from coordinator.report.records import SummedUpdates, Training
from coordinator.report.training_section import require_same_study, training_of
from crypto.errors import CipherwardError
from crypto.files import write_json
from tests.support.reports import TRAINED, make_report
from tests.support.verdicts import make_finding, make_scores, with_as_is

Stem = Literal["learn", "private", "plain"]
FIGURES = {"accuracy": 0.5, "auc": 0.5, "loss": 1.0}


def section_of(folder: Path, test: dict[str, Any], row: dict[str, Any], stem: Stem = "learn") -> Training:
    """Return the section of a study of three hospitals with this test and this one round."""
    (folder / "cloud").mkdir(parents=True)
    write_plan(Plan(study="s", parties=3, counts=(9, 9, 9), image_size=32, block=8, stem=stem), folder)
    tested = [{"party": "hospital-0", "num-examples": 4, **FIGURES}]
    training = {
        "classes": ["a", "b"],
        "best_round": 1,
        "test": {"mean": FIGURES, "parties": tested, **test},
        "parties": [{"party": f"hospital-{i}"} for i in range(3)],
    }
    write_json(folder / "cloud" / "training.json", training)
    fields = dict.fromkeys(("seconds", "bytes_down", "bytes_up"), 1)
    common = {"round": 1, "aggregated": True, "val": FIGURES, "train": {"loss": 1.0}, "parties": []}
    line = {**common, **fields, "seconds": 1.0, "absent": [], "refused": {}, **row}
    (folder / "cloud" / "rounds.jsonl").write_text(json.dumps(line) + "\n")
    section = training_of(folder)
    assert section is not None
    return section


def test_refused_figures_and_clipped_updates_are_taken_along(tmp_path: Path) -> None:
    section = section_of(
        tmp_path, {"refused": {"hospital-1": "no counts"}}, {"clipped": {"hospital-2": 41.5}}
    )
    assert section.test_refused == {"hospital-1": "no counts"}
    assert section.rounds[0].clipped == {"hospital-2": 41.5}
    # A hospital that answered, and was refused, is not one that did not answer.
    assert section.absent_from_test == ("hospital-2",)


def test_trainings_of_earlier_versions_have_neither(tmp_path: Path) -> None:
    section = section_of(tmp_path, {}, {})
    assert section.test_refused == {} and section.rounds[0].clipped == {}
    assert section.absent_from_test == ("hospital-1", "hospital-2")


def test_sums_and_what_updates_give_away_are_said_or_said_to_be_unmeasured(tmp_path: Path) -> None:
    summed = {"clipped_share": 0.25, "error": "", "seconds": {}}
    parties = ["hospital-0", "hospital-1", "hospital-2"]
    section = section_of(tmp_path, {}, {"summed": summed, "parties": parties}, "private")
    assert section.sums == SummedUpdates(rounds=1, least=3, clipped_share=0.25)
    assert section.kept_updates == 0 and section.update_attack is None
    page = page_of(section)
    assert "Secure aggregation of the updates: on, in 1 of 1 round." in page
    assert "at least 3 hospitals" in page and "at most 25.00 % before" in page
    assert "What the updates give away: not measured. The study kept no updates" in page


def test_sums_that_the_plan_does_not_ask_for_are_not_believed(tmp_path: Path) -> None:
    """The coordinator writes the journal: it could claim a protection that no hospital gave."""
    summed = {"clipped_share": 0.0, "error": "", "seconds": {}}
    every = ["hospital-0", "hospital-1", "hospital-2"]
    cases: list[tuple[Stem, list[str], str]] = [
        ("learn", every, "no secure sums"),
        ("private", every[:2], "sums of 3 hospitals"),
    ]
    for stem, parties, asked in cases:
        row = {"summed": summed, "parties": parties}
        with pytest.raises(CipherwardError, match=f"and the plan asks for {asked}"):
            section_of(tmp_path / stem, {}, row, stem)


def test_a_training_that_was_summed_in_part_does_not_read_as_if_it_were_whole() -> None:
    sums = SummedUpdates(rounds=7, least=3, clipped_share=0.0)
    part = page_of(TRAINED.model_copy(update={"sums": sums, "stem": "private"}))
    assert "on, in 7 of 8 rounds. In these the cloud learnt sums" in part
    assert "in the others it saw every update of every hospital" in part
    assert "Here the cloud learnt only sums" not in part
    whole = page_of(
        TRAINED.model_copy(update={"sums": sums.model_copy(update={"rounds": 8}), "stem": "private"})
    )
    assert "in the others" not in whole and "Here the cloud learnt only sums of 3" in whole


def test_the_page_says_that_no_hospital_signed_the_training(tmp_path: Path) -> None:
    page = page_of(section_of(tmp_path, {}, {}))
    assert "The coordinator recorded this section: no hospital signed it." in page
    assert "over the scores" in page and ", not over the training." in page


def test_a_training_without_sums_says_that_the_cloud_saw_every_update(tmp_path: Path) -> None:
    section = section_of(tmp_path, {}, {})
    assert section.sums is None
    page = page_of(section)
    assert "Updates were sent as they are: the cloud saw every update of every hospital." in page


def test_confirmations_are_shown_with_what_chance_alone_would_confirm(tmp_path: Path) -> None:
    attack = UpdateAttack(
        study="s",
        updates=9,
        sums=0,
        images=144,
        candidates=96,
        confirmed=2,
        confirmed_updates=2,
        notes=(),
        budget_s=60.0,
        seconds=1.0,
        by_chance=13.3,
    )
    section = section_of(tmp_path, {}, {}).model_copy(update={"update_attack": attack})
    page = page_of(section)
    assert "confirmed 2 images in 2 of 9 kept updates" in page
    assert "Chance alone would confirm about 13: to this model" in page
    sure = attack.model_copy(update={"by_chance": 0.0})
    assert "Chance alone" not in page_of(section.model_copy(update={"update_attack": sure}))


def page_of(section: Training) -> str:
    """Return the words of a report's page with this training, with single spaces."""
    return " ".join(re.sub(r"<[^>]*>", "", render(make_report(training=section), None)).split())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cloud/training.json", "{}"),
        ("cloud/training.json", '{"test": {"parties": [], "mean": {"auc": 0.5}}}'),
        ("baseline.json", '{"plain": 3}'),
        ("baseline.json", "[]"),
        ("cloud/rounds.jsonl", '{"round": 1}\n'),
    ],
)
def test_damaged_figures_are_one_line(tmp_path: Path, name: str, content: str) -> None:
    section_of(tmp_path, {}, {})
    (tmp_path / name).write_text(content)
    with pytest.raises(CipherwardError, match=r"the figures of the training in .* are damaged") as damaged:
        training_of(tmp_path)
    assert "\n" not in damaged.value.message and damaged.value.hint


def test_a_baseline_of_another_plan_is_not_told_of(tmp_path: Path) -> None:
    section_of(tmp_path, {}, {})
    p = load_plan(tmp_path / "plan.yaml")
    figures = {"plan_sha256": plan_digest(p), "linear_accuracy": 0.7, "plain": None}
    (tmp_path / "baseline.json").write_text(json.dumps(figures))
    section = training_of(tmp_path)
    assert section is not None and section.linear_accuracy == 0.7
    figures["plan_sha256"] = plan_digest(p.model_copy(update={"lr": 2 * p.lr}))
    (tmp_path / "baseline.json").write_text(json.dumps(figures))
    with pytest.raises(CipherwardError, match="was measured for another plan than") as refused:
        training_of(tmp_path)
    assert "measure the baseline of this plan" in refused.value.hint


def test_a_training_of_another_study_is_not_told_of(tmp_path: Path) -> None:
    section_of(tmp_path, {}, {})
    scores = make_scores(with_as_is(*[[make_finding()]] * 3))
    spec = scores.audited[0].spec
    common: dict[str, Any] = {"study": "s", "parties": 1, "source": "phantom", "counts": (9, 9, 9)}
    height, _, channels = spec.image_shape
    common |= {"scheme": spec.name, "image_size": height, "channels": channels, "block": spec.block}
    same = Plan(**common | {"key_scope": spec.key_scope})
    write_plan(same, tmp_path)
    require_same_study(scores, tmp_path)
    write_plan(same.model_copy(update={"scheme": "value_shuffle"}), tmp_path)
    with pytest.raises(CipherwardError, match="the scores are of block_pixel_shuffle, and the plan in"):
        require_same_study(scores, tmp_path)


@pytest.mark.parametrize("content", ["", '{"best_round": 1, ', "[]"])
def test_a_finished_training_that_was_emptied_or_cut_says_what_to_do(tmp_path: Path, content: str) -> None:
    section_of(tmp_path, {}, {})
    path = tmp_path / "cloud" / "training.json"
    path.write_text(content)

    with pytest.raises(CipherwardError, match="finished training") as error:
        training_of(tmp_path)

    assert str(path) in error.value.message
    assert "Error" not in error.value.message  # no name of Python's
    assert "remove it and run the same command again" in error.value.hint


def test_rounds_that_were_emptied_are_not_left_out_in_silence(tmp_path: Path) -> None:
    section_of(tmp_path, {}, {})
    (tmp_path / "cloud" / "rounds.jsonl").write_text("")

    with pytest.raises(CipherwardError, match=r"rounds\.jsonl does not tell of round 1") as error:
        training_of(tmp_path)

    assert "from a copy" in error.value.hint
