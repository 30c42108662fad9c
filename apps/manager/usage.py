"""What tenants use of their quotas, as the schedulers of all clusters say."""

from __future__ import annotations

import asyncio

from hawker.apps.manager import models, wire
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.roster import Roster
from hawker.core.clients.tenants import tenant_usage
from hawker.core.errors import HawkerError


class TenantUsages:
    """Asks them in the name of the tenant."""

    def __init__(self, roster: Roster, members: Members) -> None:
        self._roster = roster
        self._members = members

    async def of(self, tenant: str) -> list[wire.Used]:
        """By cluster, in the order of their names."""
        clusters = await models.Cluster.all().order_by("name").only("id", "name")
        return list(await asyncio.gather(*(self._in(c.id, c.name, tenant) for c in clusters)))

    async def _in(self, cluster: str, name: str, tenant: str) -> wire.Used:
        try:
            trust = await self._members.trust(cluster)
            token = trust.key.mint("", ["tasks"], tenant=tenant, subject="manager")
            schedulers = self._roster.schedulers(cluster)
            usage = await tenant_usage(schedulers, token, trust.tls)
        except HawkerError as exc:
            return wire.Used(cluster, name, problem=exc.detail)
        if usage is None:
            return wire.Used(cluster, name, "", 0, 0, 0, 0, 0)
        return wire.Used(
            cluster,
            name,
            problem="",
            stored_bytes=usage.stored_bytes,
            bandwidth=usage.bandwidth,
            concurrent_downloads=usage.concurrent_downloads,
            waiting=usage.waiting,
            origin_bytes=usage.origin_bytes,
            period_ends=usage.period_ends,
        )
