"""Events in, decisions out: the scheduler as a pure machine."""

from __future__ import annotations

import random
from collections.abc import Iterable

import msgspec

from hawker.core.contracts import Evaluator
from hawker.core.errors import BadRequest, NotFound, Problem
from hawker.core.messages import (
    AnyDecision,
    AnyReport,
    Changed,
    Failed,
    Finished,
    Have,
    HostAnnouncement,
    LeaseProgress,
    Left,
    Length,
    ParentFailed,
    ParentRef,
    Parents,
    PieceCorrupt,
    Read,
    Register,
    Stop,
    Withdrawn,
)
from hawker.core.pieces import Layout, PieceSet
from hawker.core.ranges import ByteRange
from hawker.core.scheduling.entities import (
    Generation,
    Host,
    Lease,
    LeaseRecord,
    Outgoing,
    Peer,
    Task,
)
from hawker.core.scheduling.graph import Graph
from hawker.core.scheduling.origin import (
    MAX_ATTEMPTS,
    READER_PENALTY,
    Ledger,
    choose_reader,
    missing_of,
    new_lease_id,
    overdue,
    union_of,
)
from hawker.core.scheduling.views import describe_task, summarize_host, summarize_task

AWAY_TIMEOUT = 5.0
SUSPECT_SECONDS = 30.0
EVIDENCE_SECONDS = 10.0
ACCUSERS = 2
PERMANENT = frozenset({"not-found", "origin-refused", "forbidden", "bad-request"})
IMPORT = "import-"


class Scheduler:
    """Decides for hosts and tasks; every method that may decide returns what it decided."""

    def __init__(
        self, evaluator: Evaluator, rng: random.Random, *, lease_timeout: float = 2.0
    ) -> None:
        self._rng = rng
        self._lease_timeout = lease_timeout
        self._hosts: dict[str, Host] = {}
        self._tasks: dict[str, Task] = {}
        self._leased: set[str] = set()
        self._away: set[str] = set()
        self._ledger = Ledger()
        self._graph = Graph(self._hosts, evaluator, rng, self._touch)
        self._touched: dict[tuple[str, str], None] = {}
        self._out: list[Outgoing] = []

    # ------------------------------------------------------------------ hosts

    def announce(self, host: str, announcement: HostAnnouncement, now: float) -> list[Outgoing]:
        """A host as it describes itself, again and again."""
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = Host(host, announcement)
        elif known.announcement.boot != announcement.boot:
            # Another life of the same host: what it was doing is over.
            self._forget_tasks(known, now)
        known.announcement = announcement
        known.machine.fire("announce")
        return self._decided()

    def check_announced(self, host: str) -> None:
        """Raise NotFound for a host that never announced itself."""
        self._host(host)

    def connected(self, host: str, now: float) -> list[Outgoing]:
        """The host's decision stream is open."""
        known = self._host(host)
        known.machine.fire("connect")
        self._away.discard(host)
        for task in list(known.tasks):
            self._graph.adopt(self._tasks[task], now)
        return self._decided()

    def disconnected(self, host: str, now: float) -> list[Outgoing]:
        """The host's decision stream broke; it has a little time to come back."""
        known = self._hosts.get(host)
        if known is not None and known.machine.allows("disconnect"):
            known.machine.fire("disconnect")
            known.away_since = now
            self._away.add(host)
        return self._decided()

    def leave(self, host: str, now: float) -> list[Outgoing]:
        """The host is gone."""
        if host in self._hosts:
            self._drop_host(host, now)
        return self._decided()

    def _drop_host(self, host: str, now: float) -> None:
        known = self._hosts[host]
        self._away.discard(host)
        known.machine.fire("leave")
        self._forget_tasks(known, now)
        del self._hosts[host]

    def tick(self, now: float) -> list[Outgoing]:
        """What happens because time passes."""
        for host in [h for h in self._away if now - self._hosts[h].away_since > AWAY_TIMEOUT]:
            self._drop_host(host, now)
        for task in [self._tasks[name] for name in sorted(self._leased)]:
            if task.lease is not None and overdue(task.lease, now, self._lease_timeout):
                self._end_lease(task, now, failed=True)
                self._read_what_is_missing(task, now)
        for name in sorted(self._graph.orphaned):
            self._graph.adopt(self._tasks[name], now)
        return self._decided()

    # ------------------------------------------------------------------ reports

    def report(self, host: str, report: AnyReport, now: float) -> list[Outgoing]:
        """What a host says happened.

        Raises:
            NotFound: the host never announced itself.
            BadRequest: the report makes no sense.
        """
        known = self._host(host)
        if isinstance(report, Register):
            self._register(known, report, now)
            return self._decided()
        task = self._tasks.get(report.task)
        peer = None if task is None else task.peers.get(host)
        if task is None or peer is None:
            return self._decided()
        match report:
            case Have():
                pieces = PieceSet.from_runs(report.pieces)
                self._have(task, peer, report.generation, pieces, now)
            case LeaseProgress():
                self._progress(known, task, peer, report, now)
            case Length():
                self._length(task, report)
            case Finished():
                self._finished(task, peer, report, now)
            case ParentFailed():
                self._parent_failed(task, peer, report.parent, now, counts=report.reason != "busy")
            case PieceCorrupt():
                self._parent_failed(task, peer, report.parent, now, counts=True)
            case Changed():
                self._changed(task, peer, report, now)
            case Failed():
                self._failed(task, peer, report, now)
            case Left():
                self._remove(task, peer, now)
                self._read_what_is_missing(task, now)
        return self._decided()

    def _register(self, host: Host, report: Register, now: float) -> None:
        if report.spec.task_id != report.task:
            raise BadRequest(f"task {report.task} is not the one that its fields name")
        task = self._tasks.get(report.task)
        if task is None:
            task = self._tasks[report.task] = Task(report.task, report.spec)
        peer = task.peers.get(host.id)
        if peer is None:
            peer = task.peers[host.id] = Peer(host.id)
            host.tasks.add(task.id)
        peer.want, peer.private, peer.readable = report.want, report.private, report.readable
        peer.machine.fire("offer" if report.want == [] else "ask")
        if peer.generation is not None:
            peer.machine.fire("join")
        if task.machine.state == "failed":
            task.machine.fire("ask")
            task.attempts = 0
        if report.generation and report.have and report.layout is not None:
            self._stored(host, task, peer, report, now)
        if task.current is not None and peer.generation is None and peer.wants:
            self._enter(task, peer, task.current, now)
        self._settle_root(task, peer, now)
        self._graph.supply(task, peer, now)
        self._touch(task, peer)
        self._read_what_is_missing(task, now)

    def _stored(self, host: Host, task: Task, peer: Peer, report: Register, now: float) -> None:
        """Take what a host has stored, if its readers held the leases they name."""
        layout = msgspec.convert(report.layout, Layout).check()
        have = PieceSet.from_runs(report.have)
        if layout.total is not None and not have <= layout.everything():
            raise BadRequest("a host has pieces beyond the end of its content")
        own = [r for r in report.readers if r.host == host.id and r.lease.startswith(IMPORT)]
        known = self._ledger.knows(task.id, report.generation, report.readers)
        if not known and own and task.current is None and task.lease is None:
            for reader in own:
                if reader.key == host.announcement.key:
                    self._ledger.put(
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
                    known = True
        if not known:
            return
        if task.current is None:
            records = self._ledger.of(task.id, report.generation)
            validator = next((r.validator for r in records if r.validator), "")
            self._begin(task, Generation(report.generation, layout, validator), now)
        if task.current is not None and task.current.id == report.generation:
            if peer.generation is not task.current:
                self._enter(task, peer, task.current, now)
            self._have(task, peer, report.generation, have, now)

    def _have(self, task: Task, peer: Peer, generation: str, pieces: PieceSet, now: float) -> None:
        mine = peer.generation
        if mine is None or mine.id != generation:
            return
        layout = mine.layout
        if layout.total is not None:
            pieces &= layout.everything()
        new = pieces - peer.have
        peer.have |= new
        for host in peer.parents:
            self._hosts[host].served += len(new)
        if layout.total is not None and layout.everything() <= peer.have:
            self._complete(task, peer, mine, now)

    def _complete(self, task: Task, peer: Peer, generation: Generation, now: float) -> None:
        generation.complete.add(peer.host)
        task.attempts = 0
        peer.machine.fire("finish")
        self._graph.make_root(task, peer, now)

    def _finished(self, task: Task, peer: Peer, report: Finished, now: float) -> None:
        mine = peer.generation
        if mine is None or mine.id != report.generation or mine.layout.total is None:
            return
        peer.digest = report.digest
        peer.have = mine.layout.everything()
        self._complete(task, peer, mine, now)

    def _length(self, task: Task, report: Length) -> None:
        generation = task.current
        if generation is not None and generation.id == report.generation:
            generation.layout = Layout(report.total, generation.layout.piece_length).check()
            for host in generation.members:
                self._touch(task, task.peers[host])

    # ------------------------------------------------------------------ the origin

    def _progress(
        self, host: Host, task: Task, peer: Peer, report: LeaseProgress, now: float
    ) -> None:
        lease = task.lease
        if lease is None or lease.id != report.lease or lease.host != host.id:
            return
        layout = report.layout.check()
        if lease.generation and lease.generation != report.generation:
            self._supersede(task, now)
        if task.current is None or task.current.id != report.generation:
            if task.current is not None:
                self._supersede(task, now)
            self._begin(task, Generation(report.generation, layout, report.validator), now)
        if not lease.started or report.read_bytes > lease.read_bytes:
            lease.progress_at = now
        if report.validator and report.read_bytes > lease.read_bytes:
            task.attempts = 0
        lease.started = True
        lease.read_bytes = report.read_bytes
        if lease.generation != report.generation:
            lease.generation = report.generation
            self._remember(host, task, lease, report)
        current = task.current
        assert current is not None
        if peer.generation is not current:
            self._enter(task, peer, current, now)
        self._graph.make_root(task, peer, now)
        for other in task.peers.values():
            if other.generation is None and other.wants:
                self._enter(task, other, current, now)
        if report.done:
            self._end_lease(task, now, failed=False)
            self._read_what_is_missing(task, now)

    def _remember(self, host: Host, task: Task, lease: Lease, report: LeaseProgress) -> None:
        self._ledger.put(
            LeaseRecord(
                lease=lease.id,
                task=task.id,
                generation=report.generation,
                host=host.id,
                key=host.announcement.key,
                spec=task.spec,
                layout=report.layout,
                validator=report.validator,
            )
        )
        generation = task.current
        if generation is not None:
            # Everybody must hear of a new reader, or its runs would not count.
            for member in generation.members:
                self._touch(task, task.peers[member])

    def _read_what_is_missing(self, task: Task, now: float) -> None:
        """Grant a lease, or extend the one there is, for what no live peer has."""
        missing = missing_of(task)
        if task.lease is not None:
            self._extend(task, task.lease)
            return
        if missing is False or task.machine.state == "failed":
            return
        generation = task.current
        if generation is not None and not generation.validator:
            # One sequential reading was all there could be: start over with what there is now.
            self._supersede(task, now)
            generation = None
            missing = missing_of(task)
            if missing is False:
                return
        reader = choose_reader(task, self._hosts, now)
        if reader is None or task.attempts >= MAX_ATTEMPTS:
            self._give_up(task, None, now)
            return
        self._grant(task, reader, missing if isinstance(missing, list) else None, now)

    def _grant(self, task: Task, reader: str, ranges: list[ByteRange] | None, now: float) -> None:
        generation = task.current
        task.attempts += 1
        task.lease = Lease(
            id=new_lease_id(self._rng),
            host=reader,
            ranges=ranges,
            generation="" if generation is None else generation.id,
            progress_at=now,
        )
        self._leased.add(task.id)
        if generation is None:
            task.machine.fire("lease")
        host = self._hosts[reader]
        self._ledger.put(
            LeaseRecord(
                lease=task.lease.id,
                task=task.id,
                generation=task.lease.generation,
                host=reader,
                key=host.announcement.key,
                spec=task.spec,
                layout=None if generation is None else generation.layout,
                validator="" if generation is None else generation.validator,
            )
        )
        peer = task.peers.get(reader)
        if peer is None:
            peer = task.peers[reader] = Peer(reader)
            peer.want = []
            peer.machine.fire("offer")
            host.tasks.add(task.id)
        if generation is not None:
            if peer.generation is not generation:
                self._enter(task, peer, generation, now)
            self._graph.make_root(task, peer, now)
            for member in generation.members:
                self._touch(task, task.peers[member])
        self._send_read(task, task.lease)

    def _extend(self, task: Task, lease: Lease) -> None:
        wanting = [peer for peer in task.peers.values() if peer.wants]
        if lease.ranges is None or not wanting:
            return
        more = union_of(wanting)
        ranges = None
        if more is not None:
            ranges = union_of([Peer("", want=more), Peer("", want=lease.ranges)])
        if ranges != lease.ranges:
            lease.ranges = ranges
            self._send_read(task, lease)

    def _send_read(self, task: Task, lease: Lease) -> None:
        peer = task.peers[lease.host]
        self._out.append(Outgoing(lease.host, self._read(task, peer, lease)))

    def _read(self, task: Task, peer: Peer, lease: Lease) -> Read:
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
            layout=None if generation is None else generation.layout,
        )

    def _end_lease(self, task: Task, now: float, *, failed: bool) -> None:
        lease, task.lease = task.lease, None
        self._leased.discard(task.id)
        if lease is None:
            return
        if task.machine.state == "reading":
            task.machine.fire("lease-ended")
        if failed:
            task.failed_readers[lease.host] = now + READER_PENALTY
        peer = task.peers.get(lease.host)
        if peer is not None:
            self._settle_root(task, peer, now)

    def _failed(self, task: Task, peer: Peer, report: Failed, now: float) -> None:
        lease = task.lease
        if not report.lease:
            self._remove(task, peer, now)
            self._read_what_is_missing(task, now)
            return
        if lease is None or lease.id != report.lease or lease.host != peer.host:
            return
        self._end_lease(task, now, failed=True)
        if report.problem.code in PERMANENT or task.attempts >= MAX_ATTEMPTS:
            self._give_up(task, report.problem, now)
        else:
            self._read_what_is_missing(task, now)

    def _give_up(self, task: Task, problem: Problem | None, now: float) -> None:
        """Tell every peer that cannot be served by others that this is the end."""
        if problem is None:
            problem = NotFound(
                f"no peer has {task.spec.url}, and nobody may or can read its origin"
            ).problem()
        for peer in [peer for peer in task.peers.values() if peer.wants]:
            if self._can_finish(task, peer):
                continue
            peer.revision += 1
            stop = Stop(task=task.id, revision=peer.revision, problem=problem)
            self._out.append(Outgoing(peer.host, stop))
            self._remove(task, peer, now)
        if task.current is None and task.machine.allows("fail"):
            task.machine.fire("fail")
        self._tidy(task)

    def _can_finish(self, task: Task, peer: Peer) -> bool:
        generation = peer.generation
        if generation is None:
            return False
        if generation.complete - {peer.host}:
            return True
        wanted = peer.wanted(generation.layout)
        covered = PieceSet()
        for host in generation.members:
            covered |= task.peers[host].have
        return wanted is not None and wanted <= covered

    # ------------------------------------------------------------------ generations

    def _begin(self, task: Task, generation: Generation, now: float) -> None:
        task.current = generation
        task.machine.fire("found")

    def _enter(self, task: Task, peer: Peer, generation: Generation, now: float) -> None:
        if peer.generation is not None:
            self._exit(task, peer, now)
        peer.have = PieceSet()
        self._graph.join(task, peer, generation)
        peer.machine.fire("join")
        self._graph.supply(task, peer, now)
        self._touch(task, peer)

    def _exit(self, task: Task, peer: Peer, now: float) -> None:
        self._graph.leave(task, peer, now)
        peer.have = PieceSet()
        if peer.machine.allows("lose"):
            peer.machine.fire("lose")

    def _settle_root(self, task: Task, peer: Peer, now: float) -> None:
        """Readers, holders and whoever has everything are roots, the others are not."""
        generation = peer.generation
        if generation is None:
            return
        reading = task.lease is not None and task.lease.host == peer.host
        holder = peer.machine.state == "holding" and bool(peer.have)
        if peer.host in generation.complete or reading or holder:
            self._graph.make_root(task, peer, now)
        else:
            self._graph.unmake_root(task, peer, now)

    def _changed(self, task: Task, peer: Peer, report: Changed, now: float) -> None:
        lease = task.lease
        if lease is None or lease.id != report.lease or lease.host != peer.host:
            return
        self._end_lease(task, now, failed=False)
        task.attempts = max(0, task.attempts - 1)
        self._supersede(task, now)
        self._read_what_is_missing(task, now)

    def _supersede(self, task: Task, now: float) -> None:
        """The origin has other content: who can finish from peers may, the others start over."""
        generation = task.current
        if generation is None:
            return
        generation.machine.fire("supersede")
        keep = {
            host
            for host in generation.members
            if not task.peers[host].wants or self._can_finish(task, task.peers[host])
        }
        self._lose(task)
        for host in [host for host in generation.members if host not in keep]:
            self._withdraw_from(task, task.peers[host], generation, "the origin changed", now)

    def _lose(self, task: Task) -> None:
        task.current = None
        if task.machine.state == "live":
            task.machine.fire("lost")

    def _withdraw_from(
        self, task: Task, peer: Peer, generation: Generation, reason: str, now: float
    ) -> None:
        self._exit(task, peer, now)
        peer.revision += 1
        gone = Withdrawn(
            task=task.id, revision=peer.revision, generation=generation.id, reason=reason
        )
        self._out.append(Outgoing(peer.host, gone))
        self._touch(task, peer)

    def withdraw(self, task: str, generation: str, reason: str, now: float) -> list[Outgoing]:
        """Take a generation away from everybody: its bytes are wrong."""
        known = self._tasks.get(task)
        if known is not None:
            current = known.current
            if current is not None and current.id == generation:
                current.machine.fire("withdraw")
                self._end_lease(known, now, failed=False)
                self._lose(known)
            for peer in [p for p in known.peers.values() if _is_in(p, generation)]:
                assert peer.generation is not None
                self._withdraw_from(known, peer, peer.generation, reason, now)
            self._read_what_is_missing(known, now)
        return self._decided()

    def delete(self, task: str, now: float) -> list[Outgoing]:
        """Take a task away from everybody who only stores it; downloads go on from the origin."""
        known = self._tasks.get(task)
        peers = known.peers.values() if known is not None else ()
        generations = {peer.generation.id for peer in peers if peer.generation is not None}
        out: list[Outgoing] = []
        for generation in sorted(generations):
            out.extend(self.withdraw(task, generation, "deleted", now))
        return out

    # ------------------------------------------------------------------ evidence

    def _parent_failed(
        self, task: Task, peer: Peer, parent: str, now: float, *, counts: bool
    ) -> None:
        """Part two peers, and judge the accused by how many accuse it."""
        other = task.peers.get(parent)
        host = self._hosts.get(parent)
        peer.avoid[parent] = now + SUSPECT_SECONDS
        if other is not None:
            self._graph.separate(task, peer, other)
        if host is not None and counts:
            host.failed += 1
            host.evidence = [e for e in host.evidence if now - e[1] <= EVIDENCE_SECONDS]
            host.evidence.append((peer.host, now))
            if len({accuser for accuser, _ in host.evidence}) >= ACCUSERS:
                self._suspect(host, now)
        for bereft in (peer, other):
            if bereft is not None:
                self._graph.supply(task, bereft, now)
        self._touch(task, peer)

    def _suspect(self, host: Host, now: float) -> None:
        """Give the host's children to others; it comes back on probation."""
        host.suspect_until = now + SUSPECT_SECONDS
        host.evidence.clear()
        for name in host.tasks:
            task = self._tasks[name]
            peer = task.peers[host.id]
            for other in self._graph.cut(task, peer):
                self._graph.supply(task, other, now)
            self._graph.supply(task, peer, now)

    # ------------------------------------------------------------------ leaving

    def _remove(self, task: Task, peer: Peer, now: float) -> None:
        """The peer takes no part any more."""
        lease = task.lease
        if lease is not None and lease.host == peer.host:
            self._end_lease(task, now, failed=True)
        self._graph.leave(task, peer, now)
        del task.peers[peer.host]
        self._touched.pop((task.id, peer.host), None)
        host = self._hosts.get(peer.host)
        if host is not None:
            host.tasks.discard(task.id)
        if task.current is not None and not len(task.current.members) and task.lease is None:
            self._lose(task)
        self._tidy(task)

    def _tidy(self, task: Task) -> None:
        if not task.peers:
            self._tasks.pop(task.id, None)
            self._leased.discard(task.id)

    def _forget_tasks(self, host: Host, now: float) -> None:
        for name in list(host.tasks):
            task = self._tasks[name]
            self._remove(task, task.peers[host.id], now)
            if name in self._tasks:
                self._read_what_is_missing(task, now)

    # ------------------------------------------------------------------ records

    def _touch(self, task: Task, peer: Peer) -> None:
        self._touched[task.id, peer.host] = None

    def _decided(self) -> list[Outgoing]:
        """What was decided since the last call; one record for each peer that changed."""
        out, self._out = self._out, []
        touched, self._touched = self._touched, {}
        for name, host in touched:
            task = self._tasks.get(name)
            peer = None if task is None else task.peers.get(host)
            if task is not None and peer is not None and host in self._hosts:
                peer.revision += 1
                out.append(Outgoing(host, self._parents(task, peer)))
        # A host may have gone after something was decided for it.
        return [outgoing for outgoing in out if outgoing.host in self._hosts]

    def _parents(self, task: Task, peer: Peer) -> Parents:
        generation = peer.generation
        if generation is None:
            return Parents(task=task.id, revision=peer.revision)
        refs = []
        for other in (*sorted(peer.parents), *sorted(peer.neighbours - peer.parents)):
            known = self._hosts.get(other)
            if known is None:
                continue
            announcement = known.announcement
            refs.append(
                ParentRef(
                    host=other,
                    url=announcement.url,
                    spine=other in peer.parents,
                    seed=announcement.seed,
                    transports=announcement.transports,
                )
            )
        return Parents(
            task=task.id,
            revision=peer.revision,
            generation=generation.id,
            layout=generation.layout,
            parents=refs,
            readers=self._ledger.readers(task.id, generation.id),
        )

    def current(self, host: str) -> list[AnyDecision]:
        """The current records of a host, for a stream that was opened (again)."""
        known = self._hosts.get(host)
        records: list[AnyDecision] = []
        for name in sorted(known.tasks if known is not None else ()):
            task = self._tasks[name]
            peer = task.peers[host]
            peer.revision += 1
            records.append(self._parents(task, peer))
            if task.lease is not None and task.lease.host == host:
                records.append(self._read(task, peer, task.lease))
        return records

    # ------------------------------------------------------------------ ledger, views

    def take_unsaved(self) -> list[LeaseRecord]:
        """Lease records to be written before the decisions of this call go out."""
        return self._ledger.take_unsaved()

    def restore(self, records: Iterable[LeaseRecord]) -> None:
        """Lease records of an earlier life."""
        for record in records:
            self._ledger.put(record, saved=True)

    def describe(self, task: str) -> dict[str, object] | None:
        """A task's peers, edges and lease, for people; None for an unknown one."""
        known = self._tasks.get(task)
        return None if known is None else describe_task(known)

    def tasks(self) -> list[dict[str, object]]:
        """Every task in a line."""
        return [summarize_task(task) for task in self._tasks.values()]

    def hosts(self) -> list[dict[str, object]]:
        """Every host in a line."""
        return [summarize_host(host) for host in self._hosts.values()]

    def report_after_ms(self, host: str) -> int:
        """How long a host should collect reports: the more hosts, the longer."""
        return min(1000, 20 + len(self._hosts) // 10)

    def _host(self, host: str) -> Host:
        known = self._hosts.get(host)
        if known is None:
            raise NotFound(f"host {host} never announced itself", hint="announce it first")
        return known


def _is_in(peer: Peer, generation: str) -> bool:
    return peer.generation is not None and peer.generation.id == generation
