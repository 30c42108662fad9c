"""Tenants' tokens for clients of clusters: what a mirror, a proxy, a peer or a scheduler is shown.

Each is signed with its cluster's key and names its row here; the token itself is kept nowhere.
Members of the cluster are told with their configuration which of them are revoked.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from hawker.apps.manager import changes, models
from hawker.apps.manager import client_token_wire as wire
from hawker.apps.manager.authority import shared
from hawker.apps.manager.call import Call
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.operation import PREFIX, Operation
from hawker.apps.manager.roster import Roster
from hawker.apps.manager.secret import Seal
from hawker.apps.manager.tenant_tables import ClientToken, Revocation
from hawker.core.errors import BadRequest, Conflict, Forbidden, NotFound
from hawker.core.tokens import LEEWAY, ClusterKey

MOST = 10_000
"""Of one cluster at a time, revoked ones too, as its members remember these."""
DAY = 86_400.0


class ClientTokens(Collection[ClientToken]):
    """Deleting one revokes it."""

    name = "client-tokens"
    model = ClientToken
    view_type = wire.ClientToken
    tenant_field = "tenant_id"
    cluster_field = "cluster_id"
    filters: ClassVar = {"tenant": "tenant_id", "cluster": "cluster_id", "name": "name"}

    def __init__(self, roster: Roster, seal: Seal) -> None:
        self._roster = roster
        self._seal = seal

    def operations(self) -> list[Operation]:
        return [
            *super().operations(),
            Operation(
                "POST", "/client-tokens", "Make a token for clients; its value is told this once",
                ("client-tokens", "create"), self.create, body=wire.NewClientToken,
                answer=wire.CreatedClientToken, status=201,
            ),
        ]  # fmt: skip

    async def view(self, row: ClientToken) -> wire.ClientToken:
        return wire.ClientToken(
            id=row.id,
            tenant=row.tenant_id,
            cluster=row.cluster_id,
            name=row.name,
            verbs=row.verbs,
            actor=row.actor,
            created=row.created,
            expires=row.expires,
        )

    async def create(self, call: Call) -> None:
        body: wire.NewClientToken = call.body
        if body.tenant is None and (own := call.own_tenant()) is None:
            raise BadRequest("tenant: whose content is it for?", hint="name a tenant by its id")
        tenant_id = body.tenant or own
        cluster_id = body.cluster or await self._only_cluster(call, tenant_id)
        call.require(tenant_id, cluster_id)
        async with call.change():
            tenant = await models.Tenant.get_or_none(id=tenant_id)
            if tenant is None:
                raise NotFound("there is no such thing among tenants")
            # Whoever makes another one for this cluster waits here, and counts this one.
            cluster = models.Cluster.filter(id=cluster_id).select_for_update(no_key=True)
            found = await cluster.first()
            if found is None:
                raise NotFound("there is no such thing among clusters")
            await _check_room(found)
            ours = await shared(found, self._seal)
            now = time.time()
            row = await ClientToken.create(
                tenant=tenant,
                cluster=found,
                name=body.name,
                verbs=sorted(set(body.verbs)),
                actor=call.who.user.name,
                created=now,
                # Whole, as the token says it.
                expires=float(int(now + body.days * DAY)),
            )
            shown = await self.view(row)
            await call.audit("create", row.id, None, shown)
        key = ClusterKey(bytes.fromhex(ours.cluster_key), lambda: now)
        value = key.mint_for_client(
            body.name, row.verbs, tenant=tenant.name, lifetime=row.expires - now, token=row.id
        )
        call.answer = wire.CreatedClientToken(shown, value)
        call.headers["location"] = f"{call.mount}{PREFIX}/client-tokens/{row.id}"

    async def _only_cluster(self, call: Call, tenant: str | None) -> str:
        """The cluster that a token is for whose maker names none."""
        assert call.permission is not None
        ids: Any = await models.Cluster.all().order_by("id").values_list("id", flat=True)
        may = [id_ for id_ in ids if call.may(call.permission, tenant, id_)]
        if not may:
            raise Forbidden(f"there is no cluster that {call.who.user.name} may use")
        if len(may) > 1:
            raise BadRequest("cluster: which is it for?", hint="name a cluster by its id")
        return str(may[0])

    async def remove(self, call: Call, row: ClientToken) -> None:
        await row.delete()
        if row.expires + LEEWAY > time.time():
            await Revocation.create(
                id=row.id,
                cluster_id=row.cluster_id,
                expires=row.expires,
                changed=await changes.count(),
            )

    async def done(self) -> None:
        await self._roster.follow()


async def forget_expired() -> None:
    """Delete what nobody would take any more."""
    over = time.time() - LEEWAY
    await ClientToken.filter(expires__lte=over).delete()
    await Revocation.filter(expires__lte=over).delete()


async def _check_room(cluster: models.Cluster) -> None:
    now = time.time()
    there = await ClientToken.filter(cluster=cluster, expires__gt=now).count()
    there += await Revocation.filter(cluster=cluster, expires__gt=now).count()
    if there >= MOST:
        raise Conflict(
            f"the cluster {cluster.name} has {there} tokens for clients that have not ended",
            hint="have clients share some, or give them fewer days",
        )
