"""What downloading through a daemon and downloading alone have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from hawker.apps.cli.output import Output
from hawker.core.errors import NotHereYet, Unavailable
from hawker.core.messages import Progress

Show = Callable[[Progress], None]


class Saved(msgspec.Struct, frozen=True):
    """A download that is where the user wanted it.

    `seconds` are the user's, from the request to the file; `how` is the way it was brought there
    (`reflink`, `copy`, `hard link`, `move`, `stream`), `through` is `daemon` or `alone`.
    """

    task: str
    generation: str
    path: str
    bytes: int
    seconds: float
    from_origin: int
    from_seeds: int
    from_peers: int
    how: str
    through: str


def saved(step: Progress, output: Output, *, began: float, how: str, through: str) -> Saved:
    """The result of a download whose last step is `step`; `began` by the monotonic clock."""
    return Saved(
        task=step.task,
        generation=step.generation,
        path=str(output.path),
        bytes=step.valid_bytes if step.total is None else step.total,
        seconds=round(time.monotonic() - began, 3),
        from_origin=step.from_origin,
        from_seeds=step.from_seeds,
        from_peers=step.from_peers,
        how=how,
        through=through,
    )


@asynccontextmanager
async def deadline(seconds: float, url: str) -> AsyncIterator[asyncio.Timeout]:
    """Raises NotHereYet after `seconds`; the timeout can be called off for the last steps."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield limit
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise NotHereYet(
            f"{url} was not complete within {seconds:g} s",
            hint="run the same command again: it continues",
        ) from exc


async def last_step(steps: AsyncIterator[Progress], show: Show) -> Progress:
    """Show every step of a download; the last one."""
    last: Progress | None = None
    async for last in steps:
        show(last)
    if last is None or not last.done:
        raise Unavailable("the download ended without a result")
    return last
