"""Small swarms, exactly: everybody finishes, the origin is read once, the same seed is the same."""

from __future__ import annotations

import msgspec
import pytest

from hawker.core.contracts import Candidate, Child
from hawker.core.pieces import MIB
from hawker.core.simulation.outcome import Outcome
from hawker.core.simulation.scenario import Arrivals, Scenario
from hawker.core.simulation.world import World


class Flat:
    """Every parent is as good as any other."""

    def score(self, child: Child, candidate: Candidate) -> float:
        return 0.5


def run(scenario: Scenario) -> Outcome:
    return World(scenario.check(), Flat()).run()


def test_everybody_finishes_and_the_origin_is_read_once() -> None:
    world = World(Scenario(16, 128), Flat())
    outcome = world.run()
    assert (outcome.finished, outcome.starved, outcome.left) == (16, 0, 0)
    assert outcome.origin_ratio == pytest.approx(1.0)
    assert outcome.duplicate_ratio <= 0.01
    # Nothing is faster than the optimum, and no link carries more than it can.
    assert 1.0 <= outcome.ratio_to_optimum.p50 <= outcome.ratio_to_optimum.last
    now = world.timeline.now
    for host in world.hosts.values():
        assert host.up.carried <= host.up.rate * now * 1.001
        assert host.down.carried <= host.down.rate * now * 1.001


def test_the_same_seed_gives_the_same_result() -> None:
    def facts(seed: int) -> object:
        outcome = run(Scenario(20, 64, churn=0.2, seed=seed))
        return msgspec.structs.replace(outcome, decisions_per_second=0.0)

    assert facts(5) == facts(5)
    assert facts(5) != facts(6)


def test_nobody_starves_where_a_third_dies() -> None:
    outcome = run(Scenario(40, 128, churn=0.3))
    assert (outcome.finished, outcome.starved, outcome.left) == (28, 0, 12)
    assert outcome.origin_ratio <= 1.05


def test_nobody_starves_where_some_freeze() -> None:
    outcome = run(Scenario(30, 64, freeze=0.1))
    assert (outcome.finished, outcome.starved, outcome.left) == (27, 0, 3)
    assert outcome.origin_ratio <= 1.05


def test_without_a_seed_a_peer_reads_the_origin() -> None:
    outcome = run(Scenario(8, 64, seeds=0))
    assert (outcome.finished, outcome.starved) == (8, 0)
    assert outcome.origin_ratio == pytest.approx(1.0)


def test_a_late_peer_takes_from_those_who_came_before() -> None:
    outcome = run(Scenario(12, 64, arrivals=Arrivals.parse("waves:3:5")))
    assert (outcome.finished, outcome.starved) == (12, 0)
    assert outcome.origin_ratio == pytest.approx(1.0)


def test_slow_links_are_done_later() -> None:
    outcome = run(Scenario(16, 64, classes=(0.1, 1.0)))
    slow, fast = (outcome.seconds_by_rate[rate * 125e6] for rate in (0.1, 1.0))
    assert outcome.starved == 0
    assert slow.p50 >= 64 * MIB / 12.5e6
    assert fast.last < slow.p50


def test_what_crosses_a_slow_gate_is_counted_and_takes_its_time() -> None:
    wide = run(Scenario(12, 64, zones=2))
    slow = run(Scenario(12, 64, zones=2, zone_link=12.5e6))
    assert slow.ratio_to_optimum.last < 1.25
    assert 1.0 <= wide.zone_copies <= 1.05
    assert 1.0 <= slow.zone_copies <= 1.05


def test_a_gateway_that_dies_costs_its_zone_little() -> None:
    outcome = run(Scenario(24, 64, zones=2, zone_link=25e6, churn=0.4))
    assert outcome.starved == 0
    assert outcome.zone_copies <= 1.5
