"""The accounts of tenants with quotas: what hosts use and claim in, what they may have out.

A host says all that it uses of a tenant's quotas, and claims more; whoever keeps the accounts
grants claims so that all hosts together stay within the limits. Both are said as a whole, so that
what is said twice, or in between is lost, does no harm, and a scheduler that was started anew, or
takes a tenant over from another one, learns from the hosts what they have been granted. Only what
was read from origins by hosts that are gone must be remembered (`Spent`). Times are passed in:
`now` is monotonic, `wall` in seconds since 1970.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import msgspec

from hawker.core.limits import Limits, TenantUsage
from hawker.core.messages import Allowance, Claim, Usage
from hawker.core.quotas.book import Book
from hawker.core.quotas.shares import Demand, divide
from hawker.core.quotas.spent import Spent

# Hosts leave one scheduler for another within some 0.5 s, and tell it at once what they have.
MOVING = 2.0
# How often bandwidth is divided anew by what hosts made of their parts, and how long they have to
# show that.
DIVIDE_EVERY = 3.0
# Whenever bandwidth is divided all hosts that download are told: where they are more than so many
# each of them makes the next time later by so much, and so many are told at once.
FEW = 256
LATER_SECONDS = 5e-4
# A part that changes by less is left as it is, where it is not more than there is.
SLIGHT = 0.02
# A tick looks at so many tenants for which nothing waits, of more at all within so many ticks.
LOOKED_AT = 256
TICKS = 8
# So many claims of room are looked at together: where one has to wait, so do all behind it.
ROOMS = 16


class Accounts:
    """See the module. `record` makes what a host is told; `take_changed` says who is to be told.

    `waiting` True keeps claims waiting: hosts that have something may not have said so yet.
    """

    def __init__(self, limits: Mapping[str, Limits]) -> None:
        self.waiting = False
        self._books: dict[str, Book] = {}
        # Those for which something waits, and those that are looked at by the next ticks.
        self._undecided: dict[str, None] = {}
        self._unseen: list[str] = []
        self._revision = itertools.count(1)
        self._changed: dict[tuple[str, str], None] = {}
        self._shared: dict[tuple[str, str], None] = {}
        self._unsaved: dict[tuple[str, str, str], Spent] = {}
        self._remembered: dict[str, dict[tuple[str, str], Spent]] = {}
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
                # They may be set again before the period is over.
                self._remember(self._books.pop(name).spent())
            elif name in self._books:
                self._books[name].limits = wanted[name]
                self._books[name].undivided = True
                self._undecided[name] = None
            else:
                book = self._books[name] = Book(name, wanted[name])
                for row in self._remembered.pop(name, {}).values():
                    book.restore(row)
        return news

    def _remember(self, spent: Iterable[Spent]) -> list[Spent]:
        """What was read for tenants that have no quotas now; returns what was news."""
        news = []
        for row in spent:
            known = self._remembered.setdefault(row.tenant, {})
            before = known.get((row.host, row.life))
            if before is None or (before.ends, before.bytes) < (row.ends, row.bytes):
                known[row.host, row.life] = row
                news.append(row)
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
        self._advance(book, wall)
        if (spent := book.count(host, usage)) is not None:
            self._unsaved[book.name, host, usage.life] = spent
        if usage.left:
            self._leave(book, host, now, wall)
            return
        standing = book.enter(host, usage, now)
        if usage.moved:
            book.settles_at = now + MOVING
        part = bool(usage.downloads) and book.limits.bandwidth is not None
        if part != bool(standing.share):
            book.undivided = True
        self._decide(book, now, wall)

    def gone(self, host: str, now: float, wall: float) -> None:
        """The host is not in the cluster any more; what it read counts on."""
        for book in self._books.values():
            self._leave(book, host, now, wall)

    def _leave(self, book: Book, host: str, now: float, wall: float) -> None:
        if book.leave(host):
            book.undivided = True
            self._decide(book, now, wall)

    def tick(self, now: float, wall: float) -> None:
        """Time passes: what waited may have its turn, and bandwidth is divided by what is used."""
        due, self._undecided = self._undecided, {}
        if not self._unseen:
            self._unseen = list(self._books)
        part = max(LOOKED_AT, len(self._books) // TICKS)
        seen, self._unseen = self._unseen[:part], self._unseen[part:]
        for name in {**due, **dict.fromkeys(seen)}:
            book = self._books.get(name)
            if book is None:
                continue
            self._advance(book, wall)
            if book.standings:
                if now - book.divided_at >= DIVIDE_EVERY and book.busy:
                    book.undivided = True
                self._decide(book, now, wall)

    def _advance(self, book: Book, wall: float) -> None:
        for row in book.advance(wall):
            self._unsaved[row.tenant, row.host, row.life] = row

    # ------------------------------------------------------------------ deciding

    def _decide(self, book: Book, now: float, wall: float) -> None:
        """Answer what can be answered."""
        settled = not self.waiting and now >= book.settles_at
        if settled:
            self._give_places(book)
            self._give_reads(book, wall)
            self._make_room(book, self._give_room(book))
            few = len(book.busy) <= FEW
            if book.undivided and (few or now - book.divided_at >= LATER_SECONDS * len(book.busy)):
                self._divide(book, now)
        if book.undivided or any(book.queues.values()):
            self._undecided[book.name] = None

    def _give_places(self, book: Book) -> None:
        limit = book.limits.concurrent_downloads
        free = None if limit is None else max(0, limit - book.claimed["place"])
        for host, claim in book.waiting("place", free):
            if limit is None or book.claimed["place"] + claim.size <= limit:
                self._grant(book, host, claim)

    def _give_reads(self, book: Book, wall: float) -> None:
        limit = book.limits.origin_bytes
        for host, claim in book.waiting("read"):
            if limit is None or book.read_bytes + book.claimed["read"] + claim.size <= limit:
                self._grant(book, host, claim)
            else:
                self._refuse(book, host, claim, book.limits.until_next(wall))

    def _give_room(self, book: Book) -> int:
        """How many bytes have to be evicted before there is room for the next claim of some: a
        small one that came later would take the room of a large one."""
        limit = book.limits.stored_bytes
        while some := book.waiting("room", ROOMS):
            for host, claim in some:
                excess = 0 if limit is None else book.occupied + claim.size - limit
                if excess <= 0:
                    self._grant(book, host, claim)
                elif book.idle < excess:
                    self._refuse(book, host, claim, None)
                else:
                    return excess
        return 0

    def _make_room(self, book: Book, short: int) -> None:
        """Have the tenant's content evicted that was unused for longest, on whatever host it is."""
        limit = book.limits.stored_bytes
        if limit is None or book.keeping:
            return
        for host in book.evict(max(short, book.occupied - limit)):
            self._touch(book, host)

    def _divide(self, book: Book, now: float) -> None:
        book.divided_at, book.undivided = now, False
        total = book.limits.bandwidth
        for host in list(book.busy):
            standing = book.standings[host]
            if standing.share and (total is None or not standing.usage.downloads):
                standing.share = 0
                book.mind(host, standing)
                self._touch(book, host)
        if total is None:
            return
        demands = {}
        for host in book.busy:
            s = book.standings[host]
            known = s.share if now - s.shared_at >= DIVIDE_EVERY else 0
            demands[host] = Demand(s.usage.downloads, s.usage.rate, known)
        shares = divide(total, demands)
        old = {host: book.standings[host].share for host in shares}
        slight = all(abs(shares[host] - old[host]) <= SLIGHT * old[host] for host in shares)
        if slight and sum(old.values()) <= total:
            return
        # Who is to be slower is told before who may be faster.
        for host in sorted(shares, key=lambda host: shares[host] >= old[host]):
            if shares[host] != old[host]:
                book.standings[host].share = shares[host]
                book.standings[host].shared_at = now
                self._shared[book.name, host] = None

    def _grant(self, book: Book, host: str, claim: Claim) -> None:
        book.grant(host, claim)
        self._touch(book, host)

    def _refuse(self, book: Book, host: str, claim: Claim, after: float | None) -> None:
        book.refuse(host, claim, after)
        self._touch(book, host)

    # ------------------------------------------------------------------ what hosts are told

    def _touch(self, book: Book, host: str) -> None:
        self._changed[book.name, host] = None

    def take_changed(self) -> list[tuple[str, Allowance]]:
        """Hosts for which something changed since the last call, with their records; of many that
        only have another part of the bandwidth, the others come with the next calls."""
        changed, self._changed = self._changed, {}
        for key in list(itertools.islice(self._shared, FEW)):
            del self._shared[key]
            changed[key] = None
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
            book = self._books.get(row.tenant)
            if book is None:
                news += self._remember([row])
            elif book.restore(row):
                news.append(row)
        return news

    def spent(self) -> list[Spent]:
        """All that was read, as far as it counts still."""
        return [row for book in self._books.values() for row in book.spent()]

    def usage(self, wall: float) -> list[TenantUsage]:
        """How each tenant with quotas stands."""
        return [self._usage_of(book, wall) for book in self._books.values()]

    def _usage_of(self, book: Book, wall: float) -> TenantUsage:
        self._advance(book, wall)
        return TenantUsage(
            tenant=book.name,
            limits=book.limits,
            decides=bool(book.standings),
            stored_bytes=book.stored,
            bandwidth=sum(book.standings[host].usage.rate for host in book.busy),
            concurrent_downloads=book.claimed["place"],
            waiting=len(book.queues["place"]),
            origin_bytes=book.read_bytes,
            period_ends=wall + book.limits.until_next(wall),
            refused=book.refused,
        )
