"""Schedulers that are told while a host is at work: tasks go to those there are."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from hawker.core.digests import HostKey
from hawker.core.errors import NotFound
from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyReport, Left, Read, Register, Stop
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from hawker.core.storage import Store
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.importing import Import
from hawker.core.transfer.users import User

URL = "http://origin.test/a"
SPEC = TaskSpec(URL)


class Link:
    """A scheduler that only listens."""

    def __init__(self, name: str, *, away: float = 0.0) -> None:
        self.base_url = name
        self.away_seconds = away
        self.reports: list[AnyReport] = []
        self.running = False
        self.ended = False

    async def run(self) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True

    async def wait_connected(self, timeout: float) -> bool:
        return True

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        self.reports.append(report)

    def registered(self) -> list[Register]:
        return [report for report in self.reports if isinstance(report, Register)]


async def until(true: Callable[[], object]) -> None:
    end = asyncio.get_running_loop().time() + 5
    while not true():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.01)


def _conduct(tmp_path: Path, check: Callable[[Conductor], Awaitable[None]]) -> None:
    async def main() -> None:
        plugins = PluginHost(Settings())
        store = await asyncio.to_thread(Store.open, tmp_path / "data")
        await store.start()
        try:
            ground = Ground(store=store, plugins=plugins, key=HostKey.generate(), tokens=None)
            await check(Conductor(ground))
        finally:
            await store.close()
            await plugins.close()

    asyncio.run(main())


def test_a_task_goes_to_the_scheduler_that_takes_the_place_of_its_own(tmp_path: Path) -> None:
    async def check(conductor: Conductor) -> None:
        old, new = Link("http://old"), Link("http://new")
        async with conductor.running([old]):
            async with conductor.join(SPEC, User(ranges=None)):
                await until(old.registered)
                conductor.follow([new])
                await until(new.registered)
                [told] = new.registered()
                assert told.task == SPEC.task_id
                assert told.failover, "others may take part in it who have not told the new one"
                await until(lambda: old.ended)
                assert new.running

    _conduct(tmp_path, check)


def test_a_task_stays_where_its_scheduler_stays(tmp_path: Path) -> None:
    async def check(conductor: Conductor) -> None:
        stays = Link("http://stays")
        async with conductor.running([stays]):
            async with conductor.join(SPEC, User(ranges=None)):
                await until(stays.registered)
                conductor.follow([stays])
                await asyncio.sleep(0.1)
                assert len(stays.registered()) == 1 and not stays.ended
                assert Left(task=SPEC.task_id) not in stays.reports

    _conduct(tmp_path, check)


def test_what_is_stored_is_offered_to_the_scheduler_that_takes_another_ones_place(
    tmp_path: Path,
) -> None:
    async def check(conductor: Conductor) -> None:
        importing = await Import.begin(conductor.ground, SPEC, 1000)
        await importing.write(os.urandom(1000))
        await importing.finish()
        old, new = Link("http://old"), Link("http://new")
        async with conductor.running([old]):
            conductor.introduce(old)
            await until(old.registered)
            conductor.follow([new])
            await until(new.registered)
            [offered] = new.registered()
            assert offered.have and offered.want == []

    _conduct(tmp_path, check)


def test_who_waits_for_a_scheduler_gets_the_first_that_is_told(tmp_path: Path) -> None:
    """Before a member was told its schedulers there is one that is away."""

    async def check(conductor: Conductor) -> None:
        nobody, told = Link("", away=60.0), Link("http://told")
        async with conductor.running([nobody]):
            async with conductor.join(SPEC, User(ranges=None)) as run:
                await until(nobody.registered)
                conductor.follow([told])
                await until(told.registered)
                assert not run.reading
            assert nobody.ended

    _conduct(tmp_path, check)


def test_what_another_scheduler_says_of_a_task_is_not_taken_for_its_own_ones(
    tmp_path: Path,
) -> None:
    """Each counts its decisions for itself."""

    async def check(conductor: Conductor) -> None:
        old, new = Link("http://old"), Link("http://new")
        async with conductor.running([old]):
            async with conductor.join(SPEC, User(ranges=None)) as run:
                await until(old.registered)
                conductor.follow([new])
                await until(new.registered)
                end = NotFound("there is no such thing").problem()
                conductor.decide(old, Stop(task=SPEC.task_id, revision=9, problem=end))
                assert run.failure is None
                conductor.decide(new, Stop(task=SPEC.task_id, revision=1, problem=end))
                assert run.failure is not None

    _conduct(tmp_path, check)


def test_who_reads_is_not_said_to_have_left_while_its_scheduler_is_another_ones(
    tmp_path: Path,
) -> None:
    """The lease would be over, and another read the same again."""

    async def check(conductor: Conductor) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            spec = TaskSpec(f"http://127.0.0.1:{silent.getsockname()[1]}/x")
            importing = await Import.begin(conductor.ground, spec, 1000)
            await importing.write(os.urandom(1000))
            await importing.finish()
            both = [Link("http://a"), Link("http://b")]
            stays, comes = sorted(both, key=lambda link: _weight(link, spec.task_id))
            async with conductor.running([stays]):
                conductor.introduce(stays)
                await until(stays.registered)
                conductor.decide(stays, Read(task=spec.task_id, lease="1" * 16, spec=spec))
                conductor.follow([stays, comes])
                conductor.introduce(comes)
                await asyncio.sleep(0.3)
                assert Left(task=spec.task_id) not in stays.reports
                await until(lambda: Left(task=spec.task_id) in stays.reports)

    _conduct(tmp_path, check)


def _weight(link: Link, task: str) -> bytes:
    return hashlib.sha256(f"{link.base_url} {task}".encode()).digest()


def test_a_scheduler_that_is_back_before_it_was_left_goes_on_as_it_was(tmp_path: Path) -> None:
    async def check(conductor: Conductor) -> None:
        old, new = Link("http://old"), Link("http://new")
        async with conductor.running([old]):
            async with conductor.join(SPEC, User(ranges=None)):
                await until(old.registered)
                conductor.follow([new])
                await until(lambda: new.running)
                assert old in conductor.schedulers.linked
                conductor.follow([old, new])
                await asyncio.sleep(2.0)
                assert not old.ended and conductor.schedulers.linked == [old, new]

    _conduct(tmp_path, check)
