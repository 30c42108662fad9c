"""A job broker in memory, for tests alone: nothing of it is shared between processes."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import defaultdict, deque
from collections.abc import Sequence

from hawker.core.contracts import JobMessage
from hawker.core.errors import Unavailable


class MemoryServer:
    """What clients have in common.

    Attributes:
        down: nobody is answered.
        chance: where there is one, a third of what is put is lost, a third comes twice, and the
            order is any.
    """

    def __init__(self) -> None:
        self.down = False
        self.chance: random.Random | None = None
        self.waiting: dict[str, deque[str]] = defaultdict(deque)
        self.given: dict[str, dict[str, tuple[float, str]]] = defaultdict(dict)
        self.receipts = itertools.count()

    def lose(self) -> None:
        """Everything."""
        self.waiting.clear()
        self.given.clear()

    def put(self, queue: str, bodies: Sequence[str]) -> None:
        for body in bodies:
            fate = self.chance.randrange(3) if self.chance else 0
            for _ in range((1, 2, 0)[fate]):
                line = self.waiting[queue]
                line.insert(
                    self.chance.randrange(len(line) + 1) if self.chance else len(line), body
                )

    def take(self, queue: str, most: int, redelivery: float) -> list[JobMessage]:
        now = time.monotonic()
        found: list[JobMessage] = []
        for receipt, (until, body) in list(self.given[queue].items()):
            if until <= now:
                del self.given[queue][receipt]
                self.waiting[queue].append(body)
        while self.waiting[queue] and len(found) < most:
            body, receipt = self.waiting[queue].popleft(), str(next(self.receipts))
            self.given[queue][receipt] = (now + redelivery, body)
            found.append(JobMessage(body, receipt))
        return found


class MemoryBroker:
    """One client of a server."""

    def __init__(self, server: MemoryServer, *, redelivery: float = 1.0) -> None:
        self.redelivery = redelivery
        self._server = server

    def _ask(self) -> MemoryServer:
        if self._server.down:
            raise Unavailable("the job broker in memory is away")
        return self._server

    async def put(self, queue: str, bodies: Sequence[str]) -> None:
        self._ask().put(queue, bodies)

    async def take(self, queue: str, most: int, wait: float) -> Sequence[JobMessage]:
        until = time.monotonic() + wait
        while True:
            found = self._ask().take(queue, most, self.redelivery)
            if found or time.monotonic() >= until:
                return found
            await asyncio.sleep(0.01)

    async def acknowledge(self, queue: str, messages: Sequence[JobMessage]) -> None:
        for message in messages:
            self._ask().given[queue].pop(message.receipt, None)

    async def close(self) -> None:
        return
