"""What came of a simulation."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

# Steps of a curve within the optimum.
CURVE_POINTS = 64


class Ratios(msgspec.Struct, frozen=True):
    """Times of peers, half of them, 99 of 100, and the last, as multiples of something."""

    p50: float
    p99: float
    last: float


class CurvePoint(msgspec.Struct, frozen=True, array_like=True):
    """At so many seconds, the part of all wanted bytes that arrived, and of the peers that have
    everything."""

    seconds: float
    bytes: float
    complete: float


class Outcome(msgspec.Struct, frozen=True):
    """The figures of one run.

    Attributes:
        engine: `exact`, or `approximate`.
        ratio_to_optimum: times of those who finished, from their own beginning.
        seconds_by_rate: the same times in seconds, by the rate of the link (bytes per second).
        starved: peers that stayed and did not get everything.
        left: peers that died or stood still.
        origin_ratio: bytes the origin sent, in copies of the content.
        duplicate_ratio: bytes that came twice or in vain, to those of use.
        zone_copies: bytes that went from one zone to another, in copies of the content.
        decisions_per_second: of the real scheduler, in the time it took here; not repeatable.
    """

    engine: str
    peers: int
    pieces: int
    optimum_seconds: float
    optimum_formula: str
    ratio_to_optimum: Ratios
    seconds_by_rate: dict[float, Ratios]
    finished: int
    starved: int
    left: int
    origin_ratio: float
    duplicate_ratio: float
    zone_copies: float
    refusals_per_request: float
    decisions: int
    decisions_per_second: float
    curve: list[CurvePoint]


def ratios(seconds: Sequence[float], unit: float) -> Ratios:
    """Quantiles of the times in units; nan of none."""
    if not seconds:
        return Ratios(float("nan"), float("nan"), float("nan"))
    ordered = sorted(seconds)
    last = len(ordered) - 1
    # The nearest rank: the least time within which that part of the peers is done.
    p50, p99 = (ordered[min(last, -(-len(ordered) * q // 100) - 1)] for q in (50, 99))
    return Ratios(p50 / unit, p99 / unit, ordered[-1] / unit)
