"""A look at a round several times a second: links, and the machine."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.swarm.agents import Agent
from benchmarks.swarm.network import Network, Traffic
from benchmarks.swarm.reserve import Reserve

LOOK_SECONDS = 0.2


@dataclass
class Watch:
    """Bytes over each link and the machine's idle share, look by look.

    `times` are seconds since the start of the round; `idle` has one figure less, between looks.
    """

    network: Network
    agents: dict[str, Agent]
    memory: Reserve
    began: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    traffic: list[dict[str, Traffic]] = field(default_factory=list)
    _clocks: list[tuple[float, float]] = field(default_factory=list)
    _cpu_before: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        now = time.monotonic()
        first = not self.times
        self.began = now if first else self.began
        self.times.append(now - self.began)
        self.traffic.append(self.network.traffic())
        self._clocks.append(machine_clock())
        first_look, last_look = self.traffic[0], self.traffic[-1]
        self.memory.taken(sum(last_look[name].down - first_look[name].down for name in last_look))
        for name, agent in list(self.agents.items()):
            before = self._cpu_before.setdefault(agent.pid, agent.cpu if first else 0.0)
            self.cpu[f"{name} {agent.pid}"] = agent.cpu - before

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def cpu_of(self, name: str) -> float:
        """User and system time of what ran on a host from the first look to the last, seconds."""
        return sum(spent for key, spent in self.cpu.items() if key.split()[0] == name)

    @property
    def idle(self) -> list[float]:
        pairs = zip(self._clocks, self._clocks[1:], strict=False)
        return [(b[0] - a[0]) / max(1e-9, b[1] - a[1]) for a, b in pairs]

    @property
    def idle_share(self) -> float:
        """Of the whole round."""
        (idle, total), (idle_end, total_end) = self._clocks[0], self._clocks[-1]
        return (idle_end - idle) / max(1e-9, total_end - total)

    def passed(self, name: str) -> Traffic:
        """Bytes over a link from the first look to the last."""
        first, last = self.traffic[0][name], self.traffic[-1][name]
        return Traffic(last.up - first.up, last.down - first.down)


def machine_clock() -> tuple[float, float]:
    """(idle, all) time of all cores so far, in ticks (proc(5), stat)."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return float(fields[3] + fields[4]), float(sum(fields))
