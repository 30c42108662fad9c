"""The availability stream: digest runs and pieces this peer has, then each new one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from hawker.core.messages import Availability, encode
from hawker.core.pieces import PieceSet
from hawker.core.storage import Entry
from hawker.core.transfer.conductor import Conductor

BEAT = 0.45
APPEAR = 5.0
TOGETHER = 0.01

Frame = tuple[str | None, bytes]


async def availability(
    conductor: Conductor, task: str, generation: str, free_slots: Callable[[], int]
) -> AsyncGenerator[Frame, None]:
    """Events until the generation is gone; a heartbeat at least each 500 ms.

    A child may hear of a generation before this host does: the stream waits a while for it.
    """
    waited = 0.0
    while (entry := await conductor.entry(task, generation, BEAT)) is None:
        waited += BEAT
        if waited > APPEAR:
            return
        yield None, encode(Availability(free=free_slots(), waiting_upstream=True))
    with entry.using():
        await entry.prepare()
        async with aclosing(_events(entry, free_slots)) as events:
            async for event in events:
                yield None, encode(event)


async def _events(
    entry: Entry, free_slots: Callable[[], int]
) -> AsyncGenerator[Availability, None]:
    said = PieceSet()
    runs = 0
    version = -1
    while not entry.gone:
        version = await entry.wait_change(version, BEAT)
        # Possession only grows; a windowed entry forgets what it delivered, so it offers nothing.
        new = PieceSet() if entry.windowed else entry.valid - said
        known = entry.runs
        total = entry.layout.total
        yield Availability(
            total=-1 if total is None else total,
            piece_length=entry.layout.piece_length,
            runs=known[runs:],
            have=new.runs(),
            free=free_slots(),
            waiting_upstream=not entry.complete and not new,
        )
        said |= new
        runs = len(known)
        # What becomes valid meanwhile goes into one event.
        await asyncio.sleep(TOGETHER)
