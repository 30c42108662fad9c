"""The way to one origin: how many may read it, how fast, and when to leave it alone.

Shared by all tasks of the origin (scheme, host and port), so that a thousand tasks do not each find
out for themselves that it is overloaded or down.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from hawker.core.ids import origin_of

FIRST_BACKOFF = 0.25
LAST_BACKOFF = 10.0
# So many different tasks failing in a row are the origin's fault, not theirs.
BREAK_AFTER = 3
# Longer than this nobody is kept waiting: the failure is told, with the time to come back.
PATIENCE = 30.0


@dataclass
class Gate:
    """`limit` leases at once; `rate` bytes per second shared by them, 0 for no limit.

    `asked_until` is when the pause ends that the origin asked for: nothing but time ends it.
    """

    limit: int
    rate: int
    live: dict[str, str] = field(default_factory=dict)
    asked_until: float = 0.0
    _broken_until: float = 0.0
    _failing: set[str] = field(default_factory=set)
    _openings: int = 0

    @property
    def not_before(self) -> float:
        """No lease is granted before this."""
        return max(self.asked_until, self._broken_until)

    def wait(self, now: float, promised: int = 0) -> float | None:
        """Seconds until a lease may be granted besides those there are and so many that are
        promised; None where one must end first."""
        if len(self.live) + promised >= self._limit_now():
            return None
        return max(0.0, self.not_before - now)

    def _limit_now(self) -> int:
        # A broken circuit lets one reader try.
        return 1 if len(self._failing) >= BREAK_AFTER else self.limit

    @property
    def share(self) -> int:
        """Bytes per second for each live lease, 0 for no limit."""
        return max(1, self.rate // max(1, len(self.live))) if self.rate else 0

    def failed(self, task: str, retry_after: float | None, now: float, rng: random.Random) -> None:
        """A lease of this task failed at the origin; `retry_after` is what the origin said."""
        self._failing.add(task)
        if retry_after is not None:
            # Jitter on top, for the origin named the earliest time.
            self.asked_until = max(self.asked_until, now + retry_after + rng.uniform(0, 0.2))
        elif len(self._failing) >= BREAK_AFTER:
            backoff = min(LAST_BACKOFF, FIRST_BACKOFF * 2**self._openings)
            self._openings = min(self._openings + 1, 16)
            self._broken_until = max(self._broken_until, now + backoff * rng.uniform(0.5, 1.0))

    def answered(self) -> None:
        """The origin works: nothing but what it asked for itself stands in the way."""
        self._failing.clear()
        self._openings = 0
        self._broken_until = 0.0

    def forgettable(self, now: float) -> bool:
        """Nothing is remembered that matters: the gate is like a new one."""
        if self.live:
            return False
        fresh = not self._failing and not self.not_before
        return fresh or now > self.not_before + PATIENCE


class Gates:
    """The gate of each origin: at most `limit` leases, and `rate` bytes per second."""

    def __init__(self, limit: int, rate: int) -> None:
        self._limit, self._rate = limit, rate
        self._gates: dict[tuple[str, str | None, int | None], Gate] = {}

    def to(self, url: str) -> Gate:
        """The gate to the origin of a URL."""
        origin = origin_of(url)
        gate = self._gates.get(origin)
        if gate is None:
            gate = self._gates[origin] = Gate(self._limit, self._rate)
        return gate

    def limit(self, limit: int, rate: int) -> None:
        """Other limits, from now on."""
        self._limit, self._rate = limit, rate
        for gate in self:
            gate.limit, gate.rate = limit, rate

    def forget(self, now: float) -> None:
        """Drop gates that are like new ones."""
        for origin in [origin for origin, gate in self._gates.items() if gate.forgettable(now)]:
            del self._gates[origin]

    def __iter__(self) -> Iterator[Gate]:
        return iter(self._gates.values())
