"""State one's part in a study: the statement of the accepted plan and of the sealed sets, signed by the identity.

It goes to the coordinator, who puts the statements of all hospitals into the study manifest.
"""

from __future__ import annotations

from coordinator.exchange.statement import SPLITS, StatedFacts, Statement, sign_statement
from crypto.errors import CipherwardError
from crypto.identity import Identity
from crypto.sets.dataset import SealedDataset
from crypto.spec import spec_without_nonce
from parties.sealing.place import Place
from parties.sealing.row_list import require_recorded
from parties.training.policy import Policy, find_set_difference


def make_statement(place: Place, policy: Policy, identity: Identity) -> Statement:
    """Return the hospital's statement about the study that it accepted, as its sets are now.

    The same sets give the same statement, to the byte. No key is opened; every shard is compared with its digest.

    Raises:
        CipherwardError: if a set is missing, altered, or not as the hospital accepted; if the sets were sealed under
            two keys; or if a rotation is half done.
    """
    if place.swap_note.exists():
        raise CipherwardError(
            f"a rotation of {place.folder} was interrupted",
            f"finish it: cipherward-party rotate {place.folder}",
        )
    sets = {split: place.sealed(split) for split in SPLITS}
    train = sets["train"]
    for split, sealed in sets.items():
        _require_accepted(policy, sealed, split)
        if sealed.key_id != train.key_id:
            raise CipherwardError(
                f"the set {split} was sealed with key {sealed.key_id}, and train with key {train.key_id}",
                "seal all sets of a hospital with one key",
            )
        sealed.check_digests()
        require_recorded(sealed, must=True)
    facts = StatedFacts(
        spec_without_nonce(train.spec),
        train.key_id,
        train.classes,
        {split: (sealed.digest, len(sealed)) for split, sealed in sets.items()},
    )
    return sign_statement(identity, policy.plan_sha256, policy.study, facts)


def _require_accepted(policy: Policy, sealed: SealedDataset, split: str) -> None:
    """Raise CipherwardError if a sealed set is not as the policy says."""
    difference = find_set_difference(sealed, policy.describe(), "this hospital's policy")
    if difference is not None:
        raise CipherwardError(str(difference), "accept the plan of your study: cipherward-party accept")
    if sealed.classes != policy.classes:
        raise CipherwardError(
            f"the classes of {split} are not those that this hospital accepted", "accept the plan again"
        )
