"""The exact simulation: every piece, every message, the real decisions."""

from __future__ import annotations

import bisect
import gc
import hashlib
import random
from dataclasses import dataclass, field

from hawker.core.contracts import Evaluator
from hawker.core.ids import TaskSpec, generation_of, host_id
from hawker.core.settings import PeerSettings
from hawker.core.simulation.control import Control
from hawker.core.simulation.host import SimulatedHost
from hawker.core.simulation.network import Link, Network
from hawker.core.simulation.optimum import optimum
from hawker.core.simulation.outcome import CURVE_POINTS, CurvePoint, Outcome, ratios
from hawker.core.simulation.scenario import Scenario
from hawker.core.simulation.timeline import Timeline

# A swarm that is not done after so many times the optimum has peers that starve.
PATIENCE = 20.0
# Seconds besides, for what does not grow with the content.
GRACE = 60.0


@dataclass
class WorldFigures:
    """What is counted on the way; bytes, but for `requests` and `refusals`. `wasted` came twice or
    in vain, `crossed` left a zone, `gains` are pieces that arrived in each `step` seconds."""

    step: float
    origin_bytes: float = 0.0
    wasted: float = 0.0
    crossed: float = 0.0
    requests: int = 0
    refusals: int = 0
    gains: dict[int, int] = field(default_factory=dict)

    def gained(self, pieces: int, now: float) -> None:
        at = int(now / self.step)
        self.gains[at] = self.gains.get(at, 0) + pieces


class World:
    """Hosts, network and scheduler of one scenario."""

    def __init__(self, scenario: Scenario, evaluator: Evaluator) -> None:
        self.scenario = scenario
        self.layout = scenario.layout
        self.rng = random.Random(scenario.seed)
        self.timeline = Timeline()
        self.network = Network(self.timeline)
        self.spec = TaskSpec("https://origin.test/content")
        self.task = self.spec.task_id
        self.validator = '"1"'
        self.generation = generation_of(self.validator, scenario.size)
        self.origin = Link(scenario.origin, shared=True)
        self.hosts: dict[str, SimulatedHost] = {}
        self.optimum = optimum(scenario)
        self.figures = WorldFigures(self.optimum.seconds / CURVE_POINTS)
        self.control = Control(self, evaluator, random.Random(scenario.seed + 1))
        self._zones = [self._gate() for _ in range(scenario.zones)]
        self._open = scenario.peers
        for number in range(scenario.seeds):
            self._host(f"seed{number}", scenario.link, 0, wants=False)
        self._peers = [
            self._host(f"peer{number}", scenario.rate(number), scenario.zone(number), wants=True)
            for number in range(scenario.peers)
        ]

    def _gate(self) -> tuple[Link, Link]:
        """A zone's links outward and inward."""
        rate = self.scenario.zone_link or float("inf")
        return Link(rate, shared=True), Link(rate, shared=True)

    def _host(self, name: str, rate: float, zone: int, *, wants: bool) -> SimulatedHost:
        id = host_id(hashlib.sha256(name.encode()).digest())
        slots = PeerSettings().upload_slots
        host = self.hosts[id] = SimulatedHost(self, id, rate, zone, slots=slots, wants=wants)
        self.control.meet(host, seed=not wants)
        return host

    def way(self, parent: SimulatedHost, child: SimulatedHost) -> tuple[Link, ...]:
        """The links from one host to another."""
        if parent.zone == child.zone or not self.scenario.zone_link:
            return parent.up, child.down
        return parent.up, child.down, self._zones[parent.zone][0], self._zones[child.zone][1]

    def ended(self, host: SimulatedHost) -> None:
        """A peer has everything, or will never have."""
        self._open -= 1

    def run(self) -> Outcome:
        """Let it happen."""
        scenario, timeline = self.scenario, self.timeline
        rng = random.Random(scenario.seed + 2)
        times = scenario.arrivals.times(scenario.peers, rng)
        for peer, when in zip(self._peers, times, strict=True):
            timeline.at(when, peer.ask)
        # Whoever has everything is no loss: they leave in the middle of their downloads.
        half = times[-1] + self.optimum.seconds / 2
        timeline.at(half, self._strike, rng)
        until = times[-1] + PATIENCE * self.optimum.seconds + GRACE
        # A crowd of hosts that live as long as the run: looking for garbage among them takes long.
        collecting = gc.isenabled()
        gc.disable()
        try:
            timeline.run(until, lambda: self._open == 0)
        finally:
            if collecting:
                gc.enable()
        return self._outcome()

    def _strike(self, rng: random.Random) -> None:
        scenario = self.scenario
        left = [peer for peer in self._peers if peer.finished is None]
        leaving = min(len(left), round(scenario.churn * scenario.peers))
        freezing = min(len(left) - leaving, round(scenario.freeze * scenario.peers))
        struck = rng.sample(left, leaving + freezing)
        for peer in struck[:leaving]:
            peer.die()
        for peer in struck[leaving:]:
            peer.freeze()

    def _outcome(self) -> Outcome:
        staying = [peer for peer in self._peers if not peer.gone and not peer.frozen]
        done = [peer for peer in staying if peer.finished is not None]
        seconds = [(p.finished or 0.0) - (p.began or 0.0) for p in done]
        figures, size = self.figures, self.scenario.size
        useful = sum(figures.gains.values()) * self.scenario.piece_length
        by_class = {
            rate: ratios([s for p, s in zip(done, seconds, strict=True) if p.up.rate == rate], 1.0)
            for rate in sorted({peer.up.rate for peer in done})
        }
        return Outcome(
            engine="exact",
            peers=self.scenario.peers,
            pieces=self.scenario.pieces,
            optimum_seconds=self.optimum.seconds,
            optimum_formula=self.optimum.formula,
            ratio_to_optimum=ratios(seconds, self.optimum.seconds),
            seconds_by_rate=by_class,
            finished=len(done),
            starved=len(staying) - len(done),
            left=self.scenario.peers - len(staying),
            origin_ratio=figures.origin_bytes / size,
            duplicate_ratio=figures.wasted / useful if useful else 0.0,
            zone_copies=figures.crossed / size,
            refusals_per_request=figures.refusals / max(1, figures.requests),
            decisions=self.control.decisions,
            decisions_per_second=self.control.decisions / max(1e-9, self.control.seconds),
            curve=self._curve([p.finished for p in done if p.finished is not None]),
        )

    def _curve(self, finishes: list[float]) -> list[CurvePoint]:
        """Bytes and complete peers over time, in steps of the optimum's `CURVE_POINTS`th part."""
        gains, step = self.figures.gains, self.figures.step
        wanted = self.scenario.peers * self.scenario.pieces
        finishes.sort()
        points, gained = [CurvePoint(0.0, 0.0, 0.0)], 0
        for at in range(max(gains, default=-1) + 1):
            gained += gains.get(at, 0)
            now = (at + 1) * step
            complete = bisect.bisect_right(finishes, now) / self.scenario.peers
            points.append(CurvePoint(now, gained / wanted, complete))
        return points
