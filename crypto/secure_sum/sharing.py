"""Shamir's sharing of 32-byte secrets, by pycryptodome (over GF(2^128), in two halves)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from Crypto.Protocol.SecretSharing import Shamir

from crypto.errors import CipherwardError

_HALF = 16
SHARE_BYTES = 2 * _HALF


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Return `count` shares of a secret, 32 bytes each; any `threshold` of them give it back.

    Args:
        secret: 32 bytes.
        threshold: how many shares are needed, at least 2.
        count: how many shares are made. Share i belongs to the i-th hospital.
    """
    if len(secret) != 2 * _HALF or not 2 <= threshold <= count:
        raise ValueError(f"{len(secret)} bytes, {threshold} of {count} shares")
    halves = [Shamir.split(threshold, count, secret[i : i + _HALF], ssss=False) for i in (0, _HALF)]
    # pycryptodome numbers the shares from 1.
    return [left[1] + right[1] for left, right in zip(*halves, strict=True)]


def combine(shares: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the secret of exactly `threshold` shares. Wrong shares give another secret: the caller checks it.

    Args:
        shares: pairs of a hospital's position, from 0, and its share.

    Raises:
        CipherwardError: if a share has a wrong length, or two have one position.
    """
    if len({i for i, _ in shares}) != len(shares) or any(len(s) != SHARE_BYTES for _, s in shares):
        raise CipherwardError("shares of a round are malformed", "the round is repeated")
    halves: Iterable[slice] = (slice(0, _HALF), slice(_HALF, None))
    return b"".join(
        Shamir.combine([(i + 1, share[half]) for i, share in shares], ssss=False) for half in halves
    )
