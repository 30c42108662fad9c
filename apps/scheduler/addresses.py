"""Which address a host may announce: the one it calls from, or one of the cluster's networks.

Otherwise any holder of the cluster's key could send every child to a machine of its choice. What is
handed to children is the address that was looked at, not its name: whoever owns the name could have
it mean another machine by then. Over TLS the name stays, for a certificate proves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from starlette.requests import Request

from hawker.core.egress import (
    Address,
    is_loopback,
    parse_networks,
    parse_resolved,
    resolve,
    within,
)
from hawker.core.errors import BadRequest, Forbidden, OriginFailed

RESOLVE_TIMEOUT = 2.0


class AddressPolicy:
    """`networks` are CIDRs; raises ConfigError for what is none."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = parse_networks(networks, "cluster.networks")

    async def pinned(self, url: str, request: Request) -> str:
        """The announced URL, with an address in the place of a name that nothing else proves.

        Raises:
            BadRequest: it is no base URL of a peer, or its host cannot be resolved.
            Forbidden: the caller may not announce it.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise BadRequest(f"{url!r} is not a URL: {exc}") from exc
        wrong = parts.scheme not in ("http", "https") or parts.query or parts.username is not None
        if wrong or not host or port is None:
            raise BadRequest(f"{url!r} is not the base URL of a peer, such as http://h:4000/peer")
        try:
            addresses = await resolve(host, port, RESOLVE_TIMEOUT)
        except OriginFailed as exc:
            raise BadRequest(f"the announced host {host!r} cannot be resolved") from exc
        # None over the unix socket: a process of this machine and user.
        source = None if request.client is None else request.client.host
        for address in addresses:
            if source is not None and not self._allowed(address, source):
                raise Forbidden(
                    f"a host that calls from {source} may not announce {host}",
                    hint="list the network of its address in the scheduler's cluster.networks",
                )
        if parts.scheme == "https":
            return url
        mine = [address for address in addresses if source and _plain(address) == _plain(source)]
        return urlunsplit(parts._replace(netloc=_authority((mine or addresses)[0], port)))

    def _allowed(self, address: str, source: str) -> bool:
        parsed = _plain(address)
        if parsed == _plain(source) or (is_loopback(source) and parsed.is_loopback):
            return True
        return within(parsed, self._networks)


def _plain(address: str) -> Address:
    """The address, an IPv4 one that is written as IPv6 as what it is."""
    parsed = parse_resolved(address)
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _authority(address: str, port: int) -> str:
    plain = str(parse_resolved(address))
    return f"[{plain}]:{port}" if ":" in plain else f"{plain}:{port}"
