"""What hosts register: what they want of a task, and what they have stored of it."""

from __future__ import annotations

import msgspec

from hawker.core.errors import BadRequest, Unavailable
from hawker.core.messages import Register, Stop, WhoHas
from hawker.core.pieces import Layout, PieceSet
from hawker.core.priorities import LAST, LEVELS, Levels, reads_origin
from hawker.core.scheduling.board import Board
from hawker.core.scheduling.entities import Generation, Host, LeaseRecord, Peer, Task
from hawker.core.scheduling.generations import Generations
from hawker.core.scheduling.leases import Leases
from hawker.core.scheduling.recall import Recall
from hawker.core.telemetry import is_request_id

# Bounds on what holders of the cluster's key can make a scheduler remember.
MAX_RANGES = 1024
MAX_READERS = 1024
MAX_TASKS = 1 << 18
MAX_TASKS_OF_HOST = 1 << 16
IMPORT = "import-"


class Registrations:
    """Brings hosts into tasks, and what they have stored into generations.

    `levels` are the priorities of those who name none.
    """

    def __init__(
        self, board: Board, generations: Generations, leases: Leases, recall: Recall
    ) -> None:
        self._board = board
        self._generations = generations
        self._leases = leases
        self._recall = recall
        self.levels: Levels = Levels()

    def take(self, host: Host, report: Register, now: float) -> None:
        """What a host wants of a task, and what it has.

        Raises:
            BadRequest: it makes no sense.
        """
        have = _checked(report)
        if self._refused(host, report):
            return
        task = self._board.tasks.get(report.task) or self._meet(host, report, now)
        peer = task.peers.get(host.id)
        new = peer is None
        if peer is None:
            peer = task.peers[host.id] = Peer(host.id)
            host.tasks.add(task.id)
            self._board.note(task, "register", now, host.id)
        peer.want, peer.private = report.want, report.private
        peer.level = self.levels.of(report.spec) if report.priority is None else report.priority
        peer.readable = report.readable and reads_origin(peer.level)
        if peer.want != []:
            task.request = report.request if is_request_id(report.request) else ""
        peer.machine.fire("offer" if report.want == [] else "ask")
        if peer.generation is not None:
            peer.machine.fire("join")
            same = report.generation == peer.generation.id
            self._generations.restate(peer, have if same else PieceSet())
            self._generations.reconsider(task, peer, now)
        if task.machine.state == "failed":
            task.machine.fire("ask")
        before = task.current
        if report.generation and have and report.layout is not None:
            self._stored(host, task, peer, report, report.layout, have, now)
        if task.current is not None and peer.generation is None and peer.wants:
            self._generations.enter(task, peer, task.current, now)
        self._generations.settle_root(task, peer, now)
        if task.current is not before:
            self._generations.gather(task, now)
        self._board.graph.supply(task, peer, now)
        if not new:
            self._board.graph.review(task, peer, now)
        self._board.touch(task, peer)
        self._recall.answered(task.id, host.id)
        self._leases.read_what_is_missing(task, now)

    def _refused(self, host: Host, report: Register) -> bool:
        """Whether there is no room for what it registers; who waits for it is told."""
        of_host = report.task not in host.tasks and len(host.tasks) >= MAX_TASKS_OF_HOST
        of_all = report.task not in self._board.tasks and len(self._board.tasks) >= MAX_TASKS
        if not of_host and not of_all:
            return False
        if report.want != []:
            full = Unavailable(
                f"this scheduler has no room for another task ({MAX_TASKS_OF_HOST} of a host,"
                f" {MAX_TASKS} of all)",
                hint="remove what no host needs any more, or add a scheduler",
            )
            self._board.send(host.id, Stop(task=report.task, problem=full.problem()))
        return True

    def _meet(self, host: Host, report: Register, now: float) -> Task:
        """A task nobody told of yet; the other hosts are asked where they may know more."""
        task = self._board.tasks[report.task] = Task(report.task, report.spec)
        if report.failover or self._recall.doubtful(now):
            others = [h.id for h in self._board.hosts.values() if h.connected and h is not host]
            self._recall.ask(task.id, others, now)
            for other in others:
                self._board.send(other, WhoHas(task=task.id))
        return task

    def _stored(
        self,
        host: Host,
        task: Task,
        peer: Peer,
        report: Register,
        layout: Layout,
        have: PieceSet,
        now: float,
    ) -> None:
        """Take what a host has stored, if its readers held the leases they name."""
        ledger = self._board.ledger
        known = ledger.knows(task.id, report.generation, report.readers)
        known = known or self._read_here(host, task, report, layout)
        if not known and task.current is None and not task.leases:
            known = self._imported(host, task, report, layout)
        if not known:
            return
        if task.current is None:
            records = list(ledger.of(task.id, report.generation))
            layout = _agreed(layout, records)
            validator = next((r.validator for r in records if r.validator), "")
            whole = layout.total is not None and have == layout.everything()
            if task.leases and not validator and not whole:
                # Nobody can finish it, and another reading has begun.
                return
            ranged = any(record.ranged for record in records)
            digest = next((r.digest for r in records if r.digest), "")
            modified = next((r.modified for r in records if r.modified is not None), None)
            found = Generation(report.generation, layout, validator, ranged, digest, modified)
            self._generations.begin(task, found)
        if task.current is not None and task.current.id == report.generation:
            if peer.generation is not task.current:
                self._generations.enter(task, peer, task.current, now)
            own = [reader for reader in report.readers if reader.host == host.id]
            if task.current.layout.total is None and layout.total is not None:
                # The end of content of unknown length is its reader's to say.
                if ledger.knows(task.id, report.generation, own):
                    self._leases.measured(task, task.current, layout.total, now)
            self._generations.gained(task, peer, report.generation, have, now)

    def _read_here(self, host: Host, task: Task, report: Register, layout: Layout) -> bool:
        """Content that its own host read under a lease of an earlier life of this scheduler, which
        ended before it heard which generation that was."""
        ledger = self._board.ledger
        for reader in report.readers:
            record = ledger.get(reader.lease)
            if record is None or record.generation or record.void or reader.host != host.id:
                continue
            if (record.task, record.host, record.key) == (task.id, host.id, reader.key):
                found = msgspec.structs.replace(record, generation=report.generation, layout=layout)
                ledger.put(found)
                return True
        return False

    def _imported(self, host: Host, task: Task, report: Register, layout: Layout) -> bool:
        """Content that its own host brought: it holds the lease it gave itself."""
        own = [
            reader
            for reader in report.readers
            if reader.host == host.id
            and reader.lease.startswith(IMPORT)
            and reader.key == host.announcement.key
        ]
        for reader in own:
            self._board.ledger.put(
                LeaseRecord(
                    lease=reader.lease,
                    task=task.id,
                    generation=report.generation,
                    host=host.id,
                    key=reader.key,
                    spec=task.spec,
                    layout=layout,
                )
            )
        return bool(own)


def _checked(report: Register) -> PieceSet:
    """The pieces it has; raises BadRequest where it makes no sense, before anything is changed."""
    if report.spec.task_id != report.task:
        raise BadRequest(f"task {report.task} is not the one that its fields name")
    if len(report.want or ()) > MAX_RANGES:
        raise BadRequest(f"more than {MAX_RANGES} ranges are wanted")
    if len(report.readers) > MAX_READERS:
        raise BadRequest(f"more than {MAX_READERS} readers are named")
    if report.priority is not None and report.priority not in LEVELS:
        raise BadRequest(f"the priority is {report.priority}", hint=f"it is 0 to {LAST}")
    report.spec.check()
    have = PieceSet.from_runs(report.have)
    if report.layout is not None:
        report.layout.check()
        if report.layout.total is not None and not have <= report.layout.everything():
            raise BadRequest("a host has pieces beyond the end of its content")
    return have


def _agreed(layout: Layout, records: list[LeaseRecord]) -> Layout:
    """The layout that the readers reported; raises BadRequest for a host that claims another."""
    for record in records:
        known = record.layout
        if known is None:
            continue
        if known.piece_length != layout.piece_length or known.total not in (None, layout.total):
            raise BadRequest("a host has stored other content than was read")
    return layout
