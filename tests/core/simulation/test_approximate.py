"""The approximate simulation: whole, repeatable, and close to the exact one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hawker.core.contracts import Candidate, Child
from hawker.core.errors import BadRequest
from hawker.core.simulation.approximate import approximate
from hawker.core.simulation.overlay import build
from hawker.core.simulation.scenario import Scenario
from hawker.core.simulation.world import World


class Flat:
    """Every parent is as good as any other."""

    def score(self, child: Child, candidate: Candidate) -> float:
        return 0.5


@pytest.mark.parametrize("pieces", [64, 100])
def test_everybody_finishes_and_the_origin_is_read_once(pieces: int) -> None:
    outcome = approximate(Scenario(200, pieces))
    assert (outcome.finished, outcome.starved, outcome.left) == (200, 0, 0)
    assert outcome.origin_ratio == 1.0
    assert outcome.ratio_to_optimum.p50 >= 1.0
    assert outcome.curve[-1].bytes == pytest.approx(1.0)
    assert outcome.curve[-1].complete == 1.0


def test_the_same_seed_gives_the_same_result() -> None:
    first, second = (approximate(Scenario(100, 64, churn=0.1)) for _ in range(2))
    assert msgspec.json.encode(first) == msgspec.json.encode(second)


def test_nobody_starves_where_some_die_or_freeze() -> None:
    outcome = approximate(Scenario(200, 128, churn=0.3, freeze=0.05))
    assert (outcome.finished, outcome.starved, outcome.left) == (130, 0, 70)


def test_it_agrees_with_the_exact_one() -> None:
    scenario = Scenario(16, 768)
    exact = World(scenario, Flat()).run().ratio_to_optimum
    rough = approximate(scenario).ratio_to_optimum
    assert rough.p50 == pytest.approx(exact.p50, rel=0.03)
    assert rough.last == pytest.approx(exact.last, rel=0.03)


def test_what_only_the_exact_one_can_do_is_refused() -> None:
    with pytest.raises(BadRequest, match="exact"):
        approximate(Scenario(100, 64, zones=2))


def test_every_peer_has_sources_and_nobody_too_many() -> None:
    overlay = build(2000, np.random.default_rng(1))
    degree = np.diff(overlay.starts)
    assert degree[0] > 0 and degree.min() >= 8
    assert degree.mean() == pytest.approx(20, abs=1.5)
    assert degree.max() < 60
    peers = np.repeat(np.arange(2000), degree)
    assert not (overlay.sources == peers).any()
