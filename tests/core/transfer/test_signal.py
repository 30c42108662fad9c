"""Wake-ups are not lost between a look and a wait."""

from __future__ import annotations

import asyncio
import time

from hawker.core.transfer.signal import Signal


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
