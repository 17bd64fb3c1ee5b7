"""What a key makes in memory is not shown, pickled or copied either."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable

import numpy as np
import pytest

from crypto.cipher import TableCipher
from crypto.kernels.executors import prepare
from crypto.kernels.table import Table
from crypto.key import SecretKey
from crypto.scheme import SCHEMES, describe, load


@pytest.mark.parametrize("scope", ["consortium", "image"])
@pytest.mark.parametrize("name", SCHEMES)
def test_no_cipher_is_pickled_or_copied(name: str, scope: str, key: SecretKey) -> None:
    cipher = load(describe(name, (16, 16, 3), 8, scope)).cipher(key)
    takers: tuple[Callable[[object], object], ...] = (pickle.dumps, copy.copy, copy.deepcopy)
    for take in takers:
        for value in (cipher, {"a view": [cipher]}):
            if take is copy.copy and value is not cipher:
                continue  # a shallow copy of a dict takes nothing of the cipher
            with pytest.raises(TypeError, match="neither pickled nor copied"):
                take(value)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            pickle.dumps(cipher, protocol)


def test_printing_a_table_or_a_cipher_shows_no_entry() -> None:
    # Entries and sizes share no number, so that any entry that is shown is found.
    order = np.arange(4)[::-1] + 1000
    inner = np.array([[7001, 7002, 7003]])
    table = Table((2, 6, 1), (1, 3), order, inner, np.full((1, 3), 251, np.uint8))
    prepared_table = Table((4, 4, 1), (2, 2), np.array([3, 1, 2, 0]), np.array([[2, 3, 1, 0]]))
    texts = [repr(table), str(table), f"{table}", repr([table])]
    for text in texts:
        assert not re.search(r"100[0-3]|700[123]|251", text), text
        assert "order=[4]" in text and "inner=[1, 3]" in text and "mask=[1, 3]" in text
    assert "order=None" in repr(Table((2, 6, 1), (1, 3)))
    for value in (prepare(prepared_table), TableCipher(prepared_table)):
        assert "[" not in repr(value) and "array" not in repr(value)
