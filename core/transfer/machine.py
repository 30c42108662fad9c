"""What to ask of whom next: the pure decisions of one download.

Time is passed in (`now`, monotonic seconds), and so is the random source. The driver reports what
parents offer and what became of each fetch, and runs the fetches that `plan` returns.

Rarest first among what is offered (Legout 2006), ties at random so that peers that start together
ask for different pieces; a run of consecutive pieces per request, so that a request moves at least
`RUN_BYTES` where the parent can give them, more where it is fast; few requests at once, spread over
the parents.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from hawker.core.pieces import KIB, MIB, Layout, PieceSet

# Requests at once, and at one parent. With half as many a swarm of 16 leaves a tenth of its uplinks
# idle, as chance makes requests meet at some parents; with more each piece takes longer to be
# passed on (simulated). One parent alone gives no more for more.
PARALLEL = 7
PER_PARENT = 4
RUN_BYTES = 4 * MIB
# A run lasts about this long on the parent's measured rate, so that a slow parent binds little.
RUN_SECONDS = 0.25
# Longer runs where they take no more than half of that: each request costs about a millisecond of
# CPU time at both ends together.
LONGEST_RUN = 16 * MIB
FAILURES_TO_REPORT = 3
# A request is slow that takes longer than this, and than so many times what requests of its length
# take here: eight at once on a slow link take seconds each, and are none the worse for it.
HEDGE_AFTER = 1.0
HEDGE_TIMES = 3
MAX_HEDGES = 2
NOTHING = PieceSet()
# After a refusal as long as one of a host's slots takes to fall free where requests take what they
# take here, and this at least; after another one in a row so many times that.
BUSY_BACKOFF = 0.02
BUSY_AGAIN = 2
FAILURE_BACKOFF = 0.1
RATE_WEIGHT = 0.3
# A parent's rate counts for so many requests to others; then it may have time again.
MEASURED_FOR = 4 * PARALLEL


@dataclass(frozen=True, slots=True)
class Fetch:
    """One request for pieces `first` … `last` of a parent; a hedge repeats a slow one."""

    number: int
    parent: str
    first: int
    last: int
    hedge: bool = False

    @property
    def pieces(self) -> PieceSet:
        return PieceSet.of_run(self.first, self.last)


@dataclass(slots=True)
class Offer:
    """What is known of a parent; `alone` are pieces that nobody else may ask it for, `rate` is
    bytes per second of one request, 0 while unmeasured, `asked` the number of the last one; `busy`
    that it refused the last one."""

    have: PieceSet = field(default_factory=PieceSet)
    alone: PieceSet = field(default_factory=PieceSet)
    in_flight: int = 0
    retry_at: float = 0.0
    failures: int = 0
    failed_at: float = -inf
    busy: bool = False
    rate: float = 0.0
    asked: int = 0


@dataclass(slots=True)
class _Flight:
    fetch: Fetch
    since: float
    pieces: PieceSet


class Rarity:
    """How many parents have each piece, as binary counters sliced into planes of bits.

    Adding a parent's pieces to all counters, and finding the rarest of a set, are then a handful
    of operations on big integers, whatever the number of pieces.
    """

    def __init__(self) -> None:
        self._planes: list[int] = []

    def add(self, pieces: PieceSet) -> None:
        carry = pieces.bits
        for level, plane in enumerate(self._planes):
            self._planes[level], carry = plane ^ carry, plane & carry
            if not carry:
                return
        if carry:
            self._planes.append(carry)

    def remove(self, pieces: PieceSet) -> None:
        borrow = pieces.bits
        for level, plane in enumerate(self._planes):
            self._planes[level], borrow = plane ^ borrow, ~plane & borrow
            if not borrow:
                return

    def count(self, piece: int) -> int:
        return sum((plane >> piece & 1) << level for level, plane in enumerate(self._planes))

    def rarest(self, candidates: PieceSet) -> PieceSet:
        bits = candidates.bits
        for plane in reversed(self._planes):
            bits = (bits & ~plane) or bits
        return PieceSet(bits)


class DownloadMachine:
    """The state of one download of one generation."""

    def __init__(
        self, layout: Layout, valid: PieceSet, rng: random.Random, *, parallel: int = PARALLEL
    ) -> None:
        self.layout = layout
        self.valid = valid
        self.want = PieceSet()
        self.urgent = PieceSet()
        self.claimed = PieceSet()
        self.unproven = PieceSet()
        self.offers: dict[str, Offer] = {}
        self._flights: dict[int, _Flight] = {}
        self._banned: set[str] = set()
        self._rarity = Rarity()
        self._rng = rng
        self._parallel = parallel
        self._number = 0
        # Seconds that a byte of a request takes, on average; 0 while nothing came.
        self._pace = 0.0
        self._most: int | None = None

    # ------------------------------------------------------------------ what parents offer

    def add_parent(self, parent: str) -> None:
        """A parent that may be asked; what it has comes with `announced`."""
        if parent not in self._banned:
            self.offers.setdefault(parent, Offer())

    def remove_parent(self, parent: str) -> list[Fetch]:
        """Forget a parent; returns its fetches, which the driver must cancel and `drop`."""
        offer = self.offers.pop(parent, None)
        if offer is not None:
            self._rarity.remove(offer.have)
        return [f.fetch for f in self._flights.values() if f.fetch.parent == parent]

    def ban(self, parent: str) -> list[Fetch]:
        """Never ask this parent again in this download; returns its fetches."""
        self._banned.add(parent)
        return self.remove_parent(parent)

    def announced(self, parent: str, pieces: PieceSet, alone: PieceSet = NOTHING) -> bool:
        """The parent has these pieces (possession only grows), some of them for this host `alone`;
        True where it did not say so before of some that are not here."""
        offer = self.offers.get(parent)
        if offer is None:
            return False
        new = pieces - offer.have
        offer.have = offer.have | new
        offer.alone = (offer.alone | alone) & offer.have
        self._rarity.add(new)
        return bool(new - self.valid - self.unproven)

    def is_rare(self, pieces: PieceSet) -> bool:
        """One parent alone said that it has one of these: few others can give it yet."""
        return any(self._rarity.count(piece) == 1 for piece in pieces)

    def has_slot(self, parent: str) -> bool:
        """The parent said that an upload slot is free; True where that ends a back-off."""
        offer = self.offers.get(parent)
        if offer is None or offer.failures or not offer.retry_at:
            return False
        offer.retry_at = 0.0
        return True

    # ------------------------------------------------------------------ what to do

    @property
    def in_flight(self) -> PieceSet:
        bits = 0
        for flight in self._flights.values():
            bits |= flight.pieces.bits
        return PieceSet(bits)

    @property
    def missing(self) -> PieceSet:
        """Wanted, and neither here, on its way, nor claimed by this host's own reader."""
        return self.want - self.valid - self.unproven - self.claimed - self.in_flight

    @property
    def complete(self) -> bool:
        return self.want <= self.valid

    def plan(self, now: float, *, most: int | None = None) -> list[Fetch]:
        """Fetches to start now; `most` bytes at once: one of them, and no longer than that."""
        planned: list[Fetch] = []
        if not self.has_room(now):
            return planned
        missing, self._most = self.missing, most
        while missing and self.has_room(now):
            fetch = self._next(missing, now)
            if fetch is None:
                break
            planned.append(fetch)
            if most is not None:
                return planned
            missing -= fetch.pieces
        if not missing and self.has_room(now):
            planned.extend(itertools.islice(self._hedges(now), None if most is None else 1))
        return planned

    def has_room(self, now: float) -> bool:
        """Another fetch may begin. Slow ones count half: parents that trickle must not hold all."""
        flights = len(self._flights)
        if flights < self._parallel:
            return True
        # In the order in which they began: where the first is too young to be slow all are.
        if now - next(iter(self._flights.values())).since < HEDGE_AFTER:
            return False
        slow = sum(now >= self._slow_at(flight) for flight in self._flights.values())
        return 2 * flights - slow < 2 * self._parallel

    def wake_at(self, now: float) -> float | None:
        """When `plan` may return something though nothing else happened; None for never."""
        times = [self._slow_at(flight) for flight in self._flights.values()]
        if self.has_room(now):
            times.extend(offer.retry_at for offer in self.offers.values())
        return min((time for time in times if time > now), default=None)

    def _next(self, missing: PieceSet, now: float) -> Fetch | None:
        bits = missing.bits
        useful = [
            (parent, offer)
            for parent, offer in self.offers.items()
            if offer.retry_at <= now and offer.have.bits & bits
        ]
        for parent, offer in useful:
            alone = offer.alone & missing
            if alone and offer.in_flight < PER_PARENT:
                return self._start(parent, *self._choose_run(alone, len(missing), offer), now)
        limit = min(PER_PARENT, max(1, self._parallel // max(1, len(useful))))
        ready = [entry for entry in useful if entry[1].in_flight < limit]
        if not ready:
            return None
        parent, offer = min(ready, key=self._preference)
        first, last = self._choose_run(offer.have & missing, len(missing), offer)
        return self._start(parent, first, last, now)

    def _preference(self, entry: tuple[str, Offer]) -> tuple[int, float, float]:
        """The least busy here first; of those who was fastest, as few share its uplink now."""
        offer = entry[1]
        # Who was not measured lately counts as fast, so that each is tried; equal ones are mixed.
        fresh = offer.rate and self._number - offer.asked <= MEASURED_FOR
        return offer.in_flight, -(offer.rate if fresh else inf), self._rng.random()

    def _choose_run(self, useful: PieceSet, missing: int, offer: Offer) -> tuple[int, int]:
        """A run of useful pieces around the rarest one, or from the most urgent one on."""
        limit = self._run_limit(missing, offer)
        urgent = useful & self.urgent
        if urgent:
            first = (urgent.bits & -urgent.bits).bit_length() - 1
            last = first
            while last - first + 1 < limit and last + 1 in urgent:
                last += 1
            return first, last
        piece = self._rarity.rarest(useful).pick(self._rng)
        base = piece - piece % limit
        first = last = piece
        while first > base and first - 1 in useful:
            first -= 1
        while last < base + limit - 1 and last + 1 in useful:
            last += 1
        return first, last

    def _run_limit(self, missing: int, offer: Offer) -> int:
        length = self.layout.piece_length
        wanted = RUN_BYTES
        if offer.rate:
            size = int(offer.rate * RUN_SECONDS)
            wanted = min(LONGEST_RUN, max(size // 2, min(RUN_BYTES, size)))
        if self._most is not None:
            # Where a rate is kept to a request takes its time.
            return max(1, min(RUN_BYTES, self._most) // length)
        # Near the end small runs, so that the last pieces come from several parents at once.
        share = -(-missing // (2 * self._parallel))
        return max(1, min(max(wanted, 256 * KIB) // length, share))

    def _start(self, parent: str, first: int, last: int, now: float, hedge: bool = False) -> Fetch:
        self._number += 1
        fetch = Fetch(self._number, parent, first, last, hedge)
        self._flights[fetch.number] = _Flight(fetch, now, fetch.pieces)
        offer = self.offers[parent]
        offer.in_flight += 1
        offer.asked = self._number
        return fetch

    def _slow_at(self, flight: _Flight) -> float:
        """When a request becomes slow."""
        size = len(flight.pieces) * self.layout.piece_length
        return flight.since + max(HEDGE_AFTER, HEDGE_TIMES * self._pace * size)

    def _hedges(self, now: float) -> Iterable[Fetch]:
        """Repeat the slowest fetches at another parent, a bounded number of times."""
        flights = sorted(self._flights.values(), key=lambda flight: flight.since)
        room = MAX_HEDGES - sum(flight.fetch.hedge for flight in flights)
        hedged = PieceSet()
        for flight in flights:
            if flight.fetch.hedge:
                hedged |= flight.fetch.pieces
        for flight in flights:
            slow = flight.fetch
            if room <= 0:
                return
            open_pieces = slow.pieces - self.valid - hedged
            if slow.hedge or now < self._slow_at(flight) or not open_pieces:
                continue
            first, last = open_pieces.runs()[0]
            for parent, offer in self.offers.items():
                free = offer.in_flight == 0 and offer.retry_at <= now
                if parent != slow.parent and free and PieceSet.of_run(first, last) <= offer.have:
                    room -= 1
                    yield self._start(parent, first, last, now, hedge=True)
                    break

    # ------------------------------------------------------------------ what became of it

    def received(self, fetch: Fetch, size: int, now: float) -> None:
        """All bytes of the fetch are here, their digests not yet judged."""
        flight = self._flights.pop(fetch.number, None)
        offer = self._landed(fetch) if flight is not None else None
        if flight is None or offer is None:
            return
        offer.failures, offer.busy = 0, False
        offer.retry_at = 0.0
        taken = max(1e-6, now - flight.since)
        rate = size / taken
        pace = taken / max(1, size)
        self._pace += (pace - self._pace) * (RATE_WEIGHT if self._pace else 1.0)
        offer.rate = rate if not offer.rate else offer.rate + RATE_WEIGHT * (rate - offer.rate)

    def drop(self, fetch: Fetch) -> None:
        """The fetch is over, and nobody to blame; said again it changes nothing."""
        if self._flights.pop(fetch.number, None) is not None:
            self._landed(fetch)

    def busy(self, fetch: Fetch, retry_after: float, now: float) -> None:
        """The parent had no free slot."""
        self.drop(fetch)
        offer = self.offers.get(fetch.parent)
        if offer is not None:
            slot = self._pace * self.layout.piece_length / self._parallel
            times = BUSY_AGAIN if offer.busy else 1
            wait = max(retry_after, times * max(BUSY_BACKOFF, slot))
            offer.busy = True
            offer.retry_at = now + wait * (0.5 + self._rng.random())

    def failed(self, fetch: Fetch, now: float) -> bool:
        """The fetch failed; True where the parent failed often enough to be reported. What fails
        together counts once."""
        flight = self._flights.get(fetch.number)
        self.drop(fetch)
        offer = self.offers.get(fetch.parent)
        if offer is None or flight is None or flight.since < offer.failed_at:
            return False
        offer.failures += 1
        offer.failed_at = now
        offer.retry_at = now + FAILURE_BACKOFF * 2 ** min(offer.failures, 5)
        return offer.failures >= FAILURES_TO_REPORT

    def bringing(self, pieces: PieceSet) -> list[Fetch]:
        """Fetches in flight that are to bring any of these pieces."""
        flights = self._flights.values()
        return [flight.fetch for flight in flights if flight.pieces.bits & pieces.bits]

    def rivals(self, fetch: Fetch) -> list[Fetch]:
        """Other fetches in flight that are to bring any of the same pieces."""
        return [other for other in self.bringing(fetch.pieces) if other.number != fetch.number]

    def held(self, pieces: PieceSet) -> None:
        """These pieces are stored, and wait for their digests to be known."""
        self.unproven |= pieces

    def proven(self, pieces: PieceSet) -> None:
        """These pieces are valid in the store."""
        self.valid |= pieces
        self.unproven -= pieces

    def refused(self, pieces: PieceSet) -> None:
        """These pieces had wrong digests: wanted again."""
        self.unproven -= pieces

    def _landed(self, fetch: Fetch) -> Offer | None:
        offer = self.offers.get(fetch.parent)
        if offer is not None and offer.in_flight > 0:
            offer.in_flight -= 1
        return offer
