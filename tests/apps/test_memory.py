"""Memory that many clients took goes back to the kernel when they have gone, each time."""

from __future__ import annotations

import subprocess
import sys

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
