"""Memory at hand for a round.

A virtual machine gives free memory back to its host, and the first touch of a page then costs five
to ten times what writing it costs (measured: 1.5 to 2.4 seconds of CPU time for a GiB instead of
0.25). A bed touches gigabytes, on a few cores that all its hosts share. So memory is touched before
a round, and let go of as the round takes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 1 << 20
# Let go of ahead of what is taken between two looks.
AHEAD = 256 * BLOCK
# Of what the machine says it has, so that it never has to reclaim.
SHARE = 0.5


class Reserve:
    """A file in memory, made shorter as others need the memory."""

    def __init__(self, path: Path, size: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._size = size
        block = os.urandom(BLOCK)
        for _ in range(0, size, BLOCK):
            os.write(self._fd, block)

    def taken(self, size: int) -> None:
        """So many bytes were written by others since it was made."""
        left = max(0, self._size - size - AHEAD)
        if left < os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, left)

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def reserve(directory: Path, size: int) -> Iterator[Reserve]:
    """Touched memory for `size` bytes, or as much as may be had; `directory` is in memory."""
    path = directory / "reserve"
    reserved = Reserve(path, min(size, int(available() * SHARE)))
    try:
        yield reserved
    finally:
        reserved.close()
        path.unlink()


def available() -> int:
    """Bytes that can be had without swapping (proc(5), meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError("/proc/meminfo does not say what is available")
