"""Jobs at work with a broker beside the database: each part is done once, whatever becomes of what
the broker was given.

Hosts are not asked here; `tests/e2e/test_jobs.py` does that, and `python -m tests.outside.brokers`
with real brokers.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hawker.apps.manager import changes, models
from hawker.apps.manager.database import Database, transaction
from hawker.apps.manager.jobs import engine as engines
from hawker.apps.manager.jobs import leases, plans, work
from hawker.apps.manager.jobs import queue as queues
from hawker.apps.manager.jobs.contents import args_of
from hawker.apps.manager.jobs.engine import Engine
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.jobs.queue import Queue
from hawker.apps.manager.jobs.tables import Job, JobPart
from hawker.apps.manager.jobs.wire import NewJob
from hawker.apps.manager.jobs.work import Figures
from hawker.apps.manager.secret import Seal
from hawker.core.contracts import JobBroker, JobMessage
from hawker.core.errors import OriginFailed, Unavailable
from tests.apps.manager.running import new_database
from tests.plugins.memory_broker import MemoryBroker, MemoryServer

DEADLINE = 40.0
NAME = "queue"

Check = Callable[["World"], Awaitable[None]]


class World:
    """A database, engines on it, and what they do: `done` counts by part how often one was brought
    to an end, `most` is how many were under way at a time by job. `gate` holds all up, `gates` the
    parts of a job."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.server = MemoryServer()
        self.begun: Counter[int] = Counter()
        self.done: Counter[int] = Counter()
        self.most: Counter[int] = Counter()
        self.fails: set[int] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.gates: dict[int, asyncio.Event] = {}
        self._under_way: Counter[int] = Counter()
        monkeypatch.setattr(work, "do", self._do)

    async def _do(self, members: Any, part: JobPart, *_: Any) -> None:
        job = part.job_id
        self.begun[part.id] += 1
        self._under_way[job] += 1
        self.most[job] = max(self.most[job], self._under_way[job])
        try:
            await self.gate.wait()
            if job in self.gates:
                await self.gates[job].wait()
            await asyncio.sleep(0.02)
            if part.id in self.fails:
                self.fails.remove(part.id)
                raise OriginFailed("it was not there yet")
            self.done[part.id] += 1
        finally:
            self._under_way[job] -= 1

    def engine(self, broker: JobBroker | None = None) -> Engine:
        queue = Queue(broker, "memory", NAME) if broker is not None else None
        seal = Seal(bytes(32))
        return Engine(self.database, None, Members(seal), seal, 64, queue)  # type: ignore[arg-type]

    def queued(self) -> Engine:
        return self.engine(MemoryBroker(self.server, redelivery=0.2))

    @asynccontextmanager
    async def working(self, *made: Engine) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.run()) for one in made]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def job(self, many: int, at_once: int) -> int:
        """One that is planned: so many parts."""
        cluster = await models.Cluster.first() or await models.Cluster.create(name="eu")
        wanted = args_of(NewJob("preheat", ["http://origin/file"], at_once=at_once))
        of = {"cluster": cluster.id, "host": "h", "state": "pending"}
        # At once: one without parts has succeeded.
        async with transaction():
            job = await Job.create(
                kind="preheat", clusters=[cluster.id], args=wanted, state="running", actor="a"
            )
            await JobPart.bulk_create(
                [JobPart(job_id=job.id, number=n, url="u", **of) for n in range(many)]
            )
        return int(job.id)

    async def over(self, job: int) -> None:
        """Wait until a job has succeeded, with each of its parts done by one."""

        async def state() -> str:
            return (await Job.get(id=job)).state

        async with asyncio.timeout(DEADLINE):
            while await state() == "running":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await state() == "succeeded"
        parts = await JobPart.filter(job_id=job)
        assert {(part.state, part.owner) for part in parts} == {("succeeded", "")}
        assert {self.done[part.id] for part in parts} == {1}


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Check) -> None:
    url = new_database()

    async def main() -> None:
        database = Database(url, tmp_path)
        await database.open()
        try:
            with database.active():
                await changes.begin()
                await check(World(database, monkeypatch))
        finally:
            await database.close()

    asyncio.run(main())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the queue is soon lost, and looked for."""
    monkeypatch.setattr(engines, "RENEW", 0.2)
    monkeypatch.setattr(leases, "QUEUED", 1.0)
    monkeypatch.setattr(queues, "AGAIN", 0.2)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are soon over; not so soon that a busy machine loses them."""
    for module in (engines, leases, plans):
        monkeypatch.setattr(module, "LEASE", 4.0)
    monkeypatch.setattr(engines, "RENEW", 0.2)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_parts_go_by_the_queue_and_no_more_of_them_than_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(world: World) -> None:
        one, two = world.queued(), world.queued()
        job = await world.job(60, at_once=8)
        async with world.working(one, two):
            await world.over(job)
        assert world.most[job] <= 8
        assert one.queue is not None and two.queue is not None
        told = [one.queue.messages, two.queue.messages]
        # What was begun by the database was begun before the broker had answered.
        by_queue = sum(messages["taken"] - messages["void"] for messages in told)
        assert by_queue > 40 and all(messages["taken"] for messages in told), told
        assert one.parts_ended["succeeded"] + two.parts_ended["succeeded"] == 60

    run(tmp_path, monkeypatch, check)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_lost_comes_twice_or_late_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, seed: int
) -> None:
    async def check(world: World) -> None:
        world.server.chance = random.Random(seed)
        job = await world.job(40, at_once=10)
        world.fails = {part.id for part in await JobPart.filter(job_id=job).limit(3)}
        engines_ = [world.queued() for _ in range(3)]
        async with world.working(*engines_):
            await world.over(job)
        assert world.most[job] <= 10
        assert world.begun.total() == 43, "but for those that failed each was begun once"

    run(tmp_path, monkeypatch, check)


def test_a_broker_that_forgets_all_is_told_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after a minute, when what was put would count as lost anyway."""

    async def check(world: World) -> None:
        one = world.queued()
        assert one.queue is not None
        async with world.working(one):
            await until(lambda: one.queue is not None and one.queue.connected)
            # Nobody takes anything; then it is gone.
            monkeypatch.setattr(world.server, "take", lambda *_: [])
            job = await world.job(20, at_once=8)
            await until(lambda: len(world.server.waiting[NAME]) >= 8)
            world.server.down = True
            await until(lambda: one.queue is not None and not one.queue.connected)
            world.gate.clear()
            world.server.lose()
            monkeypatch.undo()
            monkeypatch.setattr(work, "do", world._do)
            world.server.down = False
            await until(lambda: one.queue is not None and one.queue.connected)
            world.gate.set()
            await world.over(job)
        assert one.queue.messages["put"] >= 8

    run(tmp_path, monkeypatch, check)


def test_without_the_broker_jobs_go_by_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(world: World) -> None:
        world.server.down = True
        one, other = world.queued(), world.engine()
        queue = one.queue
        assert queue is not None
        async with world.working(one, other):
            await world.over(await world.job(20, at_once=4))
            await asyncio.sleep(queues.AGAIN * 2)
            assert not queue.connected and "memory is away" in queue.note
            assert not queue.messages
        told = [record.message for record in caplog.records if "database alone" in record.message]
        assert len(told) == 1, "once, and not with each attempt"
        world.server.down = False
        async with world.working(one):
            await until(lambda: queue.connected)
            assert queue.note == ""
            await world.over(await world.job(20, at_once=4))
        assert queue.messages["taken"] - queue.messages["void"] == 20

    run(tmp_path, monkeypatch, check)


def test_managers_with_and_without_the_broker_do_each_part_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One does not know of it, or cannot reach it."""

    async def check(world: World) -> None:
        with_it, without = world.queued(), world.engine()
        async with world.working(with_it, without):
            jobs = [await world.job(30, at_once=6) for _ in range(2)]
            for job in jobs:
                await world.over(job)
                assert world.most[job] <= 6
        assert world.begun.total() == 60

    run(tmp_path, monkeypatch, check)


def test_one_that_dies_in_the_middle_leaves_its_parts_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    async def check(world: World) -> None:
        one, two = world.queued(), world.queued()
        job = await world.job(30, at_once=10)
        world.gate.clear()
        async with world.working(two):
            # Its end is not written: as with SIGKILL, nothing is released.
            async with world.working(one):
                await until(lambda: world.begun.total() >= 10)
                held = len(one._held)
            world.gate.set()
            await world.over(job)
        assert world.begun.total() == 30 + held

    run(tmp_path, monkeypatch, check)


def test_a_plugin_with_a_fault_stops_no_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that raises what it must not, and one that never answers."""

    class Raises(MemoryBroker):
        async def put(self, *_: Any) -> None:
            raise RuntimeError("a fault")

    class IsNotAsync(MemoryBroker):
        def take(self, *_: Any) -> Any:
            raise RuntimeError("a fault")

    class Hangs(MemoryBroker):
        async def put(self, *_: Any) -> None:
            await asyncio.Event().wait()

    async def check(world: World) -> None:
        monkeypatch.setattr(queues, "PATIENCE", 0.3)
        for kind in (Raises, IsNotAsync, Hangs):
            one = world.engine(kind(world.server))
            async with world.working(one):
                await world.over(await world.job(10, at_once=4))
                assert one.queue is not None and not one.queue.connected
            # It hung, or failed, after it had worked.
            two = world.engine(kind(world.server))
            assert two.queue is not None
            two.queue.connected = True
            async with world.working(two):
                await world.over(await world.job(10, at_once=4))

    run(tmp_path, monkeypatch, check)


def test_a_broker_that_gives_nothing_back_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """It takes what is put, says that there is nothing, and never fails."""

    class Swallows(MemoryBroker):
        async def take(self, queue: str, most: int, wait: float) -> list[JobMessage]:
            await asyncio.sleep(wait)
            return []

    async def check(world: World) -> None:
        one = world.engine(Swallows(world.server, redelivery=0.2))
        async with world.working(one):
            await until(lambda: one.queue is not None and one.queue.connected)
            job = await world.job(12, at_once=6)
            await world.over(job)
            assert one.queue is not None and one.queue.connected
        assert world.most[job] <= 6 and len(world.server.waiting[NAME]) >= 12

    run(tmp_path, monkeypatch, check)


def test_messages_that_name_no_part_are_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(world: World) -> None:
        odd = ["", "x", "-1", "1.5", "9" * 40, "9" * 18, "\N{SUPERSCRIPT TWO}", "0", "1e3"]
        one = world.queued()
        assert one.queue is not None
        async with world.working(one):
            await until(lambda: one.queue is not None and one.queue.connected)
            world.server.put(NAME, odd)
            await world.over(await world.job(5, at_once=2))
            await until(lambda: not world.server.given[NAME] and not world.server.waiting[NAME])
        assert one.queue.messages["void"] >= len(odd)

    run(tmp_path, monkeypatch, check)


def test_what_comes_while_the_database_is_asked_is_not_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which parts are still ours was asked before."""

    async def check(world: World) -> None:
        one = world.engine()
        gone, fresh = (
            engines._Held(JobPart(id=n), task=asyncio.ensure_future(asyncio.sleep(DEADLINE)))
            for n in (1, 2)
        )
        one._held[1] = gone
        asking = asyncio.ensure_future(one._let_go())
        await asyncio.sleep(0)
        one._held[2] = fresh
        await asking
        assert gone.task is not None and fresh.task is not None
        assert gone.task.cancelling() and not fresh.task.cancelling()
        fresh.task.cancel()

    run(tmp_path, monkeypatch, check)


def test_parts_may_end_while_leases_are_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(world: World) -> None:
        one = world.engine()
        await world.job(3, at_once=3)
        for part in await leases.claim(one._owner, one._limit, 3):
            one._held[part.id] = engines._Held(part, Figures(bytes=part.id, total=7))
        ids, written = list(one._held), one._mine

        def ending(held: engines._Held) -> Any:
            one._held.pop(ids[-1], None)
            return written(held)

        monkeypatch.setattr(one, "_mine", ending)
        await one._renew()
        assert await JobPart.filter(bytes__gt=0).count() == 3

    run(tmp_path, monkeypatch, check)


def test_what_became_ours_without_our_knowing_is_not_kept_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The database took a claim, and its answer was lost: while the manager works on something else
    it must not go on renewing the lease of what it does not work on. A connection that broke is no
    error of the manager's."""
    claim = leases.claim
    lost: list[int] = []

    async def losing(owner: str, limit: int, room: int) -> list[JobPart]:
        found = await claim(owner, limit, room)
        if not lost and any(part.job_id == losing_job[0] for part in found):
            lost.extend(part.id for part in found)
            raise Unavailable("the connection broke")
        return found

    losing_job = [0]

    async def check(world: World) -> None:
        monkeypatch.setattr(leases, "claim", losing)
        first = await world.job(1, at_once=1)
        world.gates[first] = asyncio.Event()
        async with world.working(world.engine()):
            await until(lambda: world.begun.total() == 1)
            losing_job[0] = await world.job(2, at_once=2)
            await world.over(losing_job[0])
            assert len(lost) == 2
            world.gates[first].set()
            await world.over(first)

    run(tmp_path, monkeypatch, check)
    told = [record.levelname for record in caplog.records if "stand still" in record.message]
    assert told == ["WARNING"]
