"""Keeping freed memory: a server that moves mebibytes must not fetch fresh pages for each.

glibc gives large blocks back to the kernel as soon as they are freed. Touching new pages again for
every message cost three quarters of a sender's system time (measured with `benchmarks/hop`).
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3) in glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGE_BLOCK = 32 * 1024 * 1024
KEPT = 32 * 1024 * 1024
PAD = 4 * 1024 * 1024


def keep_freed_memory() -> None:
    """Serve blocks below 32 MiB from the heap, and keep up to 32 MiB of it; without glibc nothing
    changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_TOP_PAD, PAD)
