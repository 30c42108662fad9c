"""What is known of one tenant with quotas: what its hosts have, what waits, and what was read.

Sums are kept as hosts say what they have, so that what one of many says costs no look at the
others.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

from hawker.core.errors import BadRequest
from hawker.core.limits import Limits
from hawker.core.messages import Claim, ClaimKind, Refusal, Usage
from hawker.core.quotas.spent import Spent

# A bound on what holders of the cluster's key can make a scheduler remember.
MAX_READS = 1 << 17


@dataclass(slots=True)
class Standing:
    """A host's part in a tenant: its last usage, and what it was told; `waiting` are the claims
    that were neither granted nor refused."""

    usage: Usage
    claims: dict[int, Claim] = field(default_factory=dict)
    granted: set[int] = field(default_factory=set)
    refused: dict[int, Refusal] = field(default_factory=dict)
    waiting: dict[int, ClaimKind] = field(default_factory=dict)
    share: int = 0
    shared_at: float = 0.0
    keep: int | None = None

    @property
    def idle_bytes(self) -> int:
        """Bytes that may be evicted."""
        return max(self.usage.idle_bytes, sum(entry.size for entry in self.usage.idle))


@dataclass(slots=True)
class Book:
    """One tenant; `reads` are (period, bytes) by host and life, `read_bytes` those of `period`.

    `claimed` are the bytes, or places, of each kind that were granted and are not used yet;
    `stored` and `idle` all bytes that hosts store and may evict. `queues` have the claims that
    wait, by host and number, in the order in which they came. `busy` are the hosts that download
    or have a part of the bandwidth, `keeping` those that are to evict.
    """

    name: str
    limits: Limits
    standings: dict[str, Standing] = field(default_factory=dict)
    reads: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    period: int = -1
    read_bytes: int = 0
    claimed: dict[ClaimKind, int] = field(
        default_factory=lambda: {"place": 0, "read": 0, "room": 0}
    )
    stored: int = 0
    idle: int = 0
    queues: dict[ClaimKind, dict[tuple[str, int], None]] = field(
        default_factory=lambda: {"place": {}, "read": {}, "room": {}}
    )
    busy: dict[str, None] = field(default_factory=dict)
    keeping: set[str] = field(default_factory=set)
    settles_at: float = 0.0
    divided_at: float = 0.0
    undivided: bool = False
    refused: int = 0
    _length: int = 0
    _oldest: list[tuple[float, str]] = field(default_factory=list)

    # ------------------------------------------------------------------ hosts

    def enter(self, host: str, usage: Usage, now: float) -> Standing:
        """A host says what it has: instead of what it said before."""
        standing = self.standings.get(host)
        if standing is not None and standing.usage.life != usage.life:
            self.leave(host)
            standing = None
        if standing is None:
            # Whoever decided before has given it that.
            standing = Standing(usage, share=usage.bandwidth, shared_at=now)
            self.standings[host] = standing
        else:
            self._weigh(standing, -1)
        standing.usage = usage
        claims = standing.claims = {claim.number: claim for claim in usage.claims}
        # What it was granted by an earlier life of this scheduler, or by another one, it has.
        standing.granted = (standing.granted & claims.keys()) | {
            claim.number for claim in usage.claims if claim.granted
        }
        standing.refused = {n: r for n, r in standing.refused.items() if n in claims}
        self._queue(host, standing)
        self._weigh(standing, 1)
        if usage.kept is not None and usage.kept == standing.keep:
            standing.keep = None
            self.keeping.discard(host)
        self.mind(host, standing)
        if usage.idle:
            self._remember_oldest(host, usage)
        return standing

    def leave(self, host: str) -> bool:
        """The host has nothing any more; whether it had."""
        standing = self.standings.pop(host, None)
        if standing is None:
            return False
        self._weigh(standing, -1)
        for number, kind in standing.waiting.items():
            self.queues[kind].pop((host, number), None)
        self.keeping.discard(host)
        self.busy.pop(host, None)
        return True

    def mind(self, host: str, standing: Standing) -> None:
        """Whether it downloads, or has a part, may be another now."""
        if standing.usage.downloads or standing.share:
            self.busy[host] = None
        else:
            self.busy.pop(host, None)

    def _weigh(self, standing: Standing, sign: int) -> None:
        """Add what a host has to the sums, or take it away."""
        for number in standing.granted:
            claim = standing.claims[number]
            self.claimed[claim.kind] += sign * claim.size
        self.stored += sign * standing.usage.stored_bytes
        self.idle += sign * standing.idle_bytes

    def _queue(self, host: str, standing: Standing) -> None:
        """Its claims that wait come behind all others, those that waited keep their turn."""
        waiting = {
            number: standing.claims[number].kind
            for number in sorted(standing.claims)
            if number not in standing.granted and number not in standing.refused
        }
        for number, kind in standing.waiting.items():
            if waiting.get(number) != kind:
                self.queues[kind].pop((host, number), None)
        for number, kind in waiting.items():
            self.queues[kind].setdefault((host, number))
        standing.waiting = waiting

    # ------------------------------------------------------------------ claims

    def waiting(self, kind: ClaimKind, most: int | None = None) -> list[tuple[str, Claim]]:
        """The first claims of this kind that wait, in turn."""
        return [
            (host, self.standings[host].claims[number])
            for host, number in itertools.islice(self.queues[kind], most)
        ]

    def grant(self, host: str, claim: Claim) -> None:
        self._answered(host, claim).granted.add(claim.number)
        self.claimed[claim.kind] += claim.size

    def refuse(self, host: str, claim: Claim, after: float | None) -> None:
        self._answered(host, claim).refused[claim.number] = Refusal(claim.number, after)
        self.refused += 1

    def _answered(self, host: str, claim: Claim) -> Standing:
        standing = self.standings[host]
        del standing.waiting[claim.number]
        del self.queues[claim.kind][host, claim.number]
        return standing

    @property
    def occupied(self) -> int:
        """Bytes that are stored, or may be."""
        return self.stored + self.claimed["room"]

    # ------------------------------------------------------------------ eviction

    def _remember_oldest(self, host: str, usage: Usage) -> None:
        heapq.heappush(self._oldest, (usage.idle[0].used, host))
        if len(self._oldest) > 64 + 4 * len(self.standings):
            self._oldest = [
                (standing.usage.idle[0].used, name)
                for name, standing in self.standings.items()
                if standing.usage.idle
            ]
            heapq.heapify(self._oldest)

    def evict(self, short: int) -> list[str]:
        """Have so many bytes of what was unused for longest evicted, on whatever hosts it is;
        returns these."""
        at: dict[str, int] = {}
        while short > 0 and self._oldest:
            used, host = heapq.heappop(self._oldest)
            standing, index = self.standings.get(host), at.get(host, 0)
            idle = [] if standing is None else standing.usage.idle
            if standing is None or index >= len(idle) or idle[index].used != used:
                # Of something that it said earlier.
                continue
            before = standing.usage.stored_bytes if standing.keep is None else standing.keep
            standing.keep = max(0, before - idle[index].size)
            self.keeping.add(host)
            short -= idle[index].size
            at[host] = index + 1
            if index + 1 < len(idle):
                heapq.heappush(self._oldest, (idle[index + 1].used, host))
        for host in at:
            # Until it says something else.
            self._remember_oldest(host, self.standings[host].usage)
        return list(at)

    # ------------------------------------------------------------------ reads

    def advance(self, wall: float) -> list[Spent]:
        """It is this time: what was read in earlier periods counts no more. Where periods are of
        another length from now on, what was read in the last one counts in this one; returns it,
        as it counts now."""
        period, length = self.limits.period(wall), self.limits.origin_period
        altered = self._length not in (0, length)
        if period == self.period and not altered:
            return []
        if altered:
            now = [(key, size) for key, (at, size) in self.reads.items() if at == self.period]
            self.reads = {key: (period, size) for key, size in now}
        else:
            self.reads = {key: read for key, read in self.reads.items() if read[0] >= period}
        self.period, self._length = period, length
        self.read_bytes = sum(size for at, size in self.reads.values() if at == period)
        return self.spent() if altered else []

    def count(self, host: str, usage: Usage) -> Spent | None:
        """What a host read; None where that is known.

        Raises:
            BadRequest: there is no room for another life of a host.
        """
        period = usage.period
        if period > self.period + 1:
            # Of periods of another length, or by a clock that is ahead.
            period = self.period
        key = host, usage.life
        if key not in self.reads and len(self.reads) >= MAX_READS:
            raise BadRequest(f"more than {MAX_READS} lives of hosts read for {self.name!r}")
        return self.row(key) if self._read(key, (period, usage.read_bytes)) else None

    def restore(self, row: Spent) -> bool:
        """What another scheduler, or an earlier life of this one, knew; whether that is news."""
        key = row.host, row.life
        if row.ends != self._ends(row.period):
            # Of periods of another length: their numbers say nothing here.
            return False
        if key not in self.reads and len(self.reads) >= MAX_READS:
            return False
        return self._read(key, (row.period, row.bytes))

    def _read(self, key: tuple[str, str], read: tuple[int, int]) -> bool:
        known = self.reads.get(key, (0, 0))
        if not read[1] or read[0] < self.period or known >= read:
            return False
        self.reads[key] = read
        self.read_bytes += read[1] * (read[0] == self.period) - known[1] * (known[0] == self.period)
        return True

    def spent(self) -> list[Spent]:
        return [self.row(key) for key in self.reads]

    def row(self, key: tuple[str, str]) -> Spent:
        period, size = self.reads[key]
        return Spent(self.name, *key, period, size, self._ends(period))

    def _ends(self, period: int) -> float:
        return float((period + 1) * self.limits.origin_period)
