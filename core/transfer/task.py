"""One task on this host: the scheduler's decisions in, users served, a lease kept.

Users join and leave; one run serves them all. The run ends when nobody uses it and no lease holds
it. Whatever it stored stays in the store, from where it is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

import msgspec

from hawker.core.contracts import SourceRequest
from hawker.core.errors import (
    DigestMismatch,
    GenerationGone,
    HawkerError,
    OriginChanged,
    QuotaExceeded,
    first_of,
    from_problem,
)
from hawker.core.ids import TaskSpec
from hawker.core.messages import (
    AnyDecision,
    AnyReport,
    Failed,
    Finished,
    Left,
    Parents,
    Progress,
    Read,
    Register,
    Stop,
    Withdrawn,
)
from hawker.core.pieces import Layout, PieceSet
from hawker.core.ranges import ByteRange
from hawker.core.storage import Entry
from hawker.core.transfer.ground import Ground, SchedulerPort
from hawker.core.transfer.reader import OriginReader
from hawker.core.transfer.signal import Signal
from hawker.core.transfer.swarm import Swarm
from hawker.core.transfer.users import READ_AHEAD, WINDOW, Tally, User

log = logging.getLogger(__name__)

IDLE_WAIT = 5.0
ROOM_WAIT = 1.0


class TaskRun:
    """See the module. Everything here runs on the store's event loop."""

    def __init__(
        self,
        ground: Ground,
        spec: TaskSpec,
        find_port: Callable[[TaskRun], SchedulerPort],
        *,
        origin: SourceRequest,
        on_entry: Callable[[Entry], None],
        on_end: Callable[[TaskRun], None],
    ) -> None:
        self.spec = spec
        self.task = spec.task_id
        self.origin = origin
        self.users: set[User] = set()
        self.entry: Entry | None = None
        self.failure: HawkerError | None = None
        self.failover = False
        self.digest = ""
        self.changed = Signal()
        self.tally = Tally(ground.clock)
        self._ground = ground
        self._find_port = find_port
        self._on_entry = on_entry
        self._on_end = on_end
        self._port: SchedulerPort | None = None
        self._wake = Signal()
        self._held = contextlib.ExitStack()
        self._adopting = asyncio.Lock()
        self._revisions: dict[type, int] = {}
        self._record: Parents | None = None
        self._lease: Read | None = None
        self._reader: OriginReader | None = None
        self._reading: asyncio.Task[None] | None = None
        self._swarm: Swarm | None = None
        self._swarming: asyncio.Task[None] | None = None
        self._registered: Register | None = None
        self._finished = ""
        self._owner: User | None = None
        self._gone: str | None = None

    # ------------------------------------------------------------------ users

    @contextlib.contextmanager
    def use(self, user: User) -> Iterator[None]:
        """Count a user in while it waits or delivers."""
        self.users.add(user)
        self._wake.fire()
        try:
            yield
        finally:
            self.users.discard(user)
            self._wake.fire()

    def moved(self, user: User, position: int) -> None:
        """A streaming user delivered everything before `position`."""
        user.position = position
        self.changed.fire()
        if self._swarm is not None:
            self._swarm.wake.fire()

    def wishes_changed(self) -> None:
        """A user wants something else than before."""
        self._wake.fire()
        if self._swarm is not None:
            self._swarm.wake.fire()

    async def opened(self, timeout: float) -> Entry:
        """The entry, as soon as the generation is known.

        Raises:
            HawkerError: why there will be none.
            TimeoutError: not within `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while True:
                self.check()
                if self.entry is not None:
                    return self.entry
                await self.changed.wait(IDLE_WAIT)

    def check(self, generation: str = "") -> None:
        """Raise why this run cannot serve its users, or not with this generation any more."""
        if self.failure is not None:
            raise self.failure
        if generation and (self.entry is None or self.entry.generation != generation):
            raise OriginChanged(f"generation {generation} of {self.spec.url} was given up")
        if self.entry is not None and self.entry.gone:
            raise GenerationGone(f"{self.spec.url} was removed from the store")

    def admit(self, user: User) -> None:
        """Raise QuotaExceeded where content larger than the store is another user's stream: what
        that one has consumed is not kept."""
        if self.entry is not None and self.entry.windowed and user is not self._owner:
            raise QuotaExceeded(
                f"{self.spec.url} is larger than the store's quota, and being streamed to another",
                hint="raise storage.quota, or try again later",
            )

    def progress(self, since: float, seen: int = 0, *, trace: bool = False) -> Progress:
        """How far the task is; arrivals from number `seen` on where a trace is wanted."""
        entry, tally = self.entry, self.tally
        layout = entry.layout if entry is not None else Layout(None, 0)
        arrivals = []
        if trace:
            for a in tally.arrivals[seen:]:
                arrivals.append(type(a)(a.first, a.last, a.source, round(a.at - since, 4)))
        return Progress(
            task=self.task,
            generation=entry.generation if entry is not None else "",
            total=layout.total,
            piece_length=layout.piece_length,
            valid_bytes=entry.valid_bytes if entry is not None else 0,
            from_origin=tally.origin,
            from_seeds=tally.seeds,
            from_peers=tally.peers,
            seconds=self._ground.clock() - since,
            arrivals=arrivals,
        )

    @property
    def reading(self) -> bool:
        """A lease on the origin is at work here."""
        return self._reading is not None

    def satisfied(self, user: User) -> bool:
        """Everything the user wants is valid in the store."""
        entry, swarm = self.entry, self._swarm
        if entry is None:
            return False
        # What the swarm counted, so that the tally is whole when the user is told.
        valid = entry.valid if swarm is None else swarm.machine.valid
        return user.satisfied(entry.layout, valid)

    # ------------------------------------------------------------------ decisions

    def apply(self, decision: AnyDecision) -> None:
        """Take a decision; older than what is known already, it changes nothing."""
        kind = type(decision)
        if decision.revision < self._revisions.get(kind, 0):
            return
        self._revisions[kind] = decision.revision
        match decision:
            case Parents():
                self._record = decision
                self.digest = decision.digest
            case Read():
                self._take_lease(decision)
            case Stop():
                self.fail(from_problem(decision.problem))
            case Withdrawn():
                self._gone = decision.generation
            case _:
                log.debug("task %s: %s", self.task[:12], decision)
        self._wake.fire()

    def register_again(self) -> None:
        """The scheduler does not know this run (any more)."""
        self._revisions.clear()
        self._registered = None
        self._wake.fire()

    def fail(self, error: HawkerError) -> None:
        """End every user's wait with this error."""
        self.failure = error
        self.changed.fire()
        self._wake.fire()

    def disk_failed(self, error: HawkerError, *, gone: bool) -> None:
        """The store failed: begin again where the files were taken away, else tell the users."""
        if gone and self.entry is not None:
            log.warning("task %s: its stored files are gone: beginning again", self.task[:12])
            self._gone = self.entry.generation
            self._wake.fire()
        else:
            self.fail(error)

    def refuse(self, error: DigestMismatch) -> None:
        """All of it is here, and not what the origin says it has: nobody should keep it."""
        if self.entry is not None and self.failure is None:
            self._gone = self.entry.generation
            self.report(Failed(task=self.task, problem=error.problem()), urgent=True)
            self.fail(error)

    def stop(self) -> None:
        """End soon: the daemon stops."""
        self._lease = None
        if self._reading is not None:
            self._reading.cancel()
        self._wake.fire()

    def _take_lease(self, lease: Read) -> None:
        over = lease.ranges == []
        if self._reader is not None and self._reader.lease.lease == lease.lease:
            self._reader.extend(lease)
            if over and self._reading is not None:
                self._reading.cancel()
        elif not over:
            self._lease = lease
        elif self._lease is not None and self._lease.lease == lease.lease:
            self._lease = None

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        """Serve users and leases until there are none."""
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._find_stored(group)
                    while True:
                        while self.users or self._lease or self._reading:
                            await self._advance(group)
                            await self._wake.wait(IDLE_WAIT)
                        await self._stop_swarm()
                        if self._gone is not None:
                            await self._give_up_generation()
                        if not self.users and not self._lease:
                            self._on_end(self)
                            break
                except HawkerError as exc:
                    self.fail(exc)
                    await self._outlast_users()
                finally:
                    await self._stop_reading()
                    await self._stop_swarm()
        finally:
            self._on_end(self)
            self._say_goodbye()
            self._held.close()

    async def _outlast_users(self) -> None:
        """A failed run stays until its users have seen why."""
        while self.users:
            await self._wake.wait(IDLE_WAIT)

    async def _find_stored(self, group: asyncio.TaskGroup) -> None:
        entry = self._ground.store.newest(self.task)
        if entry is not None and not entry.windowed:
            try:
                await self._hold(entry, group)
            except GenerationGone as exc:
                # Its file is missing: as if it had never been stored.
                log.warning("%s", exc)

    async def _advance(self, group: asyncio.TaskGroup) -> None:
        """Look at everything that may have changed, once."""
        if self._gone is not None:
            await self._give_up_generation()
        if self.failure is not None:
            self._lease = None
            await self._stop_reading()
            await self._stop_swarm()
            return
        await self._register()
        record = self._record
        if record is not None and record.generation and record.layout is not None:
            known = self.entry is not None and self.entry.generation == record.generation
            if not known and self._reading is None:
                await self._adopt(record.generation, record.layout, group)
        self._follow()
        if self._lease is not None and self._reading is None:
            lease, self._lease = self._lease, None
            self._reader = OriginReader(self._ground, _Desk(self, group), lease)
            self._reading = group.create_task(self._read(self._reader))
        self._report_finished()

    async def _read(self, reader: OriginReader) -> None:
        try:
            await reader.run()
        finally:
            self._reader = None
            self._reading = None
            if self._swarm is not None:
                self._swarm.release()
            self._wake.fire()

    def _follow(self) -> None:
        record, swarm = self._record, self._swarm
        if record is None or swarm is None or record.generation != swarm.entry.generation:
            return
        swarm.follow(record.parents, record.readers)
        self._record = None

    # ------------------------------------------------------------------ the scheduler

    async def _register(self) -> None:
        """Say what this host wants of the task, again when that changes."""
        if not self.users or all(self.satisfied(user) for user in self.users):
            return
        register = self._register_message()
        if self._registered is not None and _same_wish(self._registered, register):
            return
        if self._port is None:
            self._port = self._find_port(self)
        self._registered = register
        self._port.report(register, urgent=True)

    @property
    def port(self) -> SchedulerPort | None:
        """Who decides for this run; None as long as it asked nobody."""
        return self._port

    def use_port(self, port: SchedulerPort) -> None:
        """Decide by this port from now on (the scheduler is away, or back)."""
        self._port = port
        self.register_again()

    def _register_message(self) -> Register:
        wants: list[ByteRange] | None = []
        for user in self.users:
            if user.ranges is None:
                wants = None
                break
            assert wants is not None
            wants.extend(user.ranges)
        register = Register(
            task=self.task,
            spec=self.spec,
            want=wants,
            private=self.origin != SourceRequest(self.spec.url),
            readable=any(user.readable for user in self.users),
            priority=min(user.priority for user in self.users),
            failover=self.failover,
        )
        return with_stored(register, self.entry)

    def _report_finished(self) -> None:
        entry = self.entry
        if entry is None or not entry.complete or self._finished == entry.generation:
            return
        if self._port is not None and self._reading is None and self._swarm is not None:
            self._finished = entry.generation
            self._swarm.flush()
            self.report(Finished(task=self.task, generation=entry.generation), urgent=True)
            self.changed.fire()

    def _say_goodbye(self) -> None:
        """Nobody here wants the task any more; what is stored is still offered."""
        entry = self.entry
        if self._port is None or (entry is not None and entry.complete):
            return
        if entry is None or entry.windowed or entry.gone or not entry.valid:
            self.report(Left(task=self.task), urgent=True)
        else:
            register = Register(task=self.task, spec=self.spec, want=[])
            self.report(with_stored(register, entry), urgent=True)

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        if self._port is None:
            self._port = self._find_port(self)
        self._port.report(report, urgent=urgent)

    # ------------------------------------------------------------------ generations

    async def _adopt(self, generation: str, layout: Layout, group: asyncio.TaskGroup) -> Entry:
        async with self._adopting:
            entry = self.entry
            if entry is not None and entry.generation == generation and not entry.gone:
                return entry
            if entry is not None:
                await self._drop_entry()
            streaming = bool(self.users) and all(u.position is not None for u in self.users)
            window = WINDOW if streaming else None
            created = await self._ground.store.create(self.spec, generation, layout, window=window)
            if created.windowed:
                self._owner = next(iter(self.users), None)
            return await self._hold(created, group)

    async def _hold(self, entry: Entry, group: asyncio.TaskGroup) -> Entry:
        self._held.enter_context(entry.using())
        await entry.prepare()
        self.entry = entry
        swarm = Swarm(self._ground, entry, self, self.tally)
        self._swarm = swarm
        self._swarming = group.create_task(self._run_swarm(swarm))
        self._on_entry(entry)
        self.changed.fire()
        return entry

    async def _run_swarm(self, swarm: Swarm) -> None:
        try:
            await swarm.run()
        except* HawkerError as errors:
            self.fail(first_of(errors))

    def wanted(self, offered: PieceSet) -> tuple[PieceSet, PieceSet]:
        entry = self.entry
        if entry is None or self.failure is not None:
            return PieceSet(), PieceSet()
        layout, want, urgent = entry.layout, PieceSet(), PieceSet()
        for user in self.users:
            want |= user.wanted(layout, offered | entry.valid)
            urgent |= user.urgent(layout, READ_AHEAD)
        if entry.windowed:
            window = PieceSet()
            for user in self.users:
                window |= user.urgent(layout, WINDOW)
            want &= window
        return want, urgent

    def progressed(self) -> None:
        """Pieces became valid."""
        self.changed.fire()
        if all(self.satisfied(user) for user in self.users):
            self._wake.fire()

    async def _discard(self) -> None:
        """Drop what is stored, and wait for what the scheduler makes of it."""
        entry = self.entry
        if entry is not None:
            await self._drop_entry()
            await self._ground.store.remove(self.task, entry.generation)

    async def _give_up_generation(self) -> None:
        generation, self._gone = self._gone, None
        entry = self.entry
        if entry is not None and entry.generation == generation:
            await self._stop_reading()
            await self._drop_entry()
            self._registered = None
        await self._ground.store.remove(self.task, generation)
        self.changed.fire()

    async def _drop_entry(self) -> None:
        await self._stop_swarm()
        entry, self.entry = self.entry, None
        self._held.close()
        self._held = contextlib.ExitStack()
        if entry is not None and not entry.complete:
            await self._ground.store.remove(self.task, entry.generation)
        self.changed.fire()

    async def _stop_swarm(self) -> None:
        swarm, self._swarm = self._swarm, None
        if swarm is not None:
            swarm.flush()
        task, self._swarming = self._swarming, None
        await _end(task)

    async def _stop_reading(self) -> None:
        await _end(self._reading)


class _Desk:
    """What the reader sees of its task."""

    def __init__(self, run: TaskRun, group: asyncio.TaskGroup) -> None:
        self._run = run
        self._group = group

    @property
    def origin(self) -> SourceRequest:
        return self._run.origin

    @property
    def partial(self) -> Entry | None:
        return self._run.entry

    async def adopt(self, generation: str, layout: Layout) -> Entry:
        return await self._run._adopt(generation, layout, self._group)

    def claim(self, pieces: PieceSet) -> PieceSet:
        swarm = self._run._swarm
        return pieces if swarm is None else swarm.claim(pieces)

    def arrived(self, pieces: PieceSet) -> None:
        if self._run._swarm is not None:
            self._run._swarm.arrived(pieces)
        self._run.changed.fire()

    async def discard(self) -> None:
        await self._run._discard()

    async def may_write(self, piece: int) -> bool:
        run = self._run
        entry = run.entry
        if entry is None or not entry.windowed or not run.users:
            return True
        window = PieceSet()
        for user in run.users:
            window |= user.urgent(entry.layout, WINDOW)
        if piece in window:
            return True
        await run.changed.wait(ROOM_WAIT)
        return False

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        self._run.report(report, urgent=urgent)

    def flush(self) -> None:
        if self._run._swarm is not None:
            self._run._swarm.flush()


def with_stored(register: Register, entry: Entry | None) -> Register:
    """The message with what this host stores of the task."""
    if entry is None or entry.windowed or not entry.valid:
        return register
    return msgspec.structs.replace(
        register,
        generation=entry.generation,
        layout=entry.layout,
        have=entry.valid.runs(),
        readers=entry.readers,
    )


def _same_wish(old: Register, new: Register) -> bool:
    return (old.want, old.readable, old.private) == (new.want, new.readable, new.private)


async def _end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it is over."""
    if task is None or task is asyncio.current_task():
        return
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
