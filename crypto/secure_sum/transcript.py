"""What the hospitals of a secure sum sign: their round keys, and whose vectors were counted.

A cloud that changes a key, shows two hospitals different lists or models, or names different survivors to them, has
no valid signature for it (Bonawitz et al. 2017, section 6: public keys by a roster, and the consistency check).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from crypto.errors import CipherwardError
from crypto.identity import Identity, PublicIdentity
from crypto.plural import counted
from crypto.secure_sum.masks import is_degenerate

_KEYS_PURPOSE = "secure sum: round keys"
_SURVIVORS_PURPOSE = "secure sum: survivors"


@dataclass(frozen=True)
class RoundId:
    """One attempt at one round.

    Attributes:
        study: hex digest of the study manifest.
        round: number of the round, from 1.
        attempt: a name of this attempt, new for each.
        model: hex digest of the model that the hospital received, computed by the hospital itself.
    """

    study: str
    round: int
    attempt: str
    model: str


@dataclass(frozen=True)
class Rules:
    """What a hospital demands of a round, from its own policy and the agreed roster.

    Attributes:
        roster: the identities that the hospitals agreed on, by name.
        min_sum: how many hospitals' vectors a sum holds at least.
    """

    roster: Mapping[str, PublicIdentity]
    min_sum: int = 3

    def __post_init__(self) -> None:
        if self.min_sum < 3 or len(self.roster) < self.min_sum:
            raise CipherwardError(
                f"secure aggregation sums at least {max(self.min_sum, 3)} hospitals, and this study has "
                f"{len(self.roster)}",
                "with fewer, a sum gives an update away: use differential privacy, or more hospitals",
            )

    @property
    def threshold(self) -> int:
        """How many hospitals must answer in every phase: more than two thirds, against a cloud that lies.

        With at most two thirds, a cloud could show two groups different survivors and learn both secrets of a
        hospital (Bonawitz et al. 2017, section 6). It is not below `min_sum`.
        """
        return max(2 * len(self.roster) // 3 + 1, self.min_sum)


@dataclass(frozen=True)
class RoundKeys:
    """The signed round keys of one hospital.

    Attributes:
        name: the hospital.
        round_id: the round, as this hospital sees it.
        channel: X25519 public key under which shares are sent to it, 32 bytes.
        mask: X25519 public key of its pairwise masks, 32 bytes.
        self_mask: commitment to its own mask, 32 bytes.
        signature: of all of it, by the hospital's identity.
    """

    name: str
    round_id: RoundId
    channel: bytes
    mask: bytes
    self_mask: bytes
    signature: bytes

    def statement(self) -> bytes:
        """Return the bytes that are signed."""
        values = {key: value for key, value in self.to_json().items() if key != "signature"}
        return json.dumps(values, sort_keys=True).encode()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        texts = {k: base64.b64encode(getattr(self, k)).decode() for k in _BYTES}
        return {"name": self.name, "round_id": vars(self.round_id) | {}, **texts}

    @classmethod
    def from_json(cls, values: object) -> RoundKeys:
        """Read what `to_json` returned.

        Raises:
            CipherwardError: if it is malformed.
        """
        try:
            if not isinstance(values, Mapping):
                raise TypeError
            round_id = RoundId(**values["round_id"])
            names = (round_id.study, round_id.attempt, round_id.model)
            if type(round_id.round) is not int or not all(isinstance(name, str) for name in names):
                raise TypeError
            data = {k: base64.b64decode(values[k], validate=True) for k in _BYTES}
            if {k: len(v) for k, v in data.items()} != _BYTES:
                raise ValueError
            return cls(name=str(values["name"]), round_id=round_id, **data)
        except (KeyError, TypeError, ValueError):
            raise CipherwardError("a hospital's round keys are malformed", "") from None

    def sign(self, identity: Identity) -> RoundKeys:
        """Return the same keys with this identity's signature."""
        values = vars(self) | {"signature": identity.sign(_KEYS_PURPOSE, self.statement())}
        return RoundKeys(**values)

    def verify(self, rules: Rules) -> None:
        """Check that the hospital of this name in the roster signed them, and that a secret can be agreed with them.

        Raises:
            CipherwardError: otherwise. Keys of low order would end every other hospital's answer in an error.
        """
        if self.name not in rules.roster:
            raise CipherwardError(f"{self.name[:80]!r} is not in the agreed roster", "")
        rules.roster[self.name].verify(_KEYS_PURPOSE, self.statement(), self.signature)
        if is_degenerate(self.channel) or is_degenerate(self.mask):
            raise CipherwardError(
                f"{self.name} sent round keys of low order, with which nobody can agree on a secret"
            )


#: Fields of RoundKeys that are bytes, with their lengths.
_BYTES = {"channel": 32, "mask": 32, "self_mask": 32, "signature": 64}


def check_members(keys: Mapping[str, RoundKeys], rules: Rules) -> RoundId:
    """Check the keys of all members of a round, and return the round that all of them signed.

    Raises:
        CipherwardError: if there are too few, one is not signed by its hospital, two have the same key, or they are
            of different rounds or models.
    """
    if len(keys) < rules.threshold:
        raise CipherwardError(
            f"{counted(len(keys), 'hospital takes', 'hospitals take')} part in the round; at least "
            f"{rules.threshold} of {len(rules.roster)} must",
            "",
        )
    for name, entry in keys.items():
        if entry.name != name:
            raise CipherwardError(f"the round keys of {entry.name!r} are named {name!r}", "")
        entry.verify(rules)
    rounds = {entry.round_id for entry in keys.values()}
    if len(rounds) > 1:
        fields = [
            f for f in ("study", "round", "attempt", "model") if len({getattr(r, f) for r in rounds}) > 1
        ]
        raise CipherwardError(
            f"the hospitals of this round do not agree on its {' and '.join(fields)}",
            "the coordinator sent them different messages: ask it why",
        )
    public = [key for entry in keys.values() for key in (entry.channel, entry.mask)]
    if len(set(public)) < len(public):
        raise CipherwardError("two round keys of this round are the same", "")
    return next(iter(rounds))


def transcript_digest(keys: Mapping[str, RoundKeys]) -> bytes:
    """Return 32 bytes that name the members of a round and their keys. All masks and shares are bound to it."""
    text = json.dumps([keys[name].to_json() for name in sorted(keys)], sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def _survivors_statement(transcript: bytes, survivors: Iterable[str]) -> bytes:
    return json.dumps({"transcript": transcript.hex(), "survivors": sorted(survivors)}).encode()


def sign_survivors(identity: Identity, transcript: bytes, survivors: Iterable[str]) -> bytes:
    """Return a hospital's signature of whose vectors are counted."""
    return identity.sign(_SURVIVORS_PURPOSE, _survivors_statement(transcript, survivors))


def verify_survivors(
    public: PublicIdentity, transcript: bytes, survivors: Iterable[str], signature: bytes
) -> None:
    """Check such a signature. Raises CipherwardError if it is not that hospital's."""
    public.verify(_SURVIVORS_PURPOSE, _survivors_statement(transcript, survivors), signature)
