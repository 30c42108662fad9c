"""The egress policy: which hosts and ports this process may read.

Names are resolved here and their addresses checked; the caller connects to a checked address and
to no other, so that a name cannot mean something else in between (DNS rebinding). Redirects are new
connections, and so are checked again.

Where there is an upstream proxy it resolves the names, and what can be said without that is
checked: ports, addresses that stand in URLs, names of metadata services, and this process itself.
"""

from __future__ import annotations

import asyncio
import fnmatch
import ipaddress
import re
import socket
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from hawker.core.contracts import UpstreamProxy
from hawker.core.errors import ConfigError, Forbidden, HawkerError, OriginFailed
from hawker.core.settings import EgressSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOLVE_TIMEOUT = 10.0
# Only to see whether a name is our own: most that an upstream proxy knows are not known here.
OWN_TIMEOUT = 2.0

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
# The same by name, where an upstream proxy resolves it.
_NEVER_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data",
     "instance-data.ec2.internal"}
)  # fmt: skip
_NAME = re.compile(r"^[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?\Z")
# RFC 3986 and WHATWG's URL standard: what ends so is an address, or nothing.
_NUMERIC = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)\Z")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class EgressPolicy:
    """Checks every outgoing connection to an origin.

    `loopback`: all listeners of this process are loopback, so that loopback origins may be read.

    Raises:
        ConfigError: `egress.allow` or `egress.deny` names no network, `egress.proxy` no proxy.
    """

    def __init__(self, settings: EgressSettings, *, loopback: bool) -> None:
        self._allow = parse_networks(settings.allow, "egress.allow")
        self._deny = parse_networks(settings.deny, "egress.deny")
        self._ports = frozenset(settings.ports)
        self._loopback = loopback
        self._own: set[tuple[Address | None, int]] = set()
        self._own_names: set[tuple[str, int]] = set()
        self._proxy = parse_proxy(settings.proxy)
        self._direct_names, self._direct_networks = _direct(settings.direct)

    def listens(self, host: str, port: int) -> None:
        """This process listens there: it is never read. A wildcard means every own address."""
        self._own_names.add((host.lower(), port))
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

    async def proxy(self, host: str, port: int) -> UpstreamProxy | None:
        """See `contracts.Egress`."""
        name = host.lower().rstrip(".").strip("[]")
        address = _numeric(name)
        if self._proxy is None or self._is_direct(name, address):
            return None
        self._check_port(host, port)
        if address is not None:
            # The proxy's loopback is ours only where it is on this machine, too.
            refusal = self._refusal(address, port, near=is_loopback(self._proxy.host))
        else:
            refusal = await self._refusal_of_name(name, port)
        if refusal:
            raise Forbidden(
                f"{host}:{port} may not be read through the upstream proxy: {refusal}",
                hint="see egress.allow, egress.deny and egress.direct",
            )
        return self._proxy

    async def proxy_addresses(self) -> Sequence[str]:
        """See `contracts.Egress`. The operator named it: no network is closed to it."""
        assert self._proxy is not None
        host, port = self._proxy.host, self._proxy.port
        try:
            found = await resolve(host, port)
        except OriginFailed as exc:
            raise OriginFailed(
                f"the upstream proxy {self._proxy.name} cannot be reached: {exc.detail}",
                hint="see egress.proxy",
            ) from exc
        if any(self._is_own(form, port) for text in found for form in _forms(parse_resolved(text))):
            raise Forbidden(
                f"the upstream proxy {self._proxy.name} is this process itself",
                hint="see egress.proxy",
            )
        return list(dict.fromkeys(found))

    def _is_direct(self, name: str, address: str | None) -> bool:
        if address is not None:
            forms = _forms(parse_resolved(address))
            return any(within(form, self._direct_networks) for form in forms)
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._direct_names)

    async def _refusal_of_name(self, name: str, port: int) -> str:
        """Why the upstream proxy may not be asked for a name; empty where it may."""
        if not _NAME.match(name) or _NUMERIC.search(name):
            return "it is no name of a host"
        if name in _NEVER_NAMES:
            return "link-local, metadata and special addresses are never origins"
        if self._allow:
            return "egress.allow names networks, and which one this is only the proxy knows"
        if (name, port) in self._own_names:
            return "this process itself listens there"
        if any(port == own for _, own in self._own):
            try:
                found = await resolve(name, port, OWN_TIMEOUT)
            except HawkerError:
                return ""
            if any(self._is_own(form, port) for t in found for form in _forms(parse_resolved(t))):
                return "this process itself listens there"
        return ""

    def _check_port(self, host: str, port: int) -> None:
        if port in self._ports or (not self._ports and port not in BAD_PORTS):
            return
        raise Forbidden(
            f"{host}:{port} may not be read: this port is no origin's",
            hint="list it in egress.ports",
        )

    def _refusal(self, text: str, port: int, *, near: bool = True) -> str:
        """Why an address may not be read; empty where it may. `near`: loopback is ours."""
        forms = _forms(parse_resolved(text))
        if any(within(form, _NEVER) for form in forms):
            return "link-local, metadata and special addresses are never origins"
        if any(self._is_own(form, port) for form in forms):
            return "this process itself listens there"
        if any(within(form, self._deny) for form in forms):
            return "egress.deny names its network"
        listed = all(within(form, self._allow) for form in forms)
        if any(form.is_loopback for form in forms):
            open_here = self._loopback and near and not self._allow
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


def parse_proxy(url: str) -> UpstreamProxy | None:
    """The upstream proxy that a URL names, None for an empty one.

    Raises:
        ConfigError: it names none; the URL, which may have a password in it, is not repeated.
    """
    if not url:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        usable = usable and parts.path in ("", "/") and not (parts.query or parts.fragment)
        proxy = UpstreamProxy(
            parts.scheme,
            parts.hostname or "",
            port,
            unquote(parts.username or ""),
            unquote(parts.password or ""),
        )
        # RFC 7617: a colon would end the user's name.
        usable = usable and ":" not in proxy.username
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            "egress.proxy is no URL of a proxy", hint="write http://[user:password@]host:port"
        )
    return proxy


def _direct(texts: Sequence[str]) -> tuple[list[str], tuple[Network, ...]]:
    """Patterns of names, and networks."""
    names, networks = [], []
    for text in texts:
        if "/" in text or _parse(text) is not None:
            networks.append(text)
        else:
            names.append(text.lower().rstrip("."))
    return names, parse_networks(networks, "egress.direct")


def _numeric(name: str) -> str | None:
    """The address that stands for a host, in any form that the C library takes."""
    if name == "localhost" or name.endswith(".localhost"):
        return "127.0.0.1"
    try:
        found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError, ValueError):
        return None
    return str(found[0][4][0])


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
