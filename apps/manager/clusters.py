"""Clusters, tenants and applications."""

from __future__ import annotations

import time
from typing import Any, ClassVar, cast

import msgspec

from hawker.apps.manager import changes, models, wire
from hawker.apps.manager.call import Call
from hawker.apps.manager.client_tokens import forget_expired
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.operation import Operation
from hawker.apps.manager.roster import EXPIRY, Roster
from hawker.apps.manager.tenant_tables import RetiredTenant
from hawker.apps.manager.usage import TenantUsages
from hawker.core.errors import Conflict, Forbidden
from hawker.core.ids import DEFAULT_TENANT
from hawker.core.limits import Limits


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
    wide = True

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    async def view(self, row: models.Cluster) -> wire.Cluster:
        return wire.Cluster(
            id=row.id,
            number=row.number,
            name=row.name,
            description=row.description,
            # As it was checked when it was written: that takes 5 ms for a thousand networks.
            scopes=cast(wire.Scopes, row.scopes),
            schedulers=msgspec.convert(row.schedulers, wire.SchedulerConfiguration),
            seeds=msgspec.convert(row.seeds, wire.HostConfiguration),
            peers=msgspec.convert(row.peers, wire.HostConfiguration),
            is_default=row.is_default,
            created=row.created,
            revision=row.revision,
        )

    async def changed(self, call: Call, row: models.Cluster) -> None:
        if not row.number:
            await changes.give_number(row)
        if getattr(call.body, "is_default", None) is True:
            await self._take_mark(call, row)
        await changes.count()

    async def done(self) -> None:
        await self._roster.follow()

    async def _take_mark(self, call: Call, row: models.Cluster) -> None:
        # Whoever marks another one at the same time waits here, and then sees this one.
        await models.Fact.filter(name=models.KEY).select_for_update().first()
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
        # Hosts that are gone do not keep their cluster from going.
        gone = models.Member.filter(cluster_id=row.id, kept_alive__lte=time.time() - EXPIRY)
        if rows := await gone.order_by("id").select_for_update():
            await changes.part(rows, "forgotten")

    async def remove(self, call: Call, row: models.Cluster) -> None:
        await row.delete()
        await changes.count()


class Tenants(Collection[models.Tenant]):
    name = "tenants"
    model = models.Tenant
    view_type = wire.Tenant
    new_type = wire.NewTenant
    change_type = wire.TenantChange
    tenant_field = "id"
    filters: ClassVar = {"name": "name"}

    def __init__(self, roster: Roster, usage: TenantUsages) -> None:
        self._roster = roster
        self._usage = usage

    def operations(self) -> list[Operation]:
        return [
            *super().operations(),
            Operation(
                "GET", "/tenants/{id}/usage", "What a tenant uses of its quotas",
                ("tenants", "read"), self.used, answer=wire.TenantUse,
            ),
        ]  # fmt: skip

    async def view(self, row: models.Tenant) -> wire.Tenant:
        return wire.Tenant(
            id=row.id,
            name=row.name,
            description=row.description,
            quotas=msgspec.convert(row.quotas or {}, Limits),
            created=row.created,
            revision=row.revision,
        )

    async def values(self, call: Call) -> dict[str, Any]:
        values = await super().values(call)
        if "quotas" in values:
            values["quotas"] = values["quotas"] or None
        return values

    async def used(self, call: Call) -> None:
        row = await self.find(call)
        quotas = msgspec.convert(row.quotas or {}, Limits)
        call.answer = wire.TenantUse(quotas, await self._usage.of(row.name))

    async def done(self) -> None:
        await self._roster.follow()

    async def changed(self, call: Call, row: models.Tenant) -> None:
        if row.revision == 1 and await RetiredTenant.exists(name=row.name):
            raise Conflict(
                f"a tenant was called {row.name!r} that was deleted, and its content may be kept",
                hint="choose another name",
            )
        # Schedulers are told its quotas.
        await changes.count()

    async def check_change(self, call: Call, row: models.Tenant, values: dict[str, Any]) -> None:
        if "quotas" in values:
            _check_bounds(call, row, "have other quotas")

    async def check_delete(self, call: Call, row: models.Tenant) -> None:
        # Its quotas go with it, and clients that a provider says are its own stay.
        _check_bounds(call, row, "go")
        # What has ended by itself does not keep its tenant from going.
        await forget_expired()

    async def remove(self, call: Call, row: models.Tenant) -> None:
        await row.delete()
        if row.name != DEFAULT_TENANT:
            await RetiredTenant.get_or_create(name=row.name)
        await changes.count()


def _check_bounds(call: Call, row: models.Tenant, what: str) -> None:
    """Raise Forbidden for a caller who is bound to the tenant itself."""
    assert call.permission is not None
    if not call.may(call.permission):
        raise Forbidden(
            f"{call.who.user.name} is bound to {row.name}, and may not have it {what}",
            hint="who may do this is bound to no tenant",
        )


class Applications(Collection[models.Application]):
    name = "applications"
    model = models.Application
    view_type = wire.Application
    new_type = wire.NewApplication
    change_type = wire.ApplicationChange
    tenant_field = "tenant_id"
    filters: ClassVar = {"name": "name", "tenant": "tenant_id"}

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    async def changed(self, call: Call, row: models.Application) -> None:
        # Schedulers are told its priority.
        await changes.count()

    async def remove(self, call: Call, row: models.Application) -> None:
        await row.delete()
        await changes.count()

    async def done(self) -> None:
        await self._roster.follow()

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
