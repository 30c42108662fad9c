"""A simulated host: `hawker.core.transfer.swarm` around the same download machine, without I/O.

Bytes are never wrong here, so that nothing is hashed, and what arrives is valid at once.
"""

from __future__ import annotations

import functools
from math import inf
from typing import TYPE_CHECKING

from hawker.core.messages import (
    AnyDecision,
    Finished,
    Have,
    ParentFailed,
    Parents,
    Read,
    Stop,
)
from hawker.core.pieces import PieceSet
from hawker.core.simulation.network import Flow, Link
from hawker.core.simulation.reading import OriginReading
from hawker.core.simulation.telling import Teller
from hawker.core.transfer.machine import DownloadMachine, Fetch
from hawker.core.transfer.parents import PAUSE, SILENCE
from hawker.core.transfer.slots import RETRY_AFTER, UploadSlots
from hawker.core.transfer.swarm import HAVE_EVERY, STALL

if TYPE_CHECKING:
    from hawker.core.simulation.world import World


class SimulatedHost:
    """A daemon with its links, its store (a set of pieces), and at most one task.

    `began` and `finished` are when its user asked and had everything; None where that is not so.
    """

    def __init__(
        self, world: World, id: str, rate: float, zone: int, *, slots: int, wants: bool
    ) -> None:
        self.world = world
        self.id = id
        self.zone = zone
        self.up, self.down = Link(rate), Link(rate)
        self.slots = UploadSlots(slots)
        self.machine = DownloadMachine(world.layout, PieceSet(), world.rng)
        self.teller = Teller(self)
        self.watches: dict[str, None] = {}
        self.reader: OriginReading | None = None
        self.began: float | None = None
        self.finished: float | None = None
        self.gone = self.frozen = self.gateway = False
        self.stopped = ""
        self._wants = wants
        self._refs: dict[str, None] = {}
        self._flights: dict[int, tuple[Fetch, Flow | None, SimulatedHost]] = {}
        self._revisions: dict[type[AnyDecision], int] = {}
        self._unreported = PieceSet()
        self._reported_at = 0.0
        self._timer = inf

    # ------------------------------------------------------------------ decisions

    def apply(self, decision: AnyDecision) -> None:
        """Take a decision; one older than what is known changes nothing."""
        kind = type(decision)
        if self.gone or self.frozen or decision.revision < self._revisions.get(kind, 0):
            return
        self._revisions[kind] = decision.revision
        match decision:
            case Parents():
                self.gateway = decision.gateway
                self._follow([ref.host for ref in decision.parents])
            case Read():
                self._read(decision)
            case Stop():
                self.stopped = decision.problem.detail

    def _read(self, lease: Read) -> None:
        if self.reader is not None and self.reader.lease.lease == lease.lease:
            self.reader.extend(lease)
        elif lease.ranges != [] and self.reader is None:
            self.reader = OriginReading(self, lease)
            self.reader.begin()

    def _follow(self, parents: list[str]) -> None:
        self._refs = dict.fromkeys(parents)
        if not self._wants or self.finished is not None:
            return
        for parent in [parent for parent in self.watches if parent not in self._refs]:
            self._forget(parent)
        # A connection, a request.
        later = self.world.timeline.now + 3 * self.world.scenario.latency
        for parent in self._refs:
            if parent not in self.watches and parent != self.id:
                self.watches[parent] = None
                self.machine.add_parent(parent)
                host = self.world.hosts[parent]
                if host.gone:
                    self.world.timeline.at(later + PAUSE, self.give_up, parent)
                else:
                    self.world.timeline.at(later, host.teller.open, self)
                    if host.frozen:
                        self.world.timeline.at(later + 2 * SILENCE + PAUSE, self.give_up, parent)
        self.plan()

    # ------------------------------------------------------------------ parents

    def heard(self, parent: str, pieces: PieceSet, alone: PieceSet, free: int) -> None:
        """An event of a parent's availability stream."""
        if self.gone or self.frozen or parent not in self.watches:
            return
        self.machine.announced(parent, pieces, alone)
        if free:
            self.machine.has_slot(parent)
        self.plan()

    def give_up(self, parent: str) -> None:
        """Leave a parent and tell the scheduler, who names another."""
        if self.gone or self.frozen or parent not in self.watches:
            return
        self._refs.pop(parent, None)
        self._forget(parent)
        failed = ParentFailed(
            task=self.world.task,
            parent=parent,
            reason="unavailable",
            generation=self.world.generation,
        )
        self.world.control.report(self, failed, urgent=True)
        self.plan()

    def _forget(self, parent: str) -> None:
        self.watches.pop(parent, None)
        for fetch in self.machine.remove_parent(parent):
            self._cancel(fetch)
        world = self.world
        later = world.timeline.now + world.scenario.latency
        world.timeline.at(later, world.hosts[parent].teller.close, self.id)

    # ------------------------------------------------------------------ fetches

    def plan(self) -> None:
        """Start what the machine plans, report what is due, and come back when it says so."""
        if self.gone or self.frozen or self.finished is not None:
            return
        timeline = self.world.timeline
        now = timeline.now
        machine = self.machine
        for fetch in machine.plan(now):
            host = self.world.hosts[fetch.parent]
            self._flights[fetch.number] = (fetch, None, host)
            # The request and the first byte of its answer.
            timeline.at(now + 2 * self.world.scenario.latency, self._begin, fetch, host)
        wake = machine.wake_at(now)
        if self._unreported:
            due = self._reported_at + HAVE_EVERY
            if now >= due:
                self.flush()
            else:
                wake = due if wake is None else min(wake, due)
        if wake is not None and wake < self._timer:
            self._timer = wake
            timeline.at(wake, self._wake, wake)

    def _wake(self, when: float) -> None:
        if when == self._timer:
            self._timer = inf
            self.plan()

    def _begin(self, fetch: Fetch, parent: SimulatedHost) -> None:
        """The parent answers: with bytes, with a refusal, or not at all."""
        world, timeline = self.world, self.world.timeline
        if fetch.number not in self._flights or self.gone or self.frozen:
            return
        if parent.gone:
            self._broke(fetch)
            return
        if parent.frozen:
            timeline.at(timeline.now + STALL, self._broke, fetch)
            return
        parent.teller.asked(fetch.pieces)
        if parent.slots.used >= parent.slots.limit:
            parent.slots.refused += 1
            world.figures.refusals += 1
            del self._flights[fetch.number]
            self.machine.busy(fetch, RETRY_AFTER, timeline.now)
            self.plan()
        else:
            parent.slots.used += 1
            world.figures.requests += 1
            size = sum(map(world.layout.length, range(fetch.first, fetch.last + 1)))
            links = world.way(parent, self)
            flow = world.network.start(size, links, functools.partial(self._arrived, fetch))
            self._flights[fetch.number] = (fetch, flow, parent)

    def _arrived(self, fetch: Fetch, flow: Flow) -> None:
        parent = self._flights.pop(fetch.number)[2]
        parent.slots.used -= 1
        parent.teller.served(fetch.pieces)
        now = self.world.timeline.now
        if parent.zone != self.zone:
            self.world.figures.crossed += flow.size
        self.machine.received(fetch, int(flow.size), now)
        self._keep(fetch, fetch.pieces, flow.size)

    def _keep(self, fetch: Fetch, pieces: PieceSet, received: float) -> None:
        new = pieces - self.machine.valid
        useful = sum(map(self.world.layout.length, new))
        self.world.figures.wasted += received - useful
        if fetch.hedge:
            for rival in self.machine.rivals(fetch):
                self._cancel(rival)
        self.arrived(new)

    def _broke(self, fetch: Fetch) -> None:
        """The parent went away in the middle of a fetch, or sends nothing any more."""
        if fetch.number not in self._flights or self.gone or self.frozen:
            return
        received = self._end(fetch)
        whole = PieceSet()
        for piece in range(fetch.first, fetch.last + 1):
            if self.world.layout.length(piece) * (piece - fetch.first + 1) <= received:
                whole |= PieceSet.of_run(piece, piece)
        self.machine.failed(fetch, self.world.timeline.now)
        self._keep(fetch, whole, received)
        self.give_up(fetch.parent)

    def _cancel(self, fetch: Fetch) -> None:
        if fetch.number in self._flights:
            self.world.figures.wasted += self._end(fetch)
        self.machine.drop(fetch)

    def _end(self, fetch: Fetch) -> float:
        """Stop a fetch; the bytes that came."""
        _, flow, parent = self._flights.pop(fetch.number)
        if flow is None:
            return 0.0
        parent.slots.used -= 1
        return self.world.network.stop(flow)

    # ------------------------------------------------------------------ pieces

    @property
    def brings(self) -> bool:
        """It reads the origin, or takes pieces from another zone."""
        return self.reader is not None or (self.gateway and self.finished is None)

    def ask(self) -> None:
        """A user wants all of it from now on."""
        self.began = self.world.timeline.now
        self.machine.want = self.world.layout.everything()
        self.world.control.register(self)

    def arrived(self, pieces: PieceSet) -> None:
        """Pieces became valid in the store."""
        machine = self.machine
        machine.proven(pieces)
        machine.claimed -= pieces
        self._unreported |= pieces
        if self._wants:
            self.world.figures.gained(len(pieces), self.world.timeline.now)
        self.teller.gained(rare=machine.is_rare(pieces))
        if self._wants and self.finished is None and machine.complete and self.reader is None:
            self._finish()
        self.plan()

    def settled(self) -> None:
        """Its reading of the origin is over."""
        self.reader = None
        self.machine.claimed = PieceSet()
        if self.machine.valid.bits == self.world.layout.everything().bits:
            if self._wants:
                self._finish()
            else:
                self.tell_finished()
        self.plan()

    def _finish(self) -> None:
        self.finished = self.world.timeline.now
        self.tell_finished()
        for parent in list(self.watches):
            self._forget(parent)
        self.world.ended(self)

    def tell_finished(self) -> None:
        self.flush()
        done = Finished(task=self.world.task, generation=self.world.generation)
        self.world.control.report(self, done, urgent=True)

    def flush(self) -> None:
        """Report what became valid since the last report."""
        pieces, self._unreported = self._unreported, PieceSet()
        self._reported_at = self.world.timeline.now
        if pieces:
            have = Have(
                task=self.world.task, generation=self.world.generation, pieces=pieces.runs()
            )
            self.world.control.report(self, have)

    # ------------------------------------------------------------------ faults

    def die(self) -> None:
        """The process is gone, and its connections with it."""
        self.gone = True
        world, now = self.world, self.world.timeline.now
        for fetch, _, _ in list(self._flights.values()):
            world.figures.wasted += self._end(fetch)
        for child in self.teller.children:
            for fetch in child.fetches_of(self):
                world.timeline.at(now + world.scenario.latency, child._broke, fetch)
            again = now + PAUSE + 3 * world.scenario.latency
            world.timeline.at(again, child.give_up, self.id)
        for parent in self.watches:
            world.hosts[parent].teller.close(self.id)
        if self.reader is not None:
            self.reader.stop()
        world.control.lost(self)
        world.ended(self)

    def freeze(self) -> None:
        """The process stands still; the machine keeps its connections."""
        self.frozen = True
        world, now = self.world, self.world.timeline.now
        world.network.limit(self.up, 0.0)
        world.network.limit(self.down, 0.0)
        for child in self.teller.children:
            for fetch in child.fetches_of(self):
                world.timeline.at(now + STALL, child._broke, fetch)
            world.timeline.at(now + 2 * SILENCE + PAUSE, child.give_up, self.id)
        if self.reader is not None:
            self.reader.stop()
        world.ended(self)

    def fetches_of(self, parent: SimulatedHost) -> list[Fetch]:
        """What this host is getting from a parent, or has asked of it."""
        return [fetch for fetch, _, host in self._flights.values() if host is parent]
