"""Keeping to the rate of a lease: how much of a body to take at once, and how long to wait then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hawker.core.pieces import MIB

# Taken at once where nothing limits it: enough for a call that releases the GIL.
PORTION = MIB
# A piece that is here is not kept waiting for more: others want it. So often a call costs little.
PIECE_EVERY = 0.05
# What comes slowly is taken in smaller portions, so that no wait after one is long.
PORTION_SECONDS = 0.1
# A rate holds over a second; within it a reader may catch up on a quarter.
BURST_SECONDS = 0.25


class Rate:
    """`limit` bytes per second, 0 for none, and it may change at any time.

    Every byte is waited for, the first ones of a lease too: many short leases one after the other
    are no faster than a long one. `most` are the bytes to take at once where something else than
    this rate bounds them, too.
    """

    def __init__(self, limit: int, now: float) -> None:
        self.limit = limit
        self.most: int | None = None
        self._due = now

    @property
    def portion(self) -> int:
        """The bytes to take at once."""
        if self.most is not None:
            return min(self._own_portion, self.most)
        return self._own_portion

    @property
    def _own_portion(self) -> int:
        if not self.limit:
            return PORTION
        return min(PORTION, max(1, int(self.limit * PORTION_SECONDS)))

    def enough(self, size: int, passed: float, piece_length: int) -> bool:
        """So many bytes, that came over `passed` seconds, are taken now."""
        return size >= self.portion or (size >= piece_length and passed > PIECE_EVERY)

    def portions(self, chunks: Sequence[bytes]) -> Iterator[Sequence[memoryview]]:
        """The same bytes in about such portions, each as large as the rate then allows."""
        views = [memoryview(chunk) for chunk in chunks]
        if not views:
            return
        if self.portion >= PORTION or sum(map(len, views)) < 2 * self.portion:
            yield views
            return
        for view in views:
            while view:
                part = view[: self.portion]
                view = view[len(part) :]
                yield [part]

    def took(self, size: int, now: float) -> float:
        """The seconds to wait now that so many bytes were taken."""
        if not self.limit:
            return 0.0
        self._due = max(self._due, now - BURST_SECONDS) + size / self.limit
        return max(0.0, self._due - now)
