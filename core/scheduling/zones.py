"""Members of a generation by the data centre they are in.

A zone takes one copy over its links to the others, and shares it inside: only its gateway has
parents elsewhere. That is the member that comes first on the spine, so that everybody in the zone
has a path from it, and another one is known as soon as it goes. A zone with a root of its own needs
none.
"""

from __future__ import annotations

from collections.abc import Iterator

from hawker.core.scheduling.members import Members


class Zone:
    """Members in the order of the spine, but for roots, which come before all others; `heads` are
    roots and the gateway: those who bring pieces in."""

    __slots__ = ("_order", "gateway", "heads", "members", "roots")

    def __init__(self) -> None:
        self.members = Members()
        self.heads = Members()
        self.roots: dict[str, None] = {}
        self.gateway: str | None = None
        self._order: dict[str, None] = {}

    def __iter__(self) -> Iterator[str]:
        """Members that are no roots, the first on the spine first."""
        return iter(self._order)

    def _add(self, host: str) -> None:
        self.members.add(host)
        self._order[host] = None

    def _make_root(self, host: str) -> None:
        self._order.pop(host, None)
        self.roots[host] = None
        self.heads.add(host)

    def _appoint(self, host: str | None) -> None:
        if self.gateway is not None and self.gateway not in self.roots:
            self.heads.remove(self.gateway)
        self.gateway = host
        if host is not None:
            self.heads.add(host)

    def _remove(self, host: str) -> None:
        if host == self.gateway:
            self._appoint(None)
        self.members.remove(host)
        self.heads.remove(host)
        self.roots.pop(host, None)
        self._order.pop(host, None)


class Zones:
    """Zones by name; a host that names none is in the zone without a name. `hungry` are gateways
    with too few members of other zones to take pieces from."""

    __slots__ = ("_zones", "hungry")

    def __init__(self) -> None:
        self.hungry: set[str] = set()
        self._zones: dict[str, Zone] = {}

    def __getitem__(self, name: str) -> Zone:
        return self._zones[name]

    def __contains__(self, name: str) -> bool:
        return name in self._zones

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._zones))

    @property
    def several(self) -> bool:
        """There is more than one."""
        return len(self._zones) > 1

    def join(self, name: str, host: str) -> None:
        """A member that comes last on the spine, whatever it was before."""
        zone = self._zones.setdefault(name, Zone())
        self._remove(zone, host)
        zone._add(host)

    def make_root(self, name: str, host: str) -> None:
        """A member whose pieces come from no other one; it stays gateway until the next is said."""
        self._zones[name]._make_root(host)

    def appoint(self, name: str, host: str | None) -> None:
        """Another gateway, or none, in place of the one before."""
        zone = self._zones[name]
        if zone.gateway is not None:
            self.hungry.discard(zone.gateway)
        zone._appoint(host)
        if host is not None:
            self.hungry.add(host)

    def leave(self, name: str, host: str) -> None:
        zone = self._zones[name]
        self._remove(zone, host)
        if not zone.members:
            del self._zones[name]

    def _remove(self, zone: Zone, host: str) -> None:
        zone._remove(host)
        self.hungry.discard(host)
