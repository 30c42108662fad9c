"""Jobs that begin: each is planned by one manager, under a lease, and then has its parts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tortoise.queryset import QuerySet

from hawker.apps.manager import models
from hawker.apps.manager.database import Database, transaction
from hawker.apps.manager.jobs.contents import Content
from hawker.apps.manager.jobs.failures import pause, told
from hawker.apps.manager.jobs.leases import LEASE
from hawker.apps.manager.jobs.planning import Planner
from hawker.apps.manager.jobs.tables import Job, JobPart
from hawker.core.errors import HawkerError

log = logging.getLogger(__name__)

AT_ONCE = 16


@dataclass
class _Planned:
    """How the planning of a job ended: its contents and hosts, or why there are none."""

    job: Job
    contents: list[Content] = field(default_factory=list)
    hosts: list[models.Member] = field(default_factory=list)
    failure: HawkerError | None = None


class Plans:
    """Those that `owner` is making; `look` is called when one is to be written down."""

    def __init__(
        self, database: Database, planner: Planner, owner: str, look: Callable[[], None]
    ) -> None:
        self._database = database
        self._planner = planner
        self._owner = owner
        self._look = look
        self._making: dict[int, asyncio.Task[None]] = {}
        self._made: list[_Planned] = []

    def __bool__(self) -> bool:
        return bool(self._making)

    async def renew(self, until: float) -> None:
        """Keep the leases."""
        if self._making:
            await self._ours().filter(id__in=list(self._making)).update(leased_until=until)

    async def let_go(self) -> None:
        """Stop what is not ours any more: it was cancelled, or another took it."""
        if self._making:
            still = set(await self._ours().values_list("id", flat=True))
            for id_ in self._making.keys() - still:
                self._making[id_].cancel()

    async def begin(self, group: asyncio.TaskGroup) -> None:
        """Take jobs that are nobody's."""
        now = time.time()
        waiting = Job.filter(state="pending", leased_until__lte=now, after__lte=now)
        for job in await waiting.order_by("id").limit(AT_ONCE):
            taken = await Job.filter(
                id=job.id, state="pending", leased_until=job.leased_until
            ).update(owner=self._owner, leased_until=now + LEASE, attempts=job.attempts + 1)
            if taken:
                job.attempts += 1
                self._making[job.id] = group.create_task(self._make(job))

    async def _make(self, job: Job) -> None:
        planned = _Planned(job)
        try:
            async with self._database.failures():
                planned.contents, planned.hosts = await self._planner.plan(job)
        except HawkerError as exc:
            planned.failure = exc
        except Exception as exc:
            log.exception("job %d cannot be planned", job.id)
            planned.failure = HawkerError(f"{type(exc).__name__}: {exc}")
        finally:
            del self._making[job.id]
        self._made.append(planned)
        self._look()

    async def write(self) -> None:
        """Write down those that are made."""
        while self._made:
            async with transaction():
                await self._write(self._made[0])
            self._made.pop(0)

    async def _write(self, planned: _Planned) -> None:
        job, failure, now = planned.job, planned.failure, time.time()
        mine = self._ours().filter(id=job.id)
        if failure is not None:
            values = {"problem": told(failure), "owner": "", "leased_until": 0.0}
            wait = pause(failure, job.attempts)
            if wait is not None:
                await mine.update(**values, after=now + wait)
            else:
                await mine.update(**values, state="failed", ended=now)
            return
        begun = {"state": "running", "begun": now, "problem": "", "owner": "", "leased_until": 0.0}
        if await mine.update(**begun):
            # Content by content: hosts that want the same at the same time get it of each other.
            await JobPart.bulk_create(
                [
                    _part(job, number, content, host)
                    for number, content in enumerate(planned.contents)
                    for host in planned.hosts
                ],
                batch_size=500,
            )

    def _ours(self) -> QuerySet[Job]:
        return Job.filter(owner=self._owner, state="pending")


def _part(job: Job, number: int, content: Content, host: models.Member) -> JobPart:
    return JobPart(
        job_id=job.id,
        number=number,
        url=content.url,
        name=content.name,
        private=content.private,
        cluster=host.cluster_id,
        host=host.host,
        hostname=host.hostname,
        address=host.addresses[0] if host.addresses else "",
        state="pending",
        total=content.size,
    )
