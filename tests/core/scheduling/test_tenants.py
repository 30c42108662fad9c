"""What hosts are told of tenants' quotas, by a scheduler that has other work, too."""

from __future__ import annotations

from collections import Counter

import pytest

from hawker.core.limits import Limits
from hawker.core.messages import Allowance
from hawker.core.scheduling import Outgoing
from hawker.core.scheduling.tenants import TOLD_AT_ONCE
from tests.core.scheduling.conftest import World


def allowances(out: list[Outgoing]) -> list[tuple[str, Allowance]]:
    return [(host, told) for host, told in out if isinstance(told, Allowance)]


@pytest.mark.parametrize("tenants", [1, 3])
def test_many_hosts_are_told_of_other_quotas_bit_by_bit(tenants: int) -> None:
    world, hosts = World(), TOLD_AT_ONCE * 2 + 10
    for number in range(hosts):
        world.join(f"host-{number}")
    limits = {f"tenant-{n}": Limits(bandwidth=1000) for n in range(tenants)}
    told = [allowances(world.scheduler.limit_tenants(limits, world.now))]
    while told[-1]:
        world.now += 0.25
        told.append(allowances(world.scheduler.tick(world.now)))
    assert max(map(len, told)) <= TOLD_AT_ONCE
    counted = Counter((host, each.tenant) for some in told for host, each in some)
    assert len(counted) == hosts * tenants and set(counted.values()) == {1}


def test_quotas_that_change_while_hosts_are_told_reach_all_of_them() -> None:
    world, hosts = World(), TOLD_AT_ONCE + 100
    for number in range(hosts):
        world.join(f"host-{number}")
    world.scheduler.limit_tenants({"a": Limits(bandwidth=1000)}, world.now)
    last = dict(allowances(world.scheduler.limit_tenants({"a": Limits(bandwidth=7)}, world.now)))
    last |= dict(allowances(world.scheduler.tick(world.now)))
    last |= dict(allowances(world.scheduler.tick(world.now)))
    assert len(last) == hosts
    assert {told.limits for told in last.values()} == {Limits(bandwidth=7)}
