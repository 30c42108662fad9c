"""What clusters did over time: points of ten seconds for an hour, of a minute for a day, of an hour
for a year.

Every manager of a database asks the schedulers; whoever writes a point first has written it, for a
row of that cluster, step and time can be there once. The newest points carry the sums that
schedulers gave, so that any manager can say what was moved since. Coarser points are made of the
finer ones.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from statistics import fmean

from hawker.apps.manager import models
from hawker.apps.manager.database import Database
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.observing import observed_by, urls_of
from hawker.apps.manager.points import SeriesPoint
from hawker.core.clients.http import control_client
from hawker.core.clients.observed import total
from hawker.core.errors import BadRequest, HawkerError
from hawker.core.window import ClusterOverview, Point, Series

log = logging.getLogger(__name__)

HOUR, DAY, YEAR = 3600, 86400, 366 * 86400
STEPS: Mapping[int, int] = {10: HOUR, 60: DAY, HOUR: YEAR}
"""For how long points are kept, by their step; both in seconds."""
FINEST = 10
DEFAULT_SPAN = HOUR
MOST_POINTS = 2000
AT_ONCE = 8
# Managers look at different moments, so that one finds what another has written.
SPREAD = 2.0
# Where a manager is so many seconds late, others have gone on; a clock may have been further off.
LATE = 60
# What a column takes.
MOST_BYTES = 2**63 - 1


async def read_series(cluster: str, since: int, to: int, step: int | None, now: int) -> Series:
    """Points of a cluster from `since` to before `to`, of this step, or of the finest one that is
    kept for so long and has no more than `MOST_POINTS` of them.

    Raises:
        BadRequest: there would be more.
    """
    span = max(0, to - since)
    fit = [one for one, kept in STEPS.items() if now - since <= kept and span <= one * MOST_POINTS]
    step = step or (fit[0] if fit else HOUR)
    if span > step * MOST_POINTS:
        raise BadRequest(
            f"from {since} to {to} there are more than {MOST_POINTS} points of {step} s",
            hint="ask for less, or for larger steps",
        )
    rows = await SeriesPoint.filter(cluster=cluster, step=step, at__gte=since, at__lt=to).order_by(
        "at"
    )
    return Series(step, [_point(row) for row in rows])


def _point(row: SeriesPoint) -> Point:
    return Point(row.at, row.hosts, row.tasks, row.peers, row.origin_bytes, row.delivered_bytes)


class Recording:
    """Asks and writes, until `run` is cancelled."""

    def __init__(self, database: Database, members: Members) -> None:
        self._database = database
        self._members = members
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._failed = ""
        # Until when coarser points were made, by cluster and step.
        self._made: dict[tuple[str, int], int] = {}

    async def run(self) -> None:
        while True:
            now = time.time()
            await asyncio.sleep(FINEST - now % FINEST + random.uniform(0, SPREAD))
            try:
                with self._database.active():
                    async with self._database.failures():
                        await self.write(int(time.time()) // FINEST * FINEST - FINEST)
                self._failed = ""
            except Exception as exc:
                if str(exc) != self._failed:
                    self._failed = str(exc)
                    # Only what nobody foresaw is a fault of ours; neither stops a manager.
                    unforeseen = None if isinstance(exc, HawkerError) else exc
                    log.warning(
                        "what clusters do is not written down: %s", exc, exc_info=unforeseen
                    )

    async def write(self, at: int) -> None:
        """The points of all clusters for the step that begins at `at` and has just ended.

        Raises:
            Exception: one of them could not be written; the others are.
        """
        clusters = await models.Cluster.all().values_list("id", flat=True)
        there = SeriesPoint.filter(step=FINEST, at=at)
        written = set(await there.values_list("cluster", flat=True))
        writing = [self._write_one(str(one), at) for one in clusters if one not in written]
        for outcome in await asyncio.gather(*writing, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _write_one(self, cluster: str, at: int) -> None:
        try:
            async with self._gate:
                urls, told = await self._ask(cluster)
        except HawkerError as exc:
            log.debug("cluster %s is not seen: %s", cluster, exc)
            return
        if not told:
            return
        newest = SeriesPoint.filter(cluster=cluster, step=FINEST, at__lte=at + LATE)
        before = await newest.order_by("-at").first()
        if before is not None and before.at >= at:
            # Another manager was faster: what was moved is in its point.
            return
        counted = None if before is None else before.sums
        origin, delivered = moved_since(counted, told)
        now = total(list(told.values()), schedulers=len(told))
        # Who did not answer this time is compared with what it said before.
        silent = {url: sums for url, sums in (counted or {}).items() if url in urls}
        sums = {url: [o.since, o.origin_bytes, o.delivered_bytes] for url, o in told.items()}
        point = SeriesPoint(
            cluster=cluster,
            step=FINEST,
            at=at,
            hosts=sum(count for state, count in now.hosts.items() if state != "away"),
            tasks=sum(now.tasks.values()),
            peers=now.peers,
            origin_bytes=min(origin, MOST_BYTES),
            delivered_bytes=min(delivered, MOST_BYTES),
            sums={**silent, **sums},
        )
        await SeriesPoint.bulk_create([point], ignore_conflicts=True)
        for fine, coarse in ((FINEST, 60), (60, HOUR)):
            end = (at + FINEST) // coarse * coarse
            if self._made.get((cluster, coarse)) != end:
                await gather(cluster, fine, coarse, end)
                self._made[cluster, coarse] = end

    async def _ask(self, cluster: str) -> tuple[Sequence[str], dict[str, ClusterOverview]]:
        """The cluster's schedulers, and what those say that answer."""
        urls = await urls_of(cluster)
        if not urls:
            return [], {}
        trust = await self._members.trust(cluster)
        async with control_client(tls=trust.tls) as client:
            return urls, await observed_by(urls, client, trust.key, None).each()

    @staticmethod
    async def clean(now: float) -> None:
        """Remove points that are older than they are kept, and those of clusters that are gone."""
        for step, kept in STEPS.items():
            await SeriesPoint.filter(step=step, at__lt=int(now) - kept).delete()
        known = await models.Cluster.all().values_list("id", flat=True)
        await SeriesPoint.exclude(cluster__in=list(known)).delete()


def moved_since(
    before: Mapping[str, Sequence[float]] | None, told: Mapping[str, ClusterOverview]
) -> tuple[int, int]:
    """Bytes from origins, and delivered ones, since schedulers had counted this; None: nobody knows
    how much they had."""
    origin = delivered = 0
    for url, now in told.items():
        since, *sums = (before or {}).get(url, (now.since, now.origin_bytes, now.delivered_bytes))
        if since != now.since:
            # Another life of it, all of which is new.
            sums = [0, 0]
        origin += max(0, now.origin_bytes - int(sums[0]))
        delivered += max(0, now.delivered_bytes - int(sums[1]))
    return origin, delivered


async def gather(cluster: str, fine: int, coarse: int, end: int) -> None:
    """Make the points of a coarser step, up to this time, that there are not yet."""
    made = SeriesPoint.filter(cluster=cluster, step=coarse).order_by("-at")
    last = await made.first()
    begin = max(end - STEPS[fine], 0 if last is None else last.at + coarse)
    found = SeriesPoint.filter(cluster=cluster, step=fine, at__gte=begin, at__lt=end)
    steps: dict[int, list[SeriesPoint]] = {}
    for row in await found.order_by("at"):
        steps.setdefault(row.at // coarse * coarse, []).append(row)
    points = [
        SeriesPoint(
            cluster=cluster,
            step=coarse,
            at=at,
            hosts=fmean(row.hosts for row in rows),
            tasks=fmean(row.tasks for row in rows),
            peers=fmean(row.peers for row in rows),
            origin_bytes=min(sum(row.origin_bytes for row in rows), MOST_BYTES),
            delivered_bytes=min(sum(row.delivered_bytes for row in rows), MOST_BYTES),
        )
        for at, rows in steps.items()
    ]
    if points:
        await SeriesPoint.bulk_create(points, ignore_conflicts=True)
