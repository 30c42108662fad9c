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
    roots and gateways: those who bring pieces in."""

    __slots__ = ("_order", "gateways", "heads", "members", "roots")

    def __init__(self) -> None:
        self.members = Members()
        self.heads = Members()
        self.roots: dict[str, None] = {}
        self.gateways: set[str] = set()
        self._order: dict[str, None] = {}

    def __iter__(self) -> Iterator[str]:
        """Members that are no roots, the first on the spine first."""
        return iter(self._order)

    def appoint(self, host: str) -> None:
        self.gateways.add(host)
        self.heads.add(host)

    def dismiss(self, host: str) -> None:
        self.gateways.discard(host)
        if host not in self.roots:
            self.heads.remove(host)

    def _add(self, host: str) -> None:
        self.members.add(host)
        self._order[host] = None

    def _make_root(self, host: str) -> None:
        self._order.pop(host, None)
        self.gateways.discard(host)
        self.roots[host] = None
        self.heads.add(host)

    def _remove(self, host: str) -> None:
        self.members.remove(host)
        self.heads.remove(host)
        self.roots.pop(host, None)
        self.gateways.discard(host)
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

    @property
    def several(self) -> bool:
        """There is more than one."""
        return len(self._zones) > 1

    def join(self, name: str, host: str) -> None:
        """A member that comes last on the spine, whatever it was before."""
        zone = self._zones.setdefault(name, Zone())
        zone._remove(host)
        zone._add(host)

    def make_root(self, name: str, host: str) -> None:
        self._zones[name]._make_root(host)

    def leave(self, name: str, host: str) -> None:
        zone = self._zones[name]
        zone._remove(host)
        if not zone.members:
            del self._zones[name]
