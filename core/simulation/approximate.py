"""The approximate simulation: all peers at once, time in steps.

What differs from the exact one: which piece is rarest is judged by the age of its word of 64 and
twelve sources, not by all; a lane asks a few sources at random, not the best of all; links are
shared in a few rounds of proportion, which is nearly max-min fair; the scheduler is not asked: its
graph is built by its rules, and hosts that die are replaced by none.
"""

from __future__ import annotations

import contextlib

import numpy as np

from hawker.core.simulation.crowd import Crowd
from hawker.core.simulation.optimum import optimum
from hawker.core.simulation.outcome import CurvePoint, Outcome, ratios
from hawker.core.simulation.scenario import Scenario
from hawker.core.transfer.machine import PARALLEL

# Steps within the time of one request that has its share of both links. Where there are fewer
# pieces than `MANY` the beginning counts for more, and each step in it delays.
STEPS = 4
FINE_STEPS = 8
MANY = 512
PATIENCE = 20.0


def approximate(scenario: Scenario) -> Outcome:
    """Simulate in steps of time.

    Raises:
        BadRequest: a scenario that only the exact simulation can do.
    """
    with contextlib.closing(Crowd(scenario)) as crowd:
        return _simulate(crowd)


def _simulate(crowd: Crowd) -> Outcome:
    scenario = crowd.scenario
    best = optimum(scenario)
    fastest = scenario.link * max(scenario.classes)
    request = PARALLEL * scenario.piece_length / fastest + crowd.trip
    step = request / (STEPS if scenario.pieces >= MANY else FINE_STEPS)
    half = float(crowd.began.max()) + best.seconds / 2
    until = float(crowd.began.max()) + PATIENCE * best.seconds
    curve, struck = [CurvePoint(0.0, 0.0, 0.0)], False
    wanted = scenario.peers * scenario.pieces
    while crowd.now < until and not crowd.over:
        crowd.step(step)
        if not struck and crowd.now >= half and scenario.churn + scenario.freeze:
            crowd.strike()
            struck = True
        complete = float(np.isfinite(crowd.finished).mean())
        curve.append(CurvePoint(crowd.now, float(crowd.count.sum()) / wanted, complete))
    return _outcome(crowd, best.seconds, best.formula, curve)


def _outcome(crowd: Crowd, unit: float, formula: str, curve: list[CurvePoint]) -> Outcome:
    scenario = crowd.scenario
    done = np.isfinite(crowd.finished) & ~crowd.gone
    seconds = crowd.finished[done] - crowd.began[done]
    rates = crowd.rates[done]
    left = int(crowd.gone.sum())
    useful = float(crowd.count.sum()) * scenario.piece_length
    return Outcome(
        engine="approximate",
        peers=scenario.peers,
        pieces=scenario.pieces,
        optimum_seconds=unit,
        optimum_formula=formula,
        ratio_to_optimum=ratios(seconds.tolist(), unit),
        seconds_by_rate={
            float(rate): ratios(seconds[rates == rate].tolist(), 1.0) for rate in np.unique(rates)
        },
        finished=int(done.sum()),
        starved=scenario.peers - left - int(done.sum()),
        left=left,
        origin_ratio=crowd.seed.read / scenario.pieces,
        duplicate_ratio=crowd.wasted / useful,
        zone_copies=0.0,
        refusals_per_request=crowd.refused / max(1, int(crowd.count.sum())),
        decisions=0,
        decisions_per_second=0.0,
        curve=curve,
    )
