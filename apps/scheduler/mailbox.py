"""Decisions waiting for one host: the newest record of each kind, task and lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable

from hawker.apps.web.events import PING, Frame
from hawker.core.messages import AnyDecision, Read, encode

PING_EVERY = 10.0


class Mailbox:
    """A host's decisions until its stream takes them. Records replace older ones of their task or
    lease, so a slow host costs no more memory than it has of these."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str, str], AnyDecision] = {}
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, decisions: Iterable[AnyDecision]) -> None:
        for decision in decisions:
            # That one lease is over must not hide that another was granted.
            lease = decision.lease if isinstance(decision, Read) else ""
            key = (decision.task, type(decision).__name__, lease)
            self._waiting.pop(key, None)
            self._waiting[key] = decision
        if self._waiting:
            self._filled.set()

    def close(self) -> None:
        """End the stream that reads this mailbox."""
        self._closed = True
        self._filled.set()

    def take(self) -> list[AnyDecision]:
        taken = list(self._waiting.values())
        self._waiting.clear()
        if not self._closed:
            self._filled.clear()
        return taken

    async def wait(self, timeout: float) -> None:
        """Until something is here or the mailbox is closed, at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._filled.wait()
        except TimeoutError:
            return

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Decisions as they come, until the mailbox is closed."""
        while not self._closed:
            await self.wait(PING_EVERY)
            decisions = self.take()
            if not decisions:
                yield PING
            for decision in decisions:
                yield None, encode(decision)
