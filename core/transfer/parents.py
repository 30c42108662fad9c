"""Listening to what a parent has: one availability stream per parent and generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from hawker.core.clients.live import live_events
from hawker.core.errors import HawkerError, Unavailable
from hawker.core.ids import TaskSpec
from hawker.core.messages import Availability, ParentRef, decode_availability
from hawker.core.transfer.ground import Ground

# Heartbeats come at least each 500 ms.
SILENCE = 1.5
CONNECT = 1.0
ATTEMPTS = 2
PAUSE = 0.1


async def availability(
    ground: Ground, parent: ParentRef, spec: TaskSpec, generation: str
) -> AsyncGenerator[Availability, None]:
    """What the parent says it has, until it ends.

    Raises:
        HawkerError: the parent refused, fell silent or went away, twice in a row.
    """
    attempts = 0
    while True:
        try:
            async with aclosing(_stream(ground, parent, spec, generation)) as events:
                async for event in events:
                    attempts = 0
                    yield event
            raise Unavailable(f"{parent.url} ended its availability stream")
        except HawkerError:
            attempts += 1
            if attempts >= ATTEMPTS:
                raise
        await asyncio.sleep(PAUSE)


async def _stream(
    ground: Ground, parent: ParentRef, spec: TaskSpec, generation: str
) -> AsyncGenerator[Availability, None]:
    url = f"{parent.url}/v1/tasks/{spec.task_id}/{generation}/availability"
    events = live_events(
        url,
        ground.headers(spec),
        connect=CONNECT,
        silence=SILENCE,
        tls=await ground.tls.towards(url),
    )
    async with aclosing(events):
        async for event in events:
            yield decode_availability(event.data)
