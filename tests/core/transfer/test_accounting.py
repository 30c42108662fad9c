"""What a host tells of tenants' quotas."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hawker.core.ids import TaskSpec
from hawker.core.limits import Limits
from hawker.core.messages import Allowance, Usage
from hawker.core.pieces import MIB, Layout
from hawker.core.storage import Store
from hawker.core.transfer.accounting import LOOKED_AT, Accounting, Tenant


class Link:
    """A scheduler that takes what it is told."""

    def __init__(self) -> None:
        self.told: list[Usage] = []

    def report(self, report: Usage, *, urgent: bool = False) -> None:
        self.told.append(report)


async def until(true: Any) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never becomes true")


def test_nothing_is_told_of_tenants_that_nobody_uses_here(tmp_path: Path) -> None:
    """Every host would have a part in each of them at the scheduler."""

    async def main() -> None:
        store, link = Store.open(tmp_path / "data"), Link()
        await store.start()
        spec = TaskSpec(url="http://o/stored", tenant="stores")
        await store.create(spec, "0" * 16, Layout(MIB, MIB))
        accounting = Accounting(store, time.monotonic, time.time)
        schedulers = cast(Any, SimpleNamespace(links=[link], of=lambda _: link))
        quotas = {f"tenant-{n}": Limits(stored_bytes=MIB) for n in range(100)}
        async with accounting.running(schedulers, 0.0):
            accounting.told({**quotas, "stores": Limits(stored_bytes=MIB)})
            await until(lambda: link.told)
            other = Allowance(task="", tenant="tenant-7", limits=Limits(bandwidth=5))
            accounting.apply(cast(Any, link), other)
            # Long enough for everything to be looked at once more.
            await asyncio.sleep(0.7)
            assert {usage.tenant for usage in link.told} == {"stores"}
            assert link.told[0].stored_bytes == MIB
            link.told.clear()
            # Whoever decides forgets what it knew of a tenant without quotas.
            accounting.told({})
            accounting.told({**quotas, "stores": Limits(stored_bytes=MIB)})
            await until(lambda: [usage.tenant for usage in link.told] == ["stores"])
            accounting.apply(cast(Any, link), other)
            # Who comes now is limited by what was told before.
            assert accounting.tenant("tenant-7").limits == Limits(bandwidth=5)
            assert accounting.tenant("tenant-8").limits == Limits(stored_bytes=MIB)
            await until(lambda: len({usage.tenant for usage in link.told}) == 3)
        await store.close()

    asyncio.run(main())


def test_others_have_their_turn_while_many_tenants_are_looked_at(tmp_path: Path) -> None:
    async def main() -> None:
        store, turn, turns = Store.open(tmp_path / "data"), 0, []

        class Counting(Link):
            def report(self, report: Usage, *, urgent: bool = False) -> None:
                super().report(report, urgent=urgent)
                turns.append(turn)

        link, count = Counting(), LOOKED_AT * 5
        await store.start()
        accounting = Accounting(store, time.monotonic, time.time)
        schedulers = cast(Any, SimpleNamespace(links=[link], of=lambda _: link))
        async with accounting.running(schedulers, 0.0):
            accounting.told({f"tenant-{n}": Limits(stored_bytes=MIB) for n in range(count)})
            for n in range(count):
                accounting.tenant(f"tenant-{n}")
            while len(turns) < count:
                await asyncio.sleep(0)
                turn += 1
            assert max(Counter(turns).values()) <= LOOKED_AT
            assert len({usage.tenant for usage in link.told}) == count
        await store.close()

    asyncio.run(main())


def test_a_longer_period_begins_with_what_was_read_in_the_last_one() -> None:
    tenant = Tenant("acme", cast(Any, None), cast(Any, None), lambda _: None)
    tenant.limits = Limits(origin_bytes=1000, origin_period=10)
    tenant.count_read(300, wall=1005.0)
    tenant.limits = Limits(origin_bytes=1000, origin_period=100)
    tenant.count_read(50, wall=1006.0)
    assert (tenant.period, tenant.read_bytes) == (10, 350)
    tenant.count_read(50, wall=1100.0)
    assert (tenant.period, tenant.read_bytes) == (11, 50)
    tenant.limits = None
    tenant.count_read(999, wall=1101.0)
    tenant.limits = Limits(origin_bytes=1000, origin_period=100)
    tenant.count_read(50, wall=1102.0)
    assert (tenant.period, tenant.read_bytes) == (11, 100), "what was not limited is not counted"
