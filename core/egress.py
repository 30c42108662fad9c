"""The egress policy: which hosts and ports this process may read.

Names are resolved here and their addresses checked; the caller connects to a checked address and
to no other, so that a name cannot mean something else in between (DNS rebinding). Redirects are new
connections, and so are checked again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from hawker.core.errors import ConfigError, Forbidden, OriginFailed
from hawker.core.settings import EgressSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOLVE_TIMEOUT = 10.0

# Services that speak no HTTP and do harm when they are made to read some of it (the WHATWG fetch
# standard's list of bad ports, and the databases and caches of a data centre).
BAD_PORTS = frozenset(
    {
        1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
        102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389,
        427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636,
        989, 990, 993, 995, 1719, 1720, 1723, 2049, 2375, 2379, 2380, 3306, 3659, 4045, 4190, 5060,
        5061, 5432, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10250, 11211, 27017,
    }
)  # fmt: skip

# Never an origin, whatever the settings say: this machine's own link and the clouds' metadata.
_NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "100.100.100.200/32",
        "192.0.0.192/32", "168.63.129.16/32", "::/128", "fe80::/10", "ff00::/8",
        "fd00:ec2::254/128", "fd20:ce::254/128",
    )
)  # fmt: skip
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class EgressPolicy:
    """Checks every outgoing connection to an origin.

    `loopback`: all listeners of this process are loopback, so that loopback origins may be read.

    Raises:
        ConfigError: `egress.allow` or `egress.deny` names no network.
    """

    def __init__(self, settings: EgressSettings, *, loopback: bool) -> None:
        self._allow = parse_networks(settings.allow, "egress.allow")
        self._deny = parse_networks(settings.deny, "egress.deny")
        self._ports = frozenset(settings.ports)
        self._loopback = loopback
        self._own: set[tuple[Address | None, int]] = set()

    def listens(self, host: str, port: int) -> None:
        """This process listens there: it is never read. A wildcard means every own address."""
        address = None if host in ("", "*") else _parse(host)
        if address is not None and address.is_unspecified:
            address = None
        if host == "localhost":
            address = ipaddress.ip_address("127.0.0.1")
        self._own.add((address, port))

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """See `contracts.Egress`."""
        self._check_port(host, port)
        allowed: list[str] = []
        refusal = f"{host} has no address"
        for text in await resolve(host, port):
            reason = self._refusal(text, port)
            if reason:
                refusal = f"{host}:{port} ({text}) may not be read: {reason}"
            elif text not in allowed:
                allowed.append(text)
        if not allowed:
            raise Forbidden(refusal, hint="see egress.allow, egress.deny and listen.host")
        return allowed

    def _check_port(self, host: str, port: int) -> None:
        if port in self._ports or (not self._ports and port not in BAD_PORTS):
            return
        raise Forbidden(
            f"{host}:{port} may not be read: this port is no origin's",
            hint="list it in egress.ports",
        )

    def _refusal(self, text: str, port: int) -> str:
        """Why an address may not be read; empty where it may."""
        forms = _forms(parse_resolved(text))
        if any(within(form, _NEVER) for form in forms):
            return "link-local, metadata and special addresses are never origins"
        if any(self._is_own(form, port) for form in forms):
            return "this process itself listens there"
        if any(within(form, self._deny) for form in forms):
            return "egress.deny names its network"
        listed = all(within(form, self._allow) for form in forms)
        if any(form.is_loopback for form in forms):
            open_here = self._loopback and not self._allow
            return "" if listed or open_here else "it is this machine, which others must not reach"
        if self._allow and not listed:
            return "egress.allow does not name its network"
        return ""

    def _is_own(self, address: Address, port: int) -> bool:
        if (address, port) in self._own:
            return True
        # A wildcard listener answers on every address of this machine.
        return (None, port) in self._own and _is_local(address)


def is_loopback(host: str) -> bool:
    """Only this machine is reached by this name or address."""
    if host == "localhost":
        return True
    address = _parse(host)
    return address is not None and address.is_loopback


def parse_networks(texts: Sequence[str], setting: str) -> tuple[Network, ...]:
    """Networks from CIDRs; raises ConfigError, naming the setting, for what is none."""
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as exc:
        raise ConfigError(f"{setting}: {exc}", hint="write networks as 10.0.0.0/8") from exc


async def resolve(host: str, port: int, timeout: float = RESOLVE_TIMEOUT) -> list[str]:
    """The addresses of a name, or of an address in any of the forms that the C library takes.

    Raises:
        OriginFailed: there are none, or not within `timeout` seconds.
    """
    if not host or "\0" in host:
        raise OriginFailed(f"{host!r} is not a host")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise OriginFailed(f"{host} cannot be resolved: {reason}") from exc
    except TimeoutError as exc:
        raise OriginFailed(f"{host} was not resolved in {timeout:g} s") from exc
    return [str(info[4][0]) for info in found]


def _parse(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def parse_resolved(text: str) -> Address:
    """An address as `resolve` gives it, which may name an interface."""
    return ipaddress.ip_address(text.partition("%")[0])


def _forms(address: Address) -> list[Address]:
    """The address, and the IPv4 address that it carries where it is IPv6."""
    forms: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is None and address in _COMPATIBLE and int(address) > 0xFFFF:
            inner = ipaddress.IPv4Address(int(address))
        if inner is not None:
            forms = [inner] if address.ipv4_mapped else [address, inner]
    return forms


def within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks has the address."""
    return any(address.version == network.version and address in network for network in networks)


def _is_local(address: Address) -> bool:
    """An address of this machine: only such can be bound."""
    if address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
