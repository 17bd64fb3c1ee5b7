"""Write the output of commands into the tutorial: every block between `<!-- output: COMMAND -->` and its end.

    python -m benchmarks.reference.outputs

The commands are run as they stand, in an empty folder, with 120 columns. Lines that only say that work goes on are
left out, as are those of single attacks.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from coordinator.adversary.run.compilation import COMPILING

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
#: The block of one command's output.
_OUTPUT = re.compile(r"(<!-- output: (.+?) -->\n)(.*?)(<!-- /output -->)", re.DOTALL)
#: What differs from run to run: keys' ids and digests, fingerprints, numbers, and the lines of a table's frame.
_CHANGING = re.compile(
    r"\b(?=[a-f]*\d)[0-9a-f]{12,16}\b|\b[A-Z0-9]{4}(?:-[A-Z0-9]{4}){7}\b|\d+(?:[.,]\d+)*|[─-╿]+"
)
#: Lines of waiting. That functions are compiled is said once in a checkout, by the first audit in it.
_BUSY = re.compile(
    r"^  .* \(\d+ s\)$|^\d+ s in this run$|^draw-\d+|^  \w+ at \d+(;|$)|^checking the guesses"
    rf"|^{COMPILING}"
)
#: A line that an audit may have under some keys.
_CAVEAT = re.compile(r"^  caveat: .*$", re.MULTILINE)


def shell_lines(text: str) -> Iterator[str]:
    """Yield every command in the `sh` blocks of a document, without its comment."""
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if command := re.split(r"\s+#", line)[0].strip():
                yield command


def run_line(line: str, folder: Path) -> str:
    """Run one command of a document in `folder`, and return what it printed.

    Raises:
        CalledProcessError: If it fails; its output is in the error.
    """
    environment = os.environ | {
        "COLUMNS": "120",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    line = line.replace("python docs/", f"python {ROOT}/docs/")
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, text=True, check=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800,
    )  # fmt: skip
    return done.stdout


def shown(output: str, folder: Path) -> str:
    """Return an output as the tutorial shows it: without the folder's path and the lines of waiting."""
    lines = [
        line.rstrip() for line in output.replace(f"{folder}/", "").splitlines() if not _BUSY.match(line)
    ]
    return "\n".join(lines).strip()


def kept_outputs(text: str) -> dict[str, str]:
    """Return the outputs that a document keeps, by their commands."""
    return {m[2]: re.sub(r"^```\w*$", "", m[3], flags=re.MULTILINE).strip() for m in _OUTPUT.finditer(text)}


def differences(kept: str, printed: str) -> list[str]:
    """Return the words in which a command's output differs from the one that a document keeps.

    Numbers, ids and line breaks may differ: they do so from run to run, or with the width of a terminal. So may
    caveats: which an audit has depends on its keys, and they are new in every run.

    Args:
        kept: The output in the document.
        printed: What the command prints today, as `shown` returns it.

    Returns:
        `- words` that are kept and no longer printed, and `+ words` that are printed and not kept; empty if none are.
    """
    old, new = (_CHANGING.sub("#", _CAVEAT.sub("", text)).split() for text in (kept, printed))
    changes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    result = []
    for kind, a, b, c, d in changes:
        if kind != "equal":
            result += [
                f"{sign} {' '.join(words)}" for sign, words in (("-", old[a:b]), ("+", new[c:d])) if words
            ]
    return result


def main() -> None:
    """Run the commands of the tutorial up to the study, and write their outputs."""
    text = TUTORIAL.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        outputs = {
            line: shown(run_line(line, folder), folder)
            for line in shell_lines(text)
            if not line.startswith(("source ", "cipherward-coordinator simulate"))
        }
    text = _OUTPUT.sub(lambda m: f"{m[1]}\n```text\n{outputs[m[2]]}\n```\n\n{m[4]}", text)
    TUTORIAL.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
