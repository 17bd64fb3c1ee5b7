"""The hospital's side of a secure sum: one object an attempt at a round, with four answers in order.

    start ▶ keys() ▶ share(all keys) ▶ mask(shares, vector) ▶ confirm(survivors) ▶ reveal(signatures)

Each answer is given once. What a hospital reveals of another one is either a share of its self mask, if its vector
was counted, or a share of its mask key, if it was not; never both. Double masking of Bonawitz et al. 2017, section 4,
figure 4, with the checks of section 6 against a cloud that lies.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from crypto.arrays import UInt32Array
from crypto.errors import CipherwardError
from crypto.files import parse_json
from crypto.identity import Identity
from crypto.plural import agreeing, counted
from crypto.secure_sum.masks import SEED_BYTES, add_pairwise, agree, commitment, expand
from crypto.secure_sum.sharing import SHARE_BYTES, split
from crypto.secure_sum.transcript import (
    RoundId,
    RoundKeys,
    Rules,
    check_members,
    sign_survivors,
    transcript_digest,
    verify_survivors,
)

_NONCE_BYTES = 12


@dataclass(frozen=True)
class Revelation:
    """What a hospital shows so that the sum can be unmasked: shares by the hospital whose secret they are of."""

    self_masks: Mapping[str, bytes]
    mask_keys: Mapping[str, bytes]


@dataclass
class _State:
    """Everything an attempt needs between two messages. Bytes stand as hex."""

    name: str
    phase: str
    channel_key: str
    mask_key: str
    self_mask: str
    own: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)
    # Shares that others sent: name -> share of its self mask, then share of its mask key.
    shares: dict[str, str] = field(default_factory=dict)
    senders: list[str] = field(default_factory=list)
    survivors: list[str] = field(default_factory=list)


class Member:
    """A hospital in one attempt at one round. Printing shows no secret; pickling and copying raise TypeError."""

    def __init__(self, state: _State) -> None:
        self.__state = state

    @classmethod
    def start(cls, identity: Identity, round_id: RoundId) -> Member:
        """Return a member with fresh round keys and a fresh self mask, from the operating system's generator."""
        channel, mask = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        seed = secrets.token_bytes(SEED_BYTES)
        unsigned = RoundKeys(
            name=identity.public.name,
            round_id=round_id,
            channel=channel.public_key().public_bytes_raw(),
            mask=mask.public_key().public_bytes_raw(),
            self_mask=commitment(seed),
            signature=bytes(64),
        )
        private = (channel.private_bytes_raw().hex(), mask.private_bytes_raw().hex(), seed.hex())
        return cls(_State(identity.public.name, "keys", *private, own=unsigned.sign(identity).to_json()))

    def export(self) -> str:
        """Return the state between two messages, with its secrets: for a private file of the hospital alone."""
        return json.dumps(vars(self.__state))

    @classmethod
    def restore(cls, text: str) -> Member:
        """Read what `export` returned. Raises CipherwardError if it is damaged."""
        try:
            return cls(_State(**parse_json(text)))
        except (TypeError, ValueError):
            raise CipherwardError(
                "the state of this secure sum is damaged", "the round is repeated"
            ) from None

    @property
    def name(self) -> str:
        """The hospital."""
        return self.__state.name

    @property
    def round_id(self) -> RoundId:
        """The attempt."""
        return self._own.round_id

    @property
    def survivors(self) -> list[str]:
        """The hospitals that it confirmed as counted, sorted; empty before."""
        return list(self.__state.survivors)

    @property
    def _own(self) -> RoundKeys:
        return RoundKeys.from_json(self.__state.own)

    @property
    def _keys(self) -> dict[str, RoundKeys]:
        return {name: RoundKeys.from_json(values) for name, values in self.__state.keys.items()}

    def keys(self) -> RoundKeys:
        """Return the signed round keys."""
        self._require_phase("keys")
        self.__state.phase = "share"
        return self._own

    def share(self, keys: Mapping[str, RoundKeys], rules: Rules) -> dict[str, bytes]:
        """Return shares of the own secrets, each encrypted for one other member.

        Args:
            keys: the round keys of all members, this one's among them.
            rules: what this hospital demands.

        Raises:
            CipherwardError: if the members are too few, or a key is not signed by the hospital that the roster
                names, or a hospital received another model.
        """
        self._require_phase("share")
        check_members(keys, rules)
        if keys.get(self.name) != self._own:
            raise CipherwardError("the coordinator changed this hospital's own round keys", "")
        state = self.__state
        state.phase = "mask"
        names, transcript = sorted(keys), transcript_digest(keys)
        state.keys = {name: entry.to_json() for name, entry in keys.items()}
        secret_shares = [
            split(bytes.fromhex(secret), rules.threshold, len(names))
            for secret in (state.self_mask, state.mask_key)
        ]
        messages = {}
        for name, self_mask, mask_key in zip(names, *secret_shares, strict=True):
            if name == self.name:
                state.shares[name] = (self_mask + mask_key).hex()
            else:
                messages[name] = self._seal(keys[name], transcript, self_mask + mask_key)
        return messages

    def mask(
        self, shares: Mapping[str, bytes], vector: UInt32Array, rules: Rules
    ) -> tuple[UInt32Array, list[str]]:
        """Return the masked vector, and the members whose shares cannot be opened.

        Args:
            shares: the encrypted shares that the other members sent to this one. Who sent none is left out of the
                masks.
            vector: uint32 [n], the encoded update.
            rules: what this hospital demands.

        Raises:
            CipherwardError: if too few sent shares, or a sender is no member.
        """
        self._require_phase("mask")
        state, keys = self.__state, self._keys
        senders = sorted({*shares, self.name})
        if strangers := set(senders) - set(keys):
            raise CipherwardError(f"{min(strangers)[:80]!r} is no member of this round", "")
        self._require(len(senders), rules, "sent shares")
        state.phase = "confirm"
        transcript, complaints = transcript_digest(keys), []
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(state.mask_key))
        total = vector.astype(np.uint32) + expand(bytes.fromhex(state.self_mask), len(vector))
        for name in senders:
            if name == self.name:
                continue
            try:
                state.shares[name] = self._open(keys[name], transcript, shares[name]).hex()
            except (InvalidTag, ValueError):
                complaints.append(name)
            add_pairwise(total, self.name, name, agree(private, keys[name].mask, transcript, "mask"))
        state.senders = senders
        return total, complaints

    def confirm(
        self,
        survivors: Collection[str],
        identity: Identity,
        rules: Rules,
        earlier: Collection[str] | None = None,
    ) -> bytes:
        """Return the signature of whose vectors are counted.

        Args:
            survivors: the members whose vectors the coordinator says it has.
            identity: this hospital's.
            rules: what this hospital demands.
            earlier: the survivors of an attempt at the same round that this hospital helped to unmask. Two sums over
                different hospitals would give the difference away.

        Raises:
            CipherwardError: if they are too few, this hospital or a stranger is named wrongly, or they are not
                those of the earlier attempt.
        """
        self._require_phase("confirm")
        state, names = self.__state, sorted(set(survivors))
        if strangers := set(names) - set(state.senders):
            raise CipherwardError(
                f"{min(strangers)[:80]!r} sent no shares in this round and cannot be counted", ""
            )
        if self.name not in names:
            raise CipherwardError("the coordinator says that this hospital's vector did not arrive", "")
        self._require(len(names), rules, agreeing(len(names), "is counted", "are counted"))
        if earlier is not None and sorted(earlier) != names:
            raise CipherwardError(
                "this round was summed before, over other hospitals; a second sum would give one update away",
                "repeat it with the same hospitals, or give the study another name",
            )
        state.phase = "reveal"
        state.survivors = names
        return sign_survivors(identity, transcript_digest(self._keys), names)

    def reveal(self, signatures: Mapping[str, bytes], rules: Rules) -> Revelation:
        """Return the shares that unmask the sum.

        Args:
            signatures: by hospital, of the survivors that this hospital confirmed too.
            rules: what this hospital demands.

        Raises:
            CipherwardError: if too few of the survivors signed the same list.
        """
        self._require_phase("reveal")
        state, keys = self.__state, self._keys
        transcript = transcript_digest(keys)
        for name, signature in signatures.items():
            if name not in state.survivors:
                raise CipherwardError(f"{name[:80]!r} is none of the survivors", "")
            verify_survivors(rules.roster[name], transcript, state.survivors, signature)
        self._require(len(signatures), rules, "signed who is counted")
        state.phase = "over"
        self_masks, mask_keys = {}, {}
        for name in state.senders:
            if name not in state.shares:
                continue  # what it sent could not be opened
            share = bytes.fromhex(state.shares[name])
            if name in state.survivors:
                self_masks[name] = share[:SHARE_BYTES]
            else:
                mask_keys[name] = share[SHARE_BYTES:]
        # Nothing of a finished round is kept.
        state.channel_key = state.mask_key = state.self_mask = ""
        state.shares = {}
        return Revelation(self_masks, mask_keys)

    def _require_phase(self, phase: str) -> None:
        """Raise CipherwardError if this answer was given, or is not due yet."""
        if self.__state.phase != phase:
            raise CipherwardError(
                f"the coordinator asks for {phase!r} in a round that is at {self.__state.phase!r}",
                "each answer of a round is given once",
            )

    @staticmethod
    def _require(count: int, rules: Rules, what: str) -> None:
        if count < rules.threshold:
            raise CipherwardError(
                f"{counted(count, 'hospital')} {what}; at least {rules.threshold} of {len(rules.roster)} must",
                "",
            )

    def _channel(self, other: RoundKeys, transcript: bytes) -> ChaCha20Poly1305:
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(self.__state.channel_key))
        return ChaCha20Poly1305(agree(private, other.channel, transcript, "channel"))

    def _seal(self, other: RoundKeys, transcript: bytes, text: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        about = json.dumps([self.name, other.name]).encode()
        return nonce + self._channel(other, transcript).encrypt(nonce, text, about)

    def _open(self, other: RoundKeys, transcript: bytes, message: bytes) -> bytes:
        about = json.dumps([other.name, self.name]).encode()
        channel = self._channel(other, transcript)
        text = channel.decrypt(message[:_NONCE_BYTES], message[_NONCE_BYTES:], about)
        if len(text) != 2 * SHARE_BYTES:
            raise ValueError
        return text

    def __repr__(self) -> str:
        return f"Member({self.name}, round {self.round_id.round}, at {self.__state.phase})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a member of a secure sum is neither pickled nor copied; see export")
