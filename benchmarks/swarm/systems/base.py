"""What the systems under test have in common."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.swarm.agents import Agent
from benchmarks.swarm.description import ORIGIN, SCHEDULER
from benchmarks.swarm.network import Network

PORT = 4000
ORIGIN_PORT = 8080
PIECE_LENGTH_SHARE = 512


@dataclass
class Figures:
    """What a system itself counts; None where it does not say.

    `messages` are reports and decisions of Hawker's scheduler, or nothing; `told` is what else it
    says of the whole round, `more` of each host.
    """

    origin_bytes: int | None = None
    origin_requests: int | None = None
    duplicates: dict[str, int] = field(default_factory=dict)
    messages: dict[str, int] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)
    more: dict[str, dict[str, float]] = field(default_factory=dict)


class System(ABC):
    """One system on one bed, for one round.

    Args:
        network: the hosts.
        content: the file to distribute.
        receivers: names of the hosts that are to get it.
        directory: an empty one for all that its hosts store.
    """

    name: str
    survives: frozenset[str] = frozenset({"kill", "freeze", "thaw", "cut", "heal", "slow"})
    """Actions that are faults here and not just the end of the round."""

    def __init__(
        self, network: Network, content: Path, receivers: list[str], directory: Path
    ) -> None:
        self.network, self.content = network, content
        self.receivers, self.directory = receivers, directory
        self.agents: dict[str, Agent] = {}

    @classmethod
    @abstractmethod
    def about(cls) -> str:
        """Version and settings, for the reader of the figures."""

    @abstractmethod
    async def start(self) -> None:
        """Everything runs and waits; nobody but origin and seed has any content."""

    @abstractmethod
    async def fetch(self, name: str) -> float:
        """Let a host get the content; the monotonic time at which all of it was verified there."""

    @abstractmethod
    def output(self, name: str) -> Path:
        """The file in which a host has the content."""

    async def figures(self, live: list[str]) -> Figures:
        """What it counted in this round; only the receivers that are `live` can be asked."""
        return Figures()

    async def restart_scheduler(self) -> None:
        raise SystemExit(f"{self.name} has no scheduler to restart")

    async def stop(self) -> None:
        """End what runs, receivers first."""
        for name in reversed(self.agents):
            await self.agents[name].stop()

    # -------------------------------------------------------------- for those below

    async def run_module(self, name: str, module: str, *arguments: str) -> Agent:
        """One of our own programs on a host, once it says that it is ready."""
        agent = await self.run_program(
            name, sys.executable, "-m", f"benchmarks.swarm.{module}", *arguments
        )
        await agent.hear()
        return agent

    async def run_program(self, name: str, *command: str, **extra: str) -> Agent:
        """A program on a host; `extra` goes into its environment."""
        log = self.directory / f"{name}.log"
        agent = await Agent.start(name, self.network.command(name, *command), log, extra)
        self.agents[name] = agent
        return agent

    async def start_origin(self) -> Agent:
        address = self.network.address(ORIGIN)
        return await self.run_module(ORIGIN, "origin", address, str(ORIGIN_PORT), str(self.content))

    @property
    def origin_url(self) -> str:
        return f"http://{self.network.address(ORIGIN)}:{ORIGIN_PORT}/{self.content.name}"

    async def origin_figures(self) -> Figures:
        told = await self.agents[ORIGIN].ask("count")
        return Figures(origin_bytes=told["sent"], origin_requests=told["requests"])

    async def start_tracker(self) -> str:
        """Its URL."""
        address = self.network.address(SCHEDULER)
        await self.run_module(SCHEDULER, "tracker", address, str(PORT))
        return f"http://{address}:{PORT}/announce"
