"""Jobs at work: who does which part, and that each is done though managers die.

All managers of a database look twice a second for what there is to do, or take it from a broker's
queue, and look less often. A part is somebody's under a lease, which is renewed while it is worked
on; what is done, and what is to be tried again, is written only by whoever has the lease. A part
whose lease ran out is another's: hosts store a content once, however often they are asked, and go
on where they were.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tortoise.queryset import QuerySet

from hawker.apps.manager import models
from hawker.apps.manager.database import Database, transaction
from hawker.apps.manager.jobs import leases, work
from hawker.apps.manager.jobs.contents import opened, wish_of
from hawker.apps.manager.jobs.failures import pause, told
from hawker.apps.manager.jobs.leases import LEASE
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.jobs.planning import Planner
from hawker.apps.manager.jobs.plans import Plans
from hawker.apps.manager.jobs.queue import Queue
from hawker.apps.manager.jobs.tables import Job, JobPart, tenant_of
from hawker.apps.manager.jobs.wire import OPEN, State
from hawker.apps.manager.jobs.work import Figures
from hawker.apps.manager.secret import Seal
from hawker.core.contracts import JobMessage
from hawker.core.errors import HawkerError

log = logging.getLogger(__name__)

LOOK = 0.5
RENEW = 2.0
"""Leases are renewed so often, and the database is looked into where a broker tells the rest."""
GATHER = 0.05
"""What ends within so many seconds is written down together."""
AT_ONCE = 128
"""Parts that one process works on."""
TAKE = 4
"""Parts that are taken from a queue at a time: managers share what comes in."""


@dataclass(eq=False)
class _Held:
    """A part that this process has the lease of."""

    part: JobPart
    figures: Figures = field(default_factory=Figures)
    told: Figures = field(default_factory=Figures)
    task: asyncio.Task[None] | None = None


class Engine:
    """`run` works until it is cancelled; `limit` is how many parts of one cluster are under way at
    a time, whoever works on them; `queue` tells which parts may be begun, where there is one."""

    def __init__(
        self,
        database: Database,
        planner: Planner,
        members: Members,
        seal: Seal,
        limit: int,
        queue: Queue | None = None,
    ) -> None:
        self.queue = queue
        self.parts_ended: Counter[str] = Counter()
        self._database = database
        self._seal = seal
        self._members = members
        self._limit = limit
        self._owner = models.new_id()
        self._held: dict[int, _Held] = {}
        self._plans = Plans(database, planner, self._owner, self.look)
        self._ended: list[tuple[_Held, HawkerError | None]] = []
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._renewed = 0.0
        self._recall = False
        self._failed = ""

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
        async with asyncio.TaskGroup() as group:
            if self.queue is not None:
                group.create_task(self._receive(group, self.queue))
            while True:
                self._wake.clear()
                await self._try(lambda: self._step(group))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._wake.wait()
                        await asyncio.sleep(GATHER)

    def _pause(self) -> float:
        """Seconds until the database is looked into again: by then leases are renewed, too."""
        if self.queue is None or not self.queue.connected:
            return LOOK
        due = self._renewed + RENEW - time.monotonic()
        return due if due > 0 else RENEW

    async def _try(self, step: Callable[[], Awaitable[None]]) -> bool:
        """Whether a step with the database succeeded; what went wrong is told once."""
        try:
            with self._database.active():
                async with self._database.failures():
                    await step()
        except Exception as exc:
            if str(exc) != self._failed:
                self._failed = str(exc)
                # A database that was away for a moment is no fault of ours.
                if isinstance(exc, HawkerError):
                    log.warning("jobs stand still: %s", exc)
                else:
                    log.error("jobs stand still: %s", exc, exc_info=exc)
            await asyncio.sleep(LOOK)
            return False
        self._failed = ""
        return True

    async def _step(self, group: asyncio.TaskGroup) -> None:
        await self._write_ends()
        await self._plans.write()
        jobs = await Job.filter(state__in=OPEN).order_by("id").values_list("id", "state")
        if not jobs and not self._held and not self._plans:
            return
        await self._renew()
        await self._let_go()
        await self._plans.begin(group)
        running = [id_ for id_, state in jobs if state == "running"]
        if running:
            await self._begin(group)
            await self._finish(running)

    # ------------------------------------------------------------------ leases

    async def _renew(self) -> None:
        now = time.monotonic()
        if now - self._renewed < RENEW:
            return
        self._renewed = now
        until = time.time() + LEASE
        await self._plans.renew(until)
        if not self._held:
            return
        async with transaction():
            # Of what became ours while the database failed nobody knows here: it ends.
            ours = JobPart.filter(owner=self._owner, state="running", id__in=list(self._held))
            await ours.update(leased_until=until)
            # Some come to their end meanwhile.
            for held in list(self._held.values()):
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
        # Others may come while the database is asked.
        held = list(self._held.values())
        if held:
            ours = JobPart.filter(owner=self._owner, state="running")
            still = set(await ours.values_list("id", flat=True))
            for one in held:
                if one.part.id not in still and one.task is not None:
                    one.task.cancel()
        await self._plans.let_go()

    # ------------------------------------------------------------------ parts

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        """Have parts begun that are nobody's, by whoever takes them from the queue, or here."""
        queue = self.queue
        room = AT_ONCE - len(self._held)
        if queue is None or not queue.connected:
            self._start(group, await leases.claim(self._owner, self._limit, room))
            return
        if self._recall:
            await leases.recall()
            self._recall = False
        self._start(group, await leases.claim_lost(self._owner, self._limit, room))
        ids = await leases.enqueue(self._limit, max(leases.QUEUED, queue.lasting))
        if ids:
            await queue.put([str(id_) for id_ in ids])

    def _start(self, group: asyncio.TaskGroup, parts: Sequence[JobPart]) -> None:
        for part in parts:
            held = self._held[part.id] = _Held(part, Figures(part.bytes, part.total))
            held.task = group.create_task(self._work(held))

    async def _receive(self, group: asyncio.TaskGroup, queue: Queue) -> None:
        """Begin what comes from the queue, as far as there is room."""
        while True:
            self._room.clear()
            room = AT_ONCE - len(self._held)
            if room <= 0:
                await self._room.wait()
                continue
            came = await queue.take(min(TAKE, room), self._back)
            # What is just being left here comes again, once that is done.
            messages = [message for message in came if _number(message) not in self._held]
            accept = functools.partial(self._accept, group, queue, messages)
            if messages and await self._try(accept):
                await queue.acknowledge(messages)

    async def _accept(
        self, group: asyncio.TaskGroup, queue: Queue, messages: Sequence[JobMessage]
    ) -> None:
        parts = await leases.accept(self._owner, [_number(message) for message in messages])
        self._start(group, parts)
        queue.messages["taken"] += len(messages)
        queue.messages["void"] += len(messages) - len(parts)

    def _back(self) -> None:
        """The broker is there, and may have lost what was put before."""
        self._recall = True
        self.look()

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
            self._drop(held)
            raise
        self._ended.append((held, failure))
        self.look()

    def _drop(self, held: _Held) -> None:
        self._held.pop(held.part.id, None)
        self._room.set()

    async def _write_ends(self) -> None:
        if not self._ended:
            return
        ended = list(self._ended)
        async with transaction():
            outcomes = [await self._write_end(held, failure) for held, failure in ended]
        del self._ended[: len(ended)]
        for (held, _), outcome in zip(ended, outcomes, strict=True):
            self._drop(held)
            if outcome:
                self.parts_ended[outcome] += 1

    async def _write_end(self, held: _Held, failure: HawkerError | None) -> str:
        """How a part ended; empty where it was another's by then, or is tried again."""
        now, attempts = time.time(), held.part.attempts + 1
        state: State = "succeeded" if failure is None else "failed"
        after = 0.0
        if failure is not None and (wait := pause(failure, attempts)) is not None:
            state, after = "pending", now + wait
        written = await self._mine(held).update(
            state=state,
            bytes=held.figures.bytes,
            total=held.figures.total,
            attempts=attempts,
            problem="" if failure is None else told(failure),
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


def _number(message: JobMessage) -> int:
    """Of the part that a message names; of none, where it says something else."""
    said = message.body
    return int(said) if said.isascii() and said.isdigit() and len(said) < 19 else 0
