"""When a swarm wakes: what arrives is reported in time, though nothing else happens."""

from __future__ import annotations

import asyncio
import random
import time
from types import SimpleNamespace
from typing import Any

from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyReport, Have
from hawker.core.pieces import MIB, Layout, PieceSet
from hawker.core.transfer.quotas import Quotas
from hawker.core.transfer.swarm import HAVE_EVERY, IDLE_WAIT, Swarm
from hawker.core.transfer.users import Tally


class Host:
    """A task that wants all of it, and notes what is reported and when."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, PieceSet]] = []
        self.reported = asyncio.Event()
        self.rare: list[bool] = []

    def wanted(self, offered: PieceSet) -> tuple[PieceSet, PieceSet]:
        return PieceSet.first(8), PieceSet()

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        assert isinstance(report, Have)
        self.reports.append((time.monotonic(), PieceSet.from_runs(report.pieces)))
        self.reported.set()

    def progressed(self, *, rare: bool) -> None:
        self.rare.append(rare)


def test_arrivals_are_reported_together_and_within_a_second() -> None:
    async def main() -> None:
        store: Any = SimpleNamespace()
        ground: Any = SimpleNamespace(
            rng=random.Random(1),
            clock=time.monotonic,
            host="me",
            quotas=Quotas(store, time.monotonic),
        )
        entry: Any = SimpleNamespace(
            task="0" * 64,
            spec=TaskSpec("http://origin/it"),
            generation="1" * 16,
            layout=Layout(8 * MIB, MIB),
            valid=PieceSet(),
            windowed=False,
        )
        host: Any = Host()
        swarm = Swarm(ground, entry, host, Tally(time.monotonic))
        running = asyncio.ensure_future(swarm.run())
        try:
            # It has not reported for long: the first one goes at once.
            await asyncio.sleep(0.05)
            swarm.arrived(PieceSet.first(1))
            async with asyncio.timeout(HAVE_EVERY / 2):
                await host.reported.wait()
            host.reported.clear()
            swarm.machine.add_parent("a")
            swarm.machine.announced("a", PieceSet.of([2]))
            for piece in (1, 2, 3):
                await asyncio.sleep(0.05)
                swarm.arrived(PieceSet.of([piece]))
            async with asyncio.timeout(HAVE_EVERY + 0.5):
                await host.reported.wait()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert [pieces for _, pieces in host.reports] == [PieceSet.first(1), PieceSet.of([1, 2, 3])]
        assert host.rare == [False, False, True, False], "one parent alone has piece 2"
        assert host.reports[1][0] - host.reports[0][0] >= HAVE_EVERY

    assert IDLE_WAIT > 2 * HAVE_EVERY, "else it would wake by itself"
    asyncio.run(main())
