"""Attack the updates that a study kept, and write down what they gave: cloud/updates_attack.json, for the report.

A picture that is confirmed needs no hospital to score it: training on it gives the observed update.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from pathlib import Path

from coordinator.adversary.time_budget import Budget
from coordinator.adversary.training.observation import observe
from coordinator.exchange.records import parse_record, write_record
from coordinator.exchange.update_attack import FILE, UpdateAttack
from crypto.arrays import Images
from crypto.errors import CipherwardError
from crypto.files import read_json


def attack_kept_updates(
    study: Path, digest: str, candidates: Images | None, budget_s: float
) -> UpdateAttack | None:
    """Invert the updates in a study's cloud folder, unless the same attack was made before.

    Args:
        study: the study's folder.
        digest: of what was observed of its training.
        candidates: None, or plain images uint8 [m, h, w, c] that may have taken part.
        budget_s: seconds for all updates together.

    Returns:
        What was found, or None if the study kept no updates.

    Raises:
        CipherwardError: if a file of the study is missing or damaged.
    """
    cloud = study / "cloud"
    path, tried, content = cloud / FILE, 0 if candidates is None else len(candidates), _sha256(candidates)
    if path.exists():
        made = parse_record(UpdateAttack, read_json(path, "attack on updates"), str(path))
        if (made.study, made.candidates_sha256, made.budget_s) == (digest, content, budget_s):
            return made
    observed = observe(cloud)
    if not observed.updates:
        return None
    # torch and timm take seconds to load.
    from coordinator.adversary.training.update_findings import invert_updates

    if candidates is not None and candidates.shape[1:] != observed.plan.describe().image_shape:
        raise CipherwardError(
            "the public images have another shape than the study's", "name images of the study's size"
        )
    begun = time.monotonic()
    findings = invert_updates(observed, candidates, Budget(budget_s).time_left)
    reasons = Counter(finding.reason for finding in findings)
    record = UpdateAttack(
        study=digest,
        updates=len(findings),
        sums=sum(bool(update.summed) for update in observed.updates),
        images=sum(update.images for update in observed.updates),
        candidates=tried,
        confirmed=sum(len(finding.images) for finding in findings if finding.is_confirmed),
        confirmed_updates=sum(finding.is_confirmed for finding in findings),
        notes=tuple(f"{count} of {len(findings)} updates: {why}" for why, count in reasons.items()),
        budget_s=budget_s,
        seconds=time.monotonic() - begun,
        by_chance=sum(finding.by_chance for finding in findings),
        candidates_sha256=content,
    )
    write_record(path, record)
    return record


def _sha256(candidates: Images | None) -> str:
    """Return the hex SHA-256 of images and their shape; empty without any."""
    if candidates is None or not len(candidates):
        return ""
    return hashlib.sha256(repr(candidates.shape).encode() + candidates.tobytes()).hexdigest()
