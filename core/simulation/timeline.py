"""Simulated time: what is to happen when, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Timeline:
    """Calls functions at their times; at equal times in the order in which they were asked for."""

    __slots__ = ("_number", "_queue", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call it at `when` seconds, now where that is past."""
        self._number += 1
        heapq.heappush(self._queue, (max(when, self.now), self._number, call, arguments))

    def run(self, until: float, done: Callable[[], bool]) -> bool:
        """Let time pass until `done`; False where it is `until`, or nothing more will happen."""
        queue, pop = self._queue, heapq.heappop
        while queue:
            if done():
                return True
            when, _, call, arguments = pop(queue)
            if when > until:
                return False
            self.now = when
            call(*arguments)
        return done()
