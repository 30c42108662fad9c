"""Waking coroutines of one loop: something changed, look again."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits now; whoever looks first and then waits misses nothing, as long
    as there is no `await` in between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, timeout: float) -> None:
        """Return at the next `fire`, or after `timeout` seconds."""
        event = self._event
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return
