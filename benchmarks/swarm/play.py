"""One round: a fresh network, one system on it, everybody at once; what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.processes import sha256_of
from benchmarks.swarm.description import Description, Scenario
from benchmarks.swarm.network import Network
from benchmarks.swarm.reserve import Reserve, reserve
from benchmarks.swarm.strike import Strike
from benchmarks.swarm.systems.base import Figures, System
from benchmarks.swarm.watch import Watch

CALM = Scenario("calm")
HEALING = ("thaw", "heal")


@dataclass(frozen=True)
class Content:
    """A file of random bytes."""

    path: Path
    size: int
    sha256: str


@dataclass
class Round:
    """Times are seconds since the start, sizes bytes.

    Attributes:
        seconds: when each receiver had all of it, verified.
        lost: receivers that a fault took out; they are in no figure of time.
        received: IP packets' bytes, by receiver, then by sender.
        sent: bytes over each host's and zone's link, out of it and into it.
        dropped: packets that the buffers of downlinks had no room for.
        cpu: user and system seconds by host; `idle` is the machine's share.
        times, up, down: looks at the links, cumulative bytes by host.
    """

    system: str
    scenario: str
    size: int
    receivers: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    strikes: list[tuple[float, str, str]] = field(default_factory=list)
    figures: Figures = field(default_factory=Figures)
    received: dict[str, dict[str, int]] = field(default_factory=dict)
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    idle: float = 0.0
    idle_by_look: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    up: dict[str, list[int]] = field(default_factory=dict)
    down: dict[str, list[int]] = field(default_factory=dict)

    @property
    def survivors(self) -> list[str]:
        return [name for name in self.receivers if name not in self.lost]

    @property
    def ordered(self) -> list[float]:
        """The survivors' times, least first; empty where one did not finish."""
        if any(name not in self.seconds for name in self.survivors):
            return []
        return sorted(self.seconds[name] for name in self.survivors)


@contextlib.contextmanager
def keeping_logs(directory: Path, logs: Path | None) -> Iterator[None]:
    """In the end, whatever it is, logs are copied to `logs`."""
    try:
        yield
    finally:
        if logs is not None:
            logs.mkdir(parents=True)
            for path in directory.glob("*.log"):
                shutil.copy(path, logs)


async def play(
    description: Description,
    kind: type[System],
    content: Content,
    scenario: Scenario,
    directory: Path,
    number: int,
    logs: Path | None,
) -> Round:
    """One round in `directory`, an empty one, which is removed in the end; `logs` is a new
    directory for what its processes wrote to standard error, None where nobody wants it."""
    receivers = description.receivers()
    network = Network(
        description.links(),
        description.zones,
        {name: hosts.zone for name, hosts in receivers.items() if hosts.zone},
        directory,
        f"{os.getpid()}-{number}",
    )
    # Kept before the network is removed, and the directory with it.
    async with network:
        with keeping_logs(directory, logs):
            system = kind(network, content.path, list(receivers), directory)
            await system.start()
            found = Round(kind.name, scenario.name, content.size, list(receivers))
            with reserve(directory, (len(receivers) + 1) * content.size) as memory:
                await _race(description.limit, network, system, scenario, found, memory)
            for name in found.survivors:
                if name in found.seconds and sha256_of(system.output(name)) != content.sha256:
                    found.problems.append(f"{name}: wrong bytes")
            await system.stop()
    return found


async def _race(
    limit: float,
    network: Network,
    system: System,
    scenario: Scenario,
    found: Round,
    memory: Reserve,
) -> None:
    before = await network.received()
    watch = Watch(network, system.agents, memory)
    strike = Strike(network, system, watch)
    changed = asyncio.Event()

    async def fetch(name: str) -> None:
        try:
            found.seconds[name] = await system.fetch(name) - watch.began
        except Exception as exc:
            found.problems.append(f"{name}: {exc!r}")
        changed.set()

    async def faults() -> None:
        await strike.play(scenario.faults)
        changed.set()

    async with asyncio.TaskGroup() as group:
        watch.look()
        fetches = {name: group.create_task(fetch(name)) for name in system.receivers}
        striking = group.create_task(faults())
        looking = group.create_task(watch.run())
        try:
            async with asyncio.timeout(limit):
                while not striking.done() or any(
                    not fetches[name].done() for name in fetches if name not in strike.lost
                ):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            open_ = [name for name in fetches if name not in found.seconds]
            found.problems.append(f"not done after {limit:g} s: {', '.join(open_)}")
        watch.look()
        for task in (*fetches.values(), striking, looking):
            task.cancel()
    found.lost = sorted(strike.lost)
    # What befell those that a fault took out is no problem of the system's.
    found.problems = [p for p in found.problems if p.partition(":")[0] not in strike.lost]
    found.strikes = strike.done
    if found.ordered:
        late = [do for at, do, _ in strike.done if do not in HEALING and at > found.ordered[-1]]
        found.problems += [f"{do}: it came after the end" for do in late]
    await _count(network, system, watch, before, found)


async def _count(
    network: Network,
    system: System,
    watch: Watch,
    before: dict[str, dict[str, int]],
    found: Round,
) -> None:
    after = await network.received()
    found.received = {
        receiver: {s: size - before[receiver].get(s, 0) for s, size in senders.items()}
        for receiver, senders in after.items()
    }
    found.dropped = await network.dropped()
    found.figures = await system.figures(found.survivors)
    hosts = list(watch.traffic[0])
    for name in hosts:
        passed = watch.passed(name)
        found.sent[name] = passed.up, passed.down
        found.up[name] = [look[name].up - watch.traffic[0][name].up for look in watch.traffic]
        found.down[name] = [look[name].down - watch.traffic[0][name].down for look in watch.traffic]
        found.cpu[name] = watch.cpu_of(name)
    found.times, found.idle, found.idle_by_look = watch.times, watch.idle_share, watch.idle
