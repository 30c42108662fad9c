"""Wake-ups are not lost between a look and a wait."""

from __future__ import annotations

import asyncio
import time

from hawker.core.signal import Signal


def test_what_fires_after_the_look_ends_the_wait_at_once() -> None:
    async def main() -> float:
        signal = Signal()
        seen = signal.seen
        signal.fire()
        began = time.monotonic()
        await signal.wait(5, seen)
        return time.monotonic() - began

    assert asyncio.run(main()) < 1


def test_what_fired_before_the_look_does_not() -> None:
    async def main() -> float:
        signal = Signal()
        signal.fire()
        began = time.monotonic()
        await signal.wait(0.1, signal.seen)
        return time.monotonic() - began

    assert asyncio.run(main()) >= 0.1


def test_one_fire_wakes_all_and_one_that_was_cancelled_harms_none() -> None:
    async def main() -> None:
        signal = Signal()
        waits = [asyncio.ensure_future(signal.wait(60)) for _ in range(3)]
        await asyncio.sleep(0)
        waits[1].cancel()
        signal.fire()
        signal.fire()
        async with asyncio.timeout(5):
            ended = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(end) for end in ended] == [type(None), asyncio.CancelledError, type(None)]
        # Nothing is left of them: neither a waiter nor a timer that ends another's wait.
        began = time.monotonic()
        await signal.wait(0.1)
        assert time.monotonic() - began >= 0.1

    asyncio.run(main())
