"""Whether a new passphrase stands a thief of the key file, who guesses without anybody counting.

The estimate is zxcvbn's (Wheeler, USENIX Security 2016): how many guesses a cracker needs who tries common
passwords, words, names, keyboard rows, dates, repetitions and sequences first. A length alone accepts `aaaaaaaaaaaa`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from crypto.errors import CipherwardError

#: Characters of a new passphrase, at least.
MIN_PASSPHRASE_LENGTH = 12
#: zxcvbn's highest score: 10^10 guesses. It is meant for attacks on a stolen file whose hash is slow, as age's is.
_MIN_SCORE = 4
#: Characters that are scored. zxcvbn takes quadratic time, and what follows can only add strength.
_SCORED_CHARACTERS = 72
#: Words that whoever guesses this file's passphrase tries first.
_OBVIOUS = ("cipherward", "hospital", "party", "secret", "key")
_HINT = "four random words are long and easy to remember"


def require_strong(text: str, names: Iterable[str] = ()) -> None:
    """Check a new passphrase.

    Args:
        text: The passphrase. It stands in no message.
        names: What a thief of the file would know, such as the hospital's name.

    Raises:
        CipherwardError: If it is short, or easy to guess; the message gives the reason.
    """
    if len(text) < MIN_PASSPHRASE_LENGTH:
        raise CipherwardError(
            f"the passphrase has {len(text)} characters; at least {MIN_PASSPHRASE_LENGTH} are needed", _HINT
        )
    # Imported here: its word lists take a while to load, and no other command needs them.
    from zxcvbn import zxcvbn  # type: ignore[import-untyped] # it ships no types

    known = _forms_of([*names, *_OBVIOUS])
    # zxcvbn takes each separator for a random character, and a guesser does not.
    variants = dict.fromkeys(
        form[:_SCORED_CHARACTERS] for form in (text, re.sub(r"[\s_-]", "", text)) if form
    )
    estimate = min((zxcvbn(form, user_inputs=known) for form in variants), key=lambda e: e["score"])
    if estimate["score"] >= _MIN_SCORE:
        return
    feedback = estimate["feedback"]
    reason = feedback["warning"] or _reason(text[:_SCORED_CHARACTERS], known)
    raise CipherwardError(
        f"the passphrase is easy to guess: {reason.rstrip('.')}",
        ". ".join([*(s.rstrip(".") for s in feedback["suggestions"]), _HINT.capitalize()]),
    )


def _forms_of(names: Iterable[str]) -> list[str]:
    """Return names, their words, and their words in one, as a guesser would try them."""
    forms: dict[str, None] = {}
    for name in names:
        words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
        neighbours = ["".join(pair) for pair in pairwise(words)]
        forms.update(dict.fromkeys([name.lower(), "".join(words), *words, *neighbours]))
    return [form for form in forms if len(form) > 1]


def _reason(text: str, known: Iterable[str]) -> str:
    """Return why a passphrase is weak, where zxcvbn gives no reason."""
    if any(len(name) > 3 and name in text.lower() for name in known):
        return "it is made of names that a thief of the file knows"
    return "common words, dates or patterns make up most of it"
