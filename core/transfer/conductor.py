"""All tasks of this host: one run per task however many ask, and its links to the schedulers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from hawker.core.contracts import SourceRequest
from hawker.core.errors import HawkerError, Unavailable
from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyDecision, Left, Read, Register, Withdrawn
from hawker.core.storage import Entry
from hawker.core.transfer.ground import Ground, SchedulerPort
from hawker.core.transfer.signal import Signal
from hawker.core.transfer.solo import Solo
from hawker.core.transfer.task import TaskRun, with_stored
from hawker.core.transfer.users import User

log = logging.getLogger(__name__)

# Hosts that lost their scheduler do not all turn to the origin at the same moment.
UNSCHEDULED_DELAY = 30.0


class Link(SchedulerPort, Protocol):
    """A scheduler this host is connected to."""

    base_url: str

    async def run(self) -> None: ...


class Conductor:
    """Runs tasks until cancelled; without links every decision is this host's own (`Solo`)."""

    def __init__(self, ground: Ground, *, scheduler_wait: float = 10.0) -> None:
        self.ground = ground
        self.links: list[Link] = []
        self.runs: dict[str, TaskRun] = {}
        self.appeared = Signal()
        self._scheduler_wait = scheduler_wait
        self._group: asyncio.TaskGroup | None = None
        self._guards: set[asyncio.Task[None]] = set()
        self._solo = Solo(ground.key, self.decide)
        ground.store.on_removed = self._removed

    @contextlib.asynccontextmanager
    async def running(self, links: Sequence[Link] = ()) -> AsyncIterator[None]:
        """Run links and tasks while inside; everything has ended when it is left."""
        self.links = list(links)
        async with asyncio.TaskGroup() as group:
            self._group = group
            tasks = [group.create_task(link.run()) for link in self.links]
            try:
                yield
            finally:
                self._group = None
                tasks.extend(self._guards)
                for run in list(self.runs.values()):
                    run.fail(Unavailable("this daemon is stopping"))
                    run.stop()
                for task in tasks:
                    task.cancel()

    @contextlib.asynccontextmanager
    async def join(
        self, spec: TaskSpec, user: User, *, origin: SourceRequest | None = None
    ) -> AsyncIterator[TaskRun]:
        """Take part in a task, starting it where nobody here did; leaving is leaving the block."""
        run = self.runs.get(spec.task_id)
        if run is None or run.failure is not None:
            run = self._start(spec, origin, user)
        with run.use(user):
            yield run

    async def entry(self, task: str, generation: str, timeout: float) -> Entry | None:
        """The stored generation, waiting at most `timeout` seconds for it to appear."""
        deadline = self.ground.clock() + timeout
        while (entry := self.ground.store.get(task, generation)) is None:
            left = deadline - self.ground.clock()
            if left <= 0:
                return None
            await self.appeared.wait(left)
        return entry

    def reads(self, task: str) -> bool:
        """This host is reading the task's origin now."""
        run = self.runs.get(task)
        return run is not None and run.reading

    # ------------------------------------------------------------------ decisions

    def decide(self, decision: AnyDecision) -> None:
        """Hand a decision to its task; a lease for an unknown task starts one."""
        run = self.runs.get(decision.task)
        if run is None and isinstance(decision, Read) and self._group is not None:
            if decision.spec.task_id != decision.task:
                log.warning("a lease names task %s by another's URL", decision.task[:12])
                return
            run = self._start(decision.spec, None, None, decision)
        elif run is not None:
            run.apply(decision)
        elif isinstance(decision, Withdrawn) and self._group is not None:
            self._group.create_task(self._withdraw(decision))

    async def _withdraw(self, decision: Withdrawn) -> None:
        await self.ground.store.remove(decision.task, decision.generation)

    def introduce(self, link: Link) -> None:
        """Tell a scheduler that does not know them of all tasks this host has."""
        for task, run in self.runs.items():
            if self._link_for(task) is link:
                run.register_again()
        if self._group is not None:
            self._group.create_task(self._offer_stored(link))

    async def _offer_stored(self, link: Link) -> None:
        """Offer what is stored, verified again first where the machine stopped uncleanly."""
        for entry in self.ground.store.entries():
            if entry.task in self.runs or self._link_for(entry.task) is not link:
                continue
            try:
                with entry.using():
                    await entry.prepare()
                    self.offer(entry)
            except HawkerError as exc:
                log.warning("%s is not offered: %s", entry, exc)

    def offer(self, entry: Entry) -> None:
        """Tell the scheduler what is stored of a task that nobody here is using."""
        link = self._link_for(entry.task)
        if link is not None and entry.valid and not entry.gone:
            register = Register(task=entry.task, spec=entry.spec, want=[])
            link.report(with_stored(register, entry))

    # ------------------------------------------------------------------ own

    def _start(
        self,
        spec: TaskSpec,
        origin: SourceRequest | None,
        user: User | None,
        lease: Read | None = None,
    ) -> TaskRun:
        if self._group is None:
            raise Unavailable("this daemon is stopping", hint="try again in a moment")
        run = TaskRun(
            self.ground,
            spec,
            self._find_port,
            origin=origin or SourceRequest(spec.url),
            on_entry=lambda entry: self.appeared.fire(),
            on_end=self._ended,
        )
        if user is not None:
            run.users.add(user)
        if lease is not None:
            run.apply(lease)
        self.runs[run.task] = run
        self._group.create_task(self._run(run))
        return run

    async def _run(self, run: TaskRun) -> None:
        try:
            await run.run()
        except Exception:
            log.exception("task %s ended by a fault", run.task[:12])
            run.fail(Unavailable(f"{run.spec.url}: the download failed", hint="see the log"))

    def _ended(self, run: TaskRun) -> None:
        if self.runs.get(run.task) is run:
            del self.runs[run.task]

    def _removed(self, task: str, generation: str) -> None:
        link = self._link_for(task)
        if link is not None and task not in self.runs:
            link.report(Left(task=task), urgent=True)

    def _find_port(self, run: TaskRun) -> SchedulerPort:
        link = self._link_for(run.task)
        if link is None:
            return self._solo
        if self._group is not None:
            guard = self._group.create_task(self._guard(run, link))
            self._guards.add(guard)
            guard.add_done_callback(self._guards.discard)
        return link

    async def _guard(self, run: TaskRun, link: Link) -> None:
        """Let a task be read without a scheduler when none comes back in time."""
        if await link.wait_connected(self._scheduler_wait):
            return
        delay = self.ground.rng.uniform(0, min(UNSCHEDULED_DELAY, 3 * self._scheduler_wait))
        if await link.wait_connected(delay) or self.runs.get(run.task) is not run:
            return
        log.warning("no scheduler at %s: reading %s without one", link.base_url, run.spec.url)
        self.ground.counters.unscheduled_reads += 1
        run.use_port(self._solo)

    def _link_for(self, task: str) -> Link | None:
        """The scheduler of a task: rendezvous hashing (Thaler & Ravishankar 1998)."""
        return max(
            self.links,
            key=lambda link: hashlib.sha256(f"{link.base_url} {task}".encode()).digest(),
            default=None,
        )
