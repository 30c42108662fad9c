"""Waking coroutines of one loop: something changed, look again."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits now. Whoever looks first and then waits misses nothing, as long as
    there is no `await` in between; where there is, `seen` is taken before and handed to `wait`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def fire(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    @property
    def seen(self) -> asyncio.Event:
        """What the next `fire` sets."""
        return self._event

    async def wait(self, timeout: float, since: asyncio.Event | None = None) -> None:
        """Return at the next `fire`, the first one after `since` was seen, or after `timeout`
        seconds."""
        event = since or self._event
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return
