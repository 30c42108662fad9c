"""What the reader of an origin sees of its task."""

from __future__ import annotations

import asyncio

from hawker.core.contracts import SourceRequest
from hawker.core.messages import AnyReport, Changed
from hawker.core.pieces import Layout, PieceSet
from hawker.core.signal import Signal
from hawker.core.storage import Entry
from hawker.core.transfer.holding import Holder, Holding

ROOM_WAIT = 1.0
CLAIM_WAIT = 0.2


class Desk:
    """A `ReadingTask` over what the task holds; `changed` fires as its users move on."""

    def __init__(
        self,
        holder: Holder,
        holding: Holding,
        origin: SourceRequest,
        changed: Signal,
        group: asyncio.TaskGroup,
    ) -> None:
        self._holder = holder
        self._holding = holding
        self._origin = origin
        self._changed = changed
        self._group = group

    @property
    def origin(self) -> SourceRequest:
        return self._origin

    @property
    def used(self) -> bool:
        return bool(self._holder.users)

    @property
    def partial(self) -> Entry | None:
        entry = self._holding.entry
        return None if entry is None or entry.outdated else entry

    async def adopt(self, generation: str, layout: Layout, modified: int | None) -> Entry:
        return await self._holding.adopt(generation, layout, modified, self._group)

    def claim(self, pieces: PieceSet) -> PieceSet:
        swarm = self._holding.swarm
        return pieces if swarm is None else swarm.claim(pieces)

    @property
    def coming(self) -> PieceSet:
        """Pieces that other peers are sending, or that wait here for their digests."""
        swarm = self._holding.swarm
        return PieceSet() if swarm is None else swarm.machine.in_flight | swarm.machine.unproven

    async def unclaimed(self) -> None:
        """Wait a moment for pieces that are on their way from other peers: they arrive, or they can
        be claimed."""
        await self._changed.wait(CLAIM_WAIT)

    async def take_over(self, pieces: PieceSet) -> None:
        if self._holding.swarm is not None:
            await self._holding.swarm.abandon(pieces)

    def arrived(self, pieces: PieceSet) -> None:
        if self._holding.swarm is not None:
            self._holding.swarm.arrived(pieces)
        self._changed.fire()

    async def discard(self) -> None:
        entry = self._holding.entry
        if entry is not None:
            await self._holding.remove(entry.generation)

    def wanted(self, pieces: PieceSet) -> PieceSet:
        entry = self._holding.entry
        windowed = entry is not None and entry.windowed
        return pieces & self._holding.rest() if windowed else pieces

    async def served(self) -> None:
        while (entry := self._holding.entry) is not None:
            if not self._holding.rest() - entry.valid:
                return
            await self._changed.wait(ROOM_WAIT)

    async def may_write(self, piece: int) -> bool:
        entry = self._holding.entry
        if entry is None or not entry.windowed:
            return True
        if piece in self._holding.window():
            return True
        await self._changed.wait(ROOM_WAIT)
        return False

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        entry = self._holding.entry
        if isinstance(report, Changed) and entry is not None:
            # What it has of it tells nothing of what is missing of other content.
            entry.outdated = entry.generation == report.generation
        self._holder.report(report, urgent=urgent)

    def flush(self) -> None:
        if self._holding.swarm is not None:
            self._holding.swarm.flush()
        self._holder.wants_no_more()
