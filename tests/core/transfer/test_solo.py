"""Deciding alone: when a reading that failed goes on, and when its user is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hawker.core.digests import HostKey
from hawker.core.errors import HawkerError, NotFound, OriginFailed
from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyDecision, Failed, LeaseProgress, Left, Read, Register, Stop
from hawker.core.pieces import MIB, Layout
from hawker.core.priorities import Levels, PriorityRule
from hawker.core.transfer import solo
from hawker.core.transfer.solo import Solo

SPEC = TaskSpec(url="http://origin.test/x")
REGISTER = Register(task=SPEC.task_id, spec=SPEC)


class Bench:
    """A port and what it decided."""

    def __init__(self, *rules: PriorityRule) -> None:
        self.decided: list[AnyDecision] = []
        self.port = Solo(HostKey.generate(), self.decided.append, Levels(rules).of)

    async def reads(self, count: int) -> Read:
        """The lease, once so many were granted."""
        for _ in range(200):
            granted = [decision for decision in self.decided if isinstance(decision, Read)]
            if len(granted) >= count:
                return granted[-1]
            await asyncio.sleep(0.01)
        raise AssertionError(f"there are no {count} leases: {self.decided}")

    async def stopped(self) -> Stop:
        await asyncio.sleep(0.02)
        [stop] = [decision for decision in self.decided if isinstance(decision, Stop)]
        return stop

    def progress(self, read: Read, pieces: int) -> None:
        report = LeaseProgress(
            task=read.task, lease=read.lease, generation="g" * 16, layout=Layout(9 * MIB, MIB),
            validator='"v"', ranged=True, read_bytes=1, read_pieces=pieces,
        )  # fmt: skip
        self.port.report(report)

    def fail(self, read: Read, error: HawkerError) -> None:
        self.port.report(Failed(task=read.task, problem=error.problem(), lease=read.lease))


def run(check: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await check(Bench())

    asyncio.run(main())


def test_a_short_pause_that_the_origin_asks_for_is_waited_for() -> None:
    async def check(bench: Bench) -> None:
        bench.port.report(REGISTER)
        first = await bench.reads(1)
        bench.fail(first, OriginFailed("503", retry_after=0.2))
        began = asyncio.get_running_loop().time()
        bench.port.report(REGISTER)
        second = await bench.reads(2)
        assert asyncio.get_running_loop().time() - began > 0.19
        assert second.lease != first.lease

    run(check)


@pytest.mark.parametrize(
    "error", [OriginFailed("503", retry_after=31.0), OriginFailed("500"), NotFound("404")]
)
def test_what_cannot_be_waited_for_is_told_at_once(error: HawkerError) -> None:
    async def check(bench: Bench) -> None:
        bench.port.report(REGISTER)
        bench.fail(await bench.reads(1), error)
        stop = await bench.stopped()
        assert stop.problem == error.problem()

    run(check)


def test_what_had_begun_goes_on_as_long_as_pieces_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solo, "AGAIN_AFTER", 0.01)

    async def check(bench: Bench) -> None:
        bench.port.report(REGISTER)
        for number in range(1, 6):
            read = await bench.reads(number)
            bench.progress(read, 1)
            bench.fail(read, OriginFailed("it broke off"))
        for number in range(6, 9):
            read = await bench.reads(number)
            bench.progress(read, 0)
            bench.fail(read, OriginFailed("it broke off"))
        assert (await bench.stopped()).problem.code == "origin-failed"

    run(check)


def test_who_left_in_the_pause_gets_no_lease() -> None:
    async def check(bench: Bench) -> None:
        bench.port.report(REGISTER)
        bench.fail(await bench.reads(1), OriginFailed("503", retry_after=0.05))
        bench.port.report(Left(task=SPEC.task_id))
        await asyncio.sleep(0.15)
        assert len(bench.decided) == 1

    run(check)


def test_what_nobody_wants_any_more_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solo, "UNWANTED", 0.1)

    async def check(bench: Bench) -> None:
        bench.port.report(REGISTER)
        first = await bench.reads(1)
        bench.port.report(Register(task=SPEC.task_id, spec=SPEC, want=[]))
        over = await bench.reads(2)
        assert (over.lease, over.ranges) == (first.lease, [])
        bench.port.report(REGISTER)
        assert (await bench.reads(3)).lease != first.lease

    run(check)


def test_who_asks_again_soon_finds_the_reading_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solo, "UNWANTED", 0.1)

    async def check(bench: Bench) -> None:
        bench.port.report(REGISTER)
        first = await bench.reads(1)
        bench.port.report(Register(task=SPEC.task_id, spec=SPEC, want=[]))
        await asyncio.sleep(0.05)
        bench.port.report(REGISTER)
        await asyncio.sleep(0.15)
        again = await bench.reads(2)
        assert (again.lease, again.ranges) == (first.lease, None)
        assert len(bench.decided) == 2

    run(check)


@pytest.mark.parametrize(("level", "code"), [(1, "forbidden"), (2, "not-found")])
def test_alone_a_priority_keeps_the_origin_from_being_read_too(level: int, code: str) -> None:
    assert asyncio.run(_refused(Bench(), level)) == code


def test_alone_an_application_has_its_priority() -> None:
    assert asyncio.run(_refused(Bench(PriorityRule(level=2, url=SPEC.url)), None)) == "not-found"


async def _refused(bench: Bench, level: int | None) -> str:
    bench.port.report(Register(task=SPEC.task_id, spec=SPEC, priority=level))
    await asyncio.sleep(0.05)
    [told] = bench.decided
    assert isinstance(told, Stop)
    return told.problem.code
