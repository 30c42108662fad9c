"""The leases there are: held, told to their readers, written down, ended."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from hawker.core.messages import Read
from hawker.core.ranges import ByteRange
from hawker.core.scheduling.board import Board
from hawker.core.scheduling.entities import Generation, Host, Lease, LeaseRecord, Peer, Task
from hawker.core.scheduling.gate import Gate, Gates
from hawker.core.scheduling.generations import Generations
from hawker.core.scheduling.origin import READER_PENALTY
from hawker.core.settings import SchedulerSettings


@dataclass(frozen=True)
class OriginLimits:
    """What one scheduler grants: seconds without a word from a reader, leases at once and bytes
    per second on one origin (0: no limit), readers of one content."""

    silence: float = 2.0
    reads: int = 16
    rate: int = 0
    readers: int = 1

    @classmethod
    def of(cls, settings: SchedulerSettings) -> OriginLimits:
        """What one scheduler grants by its settings: tasks of one origin are spread over all
        schedulers, and so is what it bears."""
        whole = cls(
            silence=settings.lease_timeout,
            reads=settings.origin_reads,
            rate=settings.origin_rate,
            readers=settings.readers,
        )
        return whole.divided(1 + len(set(settings.others)))

    def divided(self, schedulers: int) -> OriginLimits:
        """The part of one of so many schedulers that together keep to these limits."""
        rate = max(1, self.rate // schedulers) if self.rate else 0
        return replace(self, reads=max(1, self.reads // schedulers), rate=rate)


class LeaseBook:
    """Keeps each lease in its task, its origin's gate and the ledger alike; decides nothing.

    `leased` are the tasks that are under a lease.
    """

    def __init__(self, board: Board, generations: Generations, limits: OriginLimits) -> None:
        self.leased: set[str] = set()
        self.gates = Gates(limits.reads, limits.rate)
        self._board = board
        self._generations = generations

    # ------------------------------------------------------------------ beginning and end

    def hold(self, task: Task, lease: Lease) -> None:
        self._board.figures.leases_granted += 1
        task.leases[lease.id] = lease
        self.leased.add(task.id)
        gate = self.gate(task)
        gate.live[lease.id] = task.id
        self._share_rate(gate, lease.id)

    def seat(self, host: Host, task: Task, generation: Generation | None, now: float) -> None:
        """A reader is a peer of its task, and a root of its generation."""
        peer = task.peers.get(host.id)
        if peer is None:
            peer = task.peers[host.id] = Peer(host.id)
            peer.want = []
            peer.machine.fire("offer")
            host.tasks.add(task.id)
        if generation is not None:
            if peer.generation is not generation:
                self._generations.enter(task, peer, generation, now)
            self._board.graph.make_root(task, peer, now)
            self._board.touch_members(task)

    def extend(self, task: Task, lease: Lease, ranges: list[ByteRange] | None) -> None:
        if ranges != lease.ranges:
            lease.ranges = ranges
            self.send_read(task, lease)

    def revoke(self, task: Task, peer: Peer, lease: str) -> None:
        """Tell a reader that it reads under no lease any more."""
        peer.revision += 1
        over = Read(task=task.id, revision=peer.revision, lease=lease, spec=task.spec, ranges=[])
        self._board.send(peer.host, over)

    def enter(self, host: Host, task: Task, lease: Lease, generation: Generation | None) -> None:
        """Write the lease into the ledger, as it is known now."""
        record = LeaseRecord(
            lease=lease.id,
            task=task.id,
            generation=lease.generation,
            host=host.id,
            key=host.announcement.key,
            spec=task.spec,
        )
        if generation is not None:
            record = msgspec.structs.replace(
                record,
                layout=generation.layout,
                validator=generation.validator,
                ranged=generation.ranged,
                digest=generation.digest,
                modified=generation.modified,
            )
        self._board.ledger.put(record)

    def end(self, task: Task, lease: Lease, now: float, outcome: str, *, failed: bool) -> None:
        """The lease is over; one that failed keeps its host from the next for a while."""
        self._board.figures.leases_ended[outcome] += 1
        self._board.note(task, "lease-ended", now, lease.host, detail=outcome)
        del task.leases[lease.id]
        task.over.add(lease.id)
        gate = self.gate(task)
        gate.live.pop(lease.id, None)
        if not task.leases:
            self.leased.discard(task.id)
            if task.machine.state == "reading":
                task.machine.fire("lease-ended")
        if failed:
            task.failed_readers[lease.host] = now + READER_PENALTY
        if lease.checks:
            # Who has not got all of it yet may have to check it himself.
            self._board.touch_members(task)
        peer = task.peers.get(lease.host)
        if peer is not None:
            self._generations.settle_root(task, peer, now)
            self._board.graph.review(task, peer, now)
        self._share_rate(gate, "")

    def excuse(self, seconds: float, now: float) -> None:
        """Nobody is to blame for the silence of the last `seconds`: nobody was listening."""
        for task in [self._board.tasks[name] for name in self.leased]:
            for lease in task.leases.values():
                lease.granted_at = min(now, lease.granted_at + seconds)
                lease.progress_at = min(now, lease.progress_at + seconds)
                if lease.heard_at:
                    lease.heard_at = min(now, lease.heard_at + seconds)

    def limit(self, limits: OriginLimits) -> None:
        """Other limits, from now on: each reader is told its new rate."""
        self.gates.limit(limits.reads, limits.rate)
        for task in [self._board.tasks[name] for name in sorted(self.leased)]:
            for lease in task.leases.values():
                self.send_read(task, lease)

    def gate(self, task: Task) -> Gate:
        return self.gates.to(task.spec.url)

    def _share_rate(self, gate: Gate, but: str) -> None:
        """The origin's rate is shared by other leases now than before."""
        if not gate.rate:
            return
        for name, task_id in gate.live.items():
            task = self._board.tasks.get(task_id)
            lease = None if task is None else task.leases.get(name)
            if task is not None and lease is not None and name != but:
                self.send_read(task, lease)

    def send_read(self, task: Task, lease: Lease) -> None:
        self._board.send(lease.host, self.record(task, task.peers[lease.host], lease))

    def record(self, task: Task, peer: Peer, lease: Lease) -> Read:
        """The lease as its holder is told."""
        peer.revision += 1
        generation = task.current if lease.generation else None
        return Read(
            task=task.id,
            revision=peer.revision,
            lease=lease.id,
            spec=task.spec,
            ranges=lease.ranges,
            generation="" if generation is None else generation.id,
            validator="" if generation is None else generation.validator,
            ranged=generation is not None and generation.ranged,
            layout=None if generation is None else generation.layout,
            modified=None if generation is None else generation.modified,
            rate=self.gate(task).share,
            request=task.request,
        )
