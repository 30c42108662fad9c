"""Waking coroutines of one loop: something changed, look again."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits now. Whoever looks first and then waits misses nothing, as long as
    there is no `await` in between; where there is, `seen` is taken before and handed to `wait`.

    It is waited for hundreds of times a second: a timer that ends the wait like `fire` does costs a
    fraction of a timeout that cancels it.
    """

    def __init__(self) -> None:
        self._fired = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def fire(self) -> None:
        self._fired += 1
        for waiter in self._waiters:
            _end(waiter)

    @property
    def seen(self) -> int:
        """How often it fired so far."""
        return self._fired

    async def wait(self, timeout: float, since: int | None = None) -> None:
        """Return at the next `fire`, the first one after `since` was seen, or after `timeout`
        seconds."""
        if since is not None and since != self._fired:
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(timeout, _end, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
