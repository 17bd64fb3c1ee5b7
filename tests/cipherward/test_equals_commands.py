"""The library and the commands judge the same draws alike, figure by figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cipherward.audit import audit
from coordinator.adversary.run import suite
from coordinator.exchange.audit.suite2 import SUITE
from coordinator.report.verdict import judge
from crypto.arrays import Images
from crypto.keyfile import read_key
from crypto.scheme import load
from parties.scoring.local_audit import AuditSettings, audit_place, plan_audit
from parties.scoring.score import score
from parties.sealing.place import Place
from parties.sealing.seal import seal

ATTACKS = ("as_is", "leading_bit", "pooled_key_recovery", "jigsaw")
SETTINGS = AuditSettings(draws=2, rows=16, gallery=60, pools=(1, 10), attacks=ATTACKS, budget_s=60.0)


@pytest.mark.parametrize("scheme", ["etc", pytest.param("pe", marks=pytest.mark.slow)])
@pytest.mark.long
def test_a_scheme_of_this_program_has_the_verdict_of_the_commands(scheme: str, tmp_path: Path) -> None:
    values = {
        "party": "h",
        "source": "phantom",
        "counts": [90, 4, 4],
        "image_size": 32,
        "block": 8,
        "seed": 5,
    }
    home = Place.from_settings(tmp_path / "hospital", {**values, "scheme": scheme})
    place = audit_place(home, SETTINGS, {})
    place.save()
    sealings = [sealing for sealing in plan_audit(place, SETTINGS.draws) if not sealing.is_control]
    sets = [seal(place, sealing).dataset for sealing in sealings]
    keys = [read_key(sealing.key_path) for sealing in sealings]
    suite.run_suite(sets, tmp_path / "guesses", suite.Settings(ATTACKS, SETTINGS.pools, 16, 5, 60.0))
    findings, verdict = judge(
        score(place, tmp_path / "guesses", 16, 60, attacked_by="hospital").draws, SUITE
    )

    source, order = place.plain("train"), iter(keys)
    images = np.stack([source.read(row) for row in range(len(source))])
    of_key = dict[bytes, int]()

    def encrypt(images: Images, key: bytes) -> Images:
        secret = keys[of_key.setdefault(key, len(of_key)) % len(keys)]
        return np.asarray(load(sealings[0].spec).cipher(secret).encrypt(images))

    result = audit(
        encrypt,
        images,
        labels=source.labels,
        family=scheme,
        block=8,
        sizes=SETTINGS.pools,
        draws=2,
        rows=16,
        gallery=60,
        seed=5,
        budget_s=60.0,
        attacks=ATTACKS,
    )
    assert next(order) != keys[1] and sets[0].key_id != sets[1].key_id
    own = result.report
    assert own.verdict.model_copy(update={"seconds": verdict.seconds}) == verdict
    assert len(own.findings) == len(findings) == 2 * 5
    for mine, theirs in zip(own.findings, findings, strict=True):
        # The commands measure shares of throwaway keys, too: the library has none of the caller's scheme.
        assert mine.figures is not None and theirs.figures is not None
        known = {"grid": None, "values_right": None, "key": None}
        assert mine.figures == theirs.figures.model_copy(update=known), mine.cell
        assert (mine.cell, mine.broken_by, mine.fit) == (theirs.cell, theirs.broken_by, theirs.fit)
