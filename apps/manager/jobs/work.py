"""One part of a job, done on its host."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hawker.apps.manager.jobs.contents import Secrets, request_for
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.jobs.tables import JobPart
from hawker.apps.manager.jobs.wire import NewJob
from hawker.core.errors import NotHereYet, Unavailable

SILENCE = 30.0
"""A host at work says so each second."""
GRACE = 30.0
"""More than the host's own deadline."""


@dataclass
class Figures:
    """How far a part is."""

    bytes: int = 0
    total: int | None = None


async def preheat(
    members: Members, part: JobPart, wanted: NewJob, tenant: str, secrets: Secrets, done: Figures
) -> None:
    """Have a host store a content; raises HawkerError where it does not."""
    request = request_for(wanted, part.url, secrets if part.private else Secrets())
    client = await members.client(
        part.cluster, part.host, tenant, ["downloads"], secrets=part.private
    )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wanted.timeout + GRACE
    try:
        async with asyncio.timeout(SILENCE) as silence, client, client.download(request) as steps:
            async for step in steps:
                done.bytes, done.total = step.valid_bytes, step.total
                silence.reschedule(min(deadline, loop.time() + SILENCE))
    except TimeoutError as exc:
        if loop.time() >= deadline:
            raise NotHereYet(f"{part.url} was not there after {wanted.timeout:g} s") from exc
        raise Unavailable(f"{part.hostname} said nothing for {SILENCE:g} s") from exc
