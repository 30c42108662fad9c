"""One part of a job, done on its host."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hawker.apps.manager.jobs.contents import Secrets, request_for, tasks_of
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.jobs.tables import JobPart
from hawker.apps.manager.jobs.wire import PLACING, NewJob
from hawker.core.clients.daemon import DaemonClient
from hawker.core.errors import Conflict, NotFound, NotHereYet, Unavailable

SILENCE = 30.0
"""A host at work says so each second."""
MAX_BYTES = 2**63 - 1
GRACE = 30.0
"""More than the host's own deadline."""


@dataclass
class Figures:
    """How far a part is."""

    bytes: int = 0
    total: int | None = None

    def set(self, bytes_: int, total: int | None) -> None:
        """As a host says, which may say anything."""
        self.bytes = min(bytes_, MAX_BYTES)
        self.total = None if total is None else min(total, MAX_BYTES)


async def do(
    members: Members, part: JobPart, wanted: NewJob, tenant: str, secrets: Secrets, done: Figures
) -> None:
    """Do a part; raises HawkerError where that fails."""
    verbs = {"delete": ["tasks", "tasks:delete"], "collect": ["tasks", "tasks:delete"]}
    placing = wanted.kind in PLACING
    client = await members.client(
        part.cluster,
        part.host,
        tenant,
        ["downloads"] if placing else verbs.get(wanted.kind, ["tasks"]),
        secrets=part.private and placing,
    )
    async with client:
        if placing:
            await _place(client, part, wanted, secrets, done)
        elif wanted.kind == "collect":
            await _collect(client, wanted, done)
        elif wanted.kind == "refresh":
            await _refresh(client, part)
        else:
            delete = wanted.kind == "delete"
            await _look(client, tasks_of(wanted, part.url, tenant), done, delete=delete)


async def _place(
    client: DaemonClient, part: JobPart, wanted: NewJob, secrets: Secrets, done: Figures
) -> None:
    """Have a host store a content."""
    request = request_for(wanted, part.url, secrets if part.private else Secrets())
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wanted.timeout + GRACE
    try:
        async with asyncio.timeout(SILENCE) as silence, client.download(request) as steps:
            async for step in steps:
                done.set(step.valid_bytes, step.total)
                silence.reschedule(min(deadline, loop.time() + SILENCE))
    except TimeoutError as exc:
        if loop.time() >= deadline:
            raise NotHereYet(f"{part.url} was not there after {wanted.timeout:g} s") from exc
        raise Unavailable(f"{part.hostname} said nothing for {SILENCE:g} s") from exc


async def _look(client: DaemonClient, tasks: Sequence[str], done: Figures, *, delete: bool) -> None:
    """How much a host has of a content, which is deleted where that is wanted."""
    done.set(0, None)
    for task in tasks:
        with contextlib.suppress(NotFound):
            found = await client.stat(task)
            if delete:
                await client.remove(task)
            done.set(done.bytes + found.valid_bytes, found.total)


async def _collect(client: DaemonClient, wanted: NewJob, done: Figures) -> None:
    """Drop what was used longest ago, as far as it is not in use; `done` is what was dropped."""
    stats = sorted(await client.tasks(), key=lambda stat: stat.used)
    left = sum(stat.valid_bytes for stat in stats)
    since = time.time() - wanted.unused if wanted.unused is not None else 0.0
    dropped = 0
    for stat in stats:
        over = wanted.keep is not None and left > wanted.keep
        if stat.in_use or not (over or stat.used < since):
            continue
        with contextlib.suppress(NotFound):
            await client.remove(stat.task)
        left -= stat.valid_bytes
        dropped += stat.valid_bytes
        done.set(dropped, dropped)


async def _refresh(client: DaemonClient, part: JobPart) -> None:
    if (found := await client.host()) != part.host:
        raise Conflict(f"another host answers at {client.endpoint}: {found}")
