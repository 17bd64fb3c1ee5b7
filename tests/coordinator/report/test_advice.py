"""The first screen: what a report means for patients, what to do, and how a failed audit is mended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape

import pytest

from benchmarks.pages.entries import read_entries
from benchmarks.pages.measured import measured_of
from coordinator.exchange.audit.scores import Finding
from coordinator.report.advice import actions, meaning
from coordinator.report.measured import measured
from coordinator.report.page import render
from coordinator.report.records import PromisedPrivacy, Report, SummedUpdates
from coordinator.report.repeat import mends, repeat_commands
from coordinator.report.verdict_text import headline, require_valid
from crypto.errors import CipherwardError
from tests.support.paths import ROOT
from tests.support.reports import TRAINED, make_pictures, make_report
from tests.support.verdicts import CONTROLS, ORTHOGONAL, SIGNS, make_draw, make_finding, three_draws
from tests.support.verdicts import make_report as verdict_report


def test_the_figures_of_the_advice_are_those_of_the_kept_results() -> None:
    assert measured() == measured_of(read_entries(ROOT / "docs" / "results"))
    assert set(measured().sources) == {"breaks", "inversions", "privacy", "protections", "training"}


def test_a_break_is_told_of_patients_without_softening() -> None:
    report = make_report()
    text = " ".join(meaning(report))
    assert text.startswith("Sealing does not protect these patients. Whoever holds 5 sealed images")
    assert "sees what is in the patients' pictures" in text and "the key that it recovers" in text
    assert "Labels are not encrypted" in text


def test_what_was_not_broken_is_no_promise_to_patients() -> None:
    text = " ".join(meaning(make_report(reach=0.0)))
    assert "from up to 100 sealed images" in text and "This does not show that patients are safe." in text
    assert "95 % bound" in text
    cloud = make_report(reach=0.0).model_copy(update={"attacked_by": "cloud"})
    assert "could have kept one back" in " ".join(meaning(cloud))


def test_bounds_of_guesses_are_no_bounds_of_links() -> None:
    """Ciphertexts that name their images are matched without any guess."""
    report = make_report(reach=0.0)
    assert report.verdict.linkable
    text = " ".join(meaning(report))
    assert (
        "of the attacks' guesses may name their originals" in text and "may show more of an image" in text
    )
    assert "images may be matched" not in text and "can find it among the sealed ones" in text
    [limit] = [action for action in actions(report) if "let at most" in action.do]
    assert limit.gain.endswith("A single one is found by whoever has a copy of its image.")


@pytest.mark.parametrize(
    ("unit", "summed", "words"),
    [
        ("patient", False, "(here ε ≤ 8 for each patient), and add secure aggregation."),
        ("patient", True, "(here ε ≤ 8 for each patient), and keep secure aggregation."),
        ("image", True, "for each image, which bounds no patient who has several), and keep secure"),
        ("", True, "Keep secure aggregation on, and add differential privacy"),
        ("", False, "Protect the updates of a federation by secure aggregation and differential privacy."),
    ],
)
def test_the_advice_on_updates_knows_what_the_training_had(unit: str, summed: bool, words: str) -> None:
    promised = PromisedPrivacy(
        epsilon=8, delta=1e-4, unit=unit, accountant="PRV", max_grad_norm=1, outside=()
    )
    sums = SummedUpdates(rounds=8, least=3, clipped_share=0.0)
    changes = {"privacy": promised if unit else None, "sums": sums if summed else None}
    report = make_report(training=TRAINED.model_copy(update=changes))
    assert words in actions(report)[-1].do


def test_a_page_claims_nothing_of_what_is_not_in_the_report() -> None:
    page = unescape(re.sub(r"<[^>]*>", "", render(make_report(), None)))
    assert "no training is part of this report" in page and "trained no model" not in page
    assert "Who runs an audit on images of their own can repeat it" in page
    assert "A hospital scores guesses about a sealed set once." not in page
    cloud = make_report().model_copy(update={"attacked_by": "cloud"})
    assert "A hospital scores guesses about a sealed set once." in render(cloud, None)
    assert "Every number on this page is in report.json" not in page


def test_an_attack_that_was_uncertain_at_every_size_gives_no_bound() -> None:
    report = make_report(reach=0.0)
    sizes = dict.fromkeys(report.verdict.finished_at, ())
    verdict = report.verdict.model_copy(update={"finished_at": sizes})
    assert not any("95 % bound" in line for line in meaning(report.model_copy(update={"verdict": verdict})))


def test_schemes_with_an_order_for_every_image_get_no_advice_to_take_one() -> None:
    for name, is_advised in (("block_pixel_shuffle", True), ("patch_shuffle", False)):
        report = make_report()
        facts = report.scheme.model_copy(update={"name": name})
        words = " ".join(action.do for action in actions(report.model_copy(update={"scheme": facts})))
        assert ("key scope image" in words) == is_advised


def test_actions_cite_measured_figures_or_say_that_there_are_none() -> None:
    texts = [f"{action.do} {action.gain}" for action in actions(make_report())]
    assert texts[0].startswith("Let no sealed image leave the hospitals.")
    assert "In this report 5 sealed images were enough." in texts[0]
    assert re.search(r"over seeds: \d\d\.\d ± \d\.\d % \(\d\d\.\d–\d\d\.\d %\) federated", texts[0])
    shared = {b.scheme: b for b in measured().breaks if b.key_scope == "consortium" and "MRI" in b.images}
    best = max(
        (b for b in shared.values() if b.smallest_pool and min(b.tried) < b.smallest_pool),
        key=lambda b: b.smallest_pool or 0,
    )
    assert any(f"broken with {best.smallest_pool} images instead of" in text for text in texts)
    # A scheme whose smallest pool tried was broken is no gain: fewer images may do.
    assert not any("ele " in text for text in texts)
    sums = next(p for p in measured().protections if p.protection == "secure aggregation")
    # What secure aggregation does not hide stands beside what it hides.
    assert f"{sums.confirmed} of {sums.members} known images confirmed with secure aggregation" in texts[-1]
    for action in actions(make_report()):
        assert action.source or "measured" in action.gain.lower() or "No protection" in action.gain


def test_kinds_of_images_with_equal_results_are_one_sentence() -> None:
    """The advice about a key for each image said the same words once for each kind of images."""
    (gain,) = (action.gain for action in actions(make_report()) if "key for each image" in action.do)
    scheme = make_report().scheme.name
    kinds = [
        b for b in measured().breaks if b.scheme == scheme and b.key_scope == "image" and not b.options
    ]
    broken = [b for b in kinds if b.smallest_pool is not None and not b.is_idle]
    assert len(broken) > 1 and all(gain.count(b.images) >= 1 for b in broken)
    assert gain.count("a single image was broken") == len({(b.broken, b.draws) for b in broken})


def test_an_unknown_scheme_has_no_figures() -> None:
    report = make_report()
    odd = report.model_copy(update={"scheme": report.scheme.model_copy(update={"name": "unheard_of"})})
    gains = [action.gain for action in actions(odd)]
    assert "Not measured." in gains and not any("instead of" in gain for gain in gains)


def test_an_invalid_report_names_the_command_that_mends_each_control() -> None:
    report = make_report(noise=1.0)
    assert not actions(report)
    mend = mends(report)
    assert [item.control for item in mend] == report.failed_controls
    page = unescape(re.sub(r"<[^>]*>", "", render(report, None)))
    assert all(command in page for item in mend for command in item.commands)
    assert "treat the sealed images as if they were plain" in page


def test_a_control_that_failed_by_chance_needs_a_larger_pool_and_not_more_time() -> None:
    def failed(pools: tuple[int, ...]) -> Report:
        report = make_report().model_copy(update={"attacked_by": "hospital", "valid": False})
        known = report.controls["known"].model_copy(update={"ok": False, "message": "does not open it"})
        findings = tuple(
            report.findings[0].model_copy(update={"uses_pool": True, "pool_size": n}) for n in pools
        )
        return report.model_copy(
            update={"controls": {**report.controls, "known": known}, "findings": findings}
        )

    [small], [large] = mends(failed((1,))), mends(failed((1, 10)))
    assert "a larger pool" in small.need and "--pools 1,10 " in small.commands[0]
    assert "more time" in large.need and "--pools 1,10 " in large.commands[0]
    with pytest.raises(CipherwardError) as invalid:
        require_valid(failed((1,)))
    assert "a larger pool" in invalid.value.hint and small.commands[0] in invalid.value.hint


@pytest.mark.parametrize("who", ["hospital", "cloud", "simulation", None])
def test_the_commands_that_repeat_an_audit_parse(who: str | None) -> None:
    import shlex

    import typer.main

    from coordinator.cli.app import app as cloud
    from parties.cli.app import app as hospital

    report = make_report().model_copy(update={"attacked_by": who})
    failed = make_report(noise=1.0).model_copy(update={"attacked_by": who})
    commands = repeat_commands(report) + [c for mend in mends(failed) for c in mend.commands]
    groups = {"cipherward-coordinator": cloud, "cipherward-party": hospital}
    for line in commands:
        program, name, *words = shlex.split(line)
        command = typer.main.get_command(groups[program]).commands[name]  # type: ignore[attr-defined] # a group
        command.make_context(name, words)


def test_what_an_attack_recovered_stands_directly_after_the_sealed_images() -> None:
    page = render(make_report(), make_pictures(plain=True))
    heads = re.findall(r"<th[^>]*>(.*?)</th>", page[page.index('class="pictures') :])
    shown = [re.sub("<[^>]*>|,.*", "", head) for head in heads][:3]
    assert shown == ["plain", "sealed", "pooled_key_recovery"]
    assert "recovered by pooled_key_recovery from 5 sealed images; median similarity" in page


def meaning_of(findings: Sequence[Finding]) -> list[str]:
    return meaning(verdict_report(three_draws(*findings)))


def test_patients_are_told_each_measure_with_the_images_that_it_needs() -> None:
    told = meaning_of(
        [
            make_finding("as_is", 1, r=30),
            make_finding(pool=1, opens=False),
            make_finding(pool=100, opens=True),
        ]
    )
    assert told[0].endswith("Whoever holds 1 sealed image of this study, without any key, finds 46.9 % of the "
                            "images tried among pictures that it can compare with.")  # fmt: skip
    assert told[1] == (
        "Whoever holds 100 sealed images of this study, without any key, opens further images with the key that it "
        "recovers."
    )


def test_no_more_images_are_said_to_be_seen_or_found_than_were() -> None:
    """A quarter of the guesses broke the scheme, and the page said that each image is found."""
    told = meaning_of([make_finding(pool=1, r=32, v=16)])
    assert "sees what is in the patients' pictures (25.0 % of those tried)" in told[0]
    assert "finds 50.0 % of the images tried among pictures" in told[0]
    told = meaning_of([make_finding(pool=1, r=64, v=64)])
    assert "sees what is in the patients' pictures and finds each image among pictures" in told[0]


def test_what_one_attack_reaches_with_more_images_is_told_too() -> None:
    told = meaning_of([make_finding(pool=1, r=64, opens=False), make_finding(pool=50, r=64, opens=True)])
    assert "Whoever holds 1 sealed image of this study, without any key, finds each image" in told[0]
    assert told[1].startswith("Whoever holds 50 sealed images") and "opens further images" in told[1]


def test_what_an_attack_needs_beside_sealed_images_is_said() -> None:
    report = verdict_report(three_draws(make_finding("moment_matching", 10, tier="T2", r=64, v=64)))
    told = meaning(report.model_copy(update={"valid": True}))
    assert (
        "10 sealed images of this study, and public images of the same kind, without any key, sees"
        in told[0]
    )


def test_an_attack_on_a_training_is_told_as_one_and_judged_by_the_draws_that_it_had() -> None:
    own = [make_finding("weights", 1, tier="T5", r=64, v=64, opens=True), make_finding("as_is", 1)]
    draws = [make_draw(own, "draw-0")]
    draws += [make_draw([make_finding("as_is", 1)], f"draw-{i}", set_name=f"audit-{i}") for i in (1, 2)]
    report = verdict_report(draws).model_copy(update={"valid": True})
    sentence = headline(report).sentence
    assert "with 1 sealed image and what the cloud sees of the training" in sentence
    assert "in the negative" not in sentence
    assert "and what the cloud sees of the training, without any key, sees" in meaning(report)[0]
    assert "of 3 draws" not in meaning(report)[0]


def test_an_uncertain_attack_on_keys_for_each_image_is_no_gain() -> None:
    report = make_report()
    unsure = [
        b
        for b in measured().breaks
        if b.key_scope == "image" and not b.smallest_pool and b.uncertain == b.draws
    ]
    assert unsure and not any(b.withstood for b in unsure)
    facts = report.scheme.model_copy(update={"name": unsure[0].scheme})
    texts = [a.gain for a in actions(report.model_copy(update={"scheme": facts}))]
    named = [text for text in texts if unsure[0].images in text and "Nothing is known of" in text]
    assert named and f"on {unsure[0].images} no single image" not in named[0]


def test_the_cost_of_privacy_names_what_was_trained() -> None:
    text = actions(make_report())[-1].gain
    assert (
        "Where only the last layer is trained: " in text
        and "all weights, without it, by another recipe" in text
    )


@pytest.mark.parametrize("scheme", ["neuracrypt", "le"])
def test_where_only_public_images_help_an_attack_the_advice_asks_for_some(scheme: str) -> None:
    idle = verdict_report(
        three_draws(make_finding("as_is", 1, uses_pool=False), make_finding(idle=True), scheme=scheme)
    )
    [again] = [action.do for action in actions(idle) if action.do.startswith("Audit again")]
    assert ("--public PUBLIC" in again) == (scheme == "neuracrypt")
    findings = (make_finding(idle=True), make_finding("moment_matching", idle=True))
    met = verdict_report(
        three_draws(make_finding("as_is", 1, uses_pool=False), *findings, scheme=scheme),
        (*CONTROLS, SIGNS, ORTHOGONAL),
    )
    assert "Audit again until the attacks on a pool run to their end." in [a.do for a in actions(met)]
