"""What clusters did is kept in points: once each, coarser with age, no more than is promised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from tortoise.exceptions import OperationalError

from hawker.apps.manager import models, series
from hawker.apps.manager.database import Database
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.points import SeriesPoint
from hawker.apps.manager.series import (
    DAY,
    HOUR,
    STEPS,
    Recording,
    moved_since,
    read_series,
)
from hawker.core.errors import BadRequest, HawkerError, Unavailable
from hawker.core.window import ClusterOverview
from tests.apps.manager.running import new_database

NOW = 1_000_000 * HOUR


class Told(Recording):
    """A recording of schedulers that say what they are told to."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, cast(Members, None))
        self.said: dict[str, ClusterOverview] = {}
        self.urls: Sequence[str] = ("http://one", "http://two")
        self.failure: HawkerError | None = None

    async def _ask(self, cluster: str) -> tuple[Sequence[str], dict[str, ClusterOverview]]:
        if self.failure is not None:
            raise self.failure
        return self.urls, self.said


def overview(origin: int, delivered: int, *, since: float = 1.0, peers: int = 0) -> ClusterOverview:
    return ClusterOverview(
        since=since, at=0.0, hosts={"connected": 3, "away": 1}, tasks={"live": 2}, peers=peers,
        origin_bytes=origin, delivered_bytes=delivered,
    )  # fmt: skip


def run(tmp_path: Path, work: Callable[[Database, str], Awaitable[None]]) -> None:
    url = new_database()

    async def main() -> None:
        database = Database(url, tmp_path)
        await database.open()
        try:
            with database.active():
                async with database.failures():
                    cluster = await models.Cluster.create(name="eu")
                    await work(database, cluster.id)
        finally:
            await database.close()

    asyncio.run(main())


def test_points_say_what_was_moved_since_the_one_before(tmp_path: Path) -> None:
    async def work(database: Database, cluster: str) -> None:
        one = Told(database)
        one.said = {"http://one": overview(1000, 5000), "http://two": overview(10, 50)}
        await one.write(NOW)
        one.said = {"http://one": overview(1500, 9000, peers=6)}
        await one.write(NOW + 10)
        one.said = {"http://one": overview(1500, 9000), "http://two": overview(30, 90)}
        await one.write(NOW + 20)
        one.said = {"http://one": overview(7, 8, since=2.0), "http://two": overview(30, 90)}
        await one.write(NOW + 30)
        series = await read_series(cluster, NOW, NOW + 100, None, NOW + 100)
        assert series.step == 10
        moved = [(point.at, point.origin_bytes, point.delivered_bytes) for point in series.points]
        assert moved == [
            # What came before anybody looked is not of any step.
            (NOW, 0, 0),
            (NOW + 10, 500, 4000),
            # One that was silent is asked of all that time.
            (NOW + 20, 20, 40),
            # One that was started anew began at nothing.
            (NOW + 30, 7, 8),
        ]
        assert [point.hosts for point in series.points] == [3.0] * 4
        assert series.points[1].peers == 6 and series.points[0].tasks == 4

    run(tmp_path, work)


def test_two_managers_write_each_point_once(tmp_path: Path) -> None:
    async def work(database: Database, cluster: str) -> None:
        first, second = Told(database), Told(database)
        for at in range(NOW, NOW + 130, 10):
            said = {"http://one": overview(at - NOW, 2 * (at - NOW))}
            first.said = second.said = said
            # Both have seen that nobody wrote it.
            await asyncio.gather(first._write_one(cluster, at), second._write_one(cluster, at))
        rows = await SeriesPoint.filter(cluster=cluster, step=10).order_by("at")
        assert [row.at for row in rows] == list(range(NOW, NOW + 130, 10))
        assert [row.origin_bytes for row in rows] == [0] + [10] * 12
        minutes = await SeriesPoint.filter(cluster=cluster, step=60).order_by("at")
        assert [(row.at, row.delivered_bytes) for row in minutes] == [
            (NOW, 100),
            (NOW + 60, 120),
        ]

    run(tmp_path, work)


def test_who_is_late_writes_nothing_that_is_in_a_later_point(tmp_path: Path) -> None:
    async def work(database: Database, cluster: str) -> None:
        quick, late = Told(database), Told(database)
        for at, sums in ((NOW, 100), (NOW + 20, 300)):
            quick.said = {"http://one": overview(sums, sums)}
            await quick.write(at)
        late.said = {"http://one": overview(350, 350)}
        await late.write(NOW + 10)
        rows = await SeriesPoint.filter(cluster=cluster, step=10)
        assert sum(row.origin_bytes for row in rows) == 200, "each byte is in one point"
        # A clock that was far ahead once stops nothing.
        await quick.write(NOW + HOUR)
        late.said = {"http://one": overview(400, 400)}
        await late.write(NOW + 30)
        row = await SeriesPoint.get(cluster=cluster, step=10, at=NOW + 30)
        assert row.origin_bytes == 100

    run(tmp_path, work)


def test_coarser_points_are_made_of_finer_ones_after_a_pause_too(tmp_path: Path) -> None:
    async def work(database: Database, cluster: str) -> None:
        recording = Told(database)
        sums = 0
        for minute in range(0, 125):
            if 30 <= minute < 40:
                continue
            sums += 60
            recording.said = {"http://one": overview(sums, 0, peers=minute)}
            await recording.write(NOW + minute * 60)
        minutes = await read_series(cluster, NOW, NOW + 3 * HOUR, 60, NOW + 3 * HOUR)
        there = [at for at in range(124) if not 30 <= at < 40]
        assert [point.at for point in minutes.points] == [NOW + 60 * at for at in there]
        hours = await read_series(cluster, NOW, NOW + 3 * HOUR, HOUR, NOW + 3 * HOUR)
        assert [point.at for point in hours.points] == [NOW, NOW + HOUR]
        assert [point.origin_bytes for point in hours.points] == [49 * 60, 60 * 60]
        assert hours.points[1].peers == pytest.approx(sum(range(60, 120)) / 60)

    run(tmp_path, work)


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    async def work(database: Database, cluster: str) -> None:
        gone = await models.Cluster.create(name="gone")
        rows = [
            SeriesPoint(
                cluster=one, step=step, at=NOW - age, hosts=0, tasks=0, peers=0,
                origin_bytes=0, delivered_bytes=0,
            )
            for one in (cluster, gone.id)
            for step, kept in STEPS.items()
            for age in (0, kept, kept + step)
        ]  # fmt: skip
        await SeriesPoint.bulk_create(rows)
        await gone.delete()
        await Recording.clean(NOW)
        left = await SeriesPoint.all().values_list("cluster", "step", "at")
        assert {tuple(row) for row in left} == {
            (cluster, step, NOW - age) for step, kept in STEPS.items() for age in (0, kept)
        }

    run(tmp_path, work)


def test_schedulers_that_cannot_be_asked_leave_no_point(tmp_path: Path) -> None:
    async def work(database: Database, cluster: str) -> None:
        recording = Told(database)
        await recording.write(NOW)
        recording.failure = Unavailable("away")
        await recording.write(NOW + 10)
        assert not await SeriesPoint.all().exists()

    run(tmp_path, work)


def test_the_step_follows_from_how_far_back_and_how_much(tmp_path: Path) -> None:
    async def work(database: Database, cluster: str) -> None:
        async def step(since: int, to: int = 0, named: int | None = None) -> int:
            return (await read_series(cluster, NOW - since, NOW - to, named, NOW)).step

        assert await step(HOUR) == 10
        assert await step(HOUR + 1) == await step(DAY) == 60
        assert await step(DAY + 1) == await step(80 * DAY) == HOUR
        assert await step(HOUR, named=60) == 60
        with pytest.raises(BadRequest, match="2000 points"):
            await step(DAY, named=10)
        with pytest.raises(BadRequest, match="2000 points"):
            await step(400 * DAY)

    run(tmp_path, work)


def test_what_one_says_before_it_is_known_counts_for_nothing() -> None:
    told: dict[str, Any] = {"http://new": overview(5, 6)}
    assert moved_since(None, told) == moved_since({}, told) == (0, 0)
    assert moved_since({"http://new": [1.0, 2, 2]}, told) == (3, 4)
    assert moved_since({"http://new": [0.5, 4, 4]}, told) == (5, 6)


def test_a_database_that_fails_in_the_middle_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(series, "FINEST", 1)
    monkeypatch.setattr(series, "SPREAD", 0.0)
    asked = asyncio.Event()

    class Failing(Told):
        async def _ask(self, cluster: str) -> tuple[Sequence[str], dict[str, ClusterOverview]]:
            if asked.is_set():
                return await super()._ask(cluster)
            asked.set()
            raise OperationalError("the server closed the connection")

    async def work(database: Database, cluster: str) -> None:
        recording = Failing(database)
        recording.said = {"http://one": overview(1, 2)}
        running = asyncio.ensure_future(recording.run())
        try:
            async with asyncio.timeout(20):
                while not await SeriesPoint.exists():
                    assert not running.done(), running.exception()
                    await asyncio.sleep(0.05)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert "the server closed the connection" in caplog.text

    run(tmp_path, work)


def test_a_scheduler_may_say_anything(tmp_path: Path) -> None:
    async def work(database: Database, cluster: str) -> None:
        recording = Told(database)
        recording.said = {"http://one": overview(-5, 0), "http://two": overview(1, 1)}
        await recording.write(NOW)
        recording.said = {url: overview(2**63 - 1, 2**64 - 1) for url in recording.said}
        await recording.write(NOW + 10)
        recording.said["http://two"] = overview(1, 1)
        await recording.write(NOW + 20)
        told = await read_series(cluster, NOW, NOW + 100, None, NOW + 100)
        assert [point.at - NOW for point in told.points] == [0, 10, 20]
        minutes = range(60, 130, 10)
        for at in minutes:
            await recording.write(NOW + at)
        assert await SeriesPoint.filter(cluster=cluster, step=60).exists()

    run(tmp_path, work)
