"""Values as people read them: sizes, ages, tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = ("KB", "MB", "GB", "TB", "PB")
_AGES = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def printable(text: str) -> str:
    """The text without control characters, which could steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def size(count: int) -> str:
    """Bytes in decimal units: 0, 999 B, 12.3 MB."""
    if count < 1000:
        return f"{count} B" if count else "0"
    value, units = count / 1000, iter(_UNITS)
    unit = next(units)
    # 999.95 would be rounded to 1000.0.
    while value >= 999.95 and (larger := next(units, "")):
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"


def age(seconds: float) -> str:
    """A span of time in its largest unit: 3 d, 5 min, 12 s."""
    for length, unit in _AGES:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows in columns as wide as their content, two spaces apart."""
    lines = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
