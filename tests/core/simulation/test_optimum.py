"""The closed forms that results are divided by."""

from __future__ import annotations

import pytest

from hawker.core.errors import BadRequest
from hawker.core.pieces import MIB
from hawker.core.simulation.optimum import optimum
from hawker.core.simulation.outcome import ratios
from hawker.core.simulation.scenario import Arrivals, Scenario


@pytest.mark.parametrize(
    ("peers", "pieces", "slots"),
    [(1000, 64, 73), (10_000, 256, 269), (100_000, 1024, 1040), (1_000_000, 64, 83)],
)
def test_equal_links_take_pieces_and_the_logarithm(peers: int, pieces: int, slots: int) -> None:
    best = optimum(Scenario(peers, pieces, link=float(MIB)))
    assert best.seconds == pytest.approx(slots)


def test_unequal_links_take_the_fluid_bound() -> None:
    # Thirds of 1, 2 and 5: a slow peer's own link lasts longest.
    best = optimum(Scenario(999, 256, link=1e6, classes=(1.0, 2.0, 5.0)))
    assert best.seconds == pytest.approx(256 * MIB / 1e6)
    # A slow origin rules everything.
    best = optimum(Scenario(10, 256, link=1e6, origin=1e5))
    assert best.seconds == pytest.approx(256 * MIB / 1e5)
    assert best.formula == "F/U_s"


def test_a_copy_for_each_other_zone_has_to_cross() -> None:
    best = optimum(Scenario(99, 256, link=1e6, zones=3, zone_link=5e5))
    assert (best.formula, best.seconds) == ("F/zone link", 2 * 256 * MIB / 5e5)


def test_peers_that_come_one_by_one_are_bound_by_their_own_links() -> None:
    best = optimum(Scenario(10, 256, link=1e6, arrivals=Arrivals.parse("poisson:60")))
    assert best.seconds == pytest.approx(256 * MIB / 1e6)


@pytest.mark.parametrize("text", ["", "now", "poisson", "poisson:0", "waves:0:1", "waves:2", "a:b"])
def test_what_is_no_way_to_arrive_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Arrivals.parse(text)


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(0),
        Scenario(10, 0),
        Scenario(10, piece_length=1000),
        Scenario(10, classes=(1.0, 0.0)),
        Scenario(10, churn=0.6, freeze=0.4),
    ],
)
def test_what_cannot_be_simulated_is_refused(scenario: Scenario) -> None:
    with pytest.raises(BadRequest):
        scenario.check()


def test_quantiles_are_times_by_which_so_many_are_done() -> None:
    got = ratios([float(n) for n in range(1, 101)], 2.0)
    assert (got.p50, got.p99, got.last) == (25.0, 49.5, 50.0)
