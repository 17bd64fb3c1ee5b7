"""Every error that a user can mend says what to do next: each `CipherwardError` of the programs has a hint.

Left out are those about which a reader can do nothing: what a user declined, and messages of the protocol of secure
aggregation that another program made wrongly.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PROGRAMS = ("cipherward", "coordinator", "crypto", "parties")
#: Files whose errors are about messages between programs.
_PROTOCOL = (
    "crypto/secure_sum/",
    "coordinator/exchange/secure_sum.py",
    "coordinator/federation/secure_rounds.py",
)
#: What the user just said needs no hint.
_DECLINED = "nothing was written"


def _without_hint(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that make an error whose hint is missing or empty."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "CipherwardError":
            continue
        hints = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "hint")]
        if not hints or (isinstance(hints[0], ast.Constant) and not hints[0].value):
            yield node


def test_finds_missing_and_empty_hints() -> None:
    """Of four calls, those without a hint and with an empty one are found."""
    code = "CipherwardError('a'); CipherwardError('b', ''); CipherwardError('c', 'd'); CipherwardError('e', hint='f')"

    found = [ast.unparse(call) for call in _without_hint(ast.parse(code))]

    assert found == ["CipherwardError('a')", "CipherwardError('b', '')"]


def test_every_error_has_a_hint() -> None:
    """No error is left without a hint, but for those that nobody can act on."""
    files = sorted(path for program in _PROGRAMS for path in (_ROOT / program).rglob("*.py"))
    bare = [
        f"{name}:{call.lineno}"
        for path in files
        if not (name := path.relative_to(_ROOT).as_posix()).startswith(_PROTOCOL)
        for call in _without_hint(ast.parse(path.read_text(encoding="utf-8")))
        if _DECLINED not in ast.unparse(call)
    ]

    assert files
    assert not bare
