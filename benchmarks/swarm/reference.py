"""What one curl gets over one link of each kind: the rates of the fluid bound."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.swarm.agents import Agent
from benchmarks.swarm.bound import fluid_bound, zone_bound
from benchmarks.swarm.description import Description, Link
from benchmarks.swarm.network import Network
from benchmarks.swarm.play import Content
from benchmarks.swarm.systems.base import ORIGIN_PORT
from benchmarks.swarm.tools import run

SOURCE = "source"
LEAST_SECONDS = 3.0
QUICK = 10_000.0


class Kind(NamedTuple):
    """One direction of a link: Mbit/s, milliseconds, share of packets."""

    rate: float
    delay: float
    loss: float

    @property
    def words(self) -> str:
        """For the reader of the figures."""
        delay = f", {self.delay:g} ms" if self.delay else ""
        loss = f", {self.loss:.2%} lost" if self.loss else ""
        return f"{self.rate:g} Mbit/s{delay}{loss}"


def kinds_of(link: Link) -> tuple[Kind, Kind]:
    """A link's uplink and downlink."""
    return Kind(link.up, link.delay, link.loss), Kind(link.down, link.delay, link.loss)


async def measure(description: Description, content: Content, directory: Path) -> dict[Kind, float]:
    """Goodput, bytes per second, of one curl over a link of each kind; one after the other.

    `directory` is an empty one, and removed in the end.
    """
    links = [*description.receivers().values(), description.seed, *description.zones.values()]
    kinds = sorted({kind for link in links for kind in kinds_of(link)})
    probes = {f"probe-{n}": kind for n, kind in enumerate(kinds)}
    hosts = {
        name: Link(kind.rate, kind.rate, kind.delay, kind.loss) for name, kind in probes.items()
    }
    found: dict[Kind, float] = {}
    hosts = {SOURCE: Link(QUICK, QUICK), **hosts}
    async with Network(hosts, {}, {}, directory, f"{os.getpid()}-reference") as network:
        address = network.address(SOURCE)
        module = (sys.executable, "-m", "benchmarks.swarm.origin")
        command = network.command(SOURCE, *module, address, str(ORIGIN_PORT), str(content.path))
        origin = await Agent.start(SOURCE, command, directory / "origin.log")
        await origin.hear()
        url = f"http://{address}:{ORIGIN_PORT}/"
        for name, kind in probes.items():
            last = min(content.size, int(kind.rate * 1e6 / 8 * LEAST_SECONDS)) - 1
            told = await run(
                *network.command(name, "curl", "-sS", "--fail", "-r", f"0-{last}"),
                *("-o", "/dev/null", "-w", "%{speed_download}", url),
            )
            found[kind] = float(told)
        await origin.kill()
    return found


def bound_of(description: Description, size: int, goodput: dict[Kind, float]) -> float:
    """The fluid bound of a bed for content of `size` bytes, seconds."""
    hosts = list(description.receivers().values())
    used = {hosts.zone for hosts in hosts if hosts.zone}
    fluid = fluid_bound(
        size,
        goodput[kinds_of(description.seed)[0]],
        [goodput[kinds_of(host)[0]] for host in hosts],
        [goodput[kinds_of(host)[1]] for host in hosts],
    )
    into = [goodput[kinds_of(description.zones[zone])[1]] for zone in used]
    return max(fluid, zone_bound(size, into))
