"""Which parts of jobs may be begun, and whose they become.

A part is a manager's for as long as its lease lasts. A pending part that has a lease was put into
the broker's queue: nobody but who takes it from there begins it, until that lease is over, or the
queue was recalled. Both kinds count as under way, so that a job, and a cluster, has no more of
them than it may, whoever works on them. What nobody took in its time may be lost: it is begun by
whoever has room, and not put again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from typing import Any

from tortoise.expressions import Q
from tortoise.functions import Count

from hawker.apps.manager import changes
from hawker.apps.manager.database import transaction
from hawker.apps.manager.jobs.contents import wish_of
from hawker.apps.manager.jobs.tables import Job, JobPart
from hawker.apps.manager.jobs.wire import OPEN

LEASE = 10.0
QUEUE = "queue"
"""The owner of parts that were put into the queue."""
LOST = "lost"
"""The owner of those that nobody took from there in time."""
QUEUED = 60.0
"""What is not taken from the queue in so many seconds may be lost."""
MOST_QUEUED = 512


async def claim(owner: str, limit: int, room: int) -> list[JobPart]:
    """Parts that become `owner`'s, without a queue: `room` at most, and no more of a cluster than
    have `limit` of it under way. What is in the queue is called back, so that what comes from there
    later is nobody's."""
    now = time.time()
    free = Q(state="pending", after__lte=now) | Q(state="running", leased_until__lte=now)
    return await _claim(free, owner, limit, room, now, recalling=True)


async def claim_lost(owner: str, limit: int, room: int) -> list[JobPart]:
    """The same of what nobody has taken from the queue in time."""
    now = time.time()
    late = Q(state="pending", owner=QUEUE, leased_until__lte=now)
    lost = Q(state="pending", owner=LOST)
    if room <= 0 or not await _is_any(late | lost):
        return []
    # Whoever takes one at this very moment has it, or it is lost: never both.
    await JobPart.filter(late).update(owner=LOST, leased_until=0.0)
    return await _claim(lost, owner, limit, room, now, recalling=False)


async def _claim(
    free: Q, owner: str, limit: int, room: int, now: float, *, recalling: bool
) -> list[JobPart]:
    if room <= 0 or not await _is_any(free):
        return []
    async with transaction():
        # One manager at a time counts what is under way.
        await changes.lock(changes.JOBS)
        if recalling:
            await _recall()
        parts = await _choose(free, limit, room, now)
        await _ids(parts).update(
            state="running", owner=owner, leased_until=now + LEASE, updated=now
        )
    return parts


async def enqueue(limit: int, seconds: float) -> list[int]:
    """Parts that may be begun, by their ids: they are to be put into the queue now, and are
    reserved for who takes them from there within `seconds`."""
    now = time.time()
    free = Q(state="pending", owner="", after__lte=now)
    free |= Q(state="running", leased_until__lte=now)
    if not await _is_any(free):
        return []
    async with transaction():
        await changes.lock(changes.JOBS)
        waiting = await JobPart.filter(_queued(now)).count()
        parts = await _choose(free, limit, MOST_QUEUED - waiting, now)
        await _ids(parts).update(
            state="pending", owner=QUEUE, leased_until=now + seconds, updated=now
        )
    return [part.id for part in parts]


async def accept(owner: str, ids: Collection[int]) -> list[JobPart]:
    """Those of the parts that came from the queue that become `owner`'s: the others have been
    begun, called back, or have waited too long."""
    now = time.time()
    there = JobPart.filter(_queued(now), id__in=list(ids)).order_by("id").select_related("job")
    return [
        part
        for part in await there
        if await JobPart.filter(_queued(now), id=part.id, leased_until=part.leased_until).update(
            state="running", owner=owner, leased_until=now + LEASE, updated=now
        )
    ]


async def recall() -> None:
    """Nothing is in the queue any more: what was put there may be lost."""
    async with transaction():
        await changes.lock(changes.JOBS)
        await _recall()


async def _recall() -> None:
    queued = JobPart.filter(state="pending", owner__in=(QUEUE, LOST))
    await queued.update(owner="", leased_until=0.0)


async def _is_any(free: Q) -> bool:
    return await JobPart.filter(free, job__state="running").exists()


async def _choose(free: Q, limit: int, room: int, now: float) -> list[JobPart]:
    """Free parts, with their jobs, as far as there is room."""
    clusters = await _under_way("cluster", now)
    jobs = await _under_way("job_id", now)
    chosen: list[JobPart] = []
    ids: Any = (
        await JobPart.filter(free, job__state="running").distinct().values_list("job_id", flat=True)
    )
    for id_ in sorted(ids):
        most = wish_of(await Job.get(id=id_)).at_once - jobs[id_]
        most = min(most, room - len(chosen))
        if most <= 0:
            continue
        full = [name for name, many in clusters.items() if many >= limit]
        rows = JobPart.filter(free, job_id=id_).exclude(cluster__in=full).order_by("id")
        for part in await rows.limit(most).select_related("job"):
            if clusters[part.cluster] >= limit:
                continue
            clusters[part.cluster] += 1
            chosen.append(part)
    return chosen


def _ids(parts: Collection[JobPart]) -> Any:
    return JobPart.filter(id__in=[part.id for part in parts])


def _queued(now: float) -> Q:
    return Q(state="pending", owner=QUEUE, leased_until__gt=now)


async def _under_way(column: str, now: float) -> Counter[str]:
    """How many parts are being worked on, or wait in the queue, by a column's value."""
    leased = JobPart.filter(state__in=OPEN, leased_until__gt=now)
    rows = await leased.annotate(many=Count("id")).group_by(column).values(column, "many")
    return Counter({row[column]: row["many"] for row in rows})
