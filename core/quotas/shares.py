"""Dividing a tenant's bandwidth among the hosts that download for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

# A host that gets less than so much of its part has no use for more now.
USED = 0.9
# Beyond what it gets it keeps room to become faster: so many times that, and this much of an equal
# part at least. What it has shrinks slowly, for what comes from afar comes in bursts.
GROWTH = 1.25
LEAST = 0.1
SHRINK = 0.5
# One that uses up less than an equal part gets so many times that.
RISE = 2.0


@dataclass(frozen=True, slots=True)
class Demand:
    """A host with so many downloads, which got `rate` bytes per second when its part was `share`;
    a `share` of 0: that is not known yet."""

    downloads: int
    rate: float = 0.0
    share: float = 0.0


def divide(total: int, demands: Mapping[str, Demand]) -> dict[str, int]:
    """Bytes per second for each host: max-min fair by downloads, never more than `total` together,
    at least 1 each.

    What a host cannot use (its origin is slow, say) goes to the others; where nobody can use it all
    have their part of it.
    """
    weights = {host: max(1, demand.downloads) for host, demand in demands.items()}
    even = total / max(1, sum(weights.values()))
    wanted = {host: _wanted(demand, even * weights[host]) for host, demand in demands.items()}
    shares = dict.fromkeys(demands, 0.0)
    left, open_hosts = float(total), dict(weights)
    while open_hosts:
        each = left / sum(open_hosts.values())
        content = [host for host in open_hosts if wanted[host] <= each * open_hosts[host]]
        for host in content or list(open_hosts):
            weight = open_hosts.pop(host)
            shares[host] = wanted[host] if content else each * weight
            left -= shares[host]
    if left > 0:
        whole = sum(weights.values())
        shares = {host: share + left * weights[host] / whole for host, share in shares.items()}
    return {host: max(1, int(share)) for host, share in shares.items()}


def _wanted(demand: Demand, even: float) -> float:
    """What a host can use, as far as it has shown that; no end to it where it has not."""
    if not demand.share:
        return inf
    if demand.rate >= USED * demand.share:
        return inf if demand.share >= USED * even else max(RISE * demand.share, LEAST * even)
    return max(GROWTH * demand.rate, SHRINK * demand.share, LEAST * even)
