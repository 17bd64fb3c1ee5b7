"""The study manifests that a hospital agreed to. Its policy pins one of them by its digest.

private/studies/DIGEST.json    every manifest that was agreed on, by the first 16 digits of its digest

Earlier ones are kept: they tell whether a hospital comes with another identity than before.
"""

from __future__ import annotations

from pathlib import Path

from coordinator.exchange.manifest import StudyManifest, read_manifest, write_manifest
from crypto.errors import CipherwardError
from crypto.files import disk_errors
from parties.sealing.place import Place
from parties.training.policy import Policy
from parties.training.policy_file import save_policy

_AGREE = "cipherward-party agree STUDY.json HOSPITAL"


def _path(place: Place, digest: str) -> Path:
    return place.private / "studies" / f"{digest[:16]}.json"


def save_agreement(place: Place, policy: Policy, manifest: StudyManifest) -> None:
    """Keep a manifest, and pin it in the policy. The policy comes last: what it pins is there."""
    path = _path(place, manifest.digest)
    with disk_errors(path.parent):
        path.parent.mkdir(mode=0o700, exist_ok=True)
    write_manifest(path, manifest)
    save_policy(place, policy.model_copy(update={"manifest_sha256": manifest.digest}))


def read_agreed(place: Place, policy: Policy) -> StudyManifest:
    """Return the manifest that the policy pins.

    Raises:
        CipherwardError: if the hospital agreed to none, or if the file is missing or another one.
    """
    party = place.settings.party
    if not policy.manifest_sha256:
        raise CipherwardError(
            f"{party} accepted the plan of {policy.study}, and has not agreed to the study manifest yet",
            _AGREE,
        )
    path = _path(place, policy.manifest_sha256)
    manifest = read_manifest(path)
    if manifest.digest != policy.manifest_sha256:
        raise CipherwardError(
            f"{path} is not the study manifest that {party} agreed to", f"again: {_AGREE}"
        )
    if party not in manifest.statements:
        raise CipherwardError(
            f"the study manifest that this hospital agreed to has no {party}",
            "its name in party.yaml was changed since: restore it",
        )
    return manifest


def agreed_manifests(place: Place) -> list[StudyManifest]:
    """Return every manifest that the hospital ever agreed to. Unreadable ones are left out."""
    manifests = []
    for path in sorted((place.private / "studies").glob("*.json")):
        try:
            manifests.append(read_manifest(path))
        except CipherwardError:
            continue
    return manifests


def known_identities(place: Place) -> dict[str, set[str]]:
    """Return the identities that the hospital ever agreed to, by hospital. Unreadable manifests are left out."""
    known: dict[str, set[str]] = {}
    for manifest in agreed_manifests(place):
        for name, public in manifest.roster.items():
            known.setdefault(name, set()).add(public.line)
    return known
