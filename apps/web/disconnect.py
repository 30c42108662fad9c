"""Ending work whose client has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_disconnected(receive: Any, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; cancel it as soon as the client disconnects. Raises whatever `work` raises."""
    failures: list[Exception] = []

    async def guarded() -> None:
        try:
            await work
        except Exception as exc:
            failures.append(exc)

    async def watch(working: asyncio.Task[None]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        working.cancel()

    async with asyncio.TaskGroup() as group:
        working = group.create_task(guarded())
        watching = group.create_task(watch(working))
        working.add_done_callback(lambda _: watching.cancel())
    if failures:
        raise failures[0]
