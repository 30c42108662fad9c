"""Faults, played at their times."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.swarm.description import BUSIEST, ZONE, Fault
from benchmarks.swarm.network import Network
from benchmarks.swarm.systems.base import System
from benchmarks.swarm.watch import Watch


@dataclass
class Strike:
    """What was done so far; `lost` are hosts that nothing is expected of any more."""

    network: Network
    system: System
    watch: Watch
    done: list[tuple[float, str, str]] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    _busiest: str = ""

    async def play(self, faults: Sequence[Fault]) -> None:
        for fault in sorted(faults, key=lambda fault: fault.at):
            await asyncio.sleep(max(0.0, self.watch.began + fault.at - time.monotonic()))
            name = self._resolve(fault.on)
            await self._do(fault, name)
            self.done.append((time.monotonic() - self.watch.began, fault.do, name))

    def _resolve(self, name: str) -> str:
        """A later fault on the busiest host is on the same one."""
        if name != BUSIEST:
            return name
        if not self._busiest:
            self.watch.look()
            sent = {name: self.watch.passed(name).up for name in self.system.receivers}
            self._busiest = max(sent, key=lambda name: sent[name])
        return self._busiest

    async def _do(self, fault: Fault, name: str) -> None:
        agents = self.system.agents
        match fault.do:
            case "kill":
                await agents[name].kill()
            case "freeze":
                agents[name].signal(signal.SIGSTOP)
            case "thaw":
                agents[name].signal(signal.SIGCONT)
            case "cut":
                await self.network.cut(name)
            case "heal":
                await self.network.heal(name)
            case "slow":
                await self.network.slow(name, fault.rate)
            case "corrupt":
                await self.network.corrupt(name)
            case "restart":
                await self.system.restart_scheduler()
        if fault.do in ("kill", "freeze", "cut"):
            self.lost |= self._behind(name)
        if fault.do == "slow":
            # What the slow link costs the host itself is no matter of others; a zone has others.
            self.lost.add(name)
        if fault.do in ("thaw", "heal"):
            self.lost -= self._behind(name)

    def _behind(self, name: str) -> set[str]:
        """The receivers that a fault of this host or zone hits."""
        zone = name.removeprefix(ZONE)
        hosts = self.system.receivers
        return {
            host
            for host in hosts
            if host == name or (zone and ZONE + self.network.zone(host) == name)
        }
