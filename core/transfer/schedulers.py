"""The schedulers that a host is linked to: which decides for a task, as they go and come."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from hawker.core.transfer.port import SchedulerPort

# A scheduler that is away for longer leaves its tasks to the others.
FAILOVER_SECONDS = 3.0
# Schedulers hear that they come and go when hosts do: who acted at once would be ahead of them.
SETTLE = 1.0


class Link(SchedulerPort, Protocol):
    """A scheduler this host is connected to."""

    base_url: str

    @property
    def away_seconds(self) -> float: ...

    async def run(self) -> None: ...


class Schedulers:
    """Keeps links up; `links` are those to the schedulers there are."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.links: list[Link] = []
        self._clock = clock
        self._running: dict[Link, asyncio.Task[None]] = {}
        self._settled_at = 0.0

    def follow(self, links: Sequence[Link], group: asyncio.TaskGroup) -> None:
        """These are the schedulers from now on. New ones are linked to at once, those that are
        none any more left by `part`."""
        if self._running and {*links} != {*self.links}:
            self._settled_at = self._clock() + SETTLE
        self.links = list(links)
        for link in self.links:
            if link not in self._running:
                self._running[link] = group.create_task(link.run())

    @property
    def linked(self) -> list[Link]:
        """The schedulers there are, and those that this host is about to leave."""
        return list(self._running)

    @property
    def settled(self) -> bool:
        """All who heard of the last change had time to hear of it."""
        return self._clock() >= self._settled_at

    def part(self) -> list[Link]:
        """Leave the schedulers that are none any more; returns them."""
        gone = [link for link in self._running if link not in self.links]
        for link in gone:
            self._running.pop(link).cancel()
        return gone

    def cancel(self) -> None:
        """Leave them all."""
        for task in self._running.values():
            task.cancel()

    def of(self, task: str) -> Link | None:
        """The scheduler that decides for a task, by rendezvous hashing over those that are there:
        few tasks move when one goes or comes (Thaler & Ravishankar 1998)."""
        there = [link for link in self.links if link.away_seconds < FAILOVER_SECONDS]
        return _best(there or self.links, task)

    def stands_in(self, link: Link, task: str) -> bool:
        """It would decide for the task only because another one is away."""
        return link is not _best(self.links, task)

    def other(self, port: SchedulerPort | None, link: Link) -> bool:
        """The port is another one of the schedulers."""
        return port is not link and any(port is known for known in self._running)

    async def any_connected(self, timeout: float) -> bool:
        """Whether a scheduler is there, waiting at most `timeout` seconds for the first."""
        waits = [asyncio.ensure_future(link.wait_connected(timeout)) for link in self.links]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return any(wait.result() for wait in done)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


def _best(links: Sequence[Link], task: str) -> Link | None:
    return max(
        links,
        key=lambda link: hashlib.sha256(f"{link.base_url} {task}".encode()).digest(),
        default=None,
    )
