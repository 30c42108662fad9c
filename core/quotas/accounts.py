"""The accounts of tenants with quotas: what hosts use and claim in, what they may have out.

A host says all that it uses of a tenant's quotas, and claims more; whoever keeps the accounts
grants claims so that all hosts together stay within the limits. Both are said as a whole, so that
what is said twice, or in between is lost, does no harm, and a scheduler that was started anew, or
takes a tenant over from another one, learns from the hosts what they have been granted. Only what
was read from origins by hosts that are gone must be remembered (`Spent`). Times are passed in:
`now` is monotonic, `wall` in seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

import msgspec

from hawker.core.errors import BadRequest
from hawker.core.limits import Limits, TenantUsage
from hawker.core.messages import Allowance, Claim, Refusal, Usage
from hawker.core.quotas.shares import Demand, divide

# Hosts leave one scheduler for another within some 0.5 s, and tell it at once what they have.
MOVING = 2.0
# How often bandwidth is divided anew by what hosts made of their parts, and how long they have to
# show that.
DIVIDE_EVERY = 3.0
# A part that changes by less is left as it is, where it is not more than there is.
SLIGHT = 0.02
# A bound on what holders of the cluster's key can make a scheduler remember.
MAX_READS = 1 << 17


class Spent(msgspec.Struct, frozen=True):
    """Bytes that a host read from origins for a tenant, in one life and one period, which `ends`
    then (seconds since 1970)."""

    tenant: str
    host: str
    life: str
    period: int
    bytes: int
    ends: float


@dataclass(slots=True)
class _Standing:
    """A host's part in a tenant: its last usage, and what it was told; `arrived` has the turn of
    each claim that waits."""

    usage: Usage
    granted: set[int] = field(default_factory=set)
    refused: dict[int, Refusal] = field(default_factory=dict)
    arrived: dict[int, int] = field(default_factory=dict)
    share: int = 0
    shared_at: float = 0.0
    keep: int | None = None

    def shown(self, now: float) -> bool:
        """It had time to show what it makes of its part."""
        return now - self.shared_at >= DIVIDE_EVERY

    def has(self, claim: Claim) -> bool:
        return claim.number in self.granted

    def claimed(self, kind: str) -> int:
        """What it was granted of this kind and has not used yet."""
        return sum(c.size for c in self.usage.claims if c.kind == kind and self.has(c))

    @property
    def waiting(self) -> list[Claim]:
        return [claim for claim in self.usage.claims if claim.number in self.arrived]


@dataclass(slots=True)
class _Book:
    """One tenant; `reads` are (period, bytes) by host and life."""

    name: str
    limits: Limits
    standings: dict[str, _Standing] = field(default_factory=dict)
    reads: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    settles_at: float = 0.0
    divided_at: float = 0.0
    refused: int = 0

    def forget_reads(self, before: int) -> None:
        """What was read in earlier periods counts no more."""
        old = [key for key, (period, _) in self.reads.items() if period < before]
        for key in old:
            del self.reads[key]

    def read_bytes(self, period: int) -> int:
        return sum(size for known, size in self.reads.values() if known == period)


class Accounts:
    """See the module. `record` makes what a host is told; `take_changed` says who is to be told.

    `waiting` True keeps claims waiting: hosts that have something may not have said so yet.
    """

    def __init__(self, limits: Mapping[str, Limits]) -> None:
        self.waiting = False
        self._books: dict[str, _Book] = {}
        self._turn = count()
        self._revision = count(1)
        self._changed: dict[tuple[str, str], None] = {}
        self._unsaved: dict[tuple[str, str, str], Spent] = {}
        self._remembered: dict[str, dict[tuple[str, str], tuple[int, int]]] = {}
        self.limit(limits)

    # ------------------------------------------------------------------ limits

    @property
    def limits(self) -> dict[str, Limits]:
        """The tenants that have quotas."""
        return {name: book.limits for name, book in self._books.items()}

    def limit(self, limits: Mapping[str, Limits]) -> set[str]:
        """These quotas hold from now on; returns the tenants for which that is news. What was
        granted before stays."""
        wanted = {name: limit for name, limit in limits.items() if not limit.unlimited}
        news = {name for name in wanted.keys() | self._books.keys()
                if self._known(name) != wanted.get(name)}  # fmt: skip
        for name in news:
            if name not in wanted:
                del self._books[name]
            elif name in self._books:
                self._books[name].limits = wanted[name]
            else:
                self._books[name] = _Book(name, wanted[name])
                self._books[name].reads.update(self._remembered.pop(name, {}))
        return news

    def _known(self, tenant: str) -> Limits | None:
        book = self._books.get(tenant)
        return None if book is None else book.limits

    # ------------------------------------------------------------------ what hosts say

    def take(self, host: str, usage: Usage, now: float, wall: float) -> None:
        """A host says what it uses and wants; raises BadRequest where there is no room for it."""
        book = self._books.get(usage.tenant)
        if book is None:
            return
        self._count_reads(book, host, usage)
        if usage.left:
            if book.standings.pop(host, None) is not None:
                self._decide(book, now, wall, divide_anew=True)
            return
        standing = book.standings.get(host)
        if standing is None or standing.usage.life != usage.life:
            # Whoever decided before has given it that.
            standing = book.standings[host] = _Standing(usage, share=usage.bandwidth, shared_at=now)
        standing.usage = usage
        numbers = {claim.number for claim in usage.claims}
        # What it was granted by an earlier life of this scheduler, or by another one, it has.
        standing.granted = (standing.granted & numbers) | {
            claim.number for claim in usage.claims if claim.granted
        }
        standing.refused = {n: r for n, r in standing.refused.items() if n in numbers}
        told = standing.granted | standing.refused.keys()
        standing.arrived = {
            number: standing.arrived.get(number, -1) for number in sorted(numbers - told)
        }
        for number, turn in standing.arrived.items():
            if turn < 0:
                standing.arrived[number] = next(self._turn)
        if usage.kept is not None and usage.kept == standing.keep:
            standing.keep = None
        if usage.moved:
            book.settles_at = now + MOVING
        self._decide(book, now, wall, divide_anew=bool(usage.downloads) != bool(standing.share))

    def _count_reads(self, book: _Book, host: str, usage: Usage) -> None:
        key, reads = (host, usage.life), (usage.period, usage.read_bytes)
        if not usage.read_bytes or book.reads.get(key, (0, 0)) >= reads:
            return
        if key not in book.reads and len(book.reads) >= MAX_READS:
            raise BadRequest(f"more than {MAX_READS} lives of hosts read for {book.name!r}")
        book.reads[key] = reads
        self._unsaved[book.name, host, usage.life] = _spent(book, key, reads)

    def gone(self, host: str, now: float, wall: float) -> None:
        """The host is not in the cluster any more; what it read counts on."""
        for book in self._books.values():
            if book.standings.pop(host, None) is not None:
                self._decide(book, now, wall, divide_anew=True)

    def tick(self, now: float, wall: float) -> None:
        """Time passes: what waited may have its turn, and bandwidth is divided by what is used."""
        for book in self._books.values():
            book.forget_reads(book.limits.period(wall))
            if book.standings:
                anew = now - book.divided_at >= DIVIDE_EVERY
                self._decide(book, now, wall, divide_anew=anew)

    # ------------------------------------------------------------------ deciding

    def _decide(self, book: _Book, now: float, wall: float, *, divide_anew: bool) -> None:
        if self.waiting or now < book.settles_at:
            return
        queue = sorted(
            (turn, host, number)
            for host, standing in book.standings.items()
            for number, turn in standing.arrived.items()
        )
        short = 0
        for _, host, number in queue:
            standing = book.standings[host]
            claim = next(c for c in standing.usage.claims if c.number == number)
            if claim.kind == "place":
                self._give_place(book, host, claim)
            elif claim.kind == "read":
                self._give_read(book, host, claim, wall)
            else:
                # In turn: a small one that came later would take the room of a large one.
                short = short or self._give_room(book, host, claim)
        self._make_room(book, short)
        if divide_anew:
            self._divide(book, now)

    def _give_place(self, book: _Book, host: str, claim: Claim) -> None:
        limit = book.limits.concurrent_downloads
        taken = sum(standing.claimed("place") for standing in book.standings.values())
        if limit is None or taken + claim.size <= limit:
            self._grant(book, host, claim)

    def _give_read(self, book: _Book, host: str, claim: Claim, wall: float) -> None:
        limit = book.limits.origin_bytes
        read = book.read_bytes(book.limits.period(wall))
        claimed = sum(standing.claimed("read") for standing in book.standings.values())
        if limit is None or read + claimed + claim.size <= limit:
            self._grant(book, host, claim)
        else:
            self._refuse(book, host, claim, book.limits.until_next(wall))

    def _give_room(self, book: _Book, host: str, claim: Claim) -> int:
        """How many bytes have to be evicted before there is room for it."""
        limit = book.limits.stored_bytes
        excess = 0 if limit is None else self._occupied(book) + claim.size - limit
        if excess <= 0:
            self._grant(book, host, claim)
            return 0
        idle = sum(i.size for s in book.standings.values() for i in s.usage.idle)
        if idle < excess:
            self._refuse(book, host, claim, None)
            return 0
        return excess

    def _occupied(self, book: _Book) -> int:
        return sum(s.usage.stored_bytes + s.claimed("room") for s in book.standings.values())

    def _make_room(self, book: _Book, short: int) -> None:
        """Have the tenant's content evicted that was unused for longest, on whatever host it is."""
        limit = book.limits.stored_bytes
        if limit is None or any(s.keep is not None for s in book.standings.values()):
            return
        short = max(short, self._occupied(book) - limit)
        if short <= 0:
            return
        idle = sorted(
            (entry.used, host, entry.size)
            for host, standing in book.standings.items()
            for entry in standing.usage.idle
        )
        for _, host, size in idle:
            if short <= 0:
                break
            standing = book.standings[host]
            before = standing.usage.stored_bytes if standing.keep is None else standing.keep
            standing.keep = max(0, before - size)
            short -= size
            self._touch(book, host)

    def _divide(self, book: _Book, now: float) -> None:
        book.divided_at = now
        total = book.limits.bandwidth
        for host, standing in book.standings.items():
            if standing.share and (total is None or not standing.usage.downloads):
                standing.share = 0
                self._touch(book, host)
        if total is None:
            return
        demands = {
            host: Demand(s.usage.downloads, s.usage.rate, s.share if s.shown(now) else 0)
            for host, s in book.standings.items()
            if s.usage.downloads
        }
        shares = divide(total, demands)
        old = {host: book.standings[host].share for host in shares}
        slight = all(abs(shares[host] - old[host]) <= SLIGHT * old[host] for host in shares)
        if slight and sum(old.values()) <= total:
            return
        for host, share in shares.items():
            if share != old[host]:
                book.standings[host].share = share
                book.standings[host].shared_at = now
                self._touch(book, host)

    def _grant(self, book: _Book, host: str, claim: Claim) -> None:
        standing = book.standings[host]
        del standing.arrived[claim.number]
        standing.granted.add(claim.number)
        self._touch(book, host)

    def _refuse(self, book: _Book, host: str, claim: Claim, after: float | None) -> None:
        standing = book.standings[host]
        del standing.arrived[claim.number]
        standing.refused[claim.number] = Refusal(claim.number, after)
        book.refused += 1
        self._touch(book, host)

    # ------------------------------------------------------------------ what hosts are told

    def _touch(self, book: _Book, host: str) -> None:
        self._changed[book.name, host] = None

    def take_changed(self) -> list[tuple[str, Allowance]]:
        """Each host for which something changed since the last call, with its record."""
        changed, self._changed = self._changed, {}
        return [(host, self.record(host, tenant)) for tenant, host in changed]

    def record(self, host: str, tenant: str) -> Allowance:
        """All that a host may use of a tenant's quotas now, as a new revision."""
        book = self._books.get(tenant)
        standing = None if book is None else book.standings.get(host)
        told = Allowance(
            task="",
            revision=next(self._revision),
            tenant=tenant,
            limits=Limits() if book is None else book.limits,
        )
        if standing is None:
            return told
        return msgspec.structs.replace(
            told,
            granted=sorted(standing.granted),
            refused=list(standing.refused.values()),
            bandwidth=standing.share,
            keep=standing.keep,
        )

    def current(self, host: str) -> list[Allowance]:
        """A host's records, for a stream that was opened again."""
        return [
            self.record(host, name) for name, book in self._books.items() if host in book.standings
        ]

    # ------------------------------------------------------------------ remembered, shown

    def take_unsaved(self) -> list[Spent]:
        """What was read since the last call, to be written down."""
        unsaved = list(self._unsaved.values())
        self._unsaved.clear()
        return unsaved

    def unsaved(self, spent: Iterable[Spent]) -> None:
        """These could not be written down: they come again, where nothing newer does."""
        for row in spent:
            self._unsaved.setdefault((row.tenant, row.host, row.life), row)

    def restore(self, spent: Iterable[Spent]) -> list[Spent]:
        """What an earlier life of this scheduler has written down, or another one tells; returns
        what was news."""
        news = []
        for row in spent:
            key, reads = (row.host, row.life), (row.period, row.bytes)
            book = self._books.get(row.tenant)
            known = self._remembered.setdefault(row.tenant, {}) if book is None else book.reads
            if known.get(key, (0, 0)) < reads:
                known[key] = reads
                news.append(row)
        return news

    def spent(self) -> list[Spent]:
        """All that was read, as far as it counts still."""
        return [
            _spent(book, key, reads) for book in self._books.values()
            for key, reads in book.reads.items()
        ]  # fmt: skip

    def usage(self, wall: float) -> list[TenantUsage]:
        """How each tenant with quotas stands."""
        return [self._usage_of(book, wall) for book in self._books.values()]

    def _usage_of(self, book: _Book, wall: float) -> TenantUsage:
        standings = book.standings.values()
        return TenantUsage(
            tenant=book.name,
            limits=book.limits,
            decides=bool(standings),
            stored_bytes=sum(s.usage.stored_bytes for s in standings),
            bandwidth=sum(s.usage.rate for s in standings),
            concurrent_downloads=sum(s.claimed("place") for s in standings),
            waiting=sum(c.kind == "place" for s in standings for c in s.waiting),
            origin_bytes=book.read_bytes(book.limits.period(wall)),
            period_ends=wall + book.limits.until_next(wall),
            refused=book.refused,
        )


def _spent(book: _Book, key: tuple[str, str], reads: tuple[int, int]) -> Spent:
    ends = float((reads[0] + 1) * book.limits.origin_period)
    return Spent(book.name, *key, *reads, ends)
