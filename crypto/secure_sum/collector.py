"""The coordinator's side of a secure sum: collects the answers of each phase, and unmasks the sum of the survivors.

It keeps one running sum, not the vectors. Whatever a hospital sends wrongly raises CipherwardError with its name and
leaves the round as it was: the caller goes on without that hospital.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crypto.arrays import UInt32Array
from crypto.errors import CipherwardError
from crypto.plural import counted
from crypto.secure_sum.masks import add_pairwise, agree, commitment, expand
from crypto.secure_sum.member import Revelation
from crypto.secure_sum.sharing import SHARE_BYTES, combine
from crypto.secure_sum.transcript import (
    RoundId,
    RoundKeys,
    Rules,
    check_members,
    transcript_digest,
    verify_survivors,
)

#: Choices of `threshold` shares that are tried for one secret. A single hospital that sends wrong shares is outvoted
#: by the first few; several are with high probability, while at least one choice in a hundred leaves all of them out.
MOST_CHOICES = 500
_Item = TypeVar("_Item")


class Collector:
    """One attempt at one round, in the cloud."""

    def __init__(self, round_id: RoundId, length: int, rules: Rules) -> None:
        """Begin an attempt.

        Args:
            round_id: the attempt, with the digest of the model that was sent.
            length: numbers of a vector.
            rules: roster and least sum, from the study manifest.
        """
        self.round_id, self.length, self.rules = round_id, length, rules
        self.keys: dict[str, RoundKeys] = {}
        self.shares: dict[str, Mapping[str, bytes]] = {}
        self.total: UInt32Array = np.zeros(length, np.uint32)
        self.survivors: list[str] = []
        #: Who could not open the shares of whom, by the sender of the shares.
        self.complaints: dict[str, set[str]] = {}
        self.signatures: dict[str, bytes] = {}
        self.revelations: dict[str, Revelation] = {}
        #: Whose shares gave the last secret that was signed: they are tried first for the next one.
        self._agreeing: frozenset[int] = frozenset()
        self._phase = "keys"

    def add_keys(self, name: str, keys: RoundKeys) -> None:
        """Take the round keys of a hospital."""
        self._expect("keys", name, name not in self.keys)
        if keys.name != name or keys.round_id != self.round_id:
            raise CipherwardError(f"{name} sent round keys of another hospital, round or model", "")
        keys.verify(self.rules)
        self.keys[name] = keys

    def close_keys(self) -> dict[str, RoundKeys]:
        """Return the keys of all members, for each of them. Raises CipherwardError if they are too few."""
        check_members(self.keys, self.rules)
        self._phase = "shares"
        return self.keys

    def add_shares(self, name: str, shares: Mapping[str, bytes]) -> None:
        """Take the encrypted shares that a hospital has for the others."""
        self._expect("shares", name, name in self.keys and name not in self.shares)
        if set(shares) != set(self.keys) - {name}:
            raise CipherwardError(f"{name} sent shares for other hospitals than the members", "")
        self.shares[name] = dict(shares)

    def close_shares(self) -> dict[str, dict[str, bytes]]:
        """Return for each hospital that sent shares what the others sent to it. Raises if too few sent shares."""
        self._require(len(self.shares), "sent shares")
        self._phase = "vectors"
        return {
            name: {sender: shares[name] for sender, shares in self.shares.items() if sender != name}
            for name in self.shares
        }

    def add_vector(self, name: str, vector: UInt32Array, unopened: Collection[str] = ()) -> None:
        """Add a masked vector, uint32 [length], to the sum.

        unopened: the members whose shares this one could not open.
        """
        self._expect("vectors", name, name in self.shares and name not in self.survivors)
        if vector.dtype != np.uint32 or vector.shape != (self.length,):
            raise CipherwardError(f"{name} sent a masked vector of another length or type", "")
        if strangers := set(unopened) - set(self.shares):
            raise CipherwardError(f"{name} complains of {min(strangers)[:80]!r}, who sent no shares", "")
        for sender in set(unopened) - {name}:
            self.complaints.setdefault(sender, set()).add(name)
        self.total += vector
        self.survivors.append(name)

    def close_vectors(self) -> list[str]:
        """Return the survivors: whose vectors are in the sum.

        Raises:
            CipherwardError: if they are too few, or if too few of them could open a hospital's shares to unmask the
                sum. It ends the attempt here, before anything is signed or revealed.
        """
        self._require(len(self.survivors), "sent masked vectors")
        for sender, names in sorted(self.complaints.items()):
            if len(set(self.survivors) - names) < self.rules.threshold:
                raise CipherwardError(
                    f"{sender} sent shares that {', '.join(sorted(names))} cannot open",
                    "the round is repeated with fresh keys; nothing was revealed",
                )
        self._phase = "signatures"
        return sorted(self.survivors)

    def add_signature(self, name: str, signature: bytes) -> None:
        """Take a survivor's signature of the survivors."""
        self._expect("signatures", name, name in self.survivors and name not in self.signatures)
        verify_survivors(self.rules.roster[name], self._transcript, self.survivors, signature)
        self.signatures[name] = signature

    def close_signatures(self) -> dict[str, bytes]:
        """Return the signatures, for each who signed. Raises CipherwardError if they are too few."""
        self._require(len(self.signatures), "signed who is counted")
        self._phase = "revelations"
        return self.signatures

    def add_revelation(self, name: str, revelation: Revelation) -> None:
        """Take the shares that a survivor reveals."""
        self._expect("revelations", name, name in self.signatures and name not in self.revelations)
        dropouts = set(self.shares) - set(self.survivors)
        if not (
            set(revelation.self_masks) <= set(self.survivors) and set(revelation.mask_keys) <= dropouts
        ):
            raise CipherwardError(f"{name} revealed shares that nobody asked for", "")
        if any(
            len(s) != SHARE_BYTES for s in (*revelation.self_masks.values(), *revelation.mask_keys.values())
        ):
            raise CipherwardError(f"{name} revealed shares of a wrong length", "")
        self.revelations[name] = revelation

    def unmask(self) -> UInt32Array:
        """Return the sum of the survivors' vectors, uint32 [length].

        Raises:
            CipherwardError: if too few revealed their shares, or shares do not fit what was signed.
        """
        self._require(len(self.revelations), "revealed their shares")
        self._phase = "over"
        total, transcript = self.total.copy(), self._transcript
        for name in self.survivors:
            shares = {by: r.self_masks[name] for by, r in self.revelations.items() if name in r.self_masks}
            signed = self.keys[name].self_mask
            total -= expand(self._recover(name, shares, commitment, signed), self.length)
        for name in sorted(set(self.shares) - set(self.survivors)):
            shares = {by: r.mask_keys[name] for by, r in self.revelations.items() if name in r.mask_keys}
            signed = self.keys[name].mask
            private = X25519PrivateKey.from_private_bytes(self._recover(name, shares, _public, signed))
            for other in self.survivors:
                seed = agree(private, self.keys[other].mask, transcript, "mask")
                add_pairwise(total, other, name, seed, subtract=True)
        return total

    @property
    def _transcript(self) -> bytes:
        return transcript_digest(self.keys)

    def _recover(
        self, name: str, shares: Mapping[str, bytes], image: Callable[[bytes], bytes], signed: bytes
    ) -> bytes:
        """Return the secret of a hospital from shares that others revealed: the one whose image it signed."""
        places = {member: i for i, member in enumerate(sorted(self.keys))}
        numbered = sorted((places[by], share) for by, share in shares.items())
        numbered.sort(key=lambda pair: pair[0] not in self._agreeing)
        choices = choose_shares(numbered, self.rules.threshold)
        for choice in itertools.islice(choices, MOST_CHOICES):
            if image(secret := combine(choice)) == signed:
                self._agreeing = frozenset(place for place, _ in choice)
                return secret
        raise CipherwardError(
            f"the {len(shares)} revealed shares of {name}'s secret do not give what it signed",
            "the round is repeated; if it happens again, a hospital sends wrong shares",
        )

    def _expect(self, phase: str, name: str, is_due: bool) -> None:
        if self._phase != phase or not is_due:
            raise CipherwardError(f"{name} sent {phase} that are not due", "")

    def _require(self, count: int, what: str) -> None:
        if count < self.rules.threshold:
            raise CipherwardError(
                f"{counted(count, 'hospital')} {what}; secure aggregation needs {self.rules.threshold} of "
                f"{len(self.rules.roster)}",
                "the round is repeated with fresh keys; nothing was revealed",
            )


def choose_shares(shares: Sequence[_Item], threshold: int) -> Iterator[list[_Item]]:
    """Yield choices of so many shares, beginning with the first ones, so that a few wrong shares are soon left out.

    The first choices leave out each share once, so one wrong share spoils all but one of them. In the order of
    `itertools.combinations` a wrong first share would be in every choice that there is time for. Then come all
    choices if they are few, and random ones without end otherwise.

    Args:
        shares: any number of shares.
        threshold: how many are needed. Nothing is yielded if there are fewer.
    """
    spare = len(shares) - threshold
    if spare < 0:
        return
    for stop in range(len(shares), 0, -max(1, spare)):
        start = max(0, stop - spare)
        # The last group may be smaller; what is left out is made up from the end.
        left_out = set(range(start, stop)) | set(range(len(shares) - (spare - (stop - start)), len(shares)))
        yield [share for at, share in enumerate(shares) if at not in left_out]
        if not spare:
            return
    if math.comb(len(shares), threshold) <= MOST_CHOICES:
        yield from map(list, itertools.combinations(shares, threshold))
        return
    generator = secrets.SystemRandom()
    while True:
        yield generator.sample(shares, threshold)


def _public(private: bytes) -> bytes:
    """Return the X25519 public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def weight_sum(weights: Mapping[str, float], survivors: Collection[str]) -> float:
    """Return the sum of the survivors' weights in the mean."""
    return sum(weights[name] for name in sorted(survivors))
