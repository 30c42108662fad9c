"""Leases on origins: who reads what, for how long, and what happens when it fails."""

from __future__ import annotations

import msgspec

from hawker.core.digests import Digest
from hawker.core.errors import (
    DigestMismatch,
    OriginFailed,
    OverQuota,
    Problem,
    QuotaExceeded,
    StorageFailed,
    Unavailable,
)
from hawker.core.messages import Changed, Failed, LeaseProgress, Length, Stop
from hawker.core.pieces import MIB, Layout, PieceSet
from hawker.core.priorities import refusal
from hawker.core.ranges import ByteRange
from hawker.core.scheduling.board import Board
from hawker.core.scheduling.entities import Generation, Host, Lease, Peer, Task
from hawker.core.scheduling.gate import FIRST_BACKOFF, PATIENCE
from hawker.core.scheduling.generations import Generations
from hawker.core.scheduling.leasebook import LeaseBook, OriginLimits
from hawker.core.scheduling.origin import (
    MAX_ATTEMPTS,
    choose_reader,
    missing_of,
    new_lease_id,
    overdue,
    union_of,
)
from hawker.core.scheduling.recall import Recall

PERMANENT = frozenset({"not-found", "origin-refused", "forbidden", "bad-request", "unknown-plugin"})
# What keeps one host from storing anything says nothing of the origin, nor of other hosts.
OWN = frozenset({StorageFailed.code, QuotaExceeded.code})
# Smaller parts are not worth a reader of their own. A multiple of every piece length.
PART = 64 * MIB


# A client that broke off, and asks for the rest at once, finds the reading still at work.
UNWANTED = 5.0


class Leases:
    """Keeps what is wanted and missing under leases (`book`), within the origins' `limits`."""

    def __init__(
        self, board: Board, generations: Generations, recall: Recall, limits: OriginLimits
    ) -> None:
        self._board = board
        self._generations = generations
        self._recall = recall
        self.limits = limits
        self.book = LeaseBook(board, generations, limits)
        # Tasks that would be read, but for their gate, a pause, or hosts that were asked.
        self._waiting: dict[str, None] = {}

    def limit(self, limits: OriginLimits, now: float) -> None:
        """Other limits, from now on. Leases beyond them are not ended, but none is granted before
        so many are over."""
        if limits == self.limits:
            return
        self.limits = limits
        self.book.limit(limits)
        self.resume_waiting(now)

    # ------------------------------------------------------------------ granting

    def read_what_is_missing(self, task: Task, now: float, failure: Problem | None = None) -> None:
        """Grant a lease, or extend those there are, for what no live peer has; `failure` is why the
        last one who might have read it cannot."""
        self._waiting.pop(task.id, None)
        if task.leases:
            self._widen(task, now)
            return
        missing = missing_of(task, now)
        if missing is False or task.machine.state == "failed":
            return
        if not self._recall.settled(task.id, now):
            # Whoever comes first after a restart may have a part; others may have the rest.
            self._waiting[task.id] = None
            return
        if task.current is not None and not task.current.validator:
            # One sequential reading was all there could be: start over with what there is now.
            self._generations.supersede(task, now)
            missing = missing_of(task, now)
            if missing is False:
                return
        if task.attempts >= MAX_ATTEMPTS:
            lost = Unavailable(
                f"{task.attempts} hosts were lost one after the other while reading {task.spec.url}"
            )
            self.give_up(task, lost.problem(), now)
            return
        reader = choose_reader(task, self._board.hosts, now)
        if reader is None:
            if any(peer.wants and peer.readable for peer in task.peers.values()):
                # Who could read is away for a moment: it comes back, or is forgotten.
                self._waiting[task.id] = None
                return
            self.give_up(task, failure, now)
            return
        if self._must_wait(task, now):
            return
        ranges = missing if isinstance(missing, list) else None
        if ranges is None and self.limits.readers > 1:
            # The first part tells whether others may read the rest.
            ranges = [ByteRange(0, PART)]
        self._grant(task, reader, ranges, now)

    def _must_wait(self, task: Task, now: float) -> bool:
        """The origin is busy or left alone for a while; whoever cannot wait is told."""
        gate = self.book.gate(task)
        wait = gate.wait(now)
        if wait is not None and wait > PATIENCE:
            busy = OriginFailed(
                f"the origin of {task.spec.url} asks to be left alone", retry_after=wait
            )
            self.give_up(task, busy.problem(), now)
            return True
        if wait == 0.0 and now >= task.not_before:
            return False
        self._waiting[task.id] = None
        return True

    def _pauses(self, task: Task, now: float) -> bool:
        """The origin asked for a pause: what is being read goes on, and nothing more is asked."""
        asked = self.book.gate(task).asked_until > now
        if asked:
            self._waiting[task.id] = None
        return asked

    def _grant(self, task: Task, reader: str, ranges: list[ByteRange] | None, now: float) -> None:
        generation = task.current
        if not task.leases:
            # Several readers at once are one attempt.
            task.attempts += 1
        lease = Lease(
            id=new_lease_id(self._board.rng),
            host=reader,
            ranges=ranges,
            generation="" if generation is None else generation.id,
            granted_at=now,
            progress_at=now,
        )
        if generation is None:
            task.machine.fire("lease")
        host = self._board.hosts[reader]
        self.book.enter(host, task, lease, generation)
        self.book.hold(task, lease)
        self.book.seat(host, task, generation, now)
        self._board.note(task, "lease-granted", now, reader)
        self.book.send_read(task, lease)

    def _widen(self, task: Task, now: float) -> None:
        """What is under no lease yet goes to the leases there are, or to more readers."""
        if self.limits.readers > 1:
            self._deal(task, now)
            return
        lease = next(iter(task.leases.values()))
        if lease.ranges is None:
            return
        missing = missing_of(task, now)
        if missing is False:
            return
        ranges = None
        if isinstance(missing, list):
            ranges = union_of([*lease.ranges, *missing])
        if ranges != lease.ranges and self._pauses(task, now):
            return
        self.book.extend(task, lease, ranges)

    def _deal(self, task: Task, now: float) -> None:
        """Disjoint parts for several readers, once the content is known to allow it."""
        generation = task.current
        if generation is None or not generation.ranged or generation.layout.total is None:
            return
        layout = generation.layout
        missing = missing_of(task, now)
        if missing is False:
            return
        open_pieces = layout.covering(missing if isinstance(missing, list) else None)
        for lease in task.leases.values():
            open_pieces -= layout.covering(lease.ranges)
        if not open_pieces or self._pauses(task, now):
            return
        size = sum(layout.length(piece) for piece in open_pieces)
        gate = self.book.gate(task)
        takers: list[Lease | str] = [min(task.leases.values(), key=lambda lease: lease.granted_at)]
        while len(takers) + len(task.leases) - 1 < self.limits.readers:
            used = {t if isinstance(t, str) else t.host for t in takers}
            used |= {lease.host for lease in task.leases.values()}
            reader = choose_reader(task, self._board.hosts, now, used=used)
            if reader is None or size // (len(takers) + 1) < PART:
                break
            if gate.wait(now, len(takers) - 1) != 0.0 or now < task.not_before:
                break
            takers.append(reader)
        self._waiting.pop(task.id, None)
        for taker, part in zip(takers, _parts(open_pieces, len(takers)), strict=False):
            spans = [layout.span(run) for run in part.runs()]
            if isinstance(taker, str):
                self._grant(task, taker, spans, now)
            else:
                self.book.extend(task, taker, union_of([*(taker.ranges or []), *spans]))

    # ------------------------------------------------------------------ what readers report

    def progress(
        self, host: Host, task: Task, peer: Peer, report: LeaseProgress, now: float
    ) -> None:
        """A reader is at work, with `report.generation` once it knows.

        Raises:
            BadRequest: what it says of the content makes no sense.
        """
        lease = task.leases.get(report.lease)
        if lease is not None and lease.host != host.id:
            return
        if lease is None:
            lease = self._resume(host, task, peer, report, now)
            if lease is None:
                self.book.revoke(task, peer, report.lease)
                return
        lease.heard_at = now
        if not report.generation:
            return
        layout = report.layout.check()
        if report.digest:
            Digest.parse(report.digest)
        if lease.generation and lease.generation != report.generation:
            self._generations.supersede(task, now)
        begun = task.current is None or task.current.id != report.generation
        learned = False
        if begun:
            if task.current is not None:
                self._generations.supersede(task, now)
            found = Generation(
                report.generation,
                layout,
                report.validator,
                report.ranged,
                report.digest,
                report.modified,
            )
            self._generations.begin(task, found)
        elif task.current is not None and not task.current.validator:
            # Begun by what somebody had stored, of which this reader knows more.
            learned = task.current.supplement(report)
        if not lease.started or report.read_bytes > lease.read_bytes:
            lease.progress_at = now
            self.book.gate(task).answered()
        if self._board.recorder is not None:
            self._board.recorder.read(task, peer, report.read_bytes - lease.read_bytes)
        # Where each try begins at the start again, or in the same piece, bytes are no progress.
        if report.ranged and report.read_pieces > lease.read_pieces:
            task.attempts = 0
        lease.started = True
        lease.read_bytes, lease.read_pieces = report.read_bytes, report.read_pieces
        lease.checks = report.checks
        if lease.generation != report.generation or learned:
            lease.generation = report.generation
            assert task.current is not None
            self.book.enter(host, task, lease, task.current)
            # Everybody must hear of a new reader, or its runs would not count.
            self._board.touch_members(task)
        current = task.current
        assert current is not None
        if peer.generation is not current:
            self._generations.enter(task, peer, current, now)
        self._board.graph.make_root(task, peer, now)
        if begun:
            self._generations.gather(task, now)
        if report.done:
            current.checked = current.checked or report.checks
            self.book.end(task, lease, now, "done", failed=False)
        if report.done or self.limits.readers > 1:
            self.read_what_is_missing(task, now)

    def _resume(
        self, host: Host, task: Task, peer: Peer, report: LeaseProgress, now: float
    ) -> Lease | None:
        """A lease of an earlier life, or of another scheduler, whose reader is still at work."""
        record = self._board.ledger.get(report.lease)
        if (
            report.done
            or record is None
            or report.lease in task.over
            or (record.task, record.host) != (task.id, host.id)
            or record.generation not in ("", report.generation)
            or (task.current is not None and task.current.id != report.generation)
            or any(other.host != host.id or other.heard_at for other in task.leases.values())
        ):
            return None
        for other in list(task.leases.values()):
            # Granted to the same reader before it was known to be at work already.
            self.book.revoke(task, peer, other.id)
            self.book.end(task, other, now, "replaced", failed=False)
            task.attempts = max(0, task.attempts - 1)
        self._waiting.pop(task.id, None)
        self._recall.forget(task.id)
        lease = Lease(
            id=report.lease,
            host=host.id,
            ranges=None,
            generation=record.generation,
            granted_at=now,
            progress_at=now,
        )
        if task.machine.state == "failed":
            task.machine.fire("ask")
        if task.current is None:
            task.machine.fire("lease")
        self.book.hold(task, lease)
        self._board.note(task, "lease-granted", now, host.id)
        return lease

    def length(self, task: Task, peer: Peer, report: Length, now: float) -> None:
        """The total of content of unknown length, which only its reader can know."""
        generation = task.current
        reads = any(
            lease.host == peer.host and lease.generation == report.generation
            for lease in task.leases.values()
        )
        if generation is not None and generation.id == report.generation and reads:
            self.measured(task, generation, report.total, now)

    def measured(self, task: Task, generation: Generation, total: int, now: float) -> None:
        """A reader of the generation has seen where it ends."""
        generation.layout = Layout(total, generation.layout.piece_length).check()
        for record in list(self._board.ledger.of(task.id, generation.id)):
            self._board.ledger.put(msgspec.structs.replace(record, layout=generation.layout))
        self._board.touch_members(task)
        # Only now can be told who would miss something of it.
        for host in list(generation.members):
            self._board.graph.supply(task, task.peers[host], now)

    def changed(self, task: Task, peer: Peer, report: Changed, now: float) -> None:
        """The origin has other content than the lease's generation."""
        lease = task.leases.get(report.lease)
        if lease is None or lease.host != peer.host:
            return
        self.book.gate(task).answered()
        # Other readers of the old content would only find out the same.
        for other in list(task.leases.values()):
            if other is not lease:
                self.book.revoke(task, task.peers[other.host], other.id)
            self.book.end(task, other, now, "changed", failed=False)
        task.attempts = max(0, task.attempts - 1)
        self._generations.supersede(task, now)
        self.read_what_is_missing(task, now)

    def failed(self, task: Task, peer: Peer, report: Failed, now: float) -> None:
        """A reader gave its lease up."""
        lease = task.leases.get(report.lease)
        if lease is None or lease.host != peer.host:
            return
        problem = report.problem
        waits = problem.code == OriginFailed.code and problem.retry_after is not None
        self.book.end(task, lease, now, "failed", failed=not waits)
        self._judge(task, problem, now)
        if problem.code == DigestMismatch.code:
            current = task.current
            mine = current is not None and current.id == lease.generation
            self._spoil(task, current if mine else None, problem, now)
        elif OverQuota.means(problem):
            # Of the tenant, whoever reads: another host would be told the same.
            self.give_up(task, problem, now)
        elif problem.code in OWN:
            self._set_aside(task, peer, problem, now)
        elif problem.code in PERMANENT or task.attempts >= MAX_ATTEMPTS:
            self.give_up(task, problem, now)
        else:
            self.read_what_is_missing(task, now)

    def _set_aside(self, task: Task, peer: Peer, problem: Problem, now: float) -> None:
        """Others read in the place of a host that cannot store anything."""
        task.attempts = max(0, task.attempts - 1)
        if peer.wants:
            self._stop(task, peer, problem, now)
        self.read_what_is_missing(task, now, problem)

    def mismatched(self, task: Task, peer: Peer, problem: Problem, now: float) -> None:
        """A peer has all of a generation, and not what the origin says it has."""
        generation = peer.generation
        self.remove(task, peer, now)
        if generation is not None and generation.digest and not generation.checked:
            self._spoil(task, generation, problem, now)
        else:
            self.read_what_is_missing(task, now)

    def _spoil(
        self, task: Task, generation: Generation | None, problem: Problem, now: float
    ) -> None:
        """The content is wrong: nobody keeps it, and whoever waits for it is told."""
        if generation is not None:
            self._board.ledger.void(task.id, generation.id)
            self.withdraw(task, generation.id, problem.detail, now)
        self.give_up(task, problem, now)

    def withdraw(self, task: Task, generation: str, reason: str, now: float) -> None:
        """Take a generation away from everybody."""
        current = task.current
        if current is not None and current.id == generation:
            current.machine.fire("withdraw")
            self._board.note(task, "withdrawn", now, detail=reason)
            self._board.figures.generations_ended["withdrawn"] += 1
            for lease in list(task.leases.values()):
                self.book.end(task, lease, now, "withdrawn", failed=False)
            self._generations.lose(task)
        for peer in list(task.peers.values()):
            if peer.generation is not None and peer.generation.id == generation:
                self._generations.withdraw_from(task, peer, peer.generation, reason, now)

    def _judge(self, task: Task, problem: Problem, now: float) -> None:
        """What a failure says of the origin."""
        gate = self.book.gate(task)
        if problem.code == OriginFailed.code:
            gate.failed(task.id, problem.retry_after, now, self._board.rng)
            pause = FIRST_BACKOFF * 2 ** (task.attempts - 1)
            task.not_before = now + pause * self._board.rng.uniform(0.5, 1.0)
        elif problem.code in ("not-found", "origin-refused"):
            gate.answered()

    # ------------------------------------------------------------------ ends

    def give_up(self, task: Task, problem: Problem | None, now: float) -> None:
        """Tell every peer that cannot be served by others that this is the end; without a problem
        it is that nobody may read."""
        for peer in [peer for peer in task.peers.values() if peer.wants]:
            if self._generations.can_finish(task, peer):
                continue
            self._stop(task, peer, problem or refusal(peer.level, task.spec).problem(), now)
        if task.current is None and task.machine.allows("fail"):
            task.machine.fire("fail")
        # Whoever asks next is not answered by what happened to these.
        task.attempts = 0
        self.tidy(task, now)

    def _stop(self, task: Task, peer: Peer, problem: Problem, now: float) -> None:
        """Tell a peer why it gets nothing (more), and do without it."""
        self._board.figures.given_up[problem.code] += 1
        self._board.note(task, "stopped", now, peer.host, detail=problem.code)
        peer.revision += 1
        stop = Stop(task=task.id, revision=peer.revision, problem=problem)
        self._board.send(peer.host, stop)
        self.remove(task, peer, now)

    def remove(self, task: Task, peer: Peer, now: float) -> None:
        """The peer takes no part any more."""
        for lease in [lease for lease in task.leases.values() if lease.host == peer.host]:
            self.book.end(task, lease, now, "lost", failed=True)
            self._recall.left(task.id, now)
        self._board.graph.leave(task, peer, now)
        del task.peers[peer.host]
        self._board.forget(task, peer)
        host = self._board.hosts.get(peer.host)
        if host is not None:
            host.tasks.discard(task.id)
        if task.current is not None and not len(task.current.members) and not task.leases:
            self._generations.lose(task)
        self.tidy(task, now)

    def tidy(self, task: Task, now: float) -> None:
        """A task without peers is forgotten."""
        if not task.peers:
            if self._board.recorder is not None:
                self._board.recorder.ended(task, now)
            self._board.tasks.pop(task.id, None)
            self._waiting.pop(task.id, None)
            self._recall.forget(task.id)

    def tick(self, now: float) -> None:
        """Leases of silent readers end, and those for which nobody waits; tasks that waited are
        looked at again."""
        for task in [self._board.tasks[name] for name in sorted(self.book.leased)]:
            self._end_unwanted(task, now)
            for lease in list(task.leases.values()):
                if overdue(lease, now, self.limits.silence):
                    self.book.revoke(task, task.peers[lease.host], lease.id)
                    self.book.end(task, lease, now, "overdue", failed=True)
                    self.read_what_is_missing(task, now)
        self.resume_waiting(now)
        self.book.gates.forget(now)

    def _end_unwanted(self, task: Task, now: float) -> None:
        """Whoever asked has gone: what is left can be read when somebody asks again. What could
        only be read anew from its beginning is read to its end."""
        if any(peer.wants for peer in task.peers.values()):
            task.unwanted_since = None
            return
        if task.unwanted_since is None:
            task.unwanted_since = now
        generation = task.current
        again = generation is not None and generation.validator and generation.ranged
        if not again or now - task.unwanted_since < UNWANTED:
            return
        for lease in list(task.leases.values()):
            self.book.revoke(task, task.peers[lease.host], lease.id)
            self.book.end(task, lease, now, "unwanted", failed=False)
        task.unwanted_since = None

    def resume_waiting(self, now: float) -> None:
        """Look again at every task that waited, in the order they came."""
        for name in list(self._waiting):
            task = self._board.tasks.get(name)
            if task is None:
                self._waiting.pop(name, None)
            elif name in self._waiting:
                self.read_what_is_missing(task, now)


def _parts(pieces: PieceSet, count: int) -> list[PieceSet]:
    """Consecutive parts of about the same number of pieces."""
    members = list(pieces)
    size = -(-len(members) // count)
    return [PieceSet.of(members[at : at + size]) for at in range(0, len(members), size)]
