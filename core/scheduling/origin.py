"""Who reads the origin: readers are chosen, leases kept alive by progress, and remembered."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable, Iterator

import msgspec

from hawker.core.digests import Reader
from hawker.core.pieces import PieceSet
from hawker.core.priorities import by_seeds
from hawker.core.ranges import ByteRange
from hawker.core.scheduling.entities import Generation, Host, Lease, LeaseRecord, Peer, Task

# A reader says at once that it is at work, and then every 0.4 s.
FIRST_WORD = 5.0
# A living reader whose origin gives no byte for so long may have a worse way to it than others.
# Sources give up after 30 s by themselves, and what they have to say should come first.
STUCK = 40.0
READER_PENALTY = 30.0
MAX_ATTEMPTS = 3
# Of more leases the oldest are forgotten: after a restart what was read under them counts no more,
# and is read again when somebody asks for it.
MAX_RECORDS = 1 << 18


class Ledger:
    """Every lease that was granted: whose signed runs count for which generation."""

    def __init__(self) -> None:
        self._records: dict[str, LeaseRecord] = {}
        self._by_generation: dict[tuple[str, str], dict[str, LeaseRecord]] = {}
        self._unsaved: dict[str, LeaseRecord] = {}

    def put(self, record: LeaseRecord, *, saved: bool = False) -> None:
        known = self._records.pop(record.lease, None)
        if known is None and len(self._records) >= MAX_RECORDS:
            self._forget(next(iter(self._records)))
        self._records[record.lease] = record
        if record.generation:
            key = (record.task, record.generation)
            self._by_generation.setdefault(key, {})[record.lease] = record
        if not saved:
            self._unsaved[record.lease] = record

    def _forget(self, lease: str) -> None:
        """The record counts no more."""
        record = self._records.pop(lease)
        self._unsaved.pop(lease, None)
        key = (record.task, record.generation)
        own = self._by_generation.get(key, {})
        own.pop(lease, None)
        if not own:
            self._by_generation.pop(key, None)

    def get(self, lease: str) -> LeaseRecord | None:
        return self._records.get(lease)

    def of(self, task: str, generation: str) -> Iterable[LeaseRecord]:
        return self._by_generation.get((task, generation), {}).values()

    def readers(self, task: str, generation: str) -> list[Reader]:
        """Whose runs count for a generation."""
        return [
            Reader(record.host, record.key, record.lease)
            for record in self.of(task, generation)
            if not record.void
        ]

    def knows(self, task: str, generation: str, readers: Iterable[Reader]) -> bool:
        """One of the readers held the lease it names, for this generation, with this key."""
        known = self._by_generation.get((task, generation), {})
        return any(
            (record := known.get(reader.lease)) is not None
            and not record.void
            and (record.host, record.key) == (reader.host, reader.key)
            for reader in readers
        )

    def void(self, task: str, generation: str) -> None:
        """What was read of a generation proved wrong: nobody who still has it is believed."""
        for record in list(self.of(task, generation)):
            self.put(msgspec.structs.replace(record, void=True))

    def take_unsaved(self) -> list[LeaseRecord]:
        unsaved = list(self._unsaved.values())
        self._unsaved.clear()
        return unsaved

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[LeaseRecord]:
        return iter(self._records.values())


def missing_of(task: Task, now: float) -> list[ByteRange] | bool | None:
    """What of the origin is wanted and held by nobody who could give it: False for nothing, None
    for all."""
    generation = task.current
    if generation is not None and generation.complete and task.avoided_until <= now:
        # What is asked with every registration: not one look at each peer.
        return False
    wanting = [peer for peer in task.peers.values() if peer.wants]
    if not wanting:
        return False
    if generation is None:
        # Those who still finish an older generation need nothing of the origin.
        waiting = [peer for peer in wanting if peer.generation is None]
        return wanted_by(waiting) if waiting else False
    if generation.complete and not any(peer.avoids(now) for peer in wanting):
        return False
    return _uncovered(task, generation, wanting, now)


def _uncovered(
    task: Task, generation: Generation, wanting: list[Peer], now: float
) -> list[ByteRange] | bool | None:
    layout = generation.layout
    everybody = held_by_members(task, generation)
    missing = PieceSet()
    for peer in wanting:
        wanted = peer.wanted(layout)
        if wanted is None:
            if generation.complete - peer.avoids(now):
                continue
            return None
        avoided = peer.avoids(now)
        missing |= wanted - (held_by_members(task, generation, avoided) if avoided else everybody)
    if not missing:
        return False
    if layout.total is not None and missing == layout.everything():
        return None
    return [layout.span(run) for run in missing.runs()]


def held_by_members(task: Task, generation: Generation, avoided: Collection[str] = ()) -> PieceSet:
    """Every piece that a member has, those to be avoided left out."""
    held = PieceSet()
    for host in generation.members:
        if host not in avoided:
            held |= task.peers[host].have
    return held


def wanted_by(peers: Iterable[Peer]) -> list[ByteRange] | None:
    """Everything these peers want, None for all of the content."""
    ranges: list[ByteRange] = []
    for peer in peers:
        if peer.want is None:
            return None
        ranges.extend(peer.want)
    return union_of(ranges)


def union_of(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """The same bytes in as few ranges as can be, in order."""
    merged: list[ByteRange] = []
    for span in sorted(ranges, key=lambda r: (r.start, r.stop is None, r.stop or 0)):
        last = merged[-1] if merged else None
        if last is not None and (last.stop is None or span.start <= last.stop):
            stop = None if None in (last.stop, span.stop) else max(last.stop or 0, span.stop or 0)
            merged[-1] = ByteRange(last.start, stop)
        else:
            merged.append(span)
    return merged


def choose_reader(
    task: Task, hosts: dict[str, Host], now: float, *, used: Collection[str] = ()
) -> str | None:
    """The host that should read: a seed by rendezvous hashing, else one that asks for it, which
    comes first where everybody's priority says so.

    Hosts that failed this task lately come only where there is no other, and so do peers that
    drain; those in `used` never; None where nobody may.
    """
    wanting = [peer for peer in task.peers.values() if peer.wants]
    public = [peer for peer in wanting if not peer.private]
    if any(peer.readable and by_seeds(peer.level) for peer in public):
        seeds = [host for host in hosts.values() if host.connected and host.announcement.seed]
        # Who does not even serve its peers will hardly read for them.
        sound = [s for s in seeds if s.suspect_until <= now and not s.announcement.draining]
        chosen = _freshest(task, [seed.id for seed in sound if seed.id not in used], now)
        if chosen is not None:
            return chosen
    if any(peer.readable for peer in public):
        own = [peer.host for peer in public if peer.readable and _present(hosts, peer.host)]
    else:
        own = [peer.host for peer in wanting if peer.readable and _present(hosts, peer.host)]
    own = [host for host in own if host not in used]
    staying = [host for host in own if not hosts[host].announcement.draining]
    fresh = _freshest(task, staying, now) or _freshest(task, own, now)
    if fresh is not None:
        return fresh
    return min(own, key=lambda host: task.failed_readers.get(host, 0.0), default=None)


def _present(hosts: dict[str, Host], host: str) -> bool:
    known = hosts.get(host)
    # A host that just announced itself may ask before its decision stream is open.
    return known is not None and known.machine.state in ("known", "connected")


def _freshest(task: Task, hosts: list[str], now: float) -> str | None:
    fresh = [host for host in hosts if task.failed_readers.get(host, 0.0) <= now]
    return max(
        fresh,
        key=lambda host: hashlib.sha256(f"{host} {task.id}".encode()).digest(),
        default=None,
    )


def new_lease_id(rng: random.Random) -> str:
    return f"{rng.getrandbits(64):016x}"


def overdue(lease: Lease, now: float, silence: float) -> bool:
    """Its reader was silent for too long, or has been getting nothing from the origin."""
    if not lease.heard_at:
        return now - lease.granted_at > FIRST_WORD
    return now - lease.heard_at > silence or now - lease.progress_at > STUCK
