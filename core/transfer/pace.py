"""Keeping to a rate that several share and that may change at any time: who may go on when."""

from __future__ import annotations

from math import inf

# A rate holds over a second; who was late may catch up on so much of it.
BURST_SECONDS = 0.1
# Bytes are given out in such parts of a second, but not in smaller ones than this.
PART_SECONDS = 0.1
SMALLEST_PART = 16 * 1024


class Pace:
    """Bytes are `charged` when they are about to move, and paid over time, in that order.

    `limit` is bytes per second: None for none, 0 as long as nothing may move.
    """

    def __init__(self, now: float) -> None:
        self.charged = 0.0
        self._paid = 0.0
        self._at = now
        self._limit: float | None = None

    @property
    def limit(self) -> float | None:
        return self._limit

    def change(self, limit: float | None, now: float) -> None:
        """Another limit from now on; what was charged before is paid at the new one."""
        self._pay(now)
        self._limit = limit

    def charge(self, size: float, now: float) -> float:
        """So many bytes are to move; returns the ticket to wait for."""
        self._pay(now)
        self.charged += size
        return self.charged

    def refund(self, size: float) -> None:
        """So many of the charged bytes did not move."""
        self.charged -= size

    def wait(self, ticket: float, now: float) -> float:
        """Seconds until that is paid, as things are."""
        self._pay(now)
        if self._limit is None or (left := min(ticket, self.charged) - self._paid) <= 0:
            return 0.0
        return left / self._limit if self._limit else inf

    @property
    def part(self) -> int | None:
        """Most bytes that should move at once; None for any."""
        if self._limit is None:
            return None
        return max(SMALLEST_PART, int(self._limit * PART_SECONDS))

    def _pay(self, now: float) -> None:
        passed, self._at = now - self._at, max(now, self._at)
        if self._limit is None:
            self._paid = self.charged
            return
        ahead = self.charged + self._limit * BURST_SECONDS
        self._paid = min(self._paid + self._limit * max(0.0, passed), max(ahead, self._paid))
