"""Whether a new passphrase stands a thief of the key file, who guesses without anybody counting.

The estimate is zxcvbn's (Wheeler, USENIX Security 2016): how many guesses a cracker needs who tries common
passwords, words, names, keyboard rows, dates, repetitions and sequences first. A length alone accepts `aaaaaaaaaaaa`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from crypto.errors import CipherwardError

#: Characters of a new passphrase, at least.
MIN_PASSPHRASE_LENGTH = 12
#: zxcvbn's highest score: 10^10 guesses. It is meant for attacks on a stolen file whose hash is slow, as age's is.
_MIN_SCORE = 4
#: The same, as a power of ten.
_MIN_DIGITS = 10
#: What a guesser pays for each kind of character that is strewn between others: one of some thirty signs.
_DIGITS_A_SIGN = 1.5
#: One character that makes up this share of a text, at equal distances, is a separator, whatever it is: paxssxwoxrd.
_SEPARATOR_SHARE = 0.25
#: So many kinds of characters that take turns with others are separators, too: pxaysxsywxoyrxdy.
_MOST_SEPARATORS = 2
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
    estimates = [
        (zxcvbn(form, user_inputs=known), digits, form)
        for form, digits in _without_separators(text).items()
    ]
    weak = [
        (estimate, form)
        for estimate, digits, form in estimates
        if estimate["score"] < _MIN_SCORE
        and not (digits and estimate["guesses_log10"] + digits >= _MIN_DIGITS)
    ]
    if not weak:
        return
    estimate, form = min(weak, key=lambda pair: pair[0]["score"])
    feedback = estimate["feedback"]
    reason = feedback["warning"] or _reason(form, known)
    raise CipherwardError(
        f"the passphrase is easy to guess: {reason.rstrip('.')}",
        ". ".join([*(s.rstrip(".") for s in feedback["suggestions"]), _HINT.capitalize()]),
    )


def _without_separators(text: str) -> dict[str, float]:
    """Return what a guesser tries for a text, and what its separators cost beside, as powers of ten.

    zxcvbn takes each separator for a random character, and a guesser does not. Spaces, hyphens and underlines cost
    nothing: everybody tries them.
    """
    forms = {text: 0.0}
    forms.setdefault(re.sub(r"[\s_-]", "", text), 0.0)
    plain = unicodedata.normalize("NFKD", text)
    signs = set(re.findall(r"[\W_]", text))
    forms.setdefault(re.sub(r"[\W_]", "", plain), _DIGITS_A_SIGN * len(signs))
    for form, digits in list(forms.items()):
        for start in (0, 1):
            signs = set(form[1 - start :: 2].lower())
            if len(signs) <= _MOST_SEPARATORS:
                forms.setdefault(form[start::2], digits + _DIGITS_A_SIGN * len(signs))
        if form and _separates(sign := Counter(form.lower()).most_common(1)[0][0], form.lower()):
            rest = re.sub(re.escape(sign), "", form, flags=re.IGNORECASE)
            forms.setdefault(rest, digits + _DIGITS_A_SIGN)
    scored: dict[str, float] = {}
    for form, digits in forms.items():
        if beginning := form[:_SCORED_CHARACTERS]:
            scored[beginning] = min(digits, scored.get(beginning, digits))
    return scored


def _separates(sign: str, text: str) -> bool:
    """Return whether a character stands between the others of a text: at equal distances, or as every second one."""
    places = [match.start() for match in re.finditer(re.escape(sign), text)]
    distances = {after - before for before, after in pairwise(places)}
    is_regular = len(distances) <= 1 and len(places) >= _SEPARATOR_SHARE * len(text)
    return is_regular or 2 * len(places) >= len(text) - 1


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
