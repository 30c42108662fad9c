"""Clusters, their members, tenants and applications."""

from __future__ import annotations

import re
import time
from typing import Any, ClassVar, Literal

import msgspec
from tortoise.expressions import Q
from tortoise.queryset import QuerySet

from hawker.apps.manager import models, wire
from hawker.apps.manager.call import Call
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.operation import Operation
from hawker.core.errors import BadRequest, NotFound

KEEPALIVE = 20.0
EXPIRY = 3 * KEEPALIVE
HOST = re.compile(r"^[0-9a-f]{32}$")
STATES = ("active", "draining", "inactive")


class Clusters(Collection[models.Cluster]):
    """At most one is the default: it takes the place of the one before."""

    name = "clusters"
    model = models.Cluster
    view_type = wire.Cluster
    new_type = wire.NewCluster
    change_type = wire.ClusterChange
    cluster_field = "id"
    filters: ClassVar = {"name": "name"}
    flags = ("is_default",)

    async def view(self, row: models.Cluster) -> wire.Cluster:
        return wire.Cluster(
            id=row.id,
            name=row.name,
            description=row.description,
            scopes=msgspec.convert(row.scopes, wire.Scopes),
            schedulers=msgspec.convert(row.schedulers, wire.SchedulerConfiguration),
            seeds=msgspec.convert(row.seeds, wire.HostConfiguration),
            peers=msgspec.convert(row.peers, wire.HostConfiguration),
            is_default=row.is_default,
            created=row.created,
            revision=row.revision,
        )

    async def changed(self, call: Call, row: models.Cluster) -> None:
        if not row.is_default:
            return
        others = await models.Cluster.filter(is_default=True).exclude(id=row.id).select_for_update()
        for other in others:
            before = await self.view(other)
            other.is_default = False
            other.revision += 1
            await other.save()
            await call.audit("update", other.id, before, await self.view(other))

    async def check_change(self, call: Call, row: models.Cluster, values: dict[str, Any]) -> None:
        # It takes the mark from another cluster, which those bound to this one may not.
        if values.get("is_default") not in (None, row.is_default):
            call.require()

    async def check_delete(self, call: Call, row: models.Cluster) -> None:
        await _forget_expired(row.id)


class Members(Collection[models.Member]):
    """Hosts that keep themselves alive here; one that is silent for long enough is inactive."""

    name = "members"
    model = models.Member
    view_type = wire.Member
    cluster_field = "cluster_id"
    filters: ClassVar = {
        "cluster": "cluster_id", "kind": "kind", "host": "host", "idc": "idc", "state": ""
    }  # fmt: skip

    def operations(self) -> list[Operation]:
        return [
            *super().operations(),
            Operation(
                "PUT", "/clusters/{cluster}/members/{host}", "Keep a host alive",
                ("members", "announce"), self.keep, body=wire.Keepalive, answer=wire.Kept,
            ),
            Operation(
                "PUT", "/members/{id}/draining", "Have a member take no new work, or again",
                ("members", "update"), self.drain, body=wire.Draining, answer=wire.Member,
            ),
        ]  # fmt: skip

    async def view(self, row: models.Member) -> wire.Member:
        return wire.Member(
            id=row.id,
            cluster=row.cluster_id,
            host=row.host,
            kind=msgspec.convert(row.kind, wire.Kind),
            url=row.url,
            addresses=row.addresses,
            hostname=row.hostname,
            idc=row.idc,
            location=row.location,
            version=row.version,
            state=_state(row),
            created=row.created,
            kept_alive=row.kept_alive,
        )

    def narrow(self, query: QuerySet[models.Member], call: Call) -> QuerySet[models.Member]:
        state = call.filters.pop("state", None)
        query = super().narrow(query, call)
        if state is None:
            return query
        if state not in STATES:
            raise BadRequest(f"state={state!r} is not one of {', '.join(STATES)}")
        since = time.time() - EXPIRY
        if state == "inactive":
            return query.filter(kept_alive__lte=since)
        return query.filter(kept_alive__gt=since, draining=state == "draining")

    async def keep(self, call: Call) -> None:
        """Not audited: each host does so every 20 s."""
        cluster, host = call.param("cluster"), call.param("host")
        call.require(None, cluster)
        if not HOST.match(host):
            raise BadRequest(f"{host!r} is not a host's id", hint="it is 32 hex digits")
        values = msgspec.to_builtins(call.body)
        kind = values.pop("kind")
        fields = {**_NOTHING, **values, "kept_alive": time.time()}
        known = models.Member.filter(cluster_id=cluster, host=host, kind=kind)
        async with call.change():
            row = await known.first()
            if row is not None:
                await known.update(**fields)
            elif not await models.Cluster.exists(id=cluster):
                raise NotFound("there is no such thing among clusters")
            else:
                row = await models.Member.create(
                    id=models.new_id(), cluster_id=cluster, host=host, kind=kind, **fields
                )
                await call.audit("create", row.id, None, await self.view(row))
        call.answer = wire.Kept(after=KEEPALIVE, drain=row.draining)

    async def drain(self, call: Call) -> None:
        async with call.change():
            row = await self.find(call, lock=True)
            before = await self.view(row)
            row.draining = call.body.draining
            await row.save(update_fields=["draining"])
            call.answer = await self.view(row)
            if call.answer != before:
                await call.audit("update", row.id, before, call.answer)


_NOTHING = {"addresses": [], "hostname": "", "idc": "", "location": "", "version": ""}


def _state(row: models.Member) -> Literal["active", "draining", "inactive"]:
    if row.kept_alive <= time.time() - EXPIRY:
        return "inactive"
    return "draining" if row.draining else "active"


async def _forget_expired(cluster: str) -> None:
    """So that hosts which are gone do not keep their cluster from going."""
    gone = Q(cluster_id=cluster) & Q(kept_alive__lte=time.time() - EXPIRY)
    await models.Member.filter(gone).delete()


class Tenants(Collection[models.Tenant]):
    name = "tenants"
    model = models.Tenant
    view_type = wire.Tenant
    new_type = wire.NewTenant
    change_type = wire.TenantChange
    tenant_field = "id"
    filters: ClassVar = {"name": "name"}

    async def view(self, row: models.Tenant) -> wire.Tenant:
        return wire.Tenant(row.id, row.name, row.description, row.created, row.revision)


class Applications(Collection[models.Application]):
    name = "applications"
    model = models.Application
    view_type = wire.Application
    new_type = wire.NewApplication
    change_type = wire.ApplicationChange
    tenant_field = "tenant_id"
    filters: ClassVar = {"name": "name", "tenant": "tenant_id"}

    async def view(self, row: models.Application) -> wire.Application:
        return wire.Application(
            id=row.id,
            tenant=row.tenant_id,
            name=row.name,
            description=row.description,
            priority=row.priority,
            created=row.created,
            revision=row.revision,
        )

    async def values(self, call: Call) -> dict[str, Any]:
        values = await super().values(call)
        if "tenant" in values:
            values["tenant_id"] = values.pop("tenant")
        return values
