"""Members and clusters as a manager remembers them: filled from rows of the database, asked by what
a host shows. Without I/O."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from hawker.apps.manager import models, wire
from hawker.apps.manager.heard import FIELDS, Facts
from hawker.apps.manager.told import Told, end
from hawker.core.contracts import ClusterView
from hawker.core.membership import Kind
from hawker.core.tokens import LEEWAY

REMOVED_SECONDS = 30 * 86400.0
"""As long as the certificate lives that a removed host may still have."""

MEMBER = (
    "id", "cluster_id", "host", "kind", "draining", "silent", "credential__digest", *FIELDS,
    "changed",
)  # fmt: skip
REVOCATION = ("id", "cluster_id", "expires", "changed")
GONE = ("id", "cluster", "host", "kind", "why", "digest", "at", "changed")


@dataclass(slots=True, eq=False)
class Seat:
    """A member as a manager remembers it; `digest` is empty where it has no token of its own."""

    id: str
    cluster: str
    host: str
    kind: Kind
    digest: str
    draining: bool
    silent: bool
    facts: Facts
    poll: asyncio.Future[None] | None = None

    @property
    def url(self) -> str:
        return self.facts[0]


@dataclass(slots=True, eq=False)
class Home:
    """A cluster, and who is in it."""

    id: str
    name: str = ""
    default: bool = False
    scopes: wire.Scopes = field(default_factory=wire.Scopes)
    configurations: dict[str, dict[str, Any]] = field(default_factory=dict)
    schedulers: dict[str, Seat] = field(default_factory=dict)
    of_tenants: dict[str, Any] = field(default_factory=dict)
    """What the schedulers of all clusters are told of tenants and their applications."""
    hosts: dict[str, int] = field(default_factory=dict)
    """How many members each host is here."""
    removed: dict[str, float] = field(default_factory=dict)
    """Hosts that were removed, and when."""
    revoked: dict[str, float] = field(default_factory=dict)
    """Clients' tokens that were revoked, and when they end by themselves."""
    told: dict[tuple[str, bool], Told] = field(default_factory=dict)

    def active(self) -> list[str]:
        """URLs of the schedulers that are there and are not draining."""
        return [
            seat.url
            for seat in self.schedulers.values()
            if seat.url and not seat.silent and not seat.draining
        ]

    def tell(self, kind: str, drain: bool) -> Told:
        """What members of this kind are told now."""
        now = time.time()
        since = now - REMOVED_SECONDS
        self.removed = {host: at for host, at in self.removed.items() if at > since}
        removed = self.removed.keys() - self.hosts if kind == "scheduler" else ()
        self.revoked = {id_: end for id_, end in self.revoked.items() if end + LEEWAY > now}
        configuration = self.configurations.get(kind, {})
        if kind == "scheduler":
            configuration = {**configuration, **self.of_tenants}
        return Told(drain, self.active(), configuration, removed, self.revoked)


class Standing:
    """`tokens` are members by what is kept of their tokens, `places` by cluster, host and kind;
    `gone` is what those had who are members no more."""

    def __init__(self) -> None:
        self.clusters: dict[str, Home] = {}
        self.seats: dict[str, Seat] = {}
        self.tokens: dict[str, Seat] = {}
        self.places: dict[tuple[str, str, str], Seat] = {}
        self.gone: set[str] = set()
        self.of_tenants: dict[str, Any] = {}

    def views(self) -> dict[str, ClusterView]:
        """The clusters as a searcher sees them, by id."""
        return {
            known.id: ClusterView(
                name=known.name,
                default=known.default,
                active=bool(known.active()),
                idcs=known.scopes.idcs,
                locations=known.scopes.locations,
                cidrs=known.scopes.cidrs,
                hostnames=known.scopes.hostnames,
            )
            for known in self.clusters.values()
        }

    def set_clusters(self, rows: Iterable[models.Cluster]) -> set[str]:
        """Remember all clusters that there are; returns those that are told something else."""
        found, touched = set(), set()
        for row in rows:
            found.add(row.id)
            known = self.clusters.setdefault(row.id, Home(row.id))
            known.of_tenants = self.of_tenants
            known.name, known.default = row.name, row.is_default
            known.scopes = msgspec.convert(row.scopes, wire.Scopes)
            told = {"scheduler": row.schedulers, "seed": row.seeds, "peer": row.peers}
            if known.configurations != told:
                known.configurations = told
                touched.add(row.id)
        for gone in self.clusters.keys() - found:
            del self.clusters[gone]
        return touched

    def set_tenants(
        self, tenants: Iterable[models.Tenant], applications: Iterable[models.Application]
    ) -> set[str]:
        """Remember the quotas of all tenants that have some, and the priorities of applications,
        with their tenants; returns the clusters that are told something else."""
        of_tenants = {
            "tenants": {row.name: row.quotas or {} for row in tenants},
            "priorities": [
                {"level": row.priority, "tenant": row.tenant.name, "application": row.name}
                for row in applications
            ],
        }
        if of_tenants == self.of_tenants:
            return set()
        self.of_tenants = of_tenants
        for known in self.clusters.values():
            known.of_tenants = of_tenants
        return set(self.clusters)

    def take(self, row: Sequence[Any]) -> str:
        """Remember a member as it is now; returns its cluster."""
        id_: str = row[0]
        cluster: str = row[1]
        host, kind, draining, silent, digest, *facts = row[2:-1]
        facts[1] = tuple(facts[1])
        seat = self.seats.get(id_)
        if seat is None:
            seat = Seat(id_, cluster, host, cast(Kind, kind), "", False, False, cast(Facts, ()))
            self.seats[id_] = self.places[cluster, host, kind] = seat
            home = self.clusters.setdefault(cluster, Home(cluster))
            home.hosts[host] = home.hosts.get(host, 0) + 1
            if kind == "scheduler":
                home.schedulers[id_] = seat
        if seat.digest != (digest or ""):
            self.tokens.pop(seat.digest, None)
            seat.digest = digest or ""
            if seat.digest:
                self.tokens[seat.digest] = seat
        if seat.draining != draining and seat.poll is not None:
            end(seat.poll)
        seat.draining, seat.silent, seat.facts = draining, silent, cast(Facts, tuple(facts))
        return cluster

    def revoke(self, id_: str, cluster: str, expires: float, *rest: Any) -> str:
        """A client's token is revoked; returns its cluster."""
        home = self.clusters.get(cluster)
        if home is not None:
            home.revoked[id_] = expires
        return cluster

    def drop(self, id_: str, cluster: str, host: str, kind: str, why: str, *rest: Any) -> str:
        """A member is none any more; returns its cluster."""
        digest, at, _ = rest
        if digest:
            self.gone.add(digest)
        home = self.clusters.get(cluster)
        if home is not None and why == "removed" and at > time.time() - REMOVED_SECONDS:
            home.removed[host] = at
        seat = self.seats.pop(id_, None)
        if seat is None:
            return cluster
        self.tokens.pop(seat.digest, None)
        if self.places.get((cluster, host, kind)) is seat:
            del self.places[cluster, host, kind]
        if home is not None:
            home.schedulers.pop(id_, None)
            left = home.hosts.pop(host, 1) - 1
            if left:
                home.hosts[host] = left
        if seat.poll is not None:
            end(seat.poll)
        return cluster
