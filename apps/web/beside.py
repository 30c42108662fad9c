"""Work that goes on beside something else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any


@contextlib.asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run this work while inside, and cancel it then.

    What fails inside comes out as it is: a TaskGroup would wrap it, and nobody would know it by its
    class any more.
    """
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        try:
            yield
        except Exception as exc:
            failure = exc
        finally:
            for task in tasks:
                task.cancel()
    if failure is not None:
        raise failure
