"""The real scheduler with simulated messages between it and the hosts.

What it needs to decide takes no simulated time; how long it really takes is measured.
"""

from __future__ import annotations

import hashlib
import random
import time
from typing import TYPE_CHECKING

from hawker.core.contracts import Evaluator
from hawker.core.messages import AnyReport, HostAnnouncement, Register
from hawker.core.scheduling import TICK, Outgoing, Scheduler

if TYPE_CHECKING:
    from hawker.core.simulation.host import SimulatedHost
    from hawker.core.simulation.world import World


class Control:
    """Takes reports to the scheduler and its decisions back, a message's time each."""

    def __init__(self, world: World, evaluator: Evaluator, rng: random.Random) -> None:
        self.decisions = 0
        self.seconds = 0.0
        self._world = world
        self._scheduler = Scheduler(evaluator, rng)
        self._waiting: dict[str, list[AnyReport]] = {}
        world.timeline.at(TICK, self._tick)

    def meet(self, host: SimulatedHost, *, seed: bool) -> None:
        """A daemon that has been up for a while."""
        announcement = HostAnnouncement(
            url=f"http://{host.id}/peer",
            key=hashlib.sha256(host.id.encode()).digest(),
            boot="1",
            seed=seed,
            idc=f"zone{host.zone}" if self._world.scenario.zones > 1 else "",
            upload_slots=host.slots.limit,
        )
        now = self._world.timeline.now
        self._scheduler.announce(host.id, announcement, now)
        self._scheduler.connected(host.id, now)

    def register(self, host: SimulatedHost) -> None:
        """The host asks for the task."""
        self.report(host, Register(task=self._world.task, spec=self._world.spec), urgent=True)

    def report(self, host: SimulatedHost, report: AnyReport, *, urgent: bool = False) -> None:
        """Send a report: at once with all that waits, or at the scheduler's pace."""
        waiting = self._waiting.setdefault(host.id, [])
        waiting.append(report)
        timeline = self._world.timeline
        if urgent:
            self._send(host)
        elif len(waiting) == 1:
            pause = self._scheduler.report_after_ms(host.id) / 1000
            timeline.at(timeline.now + pause, self._send, host)

    def lost(self, host: SimulatedHost) -> None:
        """The host's decision stream broke."""
        timeline = self._world.timeline
        self._waiting.pop(host.id, None)
        timeline.at(timeline.now + self._world.scenario.latency, self._disconnect, host.id)

    def _disconnect(self, host: str) -> None:
        self._hand_out(self._scheduler.disconnected(host, self._world.timeline.now))

    def _send(self, host: SimulatedHost) -> None:
        batch = self._waiting.pop(host.id, None)
        if batch and not host.gone and not host.frozen:
            timeline = self._world.timeline
            later = timeline.now + self._world.scenario.latency
            timeline.at(later, self._take, host.id, batch)

    def _take(self, host: str, batch: list[AnyReport]) -> None:
        now = self._world.timeline.now
        out: list[Outgoing] = []
        began = time.perf_counter()
        for report in batch:
            out.extend(self._scheduler.report(host, report, now))
        self.seconds += time.perf_counter() - began
        self._hand_out(out)

    def _tick(self) -> None:
        now = self._world.timeline.now
        self._world.timeline.at(now + TICK, self._tick)
        began = time.perf_counter()
        out = self._scheduler.tick(now)
        self.seconds += time.perf_counter() - began
        self._hand_out(out)

    def _hand_out(self, out: list[Outgoing]) -> None:
        self.decisions += len(out)
        later = self._world.timeline.now + self._world.scenario.latency
        for host, decision in out:
            self._world.timeline.at(later, self._world.hosts[host].apply, decision)
