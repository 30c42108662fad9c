"""What the benchmarks' command lines and tables share."""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
from collections.abc import Sequence

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "MB": 10**6, "GB": 10**9}
VERDICT = {True: "met", False: "NOT MET"}


def spread(values: Sequence[float], digits: int) -> str:
    """Median and, in brackets, the least and the most."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def machine() -> str:
    """What the figures were measured on."""
    python = platform.python_version()
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {python}"


def size_of(text: str) -> int:
    """Bytes, from an argument such as 64MiB."""
    match = re.fullmatch(r"(\d+)([A-Za-z]*)", text)
    if not match or match[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1GiB")
    return int(match[1]) * UNITS[match[2]]


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows of text, the first one the head; all columns but the first and last to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        first, *middle, last = row
        cells = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        print("  ".join((first.ljust(widths[0]), *cells, last)).rstrip())
