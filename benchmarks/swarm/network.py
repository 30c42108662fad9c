"""Hosts as network namespaces, around bridges in one more.

Every host has `eth0`, whose egress is its uplink; the other end of that cable is a port of its
zone's bridge, whose egress is its downlink. A zone's bridge hangs on the first one by a cable of
its own. All of it lives in the bed's namespaces: deleting them leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from benchmarks.swarm.agents import Agent
from benchmarks.swarm.description import ZONE, Link
from benchmarks.swarm.janitor import PREFIX
from benchmarks.swarm.tools import run

IPV4 = Path("/proc/sys/net/ipv4")
# Linux's own congestion control, whatever this machine has set for itself; and packets that are
# not smaller than 16 segments where they may be large: each costs a timer at both of its links.
TCP = {"tcp_congestion_control": "cubic", "tcp_min_tso_segs": "16"}
# A switch's buffer: what a port holds before it drops.
BUFFER_SECONDS = 0.05
LEAST_BUFFER = 256 * 1024
# More than the 64 KiB that the kernel hands on at a time, and no more than timers are late by.
BURST_SECONDS, LEAST_BURST = 0.004, 80 * 1024
CORE = "br0"
HUB = "hub"
MTU = 1500
CORRUPT_ONE_IN = 10
# Counts bytes by sender, marks losses. A set of nftables, so that one rule does for all senders.
COUNTING = """
table ip bed {
  set senders { type ipv4_addr; size 1024; flags dynamic; counter; }
  chain input {
    type filter hook input priority 0;
    LOSS
    iifname "eth0" add @senders { ip saddr }
  }
}
"""
LOSING = "numgen random mod 100000 < {} drop"


@dataclass(frozen=True)
class Cable:
    """A port of the hub and, where it has one, the host behind it."""

    port: str
    inner: str
    far: str


@dataclass(frozen=True)
class Traffic:
    """Bytes over a host's link so far, of frames as the hub sees them."""

    up: int
    down: int


class Network:
    """The bed's network; `async with` builds it, and removes it whatever happens.

    Args:
        links: the link of each host, by name.
        zones: the link of each zone's bridge to the first one; `up` leads out of the zone.
        places: the zone of each host that is in one.
        directory: removed with the network.
        owner: makes the names of namespaces unique; this process's id comes first in it.
    """

    def __init__(
        self,
        links: dict[str, Link],
        zones: dict[str, Link],
        places: dict[str, str],
        directory: Path,
        owner: str,
    ) -> None:
        self._links, self._zones, self._places = links, zones, places
        self.directory = directory
        self._prefix = f"{PREFIX}{owner}-"
        self._numbers = {name: number for number, name in enumerate(links, 1)}
        self._bridges = {"": CORE} | {z: f"br{n}" for n, z in enumerate(zones, 1)}
        self._cables: dict[str, Cable] = {}
        self._own: list[Agent] = []
        self._janitor: subprocess.Popen[bytes] | None = None
        self._holder: Agent | None = None

    def namespace(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def address(self, name: str) -> str:
        number = self._numbers[name]
        return f"10.77.{number // 250}.{number % 250 + 1}"

    def zone(self, name: str) -> str:
        """The zone that a host is in; empty for the first one."""
        return self._places.get(name, "")

    def command(self, name: str, *command: str) -> tuple[str, ...]:
        """The command, as run on this host."""
        return ("ip", "netns", "exec", self.namespace(name), *command)

    async def __aenter__(self) -> Network:
        # First, so that it is there whatever fails; in a session of its own, so that it lives on.
        self._hire()
        try:
            await self._build()
        except BaseException:
            self._remove()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for agent in self._own:
                await agent.kill()
        finally:
            self._remove()

    def _hire(self) -> None:
        self._janitor = subprocess.Popen(
            (sys.executable, "-m", "benchmarks.swarm.janitor", self._prefix, self.directory),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _remove(self) -> None:
        assert self._janitor is not None and self._janitor.stdin is not None
        self._janitor.stdin.close()
        if self._janitor.wait():
            raise SystemExit("the bed could not be removed")

    async def _build(self) -> None:
        names = [HUB, *self._links]
        await run("ip", "-batch", "-", text=_lines(f"netns add {self.namespace(n)}" for n in names))
        hub = self.namespace(HUB)
        self._holder = await Agent.start(HUB, self.command(HUB, "cat"), self.directory / "hub.log")
        self._own.append(self._holder)
        bridges = self._bridges.values()
        lines = _lines(f"link add {name} type bridge\nlink set {name} up" for name in bridges)
        await run("ip", "-n", hub, "-batch", "-", text=lines)
        await self._quiet_bridges()
        with _allowed(TCP["tcp_congestion_control"]):
            for name, link in self._links.items():
                await self._attach(name, link)
        for number, (zone, link) in enumerate(self._zones.items(), 1):
            await self._join(number, zone, link)

    async def _quiet_bridges(self) -> None:
        """Frames on the bridges do not pass the rules for IP, which nobody has set there."""
        settings = Path("/proc/sys/net/bridge")
        names = ("iptables", "ip6tables", "arptables")
        script = "".join(f"echo 0 > {settings}/bridge-nf-call-{name}; " for name in names)
        await run(*self.command(HUB, "sh", "-c", f"[ ! -d {settings} ] || {{ {script} }}"))

    async def _attach(self, name: str, link: Link) -> None:
        port, inner = f"p{self._numbers[name]}", self.namespace(name)
        cable = Cable(port, inner, "eth0")
        await self._lay(cable, link)
        self._cables[name] = cable
        bridge = self._bridges[self.zone(name)]
        await run("ip", "-n", self.namespace(HUB), "link", "set", port, "master", bridge, "up")
        lines = f"link set lo up\naddr add {self.address(name)}/16 dev eth0\nlink set eth0 up\n"
        await run("ip", "-n", inner, "-batch", "-", text=lines)
        await self._shape(cable, link.up, link.down)
        script = "".join(f"echo {value} > {IPV4}/{name};" for name, value in TCP.items())
        await run(*self.command(name, "sh", "-ec", script))
        loss = LOSING.format(round(link.loss * 100_000)) if link.loss else ""
        await run(*self.command(name, "nft", "-f", "-"), text=COUNTING.replace("LOSS", loss))
        if link.loss:
            await self._lose(port, link.loss)

    async def _join(self, number: int, zone: str, link: Link) -> None:
        """A zone's bridge to the first one. Seen from there, the zone is like a host."""
        hub = self.namespace(HUB)
        cable = Cable(f"z{number}", hub, f"y{number}")
        await self._lay(cable, link)
        self._cables[ZONE + zone] = cable
        lines = (
            f"link set {cable.port} master {CORE} up\n"
            f"link set {cable.far} master {self._bridges[zone]} up\n"
        )
        await run("ip", "-n", hub, "-batch", "-", text=lines)
        await self._shape(cable, link.up, link.down)
        if link.loss:
            await self._lose(cable.port, link.loss)
            await self._lose(cable.far, link.loss)

    async def _lay(self, cable: Cable, link: Link) -> None:
        """Make the two devices of a cable; with a delay they are a shim's."""
        hub = self.namespace(HUB)
        if link.delay:
            # Made in this namespace, under names that are this bed's alone for that moment.
            ends = [f"{self._numbers_of_owner()}{side}{cable.port}" for side in "ab"]
            shim = await Agent.start(
                f"shim {cable.port}",
                (sys.executable, "-m", "benchmarks.swarm.shim", *ends, str(link.delay)),
                self.directory / f"shim-{cable.port}.log",
            )
            self._own.append(shim)
            await shim.hear()
            places = zip(ends, (hub, cable.inner), (cable.port, cable.far), strict=True)
            for made, namespace, device in places:
                await run("ip", "link", "set", made, "netns", namespace, "name", device)
        else:
            peer = ("peer", "name", cable.far, "netns", cable.inner)
            await run("ip", "-n", hub, "link", "add", cable.port, "type", "veth", *peer)
        if link.loss:
            # A packet is lost, not the 64 KiB that the kernel would carry in one.
            for namespace, device in ((hub, cable.port), (cable.inner, cable.far)):
                limits = ("gso_max_segs", "1", "gso_max_size", str(MTU))
                await run("ip", "-n", namespace, "link", "set", "dev", device, *limits)

    def _numbers_of_owner(self) -> str:
        return self._prefix.removeprefix(PREFIX).partition("-")[0]

    async def _lose(self, port: str, loss: float) -> None:
        """Lose a share of what comes into the hub by a port."""
        rule = f'iifname "{port}" {LOSING.format(round(loss * 100_000))}'
        text = (
            "table bridge bed { chain loss { type filter hook prerouting priority 0; }; }\n"
            f"add rule bridge bed loss {rule}\n"
        )
        await run(*self.command(HUB, "nft", "-f", "-"), text=text)

    async def _shape(self, cable: Cable, up: float, down: float) -> None:
        """Set the rates, Mbit/s, of a cable; `up` is towards the hub."""
        for namespace, device, rate in (
            (self.namespace(HUB), cable.port, down),
            (cable.inner, cable.far, up),
        ):
            limit = max(LEAST_BUFFER, round(rate * 1e6 / 8 * BUFFER_SECONDS))
            lines = (
                f"qdisc add dev {device} root handle 1: htb default 1\n"
                f"class add dev {device} parent 1: classid 1:1 {_htb(rate)}\n"
                f"qdisc add dev {device} parent 1:1 handle 2: bfifo limit {limit}\n"
            )
            await run("tc", "-n", namespace, "-batch", "-", text=lines)

    # -------------------------------------------------------------- faults of links

    async def slow(self, name: str, rate: float) -> None:
        """Both directions of a host's or zone's link have this rate, Mbit/s, from now on."""
        cable = self._cables[name]
        for namespace, device in ((self.namespace(HUB), cable.port), (cable.inner, cable.far)):
            words = f"class change dev {device} parent 1: classid 1:1 {_htb(rate)}"
            await run("tc", "-n", namespace, *words.split())

    async def cut(self, name: str) -> None:
        """Nothing passes a host's or zone's link any more, and nobody is told."""
        hub = self.namespace(HUB)
        await run("ip", "-n", hub, "link", "set", self._cables[name].port, "nomaster")

    async def heal(self, name: str) -> None:
        hub, bridge = self.namespace(HUB), self._bridges[self.zone(name)]
        await run("ip", "-n", hub, "link", "set", self._cables[name].port, "master", bridge)

    async def corrupt(self, name: str) -> None:
        """Four bytes of every tenth large packet that a host sends are overwritten from now on.

        Packets are large as the kernel hands them on, up to 64 KiB. The bytes lie 1000 bytes into
        what TCP carries, so that short messages stay whole; the checksum is set anew, so that TCP
        does not notice.
        """
        text = (
            "table ip spoil { chain output { type filter hook output priority 0; "
            f'oifname "eth0" meta length > 1200 numgen inc mod {CORRUPT_ONE_IN} 0 '
            "@ih,8000,32 set 0x6861776b; }; }\n"
        )
        await run(*self.command(name, "nft", "-f", "-"), text=text)

    # -------------------------------------------------------------- figures

    def traffic(self) -> dict[str, Traffic]:
        """Bytes over every host's and zone's link, from one look at the hub (proc(5), net/dev)."""
        assert self._holder is not None
        found: dict[str, tuple[int, int]] = {}
        for line in Path(f"/proc/{self._holder.pid}/net/dev").read_text().splitlines()[2:]:
            device, _, rest = line.partition(":")
            fields = rest.split()
            found[device.strip()] = int(fields[0]), int(fields[8])
        return {name: Traffic(*found[cable.port]) for name, cable in self._cables.items()}

    async def dropped(self) -> dict[str, int]:
        """Packets that did not fit into the buffer of each host's and zone's downlink so far."""
        told = await run("tc", "-n", self.namespace(HUB), "-s", "-j", "qdisc", "show")
        found = {
            part["dev"]: int(part["drops"])
            for part in msgspec.json.decode(told)
            if part["kind"] == "bfifo"
        }
        return {name: found[cable.port] for name, cable in self._cables.items()}

    async def received(self) -> dict[str, dict[str, int]]:
        """Bytes of IP packets that each host received, by sender's name."""
        names = {self.address(name): name for name in self._links}
        listed = await asyncio.gather(*(self._senders(name) for name in self._links))
        return {
            receiver: {names[sender]: size for sender, size in found if sender in names}
            for receiver, found in zip(self._links, listed, strict=True)
        }

    async def _senders(self, name: str) -> list[tuple[str, int]]:
        told = await run(*self.command(name, "nft", "-j", "list", "set", "ip", "bed", "senders"))
        elements: list[tuple[str, int]] = []
        for part in msgspec.json.decode(told)["nftables"]:
            for element in part.get("set", {}).get("elem", []):
                with contextlib.suppress(KeyError, TypeError):
                    inner = element["elem"]
                    elements.append((inner["val"], inner["counter"]["bytes"]))
        return elements


@contextlib.contextmanager
def _allowed(congestion_control: str) -> Iterator[None]:
    """A namespace may choose only what the machine allows to all: allow this one for a while."""
    setting = IPV4 / "tcp_allowed_congestion_control"
    before = setting.read_text()
    try:
        if congestion_control not in before.split():
            setting.write_text(f"{before.strip()} {congestion_control}")
        yield
    finally:
        setting.write_text(before)


def _htb(rate: float) -> str:
    """Words for a class of this rate, Mbit/s."""
    burst = max(LEAST_BURST, round(rate * 1e6 / 8 * BURST_SECONDS))
    return f"htb rate {rate}mbit burst {burst} cburst {burst} quantum 60000"


def _lines(commands: Iterable[str]) -> str:
    return "".join(f"{command}\n" for command in commands)
