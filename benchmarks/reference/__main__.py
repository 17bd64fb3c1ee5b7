"""Write docs/reference: the pages of commands, plan and files, from the code that they describe.

    python -m benchmarks.reference        writes the pages again (make docs)

A test compares the pages with the code, so that they cannot go stale.
"""

from __future__ import annotations

from benchmarks.reference.pages import FOLDER, make_pages


def main() -> None:
    """Write every page, and print its path."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in make_pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
