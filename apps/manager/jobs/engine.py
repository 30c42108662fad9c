"""Jobs at work: who does which part, and that each is done though managers die.

All managers of a database look twice a second for what there is to do. A part is somebody's under
a lease, which is renewed while it is worked on; what is done, and what is to be tried again, is
written only by whoever has the lease. A part whose lease ran out is another's: hosts store a
content once, however often they are asked, and go on where they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from tortoise.expressions import Q
from tortoise.functions import Count
from tortoise.queryset import QuerySet

from hawker.apps.manager import changes, models
from hawker.apps.manager.database import Database, transaction
from hawker.apps.manager.jobs import work
from hawker.apps.manager.jobs.contents import Content, opened, wish_of
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.jobs.planning import Planner
from hawker.apps.manager.jobs.tables import Job, JobPart, tenant_of
from hawker.apps.manager.jobs.wire import OPEN, State
from hawker.apps.manager.jobs.work import Figures
from hawker.apps.manager.secret import Seal
from hawker.core.errors import (
    Busy,
    GenerationGone,
    HawkerError,
    OriginChanged,
    OriginFailed,
    StorageFailed,
    Unavailable,
)

log = logging.getLogger(__name__)

LOOK = 0.5
LEASE = 10.0
RENEW = 2.0
GATHER = 0.05
"""What ends within so many seconds is written down together."""
ATTEMPTS = 4
PAUSE = 2.0
"""Before the second attempt; before each later one twice as long."""
AT_ONCE = 128
"""Parts that one process works on."""
MAX_PROBLEM = 4096
PASSING = (Unavailable, OriginFailed, OriginChanged, Busy, GenerationGone)
"""What may be otherwise in a moment; but not a disk that cannot be used."""


@dataclass(eq=False)
class _Held:
    """A part that this process has the lease of."""

    part: JobPart
    figures: Figures = field(default_factory=Figures)
    told: Figures = field(default_factory=Figures)
    task: asyncio.Task[None] | None = None


@dataclass
class _Planned:
    """How the planning of a job ended: its contents and hosts, or why there are none."""

    job: Job
    contents: list[Content] = field(default_factory=list)
    hosts: list[models.Member] = field(default_factory=list)
    failure: HawkerError | None = None


class Engine:
    """`run` works until it is cancelled; `limit` is how many parts of one cluster are under way at
    a time, whoever works on them."""

    def __init__(self, database: Database, planner: Planner, seal: Seal, limit: int) -> None:
        self.parts_ended: Counter[str] = Counter()
        self._database = database
        self._planner = planner
        self._seal = seal
        self._members = Members(seal)
        self._limit = limit
        self._owner = models.new_id()
        self._held: dict[int, _Held] = {}
        self._planning: dict[int, asyncio.Task[None]] = {}
        self._planned: list[_Planned] = []
        self._ended: list[tuple[_Held, HawkerError | None]] = []
        self._wake = asyncio.Event()
        self._renewed = 0.0

    def look(self) -> None:
        """There is something new to do."""
        self._wake.set()

    async def release(self) -> None:
        """Leave what is not done to others; after the end of `run`."""
        with self._database.active():
            async with self._database.failures():
                for table in (Job, JobPart):
                    await table.filter(owner=self._owner).update(leased_until=0.0)

    async def run(self) -> None:
        failed = ""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                try:
                    with self._database.active():
                        async with self._database.failures():
                            await self._step(group)
                    failed = ""
                except Exception as exc:
                    if str(exc) != failed:
                        failed = str(exc)
                        fault = None if isinstance(exc, HawkerError) else exc
                        log.error("jobs stand still: %s", exc, exc_info=fault)
                    await asyncio.sleep(LOOK)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK):
                        await self._wake.wait()
                        await asyncio.sleep(GATHER)

    async def _step(self, group: asyncio.TaskGroup) -> None:
        await self._write_ends()
        await self._write_plans()
        jobs = await Job.filter(state__in=OPEN).order_by("id").values_list("id", "state")
        if not jobs and not self._held and not self._planning:
            return
        await self._renew()
        await self._let_go()
        await self._plan(group)
        running = [id_ for id_, state in jobs if state == "running"]
        if running:
            await self._claim(group)
            await self._finish(running)

    # ------------------------------------------------------------------ leases

    async def _renew(self) -> None:
        now = time.monotonic()
        if now - self._renewed < RENEW:
            return
        self._renewed = now
        until = time.time() + LEASE
        if self._planning:
            await Job.filter(owner=self._owner, state="pending").update(leased_until=until)
        if not self._held:
            return
        async with transaction():
            await JobPart.filter(owner=self._owner, state="running").update(leased_until=until)
            for held in self._held.values():
                if held.figures == held.told:
                    continue
                held.told = Figures(held.figures.bytes, held.figures.total)
                await self._mine(held).update(
                    bytes=held.told.bytes, total=held.told.total, updated=time.time()
                )

    def _mine(self, held: _Held) -> QuerySet[JobPart]:
        return JobPart.filter(id=held.part.id, owner=self._owner, state="running")

    async def _let_go(self) -> None:
        """Stop what is not ours any more: it was cancelled, or another took it."""
        if self._held:
            ours = JobPart.filter(owner=self._owner, state="running")
            still = set(await ours.values_list("id", flat=True))
            for id_ in self._held.keys() - still:
                task = self._held[id_].task
                if task is not None:
                    task.cancel()
        if self._planning:
            ours_too = Job.filter(owner=self._owner, state="pending")
            planned = set(await ours_too.values_list("id", flat=True))
            for id_ in self._planning.keys() - planned:
                self._planning[id_].cancel()

    # ------------------------------------------------------------------ planning

    async def _plan(self, group: asyncio.TaskGroup) -> None:
        now = time.time()
        waiting = Job.filter(state="pending", leased_until__lte=now, after__lte=now)
        for job in await waiting.order_by("id").limit(16):
            taken = await Job.filter(
                id=job.id, state="pending", leased_until=job.leased_until
            ).update(owner=self._owner, leased_until=now + LEASE, attempts=job.attempts + 1)
            if taken:
                job.attempts += 1
                self._planning[job.id] = group.create_task(self._plan_one(job))

    async def _plan_one(self, job: Job) -> None:
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
            del self._planning[job.id]
        self._planned.append(planned)
        self.look()

    async def _write_plans(self) -> None:
        while self._planned:
            planned = self._planned[0]
            async with transaction():
                await self._write_plan(planned)
            self._planned.pop(0)

    async def _write_plan(self, planned: _Planned) -> None:
        job, failure, now = planned.job, planned.failure, time.time()
        mine = Job.filter(id=job.id, owner=self._owner, state="pending")
        if failure is not None:
            values = {"problem": _told(failure), "owner": "", "leased_until": 0.0}
            if _may_pass(failure) and job.attempts < ATTEMPTS:
                await mine.update(**values, after=now + PAUSE * 2 ** (job.attempts - 1))
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

    # ------------------------------------------------------------------ parts

    async def _claim(self, group: asyncio.TaskGroup) -> None:
        """Take parts that are nobody's, as far as there is room."""
        room = AT_ONCE - len(self._held)
        now = time.time()
        free = Q(state="pending", after__lte=now) | Q(state="running", leased_until__lte=now)
        if room <= 0 or not await JobPart.filter(free, job__state="running").exists():
            return
        async with transaction():
            # One manager at a time counts what is under way.
            await changes.lock(changes.JOBS)
            taken = await self._take(free, room, now)
        for held in taken:
            self._held[held.part.id] = held
            held.task = group.create_task(self._work(held))

    async def _take(self, free: Q, room: int, now: float) -> list[_Held]:
        clusters = await _under_way("cluster", now)
        jobs = await _under_way("job_id", now)
        taken: list[_Held] = []
        ids: Any = (
            await JobPart.filter(free, job__state="running")
            .distinct()
            .values_list("job_id", flat=True)
        )
        for id_ in sorted(ids):
            most = wish_of(await Job.get(id=id_)).at_once - jobs[id_]
            most = min(most, room - len(taken))
            if most <= 0:
                continue
            full = [name for name, many in clusters.items() if many >= self._limit]
            rows = JobPart.filter(free, job_id=id_).exclude(cluster__in=full).order_by("id")
            for part in await rows.limit(most).select_related("job"):
                if clusters[part.cluster] >= self._limit:
                    continue
                clusters[part.cluster] += 1
                taken.append(_Held(part, Figures(part.bytes, part.total)))
        await JobPart.filter(id__in=[held.part.id for held in taken]).update(
            state="running", owner=self._owner, leased_until=now + LEASE, updated=now
        )
        return taken

    async def _work(self, held: _Held) -> None:
        part, failure = held.part, None
        try:
            async with self._database.failures():
                job = part.job
                tenant = await tenant_of(job)
                secrets = opened(job, self._seal)
            wanted = wish_of(job)
            await work.do(self._members, part, wanted, tenant, secrets, held.figures)
        except HawkerError as exc:
            failure = exc
        except Exception as exc:
            log.exception("part %d of job %d failed", part.id, part.job_id)
            failure = HawkerError(f"{type(exc).__name__}: {exc}")
        except asyncio.CancelledError:
            self._held.pop(part.id, None)
            raise
        self._ended.append((held, failure))
        self.look()

    async def _write_ends(self) -> None:
        if not self._ended:
            return
        ended = list(self._ended)
        async with transaction():
            outcomes = [await self._write_end(held, failure) for held, failure in ended]
        del self._ended[: len(ended)]
        for (held, _), outcome in zip(ended, outcomes, strict=True):
            self._held.pop(held.part.id, None)
            if outcome:
                self.parts_ended[outcome] += 1

    async def _write_end(self, held: _Held, failure: HawkerError | None) -> str:
        """How a part ended; empty where it was another's by then, or is tried again."""
        now, attempts = time.time(), held.part.attempts + 1
        state: State = "succeeded" if failure is None else "failed"
        after = 0.0
        if failure is not None and _may_pass(failure) and attempts < ATTEMPTS:
            state, after = "pending", now + PAUSE * 2 ** (attempts - 1)
        written = await self._mine(held).update(
            state=state,
            bytes=held.figures.bytes,
            total=held.figures.total,
            attempts=attempts,
            problem="" if failure is None else _told(failure),
            after=after,
            owner="",
            leased_until=0.0,
            updated=now,
        )
        return state if written and state != "pending" else ""

    async def _finish(self, running: list[int]) -> None:
        """End the jobs of which nothing is left to do."""
        left = JobPart.filter(job_id__in=running, state__in=OPEN)
        busy: Any = set(await left.distinct().values_list("job_id", flat=True))
        for id_ in running:
            if id_ in busy:
                continue
            failed = await JobPart.filter(job_id=id_, state="failed").exists()
            state: Literal["failed", "succeeded"] = "failed" if failed else "succeeded"
            await Job.filter(id=id_, state="running").update(state=state, ended=time.time())


def _told(failure: HawkerError) -> str:
    """As a database takes it: others may have said it."""
    return str(failure).replace("\0", "\N{REPLACEMENT CHARACTER}")[:MAX_PROBLEM]


def _may_pass(failure: HawkerError) -> bool:
    return isinstance(failure, PASSING) and not isinstance(failure, StorageFailed)


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


async def _under_way(column: str, now: float) -> Counter[str]:
    """How many parts are being worked on, by a column's value."""
    working = JobPart.filter(state="running", leased_until__gt=now)
    rows = await working.annotate(many=Count("id")).group_by(column).values(column, "many")
    return Counter({row[column]: row["many"] for row in rows})
