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
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.responses import Response
from tortoise.expressions import Q

from hawker.apps.manager import changes, models
from hawker.apps.manager.database import Database
from hawker.apps.manager.heard import Heard, facts_of
from hawker.apps.manager.secret import KeyedHash
from hawker.apps.manager.standing import GONE, MEMBER, REVOCATION, Home, Seat, Standing
from hawker.apps.manager.tenant_tables import Revocation
from hawker.apps.manager.told import Slots, Told, end
from hawker.core.contracts import ClusterView
from hawker.core.errors import HawkerError, NotFound, Removed, Unauthenticated, Unavailable
from hawker.core.membership import KEEPALIVE, Keepalive
from hawker.core.priorities import NOT_BY_SEEDS

log = logging.getLogger(__name__)

EXPIRY = 3 * KEEPALIVE
LOOK = 0.5
TELL = 0.25
WRITE = 1.0
JUDGE = 5.0
PAGE = 500
AT_ONCE = 100
"""Polls that are ended in one go; others are served between two."""


class Roster:
    """Filled by `load`; kept up to date by `run`."""

    def __init__(self, database: Database, hashed: KeyedHash) -> None:
        self._database = database
        self._hashed = hashed
        self._standing = Standing()
        self._seen = -1
        self._looking = asyncio.Lock()
        self._began = 0.0
        self.heard = Heard(database)
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
        if digest not in self._standing.tokens and digest not in self._standing.gone:
            # Another manager may have made it a moment ago.
            await self.refresh()
        seat = self._standing.tokens.get(digest)
        if seat is None:
            raise self._unknown(digest)
        return seat

    def known(self, token: str) -> Seat | None:
        """The member whose token this is, as far as memory has it."""
        return self._standing.tokens.get(self.digest(token))

    def digest(self, token: str) -> str:
        """What is kept of a member's token."""
        return self._hashed.digest("member", token)

    def find(self, cluster: str, host: str, kind: str) -> Seat | None:
        return self._standing.places.get((cluster, host, kind))

    def schedulers(self, cluster: str) -> list[str]:
        """URLs of the active ones that are not draining, sorted."""
        known = self._standing.clusters.get(cluster)
        return [] if known is None else sorted(set(known.active()))

    def views(self) -> dict[str, ClusterView]:
        """The clusters as a searcher sees them, by id."""
        return self._standing.views()

    def figures(self) -> tuple[Mapping[str, int], int]:
        """How many members there are by kind, and how many of them wait here."""
        seats = self._standing.seats.values()
        return Counter(seat.kind for seat in seats), sum(seat.poll is not None for seat in seats)

    async def keep(self, seat: Seat, said: Keepalive) -> Response:
        """A member is alive; the answer with the `Kept` that it is told, once there is something
        that it does not know, or after its wait.

        Raises:
            Removed, Unauthenticated: meanwhile.
            Unavailable: what it says cannot be written down.
        """
        self.heard.keep(seat.id)
        facts = facts_of(said)
        if seat.silent or (seat.url != said.url and seat.kind == "scheduler"):
            async with self._active():
                await self.heard.move(seat.id, facts, self.refresh)
        elif seat.facts != facts:
            seat.facts = facts
            self.heard.say(seat.id, facts)
        told = self._told(seat)
        if said.wait and said.known == told.revision and not self._closed:
            await self._wait(seat, told, said.wait)
            if self._standing.seats.get(seat.id) is not seat:
                raise self._unknown(seat.digest)
            told = self._told(seat)
        return told.answer

    def _told(self, seat: Seat) -> Told:
        cluster = self._standing.clusters.get(seat.cluster)
        if cluster is None:
            raise NotFound("there is no such thing among clusters")
        if seat.cluster in self._touched:
            self._renew(cluster)
        told = cluster.told.get((seat.kind, seat.draining))
        if told is None:
            told = cluster.told[(seat.kind, seat.draining)] = cluster.tell(seat.kind, seat.draining)
        return told

    async def _wait(self, seat: Seat, told: Told, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        poll: asyncio.Future[None] = loop.create_future()
        if seat.poll is not None:
            # Its client has gone, for a host has one poll.
            end(seat.poll)
        seat.poll = poll
        told.waiting.add(poll)
        until, slot = self._slots.take(loop.time(), seconds, len(self._standing.seats))
        timer = loop.call_at(until, end, poll)
        try:
            await poll
        finally:
            timer.cancel()
            self._slots.give(slot)
            told.waiting.discard(poll)
            if seat.poll is poll:
                seat.poll = None

    def _unknown(self, digest: str) -> HawkerError:
        if digest in self._standing.gone:
            return Removed(
                "this host is a member of the cluster no more",
                hint="join again with a new enrolment, if that was a mistake",
            )
        return Unauthenticated("the member's token is unknown", hint="join again")

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
        standing = self._standing
        touched = standing.set_clusters(await models.Cluster.all())
        ruled = models.Application.filter(priority__in=NOT_BY_SEEDS).order_by("id")
        touched |= standing.set_tenants(
            await models.Tenant.filter(quotas__isnull=False), await ruled.select_related("tenant")
        )
        async for members in _pages(models.Member, self._seen, MEMBER):
            touched.update(standing.take(row) for row in members)
        async for gone in _pages(models.Gone, self._seen, GONE):
            touched.update(standing.drop(*row) for row in gone)
        async for revoked in _pages(Revocation, self._seen, REVOCATION):
            touched.update(standing.revoke(*row) for row in revoked)
        self._seen = number
        self._touched |= touched
        self._news.set()

    def _renew(self, cluster: Home) -> None:
        """Make anew what a cluster's members are told."""
        self._touched.discard(cluster.id)
        for (kind, drain), told in list(cluster.told.items()):
            new = cluster.tell(kind, drain)
            if new.revision != told.revision:
                cluster.told[kind, drain] = new
                self._outdated.append(told)

    # ------------------------------------------------------------------ at work

    async def run(self) -> None:
        """Follow the database, write down who was heard of, judge who was not; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_all())
            group.create_task(self._every(WRITE, self.heard.write))
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
                    log.warning("members are answered from memory: %s", exc)
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
                if (cluster := self._standing.clusters.get(id_)) is not None:
                    self._renew(cluster)
            self._touched.clear()
            outdated, self._outdated = self._outdated, []
            for told in outdated:
                while told.waiting:
                    for poll in list(itertools.islice(told.waiting, AT_ONCE)):
                        told.waiting.discard(poll)
                        end(poll)
                    await asyncio.sleep(0)
            await asyncio.sleep(TELL)

    async def flush(self) -> None:
        """Write what is still in memory; at the end."""
        async with self._active():
            await self.heard.write()

    async def _judge(self) -> None:
        """Find schedulers silent; not soon after a start, or a fault of the database's: their
        keepalives may have had nobody to go to."""
        if time.monotonic() < self._judging_from:
            return
        if await self.heard.silence(time.time() - EXPIRY):
            await self.refresh()

    def close(self) -> None:
        """Answer whoever waits, and let nobody wait any more."""
        self._closed = True
        for cluster in self._standing.clusters.values():
            for told in cluster.told.values():
                for poll in told.waiting:
                    end(poll)


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
