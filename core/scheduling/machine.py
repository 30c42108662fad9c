"""Events in, decisions out: the scheduler as a pure machine."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping

from hawker.core.contracts import Evaluator
from hawker.core.errors import BadRequest, DigestMismatch, Unavailable
from hawker.core.limits import Limits
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
    PieceCorrupt,
    Register,
    Usage,
    WhoHas,
    kind_of,
)
from hawker.core.pieces import PieceSet
from hawker.core.priorities import Levels
from hawker.core.scheduling.board import Board
from hawker.core.scheduling.entities import Avoided, Host, LeaseRecord, Outgoing, Peer, Task
from hawker.core.scheduling.figures import Figures, Standing
from hawker.core.scheduling.generations import Generations
from hawker.core.scheduling.leasebook import OriginLimits
from hawker.core.scheduling.leases import Leases
from hawker.core.scheduling.recall import GRACE, Recall
from hawker.core.scheduling.recorder import MAX_PEERS, TICK_RUNS, Recorder
from hawker.core.scheduling.registrations import Registrations
from hawker.core.scheduling.standing import overview_of, standing_of
from hawker.core.scheduling.teller import slices_of
from hawker.core.scheduling.tenants import Tenants
from hawker.core.scheduling.views import line_of, members_of, outline_of, summarize_host
from hawker.core.window import MemberView, Overview, TaskDetail, TaskLine

# How often whoever runs the machine calls `tick`.
TICK = 0.25
AWAY_TIMEOUT = 5.0
# How long one peer avoids another, and all peers a host that several accuse.
SUSPECT_SECONDS = 10.0
# The same where a peer has nobody else: what was between them may be there again.
RELENT = 1.0
LONGEST_SUSPICION = 600.0
EVIDENCE_SECONDS = 10.0
ACCUSERS = 2
# A bound on what holders of the cluster's key can make a scheduler remember.
MAX_HOSTS = 1 << 17
# A host that announced itself and opens no decision stream within these seconds is forgotten.
UNOPENED_TIMEOUT = 60.0


class Scheduler:
    """Decides for hosts and tasks; every method that may decide returns what it decided. `record`:
    what happens is recorded for observers."""

    def __init__(
        self,
        evaluator: Evaluator,
        rng: random.Random,
        limits: OriginLimits | None = None,
        tenants: Mapping[str, Limits] | None = None,
        *,
        record: bool = False,
    ) -> None:
        self._board = Board(evaluator, rng, record=record)
        self._recall = Recall()
        self._generations = Generations(self._board)
        self._leases = Leases(
            self._board, self._generations, self._recall, limits or OriginLimits()
        )
        self._registrations = Registrations(
            self._board, self._generations, self._leases, self._recall
        )
        self.tenants = Tenants(self._board, self._recall, tenants or {})
        self._gone = 0
        self._away: set[str] = set()
        # When each host announced itself that has no decision stream, the longest silent first.
        self._unopened: dict[str, float] = {}

    # ------------------------------------------------------------------ hosts

    def announce(self, host: str, announcement: HostAnnouncement, now: float) -> list[Outgoing]:
        """A host as it describes itself, again and again.

        Raises:
            Unavailable: it is new, and there are `MAX_HOSTS` already.
        """
        known = self._board.hosts.get(host)
        if known is None:
            if len(self._board.hosts) >= MAX_HOSTS:
                raise Unavailable(
                    f"this scheduler has {MAX_HOSTS} hosts and takes no more",
                    hint="add a scheduler, or make a new cluster key if these are not your hosts",
                )
            known = self._board.hosts[host] = Host(host, announcement, self._gone)
        elif known.announcement.boot != announcement.boot:
            # Another life of the same host: what it was doing is over, and what was said of it.
            self._forget_tasks(known, now)
            self.tenants.gone(host, now)
            known.suspect_until, known.suspicions = 0.0, 0
        known.announcement = announcement
        known.machine.fire("announce")
        if known.machine.state == "known":
            self._unopened.pop(host, None)
            self._unopened[host] = now
        return self._board.take()

    def check_announced(self, host: str) -> None:
        """Raise NotFound for a host that never announced itself."""
        self._board.host(host)

    def connected(self, host: str, now: float) -> list[Outgoing]:
        """The host's decision stream is open."""
        known = self._board.host(host)
        known.machine.fire("connect")
        self._away.discard(host)
        self._unopened.pop(host, None)
        self._recall.back(host)
        for task in self._recall.open_questions():
            self._recall.asked_too(task, host)
            self._board.send(host, WhoHas(task=task))
        for task in list(known.tasks):
            self._board.graph.adopt(self._board.tasks[task], now)
        self._leases.resume_waiting(now)
        return self._board.take()

    def disconnected(self, host: str, now: float) -> list[Outgoing]:
        """The host's decision stream broke; it has a little time to come back."""
        known = self._board.hosts.get(host)
        if known is not None and known.machine.allows("disconnect"):
            known.machine.fire("disconnect")
            known.away_since = now
            self._away.add(host)
            self._recall.gone(host)
        return self._board.take()

    def leave(self, host: str, now: float) -> list[Outgoing]:
        """The host is gone."""
        if host in self._board.hosts:
            self._drop_host(host, now)
        return self._board.take()

    def _drop_host(self, host: str, now: float) -> None:
        known = self._board.hosts[host]
        self._away.discard(host)
        self._unopened.pop(host, None)
        self._recall.gone(host)
        known.machine.fire("leave")
        self._forget_tasks(known, now)
        self.tenants.gone(host, now)
        del self._board.hosts[host]
        self._gone += 1

    def _forget_tasks(self, host: Host, now: float) -> None:
        for name in list(host.tasks):
            task = self._board.tasks[name]
            self._leases.remove(task, task.peers[host.id], now)
            self._generations.release_stranded(task, now)
            if name in self._board.tasks:
                self._leases.read_what_is_missing(task, now)

    def excuse(self, seconds: float, now: float) -> None:
        """This scheduler itself stood still for the last `seconds`: silence then says nothing."""
        for host in self._away:
            known = self._board.hosts[host]
            known.away_since = min(now, known.away_since + seconds)
        self._leases.book.excuse(seconds, now)

    def tick(self, now: float) -> list[Outgoing]:
        """What happens because time passes."""
        hosts = self._board.hosts
        for host in [h for h in self._away if now - hosts[h].away_since > AWAY_TIMEOUT]:
            self._drop_host(host, now)
        overdue = itertools.takewhile(
            lambda item: now - item[1] > UNOPENED_TIMEOUT, self._unopened.items()
        )
        for host, _ in list(overdue):
            self._drop_host(host, now)
        self._leases.tick(now)
        self.tenants.tick(now)
        for name in sorted(self._board.graph.orphaned):
            self._board.graph.adopt(self._board.tasks[name], now)
        if self._board.recorder is not None:
            self._board.recorder.tick(now)
        return self._board.take()

    # ------------------------------------------------------------------ reports

    def report(self, host: str, report: AnyReport, now: float) -> list[Outgoing]:
        """What a host says happened.

        Raises:
            NotFound: the host never announced itself.
            BadRequest: the report makes no sense.
        """
        known = self._board.host(host)
        self._board.figures.reports[kind_of(report)] += 1
        if isinstance(report, Register):
            self._registrations.take(known, report, now)
            return self._board.take()
        if isinstance(report, Usage):
            self.tenants.take(host, report, now)
            return self._board.take()
        task = self._board.tasks.get(report.task)
        peer = None if task is None else task.peers.get(host)
        if task is not None and peer is not None:
            self._take(known, task, peer, report, now)
        if isinstance(report, Left):
            self._has_nothing(report.task, host, now)
        return self._board.take()

    def _take(self, host: Host, task: Task, peer: Peer, report: AnyReport, now: float) -> None:
        leases = self._leases
        if isinstance(report, Failed | Left):
            code = report.problem.code if isinstance(report, Failed) else ""
            self._board.note(task, kind_of(report), now, host.id, detail=code)
        match report:
            case Have():
                pieces = PieceSet.from_runs(report.pieces)
                before = peer.have
                self._generations.gained(task, peer, report.generation, pieces, now)
                if self._board.recorder is not None:
                    self._board.recorder.gained(task, peer, before, report.senders)
            case LeaseProgress():
                leases.progress(host, task, peer, report, now)
            case Length():
                leases.length(task, peer, report, now)
            case Finished():
                self._finished(task, peer, report, now)
            case ParentFailed(generation=asked) if asked and not _is_in(peer, asked):
                # That the parent gave up an older generation is nothing against it.
                pass
            case ParentFailed():
                self._board.note(task, "parent-failed", now, host.id, report.parent, report.reason)
                self._parent_failed(task, peer, report.parent, now, counts=report.reason != "busy")
            case PieceCorrupt():
                self._board.note(
                    task, "piece-corrupt", now, host.id, report.parent, str(report.piece)
                )
                self._parent_failed(task, peer, report.parent, now, counts=True)
            case Changed():
                leases.changed(task, peer, report, now)
            case Failed(lease=lease) if lease:
                leases.failed(task, peer, report, now)
            case Failed(problem=problem) if problem.code == DigestMismatch.code:
                leases.mismatched(task, peer, problem, now)
            case Failed() | Left():
                leases.remove(task, peer, now)
                self._generations.release_stranded(task, now)
                leases.read_what_is_missing(task, now)
            case _:
                raise BadRequest(f"a {type(report).__name__} is not for a task that is known")

    def _has_nothing(self, name: str, host: str, now: float) -> None:
        """The host has nothing of a task that it may have been asked for."""
        self._recall.answered(name, host)
        task = self._board.tasks.get(name)
        if task is not None and not task.leases:
            self._leases.read_what_is_missing(task, now)

    def _finished(self, task: Task, peer: Peer, report: Finished, now: float) -> None:
        mine = peer.generation
        if mine is None or mine.id != report.generation or mine.layout.total is None:
            return
        before, peer.have = peer.have, mine.layout.everything()
        self._generations.complete(task, peer, mine, now)
        if self._board.recorder is not None:
            self._board.recorder.gained(task, peer, before, {})

    # ------------------------------------------------------------------ evidence

    def _parent_failed(
        self, task: Task, peer: Peer, parent: str, now: float, *, counts: bool
    ) -> None:
        """Part two peers, and judge the accused by how many accuse it."""
        other = task.peers.get(parent)
        if other is None or other is peer:
            return
        host = self._board.hosts[parent]
        # Whoever was not told to ask that host has no evidence against it.
        linked = parent in peer.parents or parent in peer.neighbours
        peer.avoid[parent] = Avoided(now + RELENT, now + SUSPECT_SECONDS)
        task.avoided_until = now + SUSPECT_SECONDS
        self._board.graph.separate(task, peer, other)
        if counts and linked:
            host.failed += 1
            host.evidence = [e for e in host.evidence if now - e[1] <= EVIDENCE_SECONDS]
            host.evidence.append((peer.host, now))
            # On probation one accuser is enough.
            needed = 1 if now < host.suspect_until + SUSPECT_SECONDS else ACCUSERS
            if len({accuser for accuser, _ in host.evidence}) >= needed:
                self._suspect(host, now)
        for bereft in (peer, other):
            self._board.graph.supply(task, bereft, now)
        self._board.touch(task, peer)
        # What only the accused has counts for nothing to this peer now.
        self._leases.read_what_is_missing(task, now)

    def _suspect(self, host: Host, now: float) -> None:
        """Give the host's children to others; it comes back on probation, later each time."""
        if now > host.suspect_until + LONGEST_SUSPICION:
            host.suspicions = 0
        seconds = min(LONGEST_SUSPICION, SUSPECT_SECONDS * 2**host.suspicions)
        host.suspicions += 1
        self._board.figures.hosts_suspected += 1
        host.suspect_until = now + seconds
        host.evidence.clear()
        for name in host.tasks:
            task = self._board.tasks[name]
            peer = task.peers[host.id]
            for other in self._board.graph.cut(task, peer):
                self._board.graph.supply(task, other, now)
            self._board.graph.supply(task, peer, now)

    # ------------------------------------------------------------------ limits

    @property
    def limits(self) -> OriginLimits:
        """What this scheduler grants."""
        return self._leases.limits

    def prioritise(self, levels: Levels) -> None:
        """Take these priorities for what asks without one from now on."""
        self._registrations.levels = levels

    def limit(self, limits: OriginLimits, now: float) -> list[Outgoing]:
        """Grant by other limits from now on, also what is being read."""
        self._leases.limit(limits, now)
        return self._board.take()

    def limit_tenants(self, tenants: Mapping[str, Limits], now: float) -> list[Outgoing]:
        """Tenants have these quotas from now on."""
        self.tenants.limit(tenants, now)
        return self._board.take()

    # ------------------------------------------------------------------ taking away

    def withdraw(self, task: str, generation: str, reason: str, now: float) -> list[Outgoing]:
        """Take a generation away from everybody: its bytes are wrong."""
        known = self._board.tasks.get(task)
        if known is not None:
            self._leases.withdraw(known, generation, reason, now)
            self._leases.read_what_is_missing(known, now)
        return self._board.take()

    def delete(self, task: str, now: float) -> list[Outgoing]:
        """Take a task away from everybody who only stores it; downloads go on from the origin."""
        known = self._board.tasks.get(task)
        peers = known.peers.values() if known is not None else ()
        generations = {peer.generation.id for peer in peers if peer.generation is not None}
        out: list[Outgoing] = []
        for generation in sorted(generations):
            out.extend(self.withdraw(task, generation, "deleted", now))
        return out

    # ------------------------------------------------------------------ records

    def current(self, host: str) -> list[AnyDecision]:
        """The current records of a host, for a stream that was opened (again)."""
        known = self._board.hosts.get(host)
        records: list[AnyDecision] = [*self.tenants.accounts.current(host)]
        for name in sorted(known.tasks if known is not None else ()):
            task = self._board.tasks[name]
            peer = task.peers[host]
            records.extend(self._board.renewed(task, peer))
            for lease in task.leases.values():
                if lease.host == host:
                    records.append(self._leases.book.record(task, peer, lease))
        return records

    # ------------------------------------------------------------------ ledger, views

    def take_unsaved(self) -> list[LeaseRecord]:
        """Lease records to be written before the decisions of this call go out."""
        return self._board.ledger.take_unsaved()

    def restore(self, records: Iterable[LeaseRecord]) -> list[LeaseRecord]:
        """Lease records of an earlier life or another scheduler; returns those that were news."""
        ledger, news = self._board.ledger, []
        for record in records:
            known = ledger.get(record.lease)
            # What comes back from another scheduler may be older than what is known.
            more = known is not None and record.generation and not known.generation
            if known is None or more or (record.void and not known.void):
                ledger.put(record, saved=True)
                news.append(record)
        return news

    def expect(self, hosts: Iterable[str], now: float, *, others: bool = False) -> None:
        """The hosts that an earlier life knew; `others`: there are other schedulers, too.

        For a moment the origin is read only for what none of these has.
        """
        self._recall.expect(hosts, now, others=others)

    def regroup(self, now: float, *, seconds: float = GRACE) -> None:
        """Hosts have other schedulers to choose from now than before: for so long the origin is
        read only once those who may know a task were asked, or have had `GRACE` seconds to come."""
        self._recall.regroup(now + seconds, new=not self._board.hosts)

    def expecting(self, now: float) -> bool:
        """Hosts of an earlier life may still come back."""
        return self._recall.doubtful(now)

    def host_ids(self) -> set[str]:
        """The hosts that announced themselves."""
        return set(self._board.hosts)

    def records(self) -> list[LeaseRecord]:
        """Every lease record there is."""
        return list(self._board.ledger)

    def outline(self, task: str, now: float) -> TaskDetail | None:
        """A task and its leases, for people, without the peers, which `members` has; None for an
        unknown one."""
        known = self._board.tasks.get(task)
        return None if known is None else outline_of(known, self._line(known, now))

    def members(self, task: str) -> Iterator[list[MemberView]]:
        """A task's peers, `MAX_PEERS` at most, some at a time: each when it is asked for."""
        known = self._board.tasks.get(task)
        peers = [] if known is None else list(itertools.islice(known.peers.values(), MAX_PEERS))
        return map(members_of, slices_of(peers, TICK_RUNS))

    def tasks(
        self, now: float, limit: int | None = None, tenant: str | None = None
    ) -> list[TaskLine]:
        """Every task in a line, or so many of those in which something happened last; of one
        tenant, or of all. What others do takes no place in a tenant's list."""
        tasks: Iterable[Task] = self._board.tasks.values()
        if tenant is not None:
            tasks = [task for task in tasks if task.spec.tenant == tenant]
        if limit is not None:
            tasks = heapq.nlargest(limit, tasks, key=lambda task: task.written)
        return [self._line(task, now) for task in tasks]

    def _line(self, task: Task, now: float) -> TaskLine:
        recorder = self._board.recorder
        return line_of(task) if recorder is None else recorder.line(task, now)

    def task(self, name: str) -> Task | None:
        """A task that some host takes part in."""
        return self._board.tasks.get(name)

    @property
    def recorder(self) -> Recorder | None:
        """What was recorded of tasks; None where nothing is."""
        return self._board.recorder

    def hosts(self) -> list[dict[str, object]]:
        """Every host in a line."""
        return [summarize_host(host) for host in self._board.hosts.values()]

    @property
    def figures(self) -> Figures:
        """What happened since the start."""
        return self._board.figures

    def standing(self, now: float) -> Standing:
        """How things are now; takes time with the number of hosts and tasks."""
        return standing_of(self._board, self._leases.book.gates, now)

    def overview(self, now: float, tenant: str | None = None) -> Overview:
        """What there is to do, of one tenant or of all; takes as much time."""
        return overview_of(self._board, now, tenant)

    def met(self, host: str) -> int:
        """Another number each time that the host is met anew: nothing is known of it then.

        Raises:
            NotFound: the host never announced itself.
        """
        return self._board.host(host).met

    def report_after_ms(self, host: str) -> int:
        """How long a host should collect reports: the more hosts, the longer."""
        return min(1000, 20 + len(self._board.hosts) // 10)


def _is_in(peer: Peer, generation: str) -> bool:
    return peer.generation is not None and peer.generation.id == generation
