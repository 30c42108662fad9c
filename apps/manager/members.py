"""Members: hosts that keep themselves alive here, are drained, and go."""

from __future__ import annotations

import time
from typing import ClassVar, Literal, get_args

import msgspec
from tortoise.queryset import QuerySet

from hawker.apps.manager import changes, models, wire
from hawker.apps.manager.authority import Request, shared
from hawker.apps.manager.call import Call
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.keepalives import PATH, check_own
from hawker.apps.manager.operation import Operation
from hawker.apps.manager.roster import EXPIRY, Roster
from hawker.apps.manager.secret import Seal
from hawker.apps.manager.standing import Seat
from hawker.core.errors import BadRequest, Forbidden, NotFound, Unavailable
from hawker.core.ids import HOST_ID
from hawker.core.membership import Keepalive, Kept, Kind, Renewal, Renewed

STATES = ("active", "draining", "inactive")


class Members(Collection[models.Member]):
    """One that is silent for long enough is inactive."""

    name = "members"
    model = models.Member
    view_type = wire.Member
    cluster_field = "cluster_id"
    filters: ClassVar = {
        "cluster": "cluster_id", "kind": "kind", "host": "host", "idc": "idc", "state": ""
    }  # fmt: skip
    choices: ClassVar = {"kind": get_args(Kind), "state": STATES}
    deletable = False

    def __init__(self, roster: Roster, seal: Seal) -> None:
        self._roster = roster
        self._seal = seal

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "PUT", PATH,
                "Keep a host alive, and hear what its cluster's hosts are told: now, or once that"
                " is not what it knows, or after its wait",
                ("members", "announce"), self.keep, body=Keepalive, answer=Kept, by_member=True,
            ),
            *super().operations(),
            Operation(
                "PUT", "/members/{id}/draining", "Have a member take no new work, or again",
                ("members", "update"), self.drain, body=wire.Draining, answer=wire.Member,
            ),
            Operation(
                "DELETE", "/members/{id}", "Remove a member, or leave", ("members", "delete"),
                self.delete, by_member=True,
            ),
            Operation(
                "POST", "/members/{id}/certificate", "Renew a member's certificate",
                "member", self.renew, body=Renewal, answer=Renewed, by_member=True,
            ),
        ]  # fmt: skip

    async def view(self, row: models.Member) -> wire.Member:
        return await view_member(row)

    def narrow(self, query: QuerySet[models.Member], call: Call) -> QuerySet[models.Member]:
        state = call.filters.pop("state", None)
        query = super().narrow(query, call)
        if state is None:
            return query
        since = time.time() - EXPIRY
        if state == "inactive":
            return query.filter(kept_alive__lte=since)
        return query.filter(kept_alive__gt=since, draining=state == "draining")

    async def list_(self, call: Call) -> None:
        await self._roster.heard.write()
        await super().list_(call)

    async def read(self, call: Call) -> None:
        await self._roster.heard.write()
        await super().read(call)

    # ------------------------------------------------------------------ alive

    async def keep(self, call: Call) -> None:
        """Not audited: each host does so every 20 s."""
        said: Keepalive = call.body
        seat = call.seat
        if seat is None:
            seat = await self._announced(call, said)
        else:
            check_own(seat, call.param("cluster"), call.param("host"), said)
        call.answer = await self._roster.keep(seat, said)

    async def _announced(self, call: Call, said: Keepalive) -> Seat:
        """The member that a user's token speaks for; made where there is none."""
        cluster, host = call.param("cluster"), call.param("host")
        call.require(None, cluster)
        if not HOST_ID.match(host):
            raise BadRequest(f"{host!r} is not a host's id", hint="it is 32 hex digits")
        seat = self._roster.find(cluster, host, said.kind)
        if seat is None:
            await self._create(call, cluster, host, said)
            await self._roster.refresh()
            seat = self._roster.find(cluster, host, said.kind)
        if seat is None:
            raise Unavailable("the member was removed just now", retry_after=1)
        if seat.digest:
            raise Forbidden("this host has joined: it keeps itself alive, with its own token")
        return seat

    async def _create(self, call: Call, cluster: str, host: str, said: Keepalive) -> None:
        values = msgspec.to_builtins(said)
        values = {k: v for k, v in values.items() if k not in ("known", "wait")}
        async with call.change():
            if await models.Member.exists(cluster_id=cluster, host=host, kind=said.kind):
                return
            if not await models.Cluster.exists(id=cluster):
                raise NotFound("there is no such thing among clusters")
            row = await models.Member.create(
                id=models.new_id(), cluster_id=cluster, host=host, kept_alive=time.time(), **values
            )
            await call.audit("create", row.id, None, await self.view(row))
            await models.Member.filter(id=row.id).update(changed=await changes.count())

    # ------------------------------------------------------------------ drained, renewed, gone

    async def drain(self, call: Call) -> None:
        async with call.change():
            row = await self.find(call, lock=True)
            before = await self.view(row)
            changed = row.draining != call.body.draining
            row.draining = call.body.draining
            call.answer = await self.view(row)
            if changed:
                await call.audit("update", row.id, before, call.answer)
                row.changed = await changes.count()
                await row.save(update_fields=["draining", "changed"])
        await self.done()

    async def renew(self, call: Call) -> None:
        """The names are those that the host joined with: with another address it joins again."""
        assert call.seat is not None
        if call.seat.id != call.param("id"):
            raise Forbidden("a member renews its own certificate, and nobody else's")
        request = Request(call.body.csr)
        async with call.change():
            row = await self.find(call, lock=True)
            shown = await models.Credential.get(member_id=row.id)
            request.check(shown.names)
            cluster = await models.Cluster.get(id=row.cluster_id)
            ours = await shared(cluster, self._seal)
            certificate, shown.expires = ours.issue(row.host, request)
            await shown.save(update_fields=["expires"])
            await call.audit("certificate", row.id, None, await self.view(row), resource=self.name)
        call.answer = Renewed(certificate, ours.ca)

    async def find(self, call: Call, *, lock: bool = False) -> models.Member:
        if call.seat is None:
            return await super().find(call, lock=lock)
        if call.seat.id != call.param("id"):
            raise Forbidden("a member may do this with itself alone")
        query = self.model.filter(id=call.seat.id)
        row = await (query.select_for_update(no_key=True) if lock else query).first()
        if row is None:
            raise self.missing()
        return row

    async def remove(self, call: Call, row: models.Member) -> None:
        if call.seat is not None:
            await changes.part([row], "left")
            return
        # Else it would come back with what it joined with.
        await models.Enrolment.filter(host=row.host).delete()
        await changes.part([row], "removed")

    async def done(self) -> None:
        await self._roster.follow()


async def view_member(row: models.Member) -> wire.Member:
    """What clients see of a member."""
    shown = await models.Credential.get_or_none(member_id=row.id)
    return wire.Member(
        id=row.id,
        cluster=row.cluster_id,
        host=row.host,
        kind=msgspec.convert(row.kind, Kind),
        url=row.url,
        addresses=row.addresses,
        hostname=row.hostname,
        idc=row.idc,
        location=row.location,
        version=row.version,
        state=_state(row),
        created=row.created,
        kept_alive=row.kept_alive,
        enrolled=shown is not None,
        certificate_expires=0.0 if shown is None else shown.expires,
    )


def _state(row: models.Member) -> Literal["active", "draining", "inactive"]:
    if row.kept_alive <= time.time() - EXPIRY:
        return "inactive"
    return "draining" if row.draining else "active"
