"""Listening to what a parent has: one availability stream per parent and generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import httpx

from hawker.core.clients.events import sse
from hawker.core.clients.http import raise_for_problem
from hawker.core.errors import HawkerError, Unavailable
from hawker.core.messages import Availability, ParentRef, decode_availability
from hawker.core.transfer.ground import Ground

# Heartbeats come at least each 500 ms.
SILENCE = 1.5
CONNECT = 1.0
ATTEMPTS = 2
PAUSE = 0.1


async def availability(
    ground: Ground, parent: ParentRef, task: str, generation: str
) -> AsyncGenerator[Availability, None]:
    """What the parent says it has, until it ends.

    Raises:
        HawkerError: the parent refused, fell silent or went away, twice in a row.
    """
    attempts = 0
    while True:
        try:
            async for event in _stream(ground, parent, task, generation):
                attempts = 0
                yield event
            raise Unavailable(f"{parent.url} ended its availability stream")
        except (HawkerError, httpx.HTTPError) as exc:
            attempts += 1
            if attempts >= ATTEMPTS:
                if isinstance(exc, HawkerError):
                    raise
                reason = str(exc) or type(exc).__name__
                raise Unavailable(f"{parent.url} cannot be heard: {reason}") from exc
        await asyncio.sleep(PAUSE)


async def _stream(
    ground: Ground, parent: ParentRef, task: str, generation: str
) -> AsyncGenerator[Availability, None]:
    url = f"{parent.url}/v1/tasks/{task}/{generation}/availability"
    timeout = httpx.Timeout(CONNECT, read=SILENCE)
    async with ground.client.stream(
        "GET", url, headers=ground.headers(task), timeout=timeout
    ) as response:
        await raise_for_problem(response)
        async for event in sse(response):
            yield decode_availability(event.data)
