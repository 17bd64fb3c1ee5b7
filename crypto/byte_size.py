"""Numbers of bytes for people."""

from __future__ import annotations


def size(value: float | None) -> str:
    """Return bytes in powers of 1000: 12.3 MB. None is a dash."""
    if value is None:
        return "–"
    scaled, units = value, ["B", "kB", "MB", "GB", "TB"]
    while scaled >= 999.5 and len(units) > 1:
        scaled /= 1000
        units.pop(0)
    digits = 0 if units[0] == "B" or scaled >= 99.95 else 1
    return f"{scaled:.{digits}f} {units[0]}"
