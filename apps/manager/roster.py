"""Who is a member of which cluster and what they are told, in memory, so that a keepalive asks
nothing of the database.

Each manager looks a few times a second whether the counter of changes has moved, and then reads the
rows that have. When members were heard of last is collected, and written about each second in one
statement: a manager that is killed takes no more than that with it. Whether a scheduler is active
is decided by all managers together: whoever finds one silent writes it down.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from tortoise.expressions import Q
from tortoise.transactions import in_transaction

from hawker.apps.manager import changes, models, wire
from hawker.apps.manager.database import Database
from hawker.apps.manager.secret import KeyedHash
from hawker.apps.manager.told import Slots, Told
from hawker.core.contracts import ClusterView
from hawker.core.errors import HawkerError, NotFound, Removed, Unauthenticated, Unavailable
from hawker.core.membership import KEEPALIVE, Keepalive, Kind

log = logging.getLogger(__name__)

EXPIRY = 3 * KEEPALIVE
LOOK = 0.5
TELL = 0.25
WRITE = 1.0
JUDGE = 5.0
REMOVED_SECONDS = 30 * 86400.0
"""As long as the certificate lives that a removed host may still have."""
PAGE = 500
AT_ONCE = 100
"""Polls that are ended in one go; others are served between two."""

Facts = tuple[str, tuple[str, ...], str, str, str, str]
_FIELDS = ("url", "addresses", "hostname", "idc", "location", "version")


@dataclass(slots=True, eq=False)
class Seat:
    """A member as a manager remembers it; `digest` is empty where it has no token of its own."""

    id: str
    cluster: str
    host: str
    kind: Kind
    digest: str
    draining: bool
    silent: bool
    facts: Facts
    poll: asyncio.Future[None] | None = None

    @property
    def url(self) -> str:
        return self.facts[0]


@dataclass(slots=True, eq=False)
class _Cluster:
    id: str
    name: str = ""
    default: bool = False
    scopes: wire.Scopes = field(default_factory=wire.Scopes)
    configurations: dict[str, dict[str, Any]] = field(default_factory=dict)
    schedulers: dict[str, Seat] = field(default_factory=dict)
    hosts: dict[str, int] = field(default_factory=dict)
    """How many members each host is here."""
    removed: dict[str, float] = field(default_factory=dict)
    """Hosts that were removed, and when."""
    told: dict[tuple[str, bool], Told] = field(default_factory=dict)

    def active(self) -> list[str]:
        """URLs of the schedulers that are there and are not draining."""
        return [
            seat.url
            for seat in self.schedulers.values()
            if seat.url and not seat.silent and not seat.draining
        ]


class Roster:
    """Filled by `load`; kept up to date by `run`."""

    def __init__(self, database: Database, hashed: KeyedHash) -> None:
        self._database = database
        self._hashed = hashed
        self._clusters: dict[str, _Cluster] = {}
        self._seats: dict[str, Seat] = {}
        self._tokens: dict[str, Seat] = {}
        self._places: dict[tuple[str, str, str], Seat] = {}
        self._gone: set[str] = set()
        self._seen = -1
        self._looking = asyncio.Lock()
        self._began = 0.0
        self._kept: dict[str, float] = {}
        self._said: dict[str, Facts] = {}
        self._writing = asyncio.Lock()
        self._slots = Slots()
        self._touched: set[str] = set()
        self._outdated: list[Told] = []
        self._news = asyncio.Event()
        self._closed = False
        self._judging_from = time.monotonic() + EXPIRY

    # ------------------------------------------------------------------ who, and what they hear

    async def shown(self, token: str) -> Seat:
        """The member whose token this is.

        Raises:
            Removed: it was one.
            Unauthenticated: nobody's.
        """
        digest = self.digest(token)
        if digest not in self._tokens and digest not in self._gone:
            # Another manager may have made it a moment ago.
            await self.refresh()
        seat = self._tokens.get(digest)
        if seat is None:
            raise self._unknown(digest)
        return seat

    def digest(self, token: str) -> str:
        """What is kept of a member's token."""
        return self._hashed.digest("member", token)

    def find(self, cluster: str, host: str, kind: str) -> Seat | None:
        return self._places.get((cluster, host, kind))

    def schedulers(self, cluster: str) -> list[str]:
        """URLs of the active ones that are not draining, sorted."""
        known = self._clusters.get(cluster)
        return [] if known is None else sorted(set(known.active()))

    def views(self) -> dict[str, ClusterView]:
        """The clusters as a searcher sees them, by id."""
        return {
            known.id: ClusterView(
                name=known.name,
                default=known.default,
                active=bool(known.active()),
                idcs=known.scopes.idcs,
                locations=known.scopes.locations,
                cidrs=known.scopes.cidrs,
                hostnames=known.scopes.hostnames,
            )
            for known in self._clusters.values()
        }

    async def keep(self, seat: Seat, said: Keepalive) -> bytes:
        """A member is alive; the `Kept` that it is told, once there is something that it does not
        know, or after its wait.

        Raises:
            Removed, Unauthenticated: meanwhile.
        """
        self._kept[seat.id] = time.time()
        facts = _facts(said)
        if seat.silent or (seat.url != said.url and seat.kind == "scheduler"):
            await self._write_down(seat, said)
        elif seat.facts != facts:
            # Nobody is told: that has time.
            seat.facts = self._said[seat.id] = facts
        told = self._told(seat)
        if said.wait and said.known == told.revision and not self._closed:
            await self._wait(seat, told, said.wait)
            if self._seats.get(seat.id) is not seat:
                raise self._unknown(seat.digest)
            told = self._told(seat)
        return told.answer

    def _told(self, seat: Seat) -> Told:
        cluster = self._clusters.get(seat.cluster)
        if cluster is None:
            raise NotFound("there is no such thing among clusters")
        if seat.cluster in self._touched:
            self._renew(cluster)
        told = cluster.told.get((seat.kind, seat.draining))
        if told is None:
            told = cluster.told[(seat.kind, seat.draining)] = _tell(
                cluster, seat.kind, seat.draining
            )
        return told

    async def _wait(self, seat: Seat, told: Told, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        poll: asyncio.Future[None] = loop.create_future()
        if seat.poll is not None:
            # Its client has gone, for a host has one poll.
            _end(seat.poll)
        seat.poll = poll
        told.waiting.add(poll)
        until, slot = self._slots.take(loop.time(), seconds, len(self._seats))
        timer = loop.call_at(until, _end, poll)
        try:
            await poll
        finally:
            timer.cancel()
            self._slots.give(slot)
            told.waiting.discard(poll)
            if seat.poll is poll:
                seat.poll = None

    def _unknown(self, digest: str) -> HawkerError:
        if digest in self._gone:
            return Removed(
                "this host is a member of the cluster no more",
                hint="join again with a new enrolment, if that was a mistake",
            )
        return Unauthenticated("the member's token is unknown", hint="join again")

    async def _write_down(self, seat: Seat, said: Keepalive) -> None:
        """A scheduler is elsewhere than before, or was silent: others are told."""
        values: dict[str, Any] = {name: getattr(said, name) for name in _FIELDS}
        async with in_transaction():
            mine = models.Member.filter(id=seat.id)
            if await mine.select_for_update().first() is None:
                return
            number = await changes.count()
            await mine.update(**values, silent=False, kept_alive=time.time(), changed=number)
        await self.refresh()

    # ------------------------------------------------------------------ following the database

    async def load(self) -> None:
        """Read all there is."""
        await changes.begin()
        await self.refresh()

    async def follow(self) -> None:
        """Something was changed here: whoever is answered next knows it. Where that fails, `run`
        does it later."""
        with contextlib.suppress(Unavailable):
            async with self._active():
                await self.refresh()

    async def refresh(self) -> None:
        """Know all that was changed before now."""
        asked = time.monotonic()
        async with self._looking:
            if self._began <= asked:
                self._began = time.monotonic()
                await self._look()

    async def _look(self) -> None:
        number = await changes.current()
        if number == self._seen:
            return
        touched = await self._read_clusters()
        async for members in _pages(models.Member, self._seen, _MEMBER):
            touched.update(self._take(row) for row in members)
        async for gone in _pages(models.Gone, self._seen, _GONE):
            touched.update(self._drop(*row) for row in gone)
        self._seen = number
        self._touched |= touched
        self._news.set()

    async def _read_clusters(self) -> set[str]:
        """All of them, for they are few; returns those that are told something else."""
        found, touched = set(), set()
        for row in await models.Cluster.all():
            found.add(row.id)
            known = self._clusters.setdefault(row.id, _Cluster(row.id))
            known.name, known.default = row.name, row.is_default
            known.scopes = msgspec.convert(row.scopes, wire.Scopes)
            told = {"scheduler": row.schedulers, "seed": row.seeds, "peer": row.peers}
            if known.configurations != told:
                known.configurations = told
                touched.add(row.id)
        for gone in self._clusters.keys() - found:
            del self._clusters[gone]
        return touched

    def _take(self, row: Sequence[Any]) -> str:
        """Remember a member as it is now; returns its cluster."""
        id_: str = row[0]
        cluster: str = row[1]
        host, kind, draining, silent, digest, *facts = row[2:-1]
        facts[1] = tuple(facts[1])
        seat = self._seats.get(id_)
        if seat is None:
            seat = Seat(id_, cluster, host, cast(Kind, kind), "", False, False, cast(Facts, ()))
            self._seats[id_] = self._places[cluster, host, kind] = seat
            home = self._clusters.setdefault(cluster, _Cluster(cluster))
            home.hosts[host] = home.hosts.get(host, 0) + 1
            if kind == "scheduler":
                home.schedulers[id_] = seat
        if seat.digest != (digest or ""):
            self._tokens.pop(seat.digest, None)
            seat.digest = digest or ""
            if seat.digest:
                self._tokens[seat.digest] = seat
        if seat.draining != draining and seat.poll is not None:
            _end(seat.poll)
        seat.draining, seat.silent, seat.facts = draining, silent, cast(Facts, tuple(facts))
        return cluster

    def _drop(self, id_: str, cluster: str, host: str, kind: str, why: str, *rest: Any) -> str:
        """A member is none any more; returns its cluster."""
        digest, at, _ = rest
        if digest:
            self._gone.add(digest)
        home = self._clusters.get(cluster)
        if home is not None and why == "removed" and at > time.time() - REMOVED_SECONDS:
            home.removed[host] = at
        seat = self._seats.pop(id_, None)
        if seat is None:
            return cluster
        self._tokens.pop(seat.digest, None)
        if self._places.get((cluster, host, kind)) is seat:
            del self._places[cluster, host, kind]
        if home is not None:
            home.schedulers.pop(id_, None)
            left = home.hosts.pop(host, 1) - 1
            if left:
                home.hosts[host] = left
        if seat.poll is not None:
            _end(seat.poll)
        return cluster

    def _renew(self, cluster: _Cluster) -> None:
        """Make anew what a cluster's members are told."""
        self._touched.discard(cluster.id)
        since = time.time() - REMOVED_SECONDS
        cluster.removed = {h: at for h, at in cluster.removed.items() if at > since}
        for (kind, drain), told in list(cluster.told.items()):
            new = _tell(cluster, kind, drain)
            if new.revision != told.revision:
                cluster.told[kind, drain] = new
                self._outdated.append(told)

    # ------------------------------------------------------------------ at work

    async def run(self) -> None:
        """Follow the database, write down who was heard of, judge who was not; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_all())
            group.create_task(self._every(WRITE, self.write))
            group.create_task(self._every(JUDGE, self._judge))
            group.create_task(self._every(LOOK, self.refresh))

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        failed = ""
        while True:
            try:
                async with self._active():
                    await work()
                failed = ""
            except HawkerError as exc:
                # Until the others have caught up, too.
                self._judging_from = time.monotonic() + EXPIRY
                if str(exc) != failed:
                    failed = str(exc)
                    log.error("members are answered from memory: %s", exc)
            await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def _active(self) -> AsyncIterator[None]:
        with self._database.active():
            async with self._database.failures():
                yield

    async def _tell_all(self) -> None:
        """End the polls of those for whom there is news. Changes that follow each other closely,
        such as many schedulers that start, are told together."""
        while True:
            await self._news.wait()
            self._news.clear()
            for id_ in list(self._touched):
                if (cluster := self._clusters.get(id_)) is not None:
                    self._renew(cluster)
            self._touched.clear()
            outdated, self._outdated = self._outdated, []
            for told in outdated:
                while told.waiting:
                    for poll in list(itertools.islice(told.waiting, AT_ONCE)):
                        told.waiting.discard(poll)
                        _end(poll)
                    await asyncio.sleep(0)
            await asyncio.sleep(TELL)

    async def write(self) -> None:
        """When members were heard of last, in one statement, and what they say of themselves."""
        async with self._writing:
            kept, self._kept = self._kept, {}
            said, self._said = self._said, {}
            try:
                if said:
                    await self._database.describe(_FIELDS, said)
                if kept:
                    await self._database.keep_alive(list(kept), time.time())
            except BaseException:
                self._kept, self._said = {**kept, **self._kept}, {**said, **self._said}
                raise

    async def flush(self) -> None:
        """Write what is still in memory; at the end."""
        async with self._active():
            await self.write()

    async def _judge(self) -> None:
        """Find schedulers silent; not soon after a start, or a fault of the database's: their
        keepalives may have had nobody to go to."""
        if time.monotonic() < self._judging_from:
            return
        since = time.time() - EXPIRY
        silent = Q(kind="scheduler", silent=False, kept_alive__lte=since)
        if not await models.Member.filter(silent).exclude(id__in=list(self._kept)).exists():
            return
        async with in_transaction():
            found = models.Member.filter(silent).exclude(id__in=list(self._kept))
            rows = await found.order_by("id").select_for_update()
            if rows:
                number = await changes.count()
                ids = [row.id for row in rows]
                await models.Member.filter(id__in=ids).update(silent=True, changed=number)
        await self.refresh()

    def close(self) -> None:
        """Answer whoever waits, and let nobody wait any more."""
        self._closed = True
        for cluster in self._clusters.values():
            for told in cluster.told.values():
                for poll in told.waiting:
                    _end(poll)


def _tell(cluster: _Cluster, kind: str, drain: bool) -> Told:
    removed = set(cluster.removed) - set(cluster.hosts) if kind == "scheduler" else ()
    return Told(drain, cluster.active(), cluster.configurations.get(kind, {}), removed)


def _facts(said: Keepalive) -> Facts:
    return (
        said.url, tuple(said.addresses), said.hostname, said.idc, said.location, said.version
    )  # fmt: skip


def _end(poll: asyncio.Future[None]) -> None:
    if not poll.done():
        poll.set_result(None)


_MEMBER = (
    "id", "cluster_id", "host", "kind", "draining", "silent", "credential__digest", *_FIELDS,
    "changed",
)  # fmt: skip
_GONE = ("id", "cluster", "host", "kind", "why", "digest", "at", "changed")


async def _pages(
    model: Any, since: int, columns: Sequence[str]
) -> AsyncIterator[list[Sequence[Any]]]:
    """Rows that were changed since then, in the order of their changes; the last column is that."""
    after, id_ = since, "~"
    while True:
        later = Q(changed__gt=after) | Q(changed=after, id__gt=id_)
        rows = await model.filter(later).order_by("changed", "id").limit(PAGE).values_list(*columns)
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        after, id_ = rows[-1][-1], rows[-1][0]
