"""What this host holds of a task: the entry of one generation, and the swarm that fills it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from hawker.core.errors import GenerationGone, HawkerError, first_of
from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyReport
from hawker.core.pieces import Layout, PieceSet
from hawker.core.storage import Entry
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.swarm import Swarm
from hawker.core.transfer.users import READ_AHEAD, WINDOW, Tally, User

log = logging.getLogger(__name__)


class Holder(Protocol):
    """The task that holds."""

    failure: HawkerError | None
    users: set[User]
    tally: Tally

    def fail(self, error: HawkerError) -> None: ...

    def progressed(self, *, rare: bool) -> None: ...

    def disk_failed(self, error: HawkerError, *, gone: bool) -> None: ...

    def report(self, report: AnyReport, *, urgent: bool = False) -> None: ...

    def wants_no_more(self) -> None:
        """Report that of content larger than the store nothing more is wanted, where that is so."""
        ...


class Holding:
    """At most one entry at a time, in use as long as it is held; `on_change` when it is another.

    `owner` is the user whose stream decides what is read and kept of content larger than the store,
    until it leaves.
    """

    def __init__(
        self, ground: Ground, spec: TaskSpec, holder: Holder, on_change: Callable[[], None]
    ) -> None:
        self.entry: Entry | None = None
        self.swarm: Swarm | None = None
        self.owner: User | None = None
        self._ground = ground
        self._spec = spec
        self._holder = holder
        self._on_change = on_change
        self._using = contextlib.ExitStack()
        self._adopting = asyncio.Lock()
        self._swarming: asyncio.Task[None] | None = None

    async def find_stored(self, group: asyncio.TaskGroup) -> None:
        """Hold the newest of what the store has of the task, if there is any."""
        entry = self._ground.store.newest(self._spec.task_id)
        if entry is not None and not entry.windowed:
            try:
                await self._hold(entry, group)
            except GenerationGone as exc:
                # Its file is missing: as if it had never been stored.
                log.warning("%s", exc)

    async def adopt(
        self, generation: str, layout: Layout, modified: int | None, group: asyncio.TaskGroup
    ) -> Entry:
        """Hold this generation, in the place of any other."""
        async with self._adopting:
            entry = self.entry
            if entry is not None and entry.generation == generation and not entry.gone:
                return entry
            if entry is not None:
                await self.drop()
            users = self._holder.users
            streaming = bool(users) and all(user.position is not None for user in users)
            window = WINDOW if streaming else None
            created = await self._ground.store.create(
                self._spec, generation, layout, window=window, modified=modified
            )
            if created.windowed:
                self.owner = next(iter(users), None)
            return await self._hold(created, group)

    async def _hold(self, entry: Entry, group: asyncio.TaskGroup) -> Entry:
        self._using.enter_context(entry.using())
        await entry.prepare()
        self.entry = entry
        self.resume_swarm(group)
        self._on_change()
        return entry

    def resume_swarm(self, group: asyncio.TaskGroup) -> None:
        """Take pieces from other peers (again), once they are named."""
        if self.entry is not None and self.swarm is None:
            self.swarm = Swarm(self._ground, self.entry, self, self._holder.tally)
            self._swarming = group.create_task(self._run_swarm(self.swarm))

    async def _run_swarm(self, swarm: Swarm) -> None:
        try:
            await swarm.run()
        except* HawkerError as errors:
            self._holder.fail(first_of(errors))

    async def stop_swarm(self) -> None:
        """Take no more from other peers; what arrived is reported."""
        swarm, self.swarm = self.swarm, None
        if swarm is not None:
            swarm.flush()
        task, self._swarming = self._swarming, None
        await end(task)

    async def drop(self) -> None:
        """Let go of the entry; what is not complete is removed."""
        await self.stop_swarm()
        entry, self.entry = self.entry, None
        self.owner = None
        self.close()
        if entry is not None and not entry.complete:
            await self._ground.store.remove(self._spec.task_id, entry.generation)
        self._on_change()

    async def remove(self, generation: str) -> None:
        """Remove a generation, letting go of it where it is held."""
        if self.entry is not None and self.entry.generation == generation:
            await self.drop()
        await self._ground.store.remove(self._spec.task_id, generation)
        self._on_change()

    def close(self) -> None:
        """The entry is in use no more."""
        self._using.close()
        self._using = contextlib.ExitStack()

    # ------------------------------------------------------------------ for the swarm

    def wake(self) -> None:
        """What is wanted changed."""
        if self.swarm is not None:
            self.swarm.wake.fire()

    def wanted(self, offered: PieceSet) -> tuple[PieceSet, PieceSet]:
        entry, users = self.entry, self._holder.users
        if entry is None or self._holder.failure is not None:
            return PieceSet(), PieceSet()
        layout, want, urgent = entry.layout, PieceSet(), PieceSet()
        for user in users:
            want |= user.wanted(layout, offered | entry.valid)
            urgent |= user.urgent(layout, READ_AHEAD)
        if entry.windowed:
            want &= self.window()
        return want, urgent

    def window(self) -> PieceSet:
        """What is kept of content larger than the store: what its owner delivers next."""
        if self.entry is None or self.owner is None:
            return PieceSet()
        return self.rest() & self.owner.urgent(self.entry.layout, WINDOW)

    def rest(self) -> PieceSet:
        """What of content larger than the store is read at all: what its owner did not deliver yet,
        nothing once it left. There is no way back for whoever comes later."""
        owner = self.owner
        if self.entry is None or owner is None or owner not in self._holder.users:
            return PieceSet()
        return owner.rest(self.entry.layout)

    def progressed(self, *, rare: bool) -> None:
        self._holder.progressed(rare=rare)

    def disk_failed(self, error: HawkerError, *, gone: bool) -> None:
        self._holder.disk_failed(error, gone=gone)

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        self._holder.report(report, urgent=urgent)


async def end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait until it is over; none, or the caller's own, is left alone."""
    if task is None or task is asyncio.current_task():
        return
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
