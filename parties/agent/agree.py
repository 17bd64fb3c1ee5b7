"""Agree to a study manifest: check it against what this hospital stated, show who takes part, and pin it.

The signatures in a manifest prove that holders of identity keys stated it. That these are the hospitals that they
claim to be, people find out: they compare the fingerprints over another channel than the one the manifest came by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from coordinator.exchange.manifest import StudyManifest
from coordinator.exchange.statement import SPLITS
from crypto.errors import CipherwardError
from crypto.identity import Identity
from parties.agent.declare import make_statement
from parties.sealing.place import Place
from parties.training.policy import Policy, find_difference
from parties.training.study_file import agreed_manifests, known_identities, read_agreed, save_agreement


class Member(NamedTuple):
    """A hospital of a manifest, as it is shown.

    Attributes:
        name: its name.
        standing: what this hospital knows of its identity.
        fingerprint: what people compare.
        images: numbers of images of train, val and test.
        weight: its share of all training images, which is its weight in the average.
        key_id: the key of its sets.
    """

    name: str
    standing: str
    fingerprint: str
    images: tuple[int, ...]
    weight: float
    key_id: str


THIS, KNOWN, NEW, CHANGED = "this hospital", "known", "new", "changed"


def list_members(place: Place, manifest: StudyManifest) -> list[Member]:
    """Return the hospitals of a manifest in order of their names."""
    known = known_identities(place)
    total = sum(statement.sets.train.images for statement in manifest.statements.values())
    members = []
    for name, public in manifest.roster.items():
        statement = manifest.statements[name]
        before = known.get(name, set())
        standing = KNOWN if public.line in before else CHANGED if before else NEW
        members.append(
            Member(
                name,
                THIS if name == place.settings.party else standing,
                public.fingerprint,
                tuple(statement.sets.of(split).images for split in SPLITS),
                statement.sets.train.images / total,
                statement.key_id,
            )
        )
    return members


def overlapping_studies(place: Place, manifest: StudyManifest) -> list[tuple[str, list[str]]]:
    """Return the other studies that this hospital agreed to with the same training images, and who is in both.

    Secure aggregation hides an update in the sum of one study. A cloud that runs two studies over the same images of
    some hospitals can subtract their sums. So can one that has a study accepted again with another setting.
    """
    party = place.settings.party
    own, roster = manifest.statements[party].sets.train.digest, manifest.roster
    found = []
    for other in agreed_manifests(place):
        before = other.statements.get(party)
        if other.digest == manifest.digest or before is None or before.sets.train.digest != own:
            continue
        shared = [
            name for name, public in other.roster.items() if name != party and roster.get(name) == public
        ]
        if shared:
            found.append((other.study, shared))
    return found


def require_own(place: Place, policy: Policy, manifest: StudyManifest, identity: Identity) -> None:
    """Check a manifest against the plan that this hospital accepted and the sets that it has.

    Raises:
        CipherwardError: if the manifest is about another plan, or if what it says of this hospital is not what the
            hospital states now.
    """
    party = place.settings.party
    if manifest.study != policy.study or manifest.plan_sha256 != policy.plan_sha256:
        difference = find_difference(policy, manifest.read_plan())
        raise CipherwardError(
            f"the study manifest is about another plan than {party} accepted"
            + (f": {difference}" if difference else ""),
            "ask for the plan that the manifest was made from, and accept it: cipherward-party accept",
        )
    stated = manifest.statements.get(party)
    if stated is None:
        raise CipherwardError(
            f"the study manifest has no statement of {party}",
            "send yours to the coordinator: cipherward-party declare",
        )
    if stated.identity != identity.public.line:
        raise CipherwardError(
            f"the study manifest has another identity under the name {party}: {stated.public.fingerprint}, and this "
            f"hospital's is {identity.public.fingerprint}",
            "somebody else stated something under this hospital's name; ask the coordinator",
        )
    present = make_statement(place, policy, identity)
    for split in SPLITS:
        if stated.sets.of(split) != present.sets.of(split):
            raise CipherwardError(
                f"{party} sealed its set {split} anew after it stated it, or the manifest holds an earlier statement",
                f"state the sets again, and let the coordinator make a new manifest: cipherward-party declare "
                f"{place.folder}",
            )
    if stated != present:
        raise CipherwardError(
            f"the study manifest does not say of {party} what {party} states",
            "cipherward-party declare, again",
        )


def agree(
    place: Place,
    policy: Policy,
    manifest: StudyManifest,
    identity: Identity,
    confirm: Callable[[list[Member]], bool],
) -> bool:
    """Pin a manifest if it is confirmed. Return whether a new one was pinned.

    Args:
        place: the hospital.
        policy: what it accepted.
        manifest: as `read_manifest` returned it: verified.
        identity: the hospital's.
        confirm: gets the hospitals of the manifest, and returns the answer.

    Raises:
        CipherwardError: as `require_own` does, and if it is not confirmed.
    """
    require_own(place, policy, manifest, identity)
    if policy.manifest_sha256 == manifest.digest:
        try:
            read_agreed(place, policy)
            return False
        except CipherwardError:
            pass  # its file was lost or damaged: it is shown and kept again
    if not confirm(list_members(place, manifest)):
        raise CipherwardError("the study manifest was not agreed to, and nothing was written", "")
    save_agreement(place, policy, manifest)
    return True
