"""All tasks of this host: one run per task however many ask, and its links to the schedulers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence

from hawker.core.contracts import SourceRequest
from hawker.core.errors import HawkerError, Unavailable
from hawker.core.ids import TaskSpec
from hawker.core.limits import Limits
from hawker.core.messages import Allowance, AnyDecision, Left, Read, Register, Withdrawn
from hawker.core.signal import Signal
from hawker.core.storage import Entry
from hawker.core.telemetry import TASK
from hawker.core.transfer.bygone import Bygone
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.port import SchedulerPort
from hawker.core.transfer.registration import with_stored
from hawker.core.transfer.schedulers import Link, Schedulers
from hawker.core.transfer.solo import Solo
from hawker.core.transfer.task import TaskRun
from hawker.core.transfer.users import User

log = logging.getLogger(__name__)

# Hosts that lost their scheduler do not all turn to the origin at the same moment.
UNSCHEDULED_DELAY = 30.0
GUARD_EVERY = 1.0
STEWARD_EVERY = 0.5
# Content larger than the store is for one user at a time. Who comes next waits so long for what is
# left to end; and a moment for one who is still there, whose connection may be broken already.
END_WAIT = 10.0
LEAVE_WAIT = 1.0
OFFERS_AT_ONCE = 256
OFFER_PAUSE = 0.1


class Conductor:
    """Runs tasks until cancelled; without links every decision is this host's own (`Solo`)."""

    def __init__(self, ground: Ground, *, scheduler_wait: float = 10.0) -> None:
        self.ground = ground
        self.schedulers = Schedulers(ground.clock)
        self.runs: dict[str, TaskRun] = {}
        self.appeared = Signal()
        self._scheduler_wait = scheduler_wait
        self._group: asyncio.TaskGroup | None = None
        self._stewards: list[asyncio.Task[None]] = []
        self._guards: set[asyncio.Task[None]] = set()
        self._offered: dict[str, Link] = {}
        self._bygone = Bygone()
        self._solo = Solo(ground.key, self._decide_own, lambda spec: ground.levels.of(spec))
        ground.store.on_removed = self._removed

    @contextlib.asynccontextmanager
    async def running(self, links: Sequence[Link] = ()) -> AsyncIterator[None]:
        """Run links and tasks while inside; everything has ended when it is left."""
        accounting = self.ground.quotas.accounting
        async with (
            accounting.running(self.schedulers, self._scheduler_wait),
            asyncio.TaskGroup() as group,
        ):
            self._group = group
            self.follow(links)
            try:
                yield
            finally:
                self.drain()
                self._fail(list(self.runs.values()))

    def follow(self, links: Sequence[Link]) -> None:
        """These are the schedulers from now on; what others decide they decide soon."""
        if self._group is None:
            return
        self.schedulers.follow(links, self._group)
        if len(self.schedulers.linked) > 1 and not self._stewards:
            self._stewards.append(self._group.create_task(self._steward()))

    def drain(self) -> None:
        """Leave the schedulers, end what is at work, begin nothing more; what is stored is still
        given."""
        self._group = None
        self._fail([run for run in self.runs.values() if not run.entry or not run.entry.complete])
        self.schedulers.cancel()
        for task in (*self._stewards, *self._guards):
            task.cancel()

    @staticmethod
    def _fail(runs: Sequence[TaskRun]) -> None:
        for run in runs:
            run.fail(Unavailable("this daemon is stopping"))
            run.stop()

    @contextlib.asynccontextmanager
    async def join(
        self, spec: TaskSpec, user: User, *, origin: SourceRequest | None = None
    ) -> AsyncIterator[TaskRun]:
        """Take part in a task, starting it where nobody here did; leaving is leaving the block."""
        run = await self._free(spec.task_id)
        if run is None or run.failure is not None:
            run = self._start(spec, origin, user)
        with run.use(user):
            yield run

    async def _free(self, task: str) -> TaskRun | None:
        """The run of a task, None where there is none. One whose window was another's, who left or
        is just leaving, ends first."""
        began = self.ground.clock()
        while (run := self.runs.get(task)) is not None and run.windowed:
            patience = END_WAIT if run.left else LEAVE_WAIT
            wait = began + patience - self.ground.clock()
            if wait <= 0:
                break
            await run.changed.wait(wait)
        return run

    async def entry(self, task: str, generation: str, timeout: float) -> Entry | None:
        """The stored generation, waiting at most `timeout` seconds for it to appear."""
        deadline = self.ground.clock() + timeout
        while (entry := self.ground.store.get(task, generation)) is None:
            left = deadline - self.ground.clock()
            if left <= 0:
                return None
            await self.appeared.wait(left)
        return entry

    def brings(self, task: str) -> bool:
        """This host reads the task's origin now, or takes its pieces from another zone."""
        run = self.runs.get(task)
        return run is not None and run.bringing

    def coming(self, task: str) -> int:
        """How many pieces of the task this host is to get, as far as it knows by now."""
        run = self.runs.get(task)
        return 0 if run is None else run.coming

    def rare(self, task: str) -> Signal | None:
        """Fires when pieces came that few others can give yet; None where nothing is to come."""
        run = self.runs.get(task)
        return None if run is None else run.rare

    # ------------------------------------------------------------------ decisions

    def decide(self, link: Link, decision: AnyDecision) -> None:
        """Hand a scheduler's decision to its task; a lease for an unknown task starts one."""
        if isinstance(decision, Allowance):
            self.ground.quotas.accounting.apply(link, decision)
            return
        run = self.runs.get(decision.task)
        if run is not None and run.own:
            log.warning("a scheduler decides on task %s, which is this host's own", run.task[:12])
        elif run is not None and not self._heeds(run, link):
            log.debug("%s decides on task %s no more", link.base_url, run.task[:12])
        elif run is None and isinstance(decision, Read) and self._group is not None:
            if decision.ranges == []:
                # A lease that is over, of a reading that is over, too.
                return
            if decision.spec.task_id != decision.task:
                log.warning("a lease names task %s by another's URL", decision.task[:12])
                return
            if decision.spec.variant:
                # Read with what only an asker can show: whoever asked here has gone.
                log.info("nobody asks for task %s here any more", decision.task[:12])
                return
            run = self._start(decision.spec, None, None, decision)
            run.registration.port = link
            self._watch(run)
        elif run is not None:
            run.apply(decision)
        elif isinstance(decision, Withdrawn) and self._group is not None:
            self._group.create_task(self._withdraw(decision))

    def _heeds(self, run: TaskRun, link: Link) -> bool:
        """Whether the task is this scheduler's to decide on. Two count their decisions each for
        itself: what one says after another one would be taken for older."""
        if self._elsewhere(run, link):
            if self.schedulers.of(run.task) is not link:
                return False
            self._hand_over(run, link)
        return True

    def _decide_own(self, decision: AnyDecision) -> None:
        """Hand a decision of this host's own to its task."""
        run = self.runs.get(decision.task)
        if run is not None:
            run.apply(decision)
        elif isinstance(decision, Withdrawn) and self._group is not None:
            self._group.create_task(self._withdraw(decision))

    async def _withdraw(self, decision: Withdrawn) -> None:
        await self.ground.store.remove(decision.task, decision.generation)

    # ------------------------------------------------------------------ schedulers

    def introduce(self, link: Link) -> None:
        """Tell a scheduler that does not know them of all tasks this host has."""
        self._bygone.clear()
        self.ground.quotas.accounting.introduce(link)
        for task, run in self.runs.items():
            if not run.own and self.schedulers.of(task) is link and not self._stays(run, link):
                self._assign(run, link)
        for task in [task for task, to in self._offered.items() if to is link]:
            del self._offered[task]
        if self._group is not None:
            self._group.create_task(self._offer_stored())

    def limited(self, tenants: Mapping[str, Limits]) -> None:
        """A scheduler says which tenants have quotas."""
        self.ground.quotas.accounting.told(tenants)

    def answer(self, link: Link, task: str) -> None:
        """A scheduler asks what this host stores of a task."""
        run = self._asking(task)
        here = run is not None and not run.own and run.registration.port is not self._solo
        here = here and run is not None and not self._stays(run, link)
        if run is not None and here and self.schedulers.of(task) is link:
            self._assign(run, link)
        elif self._group is not None:
            self._group.create_task(self._answer(link, task))

    def _asking(self, task: str) -> TaskRun | None:
        """The run of a task that somebody here wants, which registers by itself what it has."""
        run = self.runs.get(task)
        return run if run is not None and run.users else None

    async def _answer(self, link: Link, task: str) -> None:
        entry = self.ground.store.newest(task)
        if entry is None or not await self._tell(link, entry):
            link.report(Left(task=task), urgent=True)

    async def _offer_stored(self) -> None:
        """Offer what is stored to the schedulers that decide for it."""
        count = 0
        for entry in self.ground.store.entries():
            link = self.schedulers.of(entry.task)
            former = self._offered.get(entry.task)
            if self._asking(entry.task) or link is None or link is former:
                continue
            run = self.runs.get(entry.task)
            if run is not None and self._elsewhere(run, link):
                # It is read here for who decides on it still: that one must not hear of an end.
                continue
            if former is not None:
                former.report(Left(task=entry.task), urgent=True)
            if await self._tell(link, entry):
                self._offered[entry.task] = link
            count += 1
            if count % OFFERS_AT_ONCE == 0:
                # What is asked for meanwhile must not wait behind all of it.
                await asyncio.sleep(OFFER_PAUSE)

    async def _tell(self, link: Link, entry: Entry) -> bool:
        """Offer one entry, verified again first where the machine stopped uncleanly."""
        if self.ground.own(entry.spec):
            return False
        try:
            with entry.using():
                await entry.prepare()
        except HawkerError as exc:
            log.warning("%s is not offered: %s", entry, exc)
            return False
        if not entry.valid or entry.windowed or entry.gone:
            return False
        register = Register(task=entry.task, spec=entry.spec, want=[])
        link.report(with_stored(register, entry))
        return True

    def offer(self, entry: Entry) -> None:
        """Tell the scheduler what is stored of a task that nobody here is using."""
        link = self.schedulers.of(entry.task)
        if link is not None and self._group is not None:
            self._group.create_task(self._tell(link, entry))

    async def _steward(self) -> None:
        """Move tasks to the scheduler that decides for them, as schedulers go and come."""
        while True:
            await asyncio.sleep(STEWARD_EVERY)
            if not self.schedulers.settled:
                continue
            self._move()
            self._part()
            await self._offer_stored()

    def _stays(self, run: TaskRun, link: Link) -> bool:
        """The task is another scheduler's still, for there are others only since a moment ago."""
        return self._elsewhere(run, link) and not self.schedulers.settled

    def _elsewhere(self, run: TaskRun, link: Link) -> bool:
        """It is another scheduler that decides on the task now."""
        return self.schedulers.other(run.registration.port, link)

    def _part(self) -> None:
        """Leave the schedulers that are none any more."""
        gone = self.schedulers.part()
        for task in [task for task, link in self._offered.items() if link in gone]:
            del self._offered[task]

    def _move(self) -> None:
        """Give each task to the scheduler that decides for it now."""
        for task, run in list(self.runs.items()):
            link = self.schedulers.of(task)
            if link is None or run.own or run.registration.port in (None, link, self._solo):
                continue
            self._hand_over(run, link)

    def _hand_over(self, run: TaskRun, link: Link) -> None:
        run.registration.report(Left(task=run.task), urgent=True)
        # Others take part in it who have not told this one yet.
        run.registration.failover = True
        run.use_port(link)

    def _assign(self, run: TaskRun, link: Link) -> None:
        run.registration.failover = self.schedulers.stands_in(link, run.task)
        run.use_port(link)

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
            self._bygone,
            origin=origin or SourceRequest(spec.url, tenant=spec.tenant),
            on_entry=lambda entry: self.appeared.fire(),
            on_end=self._ended,
        )
        if user is not None:
            log.info("%s is asked for here", spec.url, extra={"task": run.task})
            run.users.add(user)
        if lease is not None:
            run.apply(lease)
        self.runs[run.task] = run
        self._group.create_task(self._run(run))
        return run

    async def _run(self, run: TaskRun) -> None:
        TASK.set(run.task)
        try:
            await run.run()
        except Exception:
            log.exception("task %s ended by a fault", run.task[:12])
            run.fail(Unavailable(f"{run.spec.url}: the download failed", hint="see the log"))

    def _ended(self, run: TaskRun) -> None:
        if self.runs.get(run.task) is run:
            del self.runs[run.task]
            run.changed.fire()

    def _removed(self, entry: Entry) -> None:
        task = entry.task
        self._offered.pop(task, None)
        link = self.schedulers.of(task)
        if link is not None and task not in self.runs and not self.ground.own(entry.spec):
            link.report(Left(task=task), urgent=True)

    def _find_port(self, run: TaskRun) -> SchedulerPort:
        link = self.schedulers.of(run.task)
        if link is None or run.own:
            return self._solo
        run.registration.failover = self.schedulers.stands_in(link, run.task)
        self._watch(run)
        return link

    def _watch(self, run: TaskRun) -> None:
        if self._group is not None:
            guard = self._group.create_task(self._guard(run))
            self._guards.add(guard)
            guard.add_done_callback(self._guards.discard)

    async def _guard(self, run: TaskRun) -> None:
        """Let a task be read without a scheduler when none is there for long and nothing moves."""
        while self.runs.get(run.task) is run and run.registration.port is not self._solo:
            moved = run.tally.total
            if await self.schedulers.any_connected(self._scheduler_wait):
                await asyncio.sleep(GUARD_EVERY)
                continue
            # Known parents may be enough; and many hosts do not begin at the same moment.
            delay = self.ground.rng.uniform(0, min(UNSCHEDULED_DELAY, 3 * self._scheduler_wait))
            if run.tally.total != moved or await self.schedulers.any_connected(delay):
                continue
            if self.runs.get(run.task) is run:
                if any(user.readable for user in run.users):
                    log.warning("no scheduler is there: reading %s without one", run.spec.url)
                    self.ground.counters.unscheduled_reads += 1
                else:
                    log.warning("no scheduler is there, and %s may not be read", run.spec.url)
                run.use_port(self._solo)
