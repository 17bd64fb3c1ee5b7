"""How the simulated hospitals come to agree on a study: accept, declare, manifest, agree, as real ones do.

Each is a command in a process of its own, with the paths that its role has. What is there already is used again.
"""

from __future__ import annotations

from pathlib import Path

from coordinator.exchange.manifest import FILE as MANIFEST_FILE
from coordinator.exchange.manifest import StudyManifest, read_manifest
from coordinator.exchange.plan import FILE
from coordinator.exchange.settings import read_yaml
from coordinator.exchange.statement import SPLITS, plan_digest
from coordinator.study.study import Study
from crypto.errors import CipherwardError
from crypto.sets.dataset import SealedDataset


def agree_on_study(study: Study) -> bool:
    """Let the hospitals accept the plan, state their sets and agree on them; return whether one did so now.

    Raises:
        CipherwardError: if a hospital's set is not the one that it stated, or a command fails.
    """
    plan = study.plan
    if plan.train != "federated" or plan.rounds == 0 or (study.cloud / "training.json").exists():
        return False
    has_accepted = _accept_plan(study)
    path = study.out / MANIFEST_FILE
    is_new = not path.exists()
    if is_new:
        _make_manifest(study, path)
    manifest = read_manifest(path)
    _require_same_sets(study, manifest)
    return _agree(study, path, manifest.digest) or has_accepted or is_new


def _accept_plan(study: Study) -> bool:
    """Let each hospital accept the plan, without which it would refuse to train; return whether one did so now."""
    digest = plan_digest(study.plan)
    missing = [i for i in range(study.plan.parties) if _read_policy(study, i, "plan_sha256") != digest]
    weights = study.plan.weights
    if missing:
        study.talk.status("the hospitals accept the plan")
    for index in missing:
        _say_patients(study, index)
        words = ["accept", str(study.out / FILE), str(study.hospital(index)), "--yes"]
        # On one machine all hospitals have the same copy of the public weights.
        study.run_hospital(index, [*words, "--weights", weights] if weights else words)
    return bool(missing)


def _say_patients(study: Study, index: int) -> None:
    """Let a hospital say which of its images are of one patient, where the plan protects patients."""
    privacy, hospital = study.plan.privacy, study.hospital(index)
    is_said = (hospital / "private" / "patients-train.json").exists()
    if privacy.is_on and privacy.unit == "patient" and not is_said:
        study.run_hospital(index, ["patients", str(hospital)])


def _read_policy(study: Study, index: int, name: str) -> object:
    """Return a setting of a hospital's policy; None without a policy, or with one of an earlier version."""
    path = study.hospital(index) / "policy.yaml"
    return read_yaml(path, "policy").get(name) if path.exists() else None


def _make_manifest(study: Study, path: Path) -> None:
    """Let every hospital state its sets, and the coordinator put the statements together."""
    statements = []
    study.talk.status("the hospitals state their sets")
    for index in range(study.plan.parties):
        study.run_hospital(index, ["declare", str(study.hospital(index))])
        statements.append(str(study.hospital(index) / "statement.json"))
    study.run_coordinator("manifest", ["manifest", str(study.out / FILE), *statements, "--out", str(path)])


def _require_same_sets(study: Study, manifest: StudyManifest) -> None:
    """Raise CipherwardError if a hospital sealed a set anew after it stated it."""
    for index in range(study.plan.parties):
        name = f"hospital-{index}"
        for split in SPLITS:
            sealed = SealedDataset.open(study.hospital(index) / "sealed" / split)
            stated = manifest.statements.get(name)
            if stated is None or stated.sets.of(split).digest != sealed.digest:
                raise CipherwardError(
                    f"{name} sealed its set {split} anew, as after a rotation of its key: it is not the set that the "
                    f"hospitals agreed on in {study.out / MANIFEST_FILE}",
                    "choose another --out; or remove that file and cloud/ beside it, and run again: the hospitals "
                    "state their sets anew, and training begins anew",
                )


def _agree(study: Study, path: Path, digest: str) -> bool:
    """Let each hospital agree to the manifest; return whether one did so now."""
    missing = [i for i in range(study.plan.parties) if _read_policy(study, i, "manifest_sha256") != digest]
    if missing:
        study.talk.status("the hospitals agree to the study")
    for index in missing:
        study.run_hospital(index, ["agree", str(path), str(study.hospital(index)), "--yes"])
    return bool(missing)
