"""One task on this host: the scheduler's decisions in, users served, a lease kept.

Users join and leave; one run serves them all. The run ends when nobody uses it and no lease holds
it. Whatever it stored stays in the store, from where it is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from hawker.core.contracts import SourceRequest
from hawker.core.errors import (
    DigestMismatch,
    GenerationGone,
    HawkerError,
    OriginChanged,
    QuotaExceeded,
    from_problem,
)
from hawker.core.ids import TaskSpec
from hawker.core.messages import (
    AnyDecision,
    AnyReport,
    Failed,
    Parents,
    Read,
    Stop,
    Withdrawn,
)
from hawker.core.pieces import PieceSet
from hawker.core.signal import Signal
from hawker.core.storage import Entry
from hawker.core.transfer.bygone import Bygone
from hawker.core.transfer.desk import Desk
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.holding import Holding
from hawker.core.transfer.leasing import Leasing
from hawker.core.transfer.port import SchedulerPort
from hawker.core.transfer.reader import OriginReader
from hawker.core.transfer.registration import Registration
from hawker.core.transfer.users import Tally, User

log = logging.getLogger(__name__)

IDLE_WAIT = 5.0


class TaskRun:
    """See the module. Everything here runs on the store's event loop."""

    def __init__(
        self,
        ground: Ground,
        spec: TaskSpec,
        find_port: Callable[[TaskRun], SchedulerPort],
        bygone: Bygone,
        *,
        origin: SourceRequest,
        on_entry: Callable[[Entry], None],
        on_end: Callable[[TaskRun], None],
    ) -> None:
        self.spec = spec
        self.task = spec.task_id
        self.origin = origin
        self.users: set[User] = set()
        self.failure: HawkerError | None = None
        self.digest = ""
        self.changed = Signal()
        # Pieces came that few others can give yet.
        self.rare = Signal()
        self.tally = Tally(ground.clock)
        self.registration = Registration(spec, origin, lambda: find_port(self))
        self._ground = ground
        self._on_entry = on_entry
        self._on_end = on_end
        self._wake = Signal()
        self._holding = Holding(ground, spec, self, self._held_another)
        self._revisions: dict[type, int] = {}
        self._record: Parents | None = None
        self._gateway = False
        self._named = ""
        self._leasing = Leasing(bygone, self._reader_ended)
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
            # Who reads for it alone stops.
            self.changed.fire()

    def moved(self, user: User, position: int) -> None:
        """A streaming user delivered everything before `position`."""
        user.position = position
        self.changed.fire()
        self._holding.wake()

    def wishes_changed(self) -> None:
        """A user wants something else than before."""
        self._wake.fire()
        self.changed.fire()
        self._holding.wake()

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

    @property
    def windowed(self) -> bool:
        """Its content is larger than the store, and streams through a window of it to one user."""
        return self.failure is None and self.entry is not None and self.entry.windowed

    @property
    def left(self) -> bool:
        """Its content streamed through a window to a user who has gone: it ends soon."""
        return self.windowed and self._holding.owner not in self.users

    def admit(self, user: User) -> None:
        """Raise QuotaExceeded where content larger than the store is another user's stream: what
        that one has consumed is not kept."""
        if self.entry is not None and self.entry.windowed and user is not self._holding.owner:
            raise QuotaExceeded(
                f"{self.spec.url} is larger than the store's quota, and being streamed to another",
                hint="raise storage.quota, or try again later",
            )

    @property
    def entry(self) -> Entry | None:
        """What is held of the content, once its generation is known."""
        return self._holding.entry

    def _held_another(self) -> None:
        if self.entry is not None:
            self._on_entry(self.entry)
        self.changed.fire()

    @property
    def own(self) -> bool:
        """It is about a file of this machine's user: no other host may hear of it."""
        return self.origin.local

    @property
    def reading(self) -> bool:
        """A lease on the origin is at work here."""
        return self._leasing.reading

    @property
    def bringing(self) -> bool:
        """What comes here is new to those who take it from here: it comes from the origin, or from
        another zone."""
        return self.reading or self._gateway

    @property
    def coming(self) -> int:
        """How many pieces this host is to get, from the origin or from others."""
        swarm = self._holding.swarm
        wanted = PieceSet() if swarm is None else swarm.machine.want - swarm.machine.valid
        return len(wanted) + self._leasing.left

    def may_deliver(self, entry: Entry, user: User) -> bool:
        """Bytes may go to a user who cannot take them back: the rest is not of another generation,
        as far as anybody knows, or is here."""
        return self.reading or self._named == entry.generation or self.satisfied(user)

    def satisfied(self, user: User) -> bool:
        """Everything the user wants is valid in the store."""
        entry, swarm = self.entry, self._holding.swarm
        if entry is None:
            return False
        if entry.windowed:
            return user is self._holding.owner and user.rest(entry.layout) <= entry.valid
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
                self._named = decision.generation or self._named
                self.digest = decision.digest
                self._gateway = decision.gateway
                self.changed.fire()
            case Read():
                self._leasing.take(decision)
            case Stop():
                self.fail(from_problem(decision.problem))
            case Withdrawn():
                self._gone = decision.generation
            case _:
                log.debug("%s", decision)
        self._wake.fire()

    def register_again(self) -> None:
        """The scheduler does not know this run (any more)."""
        self._revisions.clear()
        self.registration.forget()
        self._wake.fire()

    def fail(self, error: HawkerError) -> None:
        """End every user's wait with this error."""
        self.failure = error
        self.changed.fire()
        self._wake.fire()

    def disk_failed(self, error: HawkerError, *, gone: bool) -> None:
        """The store failed: begin again where the files were taken away, else tell the users."""
        if gone and self.entry is not None:
            log.warning("its stored files are gone: beginning again")
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
        self._leasing.waiting = None
        self._leasing.cancel()
        self._wake.fire()

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        """Serve users and leases until there are none."""
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._holding.find_stored(group)
                    while True:
                        while self.users or self._leasing.waiting or self.reading:
                            seen = self._wake.seen
                            await self._advance(group)
                            await self._wake.wait(IDLE_WAIT, seen)
                        await self._holding.stop_swarm()
                        if self._gone is not None:
                            await self._give_up_generation()
                        if not self.users and not self._leasing.waiting:
                            self._on_end(self)
                            break
                        # Somebody came while the swarm ended: it begins anew, with parents that
                        # the scheduler names again.
                        self._holding.resume_swarm(group)
                        self.register_again()
                except HawkerError as exc:
                    self.fail(exc)
                    await self._outlast_users()
                finally:
                    await self._leasing.stop()
                    await self._holding.stop_swarm()
        finally:
            self._on_end(self)
            self.registration.leave(self.entry)
            self._holding.close()

    async def _outlast_users(self) -> None:
        """A failed run stays until its users have seen why."""
        while self.users:
            await self._wake.wait(IDLE_WAIT)

    async def _advance(self, group: asyncio.TaskGroup) -> None:
        """Look at everything that may have changed, once."""
        if self._gone is not None:
            await self._give_up_generation()
        if self.failure is not None:
            self._leasing.waiting = None
            await self._leasing.stop()
            await self._holding.stop_swarm()
            return
        await self._register()
        record = self._record
        if record is not None and record.generation and record.layout is not None:
            known = self.entry is not None and self.entry.generation == record.generation
            if not known and not self.reading:
                await self._holding.adopt(record.generation, record.layout, record.modified, group)
        self._follow()
        self._leasing.begin(group, lambda lease: self._reader(lease, group))
        self._report_finished()

    def _reader(self, lease: Read, group: asyncio.TaskGroup) -> OriginReader:
        desk = Desk(self, self._holding, self.origin, self.changed, group)
        return OriginReader(self._ground, desk, lease)

    def _reader_ended(self) -> None:
        if self._holding.swarm is not None:
            self._holding.swarm.release()
        self._wake.fire()

    def _follow(self) -> None:
        record, swarm = self._record, self._holding.swarm
        if record is None or swarm is None or record.generation != swarm.entry.generation:
            return
        swarm.follow(record.parents, record.readers)
        self._record = None

    # ------------------------------------------------------------------ the scheduler

    async def _register(self) -> None:
        """Say what this host wants of the task, again when that changes."""
        users = self._served_users
        if not users:
            if self.reading:
                # The last user left while the origin is read here, perhaps for others.
                self.registration.want_nothing(self.entry)
            return
        if all(self.satisfied(user) for user in users):
            return
        self.registration.want(users, self.entry)

    @property
    def _served_users(self) -> list[User]:
        """Whom something is read for: of content larger than the store, whose stream that is."""
        owner = self._holding.owner
        return [user for user in self.users if not self.windowed or user is owner]

    def wants_no_more(self) -> None:
        """Report that of content larger than the store nothing more is wanted, where that is so.

        What is here of it is told nobody, for nobody else can have it: whoever grants leases would
        have all of it read again while its end is delivered.
        """
        if self.windowed and all(self.satisfied(user) for user in self._served_users):
            self.registration.want_nothing(self.entry)

    def use_port(self, port: SchedulerPort) -> None:
        """Decide by this port from now on (the scheduler is away, or back)."""
        self.registration.port = port
        self.register_again()

    def _report_finished(self) -> None:
        entry = self.entry
        if entry is None or not entry.complete or self.registration.finished(entry):
            return
        swarm = self._holding.swarm
        if not self.reading and swarm is not None:
            swarm.flush()
            self.registration.finish(entry)
            self.changed.fire()

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        self.registration.report(report, urgent=urgent)

    # ------------------------------------------------------------------ generations

    def progressed(self, *, rare: bool) -> None:
        """Pieces became valid."""
        self.changed.fire()
        if rare:
            self.rare.fire()
        if all(self.satisfied(user) for user in self.users):
            self._wake.fire()

    async def _give_up_generation(self) -> None:
        generation, self._gone = self._gone, None
        if generation is None:
            return
        if self.entry is not None and self.entry.generation == generation:
            await self._leasing.stop()
            self.registration.forget()
        await self._holding.remove(generation)
