"""How fast it could be at best: closed forms to divide by."""

from __future__ import annotations

from dataclasses import dataclass

from hawker.core.simulation.scenario import AT_ONCE, Scenario


@dataclass(frozen=True, slots=True)
class Optimum:
    """Seconds until the last peer has everything, and the formula they come from."""

    seconds: float
    formula: str


def optimum(scenario: Scenario) -> Optimum:
    """The least time there can be.

    Equal links, one seed, everybody at once: M + floor(log2 N) slots of F/(M u) (Mundinger, Weber
    & Weiss, J. Scheduling 2008). Otherwise the fluid bound (Kumar & Ross 2006). Where peers do not
    come at once only their own links bound them all: those before them may have everything.
    """
    size, peers = scenario.size, scenario.peers
    rates = [scenario.rate(peer) for peer in range(peers)]
    if scenario.arrivals.kind != AT_ONCE:
        return Optimum(size / min(rates), "F/min d")
    source = min(scenario.origin, max(1, scenario.seeds) * scenario.link)
    equal = len(set(rates)) == 1 and scenario.seeds == 1
    if equal and scenario.origin >= scenario.link and scenario.zones == 1:
        hops = peers.bit_length() - 1
        seconds = size / scenario.link * (1 + hops / scenario.pieces)
        return Optimum(seconds, "F/u (1 + floor(log2 N)/M)")
    uploads = source + sum(rates)
    bounds = {
        "F/U_s": size / source,
        "F/min d": size / min(rates),
        "N F/(U_s + sum u)": peers * size / uploads,
    }
    if scenario.zones > 1 and scenario.zone_link:
        # Each other zone needs one copy at least, and all of them leave the first.
        bounds["F/zone link"] = (min(scenario.zones, peers) - 1) * size / scenario.zone_link
    name = max(bounds, key=lambda bound: bounds[bound])
    return Optimum(bounds[name], name)
