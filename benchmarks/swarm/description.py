"""What a bed looks like: hosts, links, zones, content and faults, read from a TOML file.

Rates are Mbit/s, delays milliseconds one way, losses shares of packets each way, times seconds.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.figures import size_of

ORIGIN, SEED, SCHEDULER = "origin", "seed", "scheduler"
BUSIEST = "busiest"
"""In a fault: the receiver that has sent most so far."""
ZONE = "zone:"
"""In a fault: prefix of a zone's name, for what is done to its link."""

Action = Literal["kill", "freeze", "thaw", "cut", "heal", "slow", "corrupt", "restart"]


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link as the end that has it sees it."""

    up: float
    down: float
    delay: float = 0.0
    loss: float = 0.0


class Hosts(Link, frozen=True, forbid_unknown_fields=True):
    """`count` receivers with links like this, in `zone` (empty: where origin and seed are)."""

    count: int = 1
    zone: str = ""


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`do` this `on` a host, on `busiest`, or on `zone:NAME`, `at` seconds after the start.

    `rate` belongs to `slow` alone: both directions of the link then have it.
    """

    at: float
    do: Action
    on: str
    rate: float = 0.0


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Faults of one round; each is compared with the rounds without any."""

    name: str
    faults: list[Fault] = []


class Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole bed. Plain HTTP takes N times as long as anything else, hence `http_size`."""

    size: str
    seed: Link
    hosts: list[Hosts]
    origin: Link
    scheduler: Link = Link(1000, 1000)
    http_size: str = ""
    limit: float = 120.0
    """Seconds after which a round has failed."""
    zones: dict[str, Link] = {}
    scenarios: list[Scenario] = []

    @property
    def bytes(self) -> int:
        return size_of(self.size)

    @property
    def http_bytes(self) -> int:
        return size_of(self.http_size or self.size)

    def receivers(self) -> dict[str, Hosts]:
        """Each receiving host by its name, in order."""
        groups = [group for group in self.hosts for _ in range(group.count)]
        return {f"host-{number:02}": group for number, group in enumerate(groups)}

    def links(self) -> dict[str, Link]:
        """Each host's link by its name."""
        ours = {ORIGIN: self.origin, SEED: self.seed, SCHEDULER: self.scheduler}
        return ours | dict(self.receivers())


def read(path: Path) -> Description:
    """The description in a file.

    Raises:
        SystemExit: it cannot be read, or does not describe a bed; says why.
    """
    try:
        return parse(path.read_text())
    except (OSError, ValueError) as exc:
        raise SystemExit(f"{path}: {exc}") from exc


def parse(text: str) -> Description:
    """The description in a text; raises ValueError where it does not describe a bed."""
    found = msgspec.convert(tomllib.loads(text), Description)
    for size in (found.size, found.http_size or found.size):
        try:
            positive = size_of(size) > 0
        except argparse.ArgumentTypeError as exc:
            raise ValueError(str(exc)) from exc
        if not positive:
            raise ValueError("there is no content")
    if not found.receivers():
        raise ValueError("there are no hosts")
    for name, link in [*found.links().items(), *found.zones.items()]:
        if link.up <= 0 or link.down <= 0 or link.delay < 0 or not 0 <= link.loss < 1:
            raise ValueError(f"{name}: rates are above 0, delays from 0 on, losses from 0 to 1")
    for name, hosts in found.receivers().items():
        if hosts.zone and hosts.zone not in found.zones:
            raise ValueError(f"{name}: there is no zone {hosts.zone!r}")
    for scenario in found.scenarios:
        for fault in scenario.faults:
            _check(found, scenario.name, fault)
    return found


def _check(found: Description, scenario: str, fault: Fault) -> None:
    zone = fault.on.removeprefix(ZONE) if fault.on.startswith(ZONE) else None
    if zone is None and fault.on != BUSIEST and fault.on not in found.links():
        raise ValueError(f"{scenario}: there is no host {fault.on!r}")
    if zone is not None and zone not in found.zones:
        raise ValueError(f"{scenario}: there is no zone {zone!r}")
    if zone is not None and fault.do not in ("cut", "heal", "slow"):
        raise ValueError(f"{scenario}: {fault.do} is for hosts, not for zones")
    if (fault.do == "slow") != (fault.rate > 0):
        raise ValueError(f"{scenario}: slow, and slow alone, has a rate")
    if fault.do == "restart" and fault.on != SCHEDULER:
        raise ValueError(f"{scenario}: restart is for the scheduler alone")
