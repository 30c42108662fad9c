"""The least time in which content can reach all receivers, whatever the protocol."""

from __future__ import annotations

from collections.abc import Sequence


def fluid_bound(size: float, seed_up: float, ups: Sequence[float], downs: Sequence[float]) -> float:
    """Seconds, max(F/U_seed, F/d_min, N·F/(U_seed + ΣU_i)) (Kumar & Ross, 2006).

    Args:
        size: F, bytes.
        seed_up: the seed's uplink, bytes per second.
        ups, downs: the receivers' links, bytes per second.
    """
    everything = len(downs) * size / (seed_up + sum(ups))
    return max(size / seed_up, size / min(downs), everything)


def zone_bound(size: float, into: Sequence[float]) -> float:
    """Seconds that content needs to get into zones with links of `into` bytes per second each;
    0 where there is none."""
    return max((size / rate for rate in into), default=0.0)
