"""Records what the scheduler learns of each task, for observers now and later.

Nothing is written as it happens: a peer that changed is marked, and each tick writes what is new of
those that are, at most `TICK_PEERS` of them and about `TICK_RUNS` runs of pieces; what changes
faster is told together. So recording takes the same small part of a core whatever the swarm's size,
and one frame serves the record and all who observe. Records are bounded in all; those of tasks that
were forgotten go first, then those of tasks in which nothing has happened for the longest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from hawker.core.messages import encode
from hawker.core.pieces import PieceSet
from hawker.core.scheduling.entities import Host, Peer, Task
from hawker.core.scheduling.teller import Teller, cost_of, head_of, slices_of
from hawker.core.scheduling.track import (
    DIRTY,
    TOUCHED,
    WHOLE,
    Moment,
    Parts,
    Track,
    Watched,
)
from hawker.core.scheduling.views import line_of
from hawker.core.window import (
    MAX_EVENTS,
    RATE_SECONDS,
    Frame,
    Happening,
    PeerFrame,
    TaskLine,
)

MAX_BYTES = 32 * 1024 * 1024
# A record shows so many peers of its task at a time; others are counted.
MAX_PEERS = 1024
TICK_PEERS = 500
# To tell of a run of pieces takes about a microsecond; nothing takes the event loop for long.
TICK_RUNS = 2000
# So many in one frame: the largest stays far below what a client takes of an event.
FRAME_PEERS = 256
PACKED_A_TICK = 8
# A record that is idle is compressed if it has so many bytes to be.
WORTH_PACKING = 1024
MAX_TENANTS = 1024
# More than a reader can have got between two of its reports.
MAX_READ = 1 << 40


class Recorder:
    """Marks and writes. `limit` is how many bytes records may take; `since` when sums began, in
    seconds since 1970, and `clock` is what is added to the times it is given."""

    def __init__(
        self, hosts: Mapping[str, Host], tasks: Mapping[str, Task], limit: int = MAX_BYTES
    ) -> None:
        self.clock = 0.0
        self.since = 0.0
        self.limit = limit
        self.size = 0
        self._hosts = hosts
        self._tasks = tasks
        self._origin: Counter[str] = Counter()
        self._delivered: Counter[str] = Counter()
        # By when they were written last, the longest ago first.
        self._live: dict[str, Track] = {}
        self._ended: dict[str, Track] = {}
        # Those with something to write, and those with something moved in the last seconds.
        self._waiting: dict[Track, None] = {}
        self._warm: dict[Track, None] = {}
        self._teller = Teller(hosts, self.mark)
        self._out: list[tuple[str, bytes]] = []

    def begin(self, clock: float, now: float) -> None:
        """Sums are since now; `clock` is what makes of the times that this is given those since
        1970."""
        self.clock, self.since = clock, clock + now

    # ------------------------------------------------------------------ what happens

    def touch(self, task: Task, peer: Peer) -> None:
        """Something of a peer may have changed, edges too."""
        self.mark(task, peer)
        if peer.watched is not None:
            peer.watched.due |= TOUCHED

    def mark(self, task: Task, peer: Peer) -> None:
        """Something of a peer may have changed, but for its edges."""
        watched = peer.watched or self._watch(task, peer)
        if watched is None or watched.due & DIRTY:
            return
        watched.due |= DIRTY
        track = self._track(task)
        track.dirty.append(peer.host)
        self._waiting[track] = None

    def gained(self, task: Task, peer: Peer, before: PieceSet, senders: Mapping[str, int]) -> None:
        """Pieces became valid at a peer that had those `before`; `senders` are bytes by the host
        that they came from."""
        generation, new = peer.generation, peer.have.bits & ~before.bits
        if generation is None or not new:
            return
        length, total = generation.layout.piece_length, generation.layout.total
        size = new.bit_count() * length
        if total is not None and new >> (total - 1) // length & 1:
            # The last piece is shorter, or as long.
            size -= -total % length
        self.mark(task, peer)
        track, watched = self._track(task), peer.watched
        if not peer.only_offers:
            track.fresh_delivered += size
            # Whoever is not shown is counted.
            self._waiting[track] = None
        # Nobody gets more than its pieces are long: whoever says so is not believed.
        if senders and watched is not None and sum(senders.values()) <= size:
            for host, count in senders.items():
                watched.receive(host, count)

    def read(self, task: Task, peer: Peer, size: int) -> None:
        """A reader got so many bytes from the origin."""
        size = min(size, MAX_READ)
        if size <= 0:
            return
        track = self._track(task)
        track.fresh_origin += size
        track.leases_changed = True
        self._waiting[track] = None
        self.mark(task, peer)
        if peer.watched is not None:
            peer.watched.receive("", size)

    def happened(
        self, task: Task, kind: str, now: float, host: str = "", other: str = "", detail: str = ""
    ) -> None:
        """Something that observers are told as such, of a peer and another one."""
        track = self._track(task)
        self._waiting[track] = None
        track.leases_changed = track.leases_changed or kind.startswith("lease")
        if len(track.events) < MAX_EVENTS:
            one, two = self._teller.number(task, host), self._teller.number(task, other)
            track.events.append(Happening(self.at(now), kind, one, two, detail[:256]))

    def departed(self, task: Task, peer: Peer) -> None:
        """A peer takes no part any more; called while it still is one."""
        watched, track = peer.watched, task.track
        if watched is None or track is None:
            return
        received = self._teller.received(task, watched)
        track.departed.append(PeerFrame(watched.number, state="left", received=received))
        track.live -= 1
        peer.watched = None
        self._waiting[track] = None

    def ended(self, task: Task, now: float) -> None:
        """The scheduler forgets the task; its record stays for a while."""
        track = task.track
        if track is None:
            return
        self._write(task, track, now)
        track.line = msgspec.structs.replace(self.line(task, now), state="forgotten")
        task.track = None
        self._live.pop(track.id, None)
        self._waiting.pop(track, None)
        self._warm.pop(track, None)
        track.moments.clear()
        self._pack(track)
        if (older := self._ended.pop(track.id, None)) is not None:
            self.size -= older.log.size
        self._ended[track.id] = track

    # ------------------------------------------------------------------ for observers

    def at_rest(self, name: str) -> bool:
        """Nobody waits for a task or reads it, and all that happened is written."""
        task = self._tasks.get(name)
        if task is None:
            return True
        busy = task.leases or task.track in self._waiting
        return not busy and not any(peer.wants for peer in task.peers.values())

    def snapshot(self, task: Task, now: float) -> Iterator[bytes]:
        """Frames that say all there is of a task as its record has it now, each made when it is
        asked for: what is written after the first is newer, or says the same again. They end where
        the record was begun anew meanwhile."""
        track = self._track(task)
        self._write(task, track, now, TICK_PEERS)
        at, slices = self.at(now), slices_of(list(task.peers.values()), TICK_RUNS)
        peers = self._teller.shown(task, next(slices, []))
        rates = track.edge_rates(now)
        yield self._teller.head("snapshot", task, track, at, now, peers=peers, rates=rates)
        for some in slices:
            if task.track is not track:
                return
            if peers := self._teller.shown(task, some):
                yield encode(Frame("delta", at, peers=peers))

    def history(self, name: str, now: float) -> Parts | None:
        """The task's record, for `frames_of`; None where there is none."""
        task = self._tasks.get(name)
        if task is not None and task.track is not None:
            self._write(task, task.track, now, TICK_PEERS)
            return task.track.log.copy()
        track = self._ended.get(name)
        return None if track is None else track.log.copy()

    def line(self, task: Task, now: float) -> TaskLine:
        """A task in a line."""
        track = task.track
        if track is None:
            return line_of(task)
        origin_rate, rate = track.rates(now)
        return line_of(
            task, track.origin + track.fresh_origin, track.delivered + track.fresh_delivered,
            origin_rate, rate, self.at(track.written),
        )  # fmt: skip

    def forgotten(self, name: str) -> TaskLine | None:
        """A task of which the record alone is left."""
        track = self._ended.get(name)
        return None if track is None else track.line

    def all_forgotten(self) -> list[TaskLine]:
        return [track.line for track in self._ended.values() if track.line is not None]

    def moved(self, tenant: str | None, now: float) -> tuple[int, int, int, int]:
        """Bytes from origins, bytes that became valid at who wants them, and both per second now;
        of one tenant, or of all."""
        key = "" if tenant is None else f"={tenant}"
        rates = [
            track.rates(now) for track in self._warm if tenant is None or track.tenant == tenant
        ]
        return (
            self._origin[key], self._delivered[key],
            sum(rate[0] for rate in rates), sum(rate[1] for rate in rates),
        )  # fmt: skip

    def take(self) -> list[tuple[str, bytes]]:
        """(task, encoded frame) written since the last call."""
        out, self._out = self._out, []
        return out

    # ------------------------------------------------------------------ writing

    def tick(self, now: float) -> None:
        """Write what is new."""
        budget = TICK_PEERS
        for track in list(self._waiting):
            if budget <= 0:
                break
            budget -= self._write(self._tasks[track.id], track, now, budget)
        cold = [track for track in self._warm if now - track.written > RATE_SECONDS]
        for track in cold[:PACKED_A_TICK]:
            # What is idle takes little room.
            del self._warm[track]
            track.moments.clear()
            self._pack(track)
        self._make_room()

    def _write(self, task: Task, track: Track, now: float, budget: int | None = None) -> int:
        """Write what is new of a task, of so many peers; returns of how many that was."""
        if track not in self._waiting:
            return 0
        if track.log.full and not track.fresh and not track.renewing:
            before = track.log.size
            track.log.turn()
            self.size += track.log.size - before
            self._begin(task, track)
        most = len(track.dirty) if budget is None else budget
        changes, track.departed = track.departed, []
        count, runs = 0, TICK_RUNS
        for host in track.dirty:
            if count >= most or (runs <= 0 and budget is not None):
                break
            count += 1
            peer = task.peers.get(host)
            if peer is not None and peer.watched is not None and peer.watched.due & DIRTY:
                runs -= cost_of(peer, peer.watched)
                changes += self._teller.change(task, peer, peer.watched)
        hosts, track.dirty = track.dirty[:count], track.dirty[count:]
        track.renewing = max(0, track.renewing - count)
        moved = self._sum(track, changes, now)
        self._emit(task, track, changes, now, moved=moved)
        # The others are first next time.
        self._waiting.pop(track, None)
        if track.dirty:
            self._waiting[track] = None
        track.written = now
        self._live.pop(track.id, None)
        self._live[track.id] = track
        return len(hosts)

    def _sum(self, track: Track, changes: list[PeerFrame], now: float) -> bool:
        """Count what was moved; whether anything was."""
        edges = [(change.peer, *sent) for change in changes for sent in change.received]
        moment = Moment(now, track.fresh_origin, track.fresh_delivered, edges)
        track.fresh_origin = track.fresh_delivered = 0
        while track.moments and track.moments[0].at <= now - RATE_SECONDS:
            track.moments.popleft()
        if not (moment.origin or moment.delivered or edges):
            return False
        track.origin += moment.origin
        track.delivered += moment.delivered
        track.moments.append(moment)
        self._warm[track] = None
        self._count(track, moment.origin, moment.delivered)
        return True

    def _count(self, track: Track, origin: int, delivered: int) -> None:
        key = f"={track.tenant}"
        counted = key in self._delivered or len(self._delivered) <= MAX_TENANTS
        for name in ("", key) if counted else ("",):
            self._origin[name] += origin
            self._delivered[name] += delivered

    def _emit(
        self, task: Task, track: Track, changes: list[PeerFrame], now: float, *, moved: bool
    ) -> None:
        head = head_of(task)
        news = changes or track.events or track.leases_changed or head != track.head
        if not (track.fresh or moved or news):
            return
        before = track.log.size
        kind: Literal["snapshot", "delta"] = "snapshot" if track.fresh else "delta"
        at = self.at(now)
        parts = [changes[n : n + FRAME_PEERS] for n in range(0, len(changes), FRAME_PEERS)] or [[]]
        first = self._teller.head(kind, task, track, at, now, peers=parts[0], events=track.events)
        for frame in [first, *(encode(Frame("delta", at, peers=part)) for part in parts[1:])]:
            track.log.add(frame)
            self._out.append((task.id, frame))
        self.size += track.log.size - before
        track.head, track.events = head, []
        track.fresh = track.leases_changed = False

    # ------------------------------------------------------------------ records

    def _track(self, task: Task) -> Track:
        track = task.track
        if track is None:
            track = task.track = Track(task.id, task.spec.tenant)
            self._live[task.id] = track
            self.size += track.log.size
            self._waiting[track] = None
            for peer in task.peers.values():
                self.mark(task, peer)
        return track

    def _watch(self, task: Task, peer: Peer) -> Watched | None:
        """Show a peer in its task's record, if there is room."""
        track = self._track(task)
        if peer.watched is not None:
            return peer.watched
        if len(track.hosts) >= MAX_PEERS and track.live < MAX_PEERS // 2:
            # Most of the numbers are those of peers that went long ago.
            self._forget(task, track)
            track = self._track(task)
            return peer.watched
        if len(track.hosts) >= MAX_PEERS or task.peers.get(peer.host) is not peer:
            return None
        peer.watched = Watched(len(track.hosts))
        track.hosts.append(peer.host)
        track.live += 1
        return peer.watched

    def _begin(self, task: Task, track: Track) -> None:
        """What is written next says all there is: at once, or where that is too much for a tick,
        in several, and those who observe it are not shown less meanwhile."""
        cost = 0
        for peer in task.peers.values():
            if peer.watched is not None:
                peer.watched.due |= WHOLE
                cost += cost_of(peer, peer.watched)
                self.mark(task, peer)
        track.fresh = cost <= TICK_RUNS and len(track.dirty) <= TICK_PEERS
        track.renewing = 0 if track.fresh else len(track.dirty)
        track.head = None

    def _forget(self, task: Task, track: Track) -> None:
        """Drop a record; another begins as soon as something happens."""
        for peer in task.peers.values():
            peer.watched = None
        # What was not written yet was moved none the less.
        self._count(track, track.fresh_origin, track.fresh_delivered)
        task.track = None
        self._live.pop(track.id, None)
        self._waiting.pop(track, None)
        self._warm.pop(track, None)
        self.size -= track.log.size

    def _pack(self, track: Track) -> None:
        before = track.log.size
        track.log.pack(least=WORTH_PACKING)
        self.size += track.log.size - before

    def _make_room(self) -> None:
        while self.size > self.limit and self._ended:
            self.size -= self._ended.pop(next(iter(self._ended))).log.size
        while self.size > self.limit and len(self._live) > 1:
            name = next(iter(self._live))
            self._forget(self._tasks[name], self._live[name])

    def at(self, now: float) -> float:
        """This moment in seconds since 1970."""
        return round(self.clock + now, 3)
