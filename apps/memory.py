"""Keeping freed memory: a server that moves mebibytes must not fetch fresh pages for each. What
hundreds of clients at once have cost is given back.

glibc gives large blocks back to the kernel as soon as they are freed. Touching new pages again for
every message cost three quarters of a sender's system time (measured with `benchmarks/hop`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import resource
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from hawker.apps.web.beside import beside

# Parameters of mallopt(3) in glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGE_BLOCK = 32 * 1024 * 1024
KEPT = 32 * 1024 * 1024
PAD = 4 * 1024 * 1024
# Where so much more is free, or in memory, than was since the last time, at two looks in a row,
# what is free is given back. glibc itself gives back what lies above the last block in use only.
FREED = 64 * 1024 * 1024
LOOK = 5.0
# New objects after which Python looks for garbage among them. Not many more than its own 700: what
# broken-off requests leave behind may hold mebibytes.
COLLECT_AFTER = 2000
# Looking through all objects stops everything for as long as that takes, a second where ten
# thousand clients wait: beyond so many seconds, it is done in so small a share of the time only.
LONG = 0.05
SHARE = 0.005
OFTEN, NEVER = 10, 1_000_000_000


def keep_freed_memory() -> None:
    """Serve blocks below 32 MiB from the heap, and keep up to 32 MiB of it; without glibc nothing
    changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_TOP_PAD, PAD)


@contextlib.asynccontextmanager
async def giving_back() -> AsyncIterator[None]:
    """While inside, freed memory goes back to the kernel where it is much; only with glibc."""
    libc = ctypes.CDLL(None)
    trim, figures = getattr(libc, "malloc_trim", None), getattr(libc, "mallinfo2", None)
    if trim is None or figures is None:
        yield
        return
    figures.restype = _Figures
    trim.argtypes = [ctypes.c_size_t]

    def give_back() -> None:
        # Connections and their streams refer to each other, and to what they hold.
        gc.collect()
        trim(KEPT)

    async with beside(_watch(lambda: figures().free, give_back)):
        yield


class _Figures(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "free", "top")),
    )


async def _watch(free: Callable[[], int], trim: Callable[[], object]) -> None:
    least, much = (free(), resident()), False
    while True:
        await asyncio.sleep(LOOK)
        now = (free(), resident())
        least = (min(least[0], now[0]), min(least[1], now[1]))
        before, much = much, any(is_ > was + FREED for is_, was in zip(now, least, strict=True))
        if before and much:
            await asyncio.to_thread(trim)
            # What was free is so still, and not in memory; what was freed meanwhile may be.
            least, much = (now[0], resident()), False


def resident() -> int:
    """Bytes of this process that are in memory."""
    statm = Path("/proc/self/statm").read_bytes()
    return int(statm.split()[1]) * resource.getpagesize()


def collect_less() -> None:
    """Take what there is after the start, most of it modules, out of the search for garbage, and
    search after more allocations: by default a busy peer spent a seventh of its time on that."""
    gc.collect()
    gc.freeze()
    # Python puts off the search among old objects by how many it saw the last time: few, now.
    gc.collect()
    gc.set_threshold(COLLECT_AFTER, 10, OFTEN)
    gc.callbacks.append(Seldom(gc.set_threshold, time.monotonic))


class Seldom:
    """Puts off the search among all objects where it takes long; one of `gc.callbacks`."""

    def __init__(
        self, set_threshold: Callable[[int, int, int], None], clock: Callable[[], float]
    ) -> None:
        self._set_threshold = set_threshold
        self._clock = clock
        self._began = 0.0
        self._again = 0.0

    def __call__(self, phase: str, info: Mapping[str, int]) -> None:
        now = self._clock()
        if info["generation"] < 2:
            if self._again and now >= self._again:
                self._again = 0.0
                self._set_threshold(COLLECT_AFTER, 10, OFTEN)
        elif phase == "start":
            self._began = now
        elif now - self._began > LONG:
            self._again = now + (now - self._began) / SHARE
            self._set_threshold(COLLECT_AFTER, 10, NEVER)
