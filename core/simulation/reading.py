"""Reading the simulated origin under a lease: `hawker.core.transfer.reader` without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hawker.core.messages import LeaseProgress, Read
from hawker.core.pieces import PieceSet
from hawker.core.simulation.network import Flow
from hawker.core.transfer.desk import CLAIM_WAIT
from hawker.core.transfer.reader import PROGRESS_EVERY

if TYPE_CHECKING:
    from hawker.core.simulation.host import SimulatedHost


class OriginReading:
    """One lease of one host, to its end: pieces in order, as long as any is missing."""

    def __init__(self, host: SimulatedHost, lease: Read) -> None:
        self.lease = lease
        self._host = host
        self._world = host.world
        self._ranges = lease.ranges
        self._over = False
        self._opened = False
        self._flow: Flow | None = None
        self._read_bytes = self._read_pieces = 0

    def begin(self) -> None:
        """Say that it is at work, and ask the origin."""
        self._tick()
        timeline = self._world.timeline
        # A connection, a request and the first byte of its answer.
        timeline.at(timeline.now + 4 * self._world.scenario.latency, self._open)

    def extend(self, lease: Read) -> None:
        """The lease covers these ranges now; none: it is over."""
        self._ranges = lease.ranges
        if lease.ranges == []:
            self.stop()
            self._host.settled()

    def stop(self) -> None:
        self._over = True
        if self._flow is not None:
            self._world.figures.origin_bytes += self._world.network.stop(self._flow)
            self._flow = None

    def _open(self) -> None:
        if not self._over:
            self._opened = True
            self._progress()
            self._next()

    def _next(self) -> None:
        """The next piece that nobody sends; the end where there is none."""
        if self._over:
            return
        host, machine = self._host, self._host.machine
        wanted = self._world.layout.covering(self._ranges) - machine.valid
        open_pieces = wanted - machine.in_flight
        machine.claimed |= open_pieces
        if open_pieces:
            piece = open_pieces.runs()[0][0]
            links = (self._world.origin, host.down)
            size = self._world.layout.length(piece)
            self._flow = self._world.network.start(size, links, lambda flow: self._came(piece))
        elif wanted:
            now = self._world.timeline.now
            self._world.timeline.at(now + CLAIM_WAIT, self._next)
        else:
            self._over = True
            host.flush()
            self._progress(done=True)
            host.settled()

    def _came(self, piece: int) -> None:
        size = self._world.layout.length(piece)
        self._flow = None
        self._read_bytes += size
        self._read_pieces += 1
        self._world.figures.origin_bytes += size
        self._host.arrived(PieceSet.of_run(piece, piece))
        self._next()

    def _tick(self) -> None:
        if not self._over:
            self._progress()
            timeline = self._world.timeline
            timeline.at(timeline.now + PROGRESS_EVERY, self._tick)

    def _progress(self, *, done: bool = False) -> None:
        world = self._world
        report = LeaseProgress(
            task=world.task,
            lease=self.lease.lease,
            generation=world.generation if self._opened else "",
            layout=world.layout,
            validator=world.validator,
            ranged=True,
            read_bytes=self._read_bytes,
            read_pieces=self._read_pieces,
            done=done,
        )
        world.control.report(self._host, report, urgent=True)
