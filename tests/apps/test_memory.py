"""Memory that many clients took goes back to the kernel when they have gone, each time; and the
search for garbage that takes long is seldom."""

from __future__ import annotations

import subprocess
import sys

from hawker.apps.memory import COLLECT_AFTER, LONG, NEVER, OFTEN, SHARE, Seldom

SCRIPT = """
import asyncio
from hawker.apps import memory

async def main():
    memory.LOOK = 0.1
    memory.keep_freed_memory()
    async with memory.giving_back():
        before = memory.resident()
        # The second time it is taken and freed between two looks.
        for pause in (0.5, 0.0):
            taken = [b"x" * 2**20 for _ in range(300)]
            # What lies above the others keeps the heap from shrinking by itself.
            last = taken[-1]
            await asyncio.sleep(pause)
            assert memory.resident() > before + 250 * 2**20
            taken.clear()
            async with asyncio.timeout(10):
                while memory.resident() > before + memory.FREED:
                    await asyncio.sleep(0.05)
            # All of it, before more is taken.
            await asyncio.sleep(0.3)

asyncio.run(main())
"""


def test_what_is_freed_is_given_back() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)


def test_a_search_that_takes_long_is_put_off() -> None:
    now = 100.0
    thresholds: list[tuple[int, int, int]] = []

    def search(generation: int, seconds: float) -> list[int]:
        """The thresholds of full searches that were set by one search."""
        nonlocal now
        before = len(thresholds)
        seldom("start", {"generation": generation})
        now += seconds
        seldom("stop", {"generation": generation})
        return [full for _, _, full in thresholds[before:]]

    seldom = Seldom(lambda *given: thresholds.append(given), lambda: now)
    assert search(2, LONG / 2) == [] and search(1, LONG * 2) == []
    assert search(2, 1.0) == [NEVER]
    now += 1 / SHARE - 1
    assert search(1, 0.1) == [] and search(0, 0.1) == []
    now += 1
    assert search(0, 0.1) == [OFTEN] and search(0, 0.1) == []
    assert {(young, middle) for young, middle, _ in thresholds} == {(COLLECT_AFTER, 10)}
