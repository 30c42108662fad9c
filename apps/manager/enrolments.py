"""Enrolments, and the hosts that join with them."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import msgspec

from hawker.apps.manager import changes, models, wire
from hawker.apps.manager.authority import Request, canonical, own_names, shared
from hawker.apps.manager.call import Call
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.members import view_member
from hawker.apps.manager.operation import PREFIX, Operation
from hawker.apps.manager.roster import Roster
from hawker.apps.manager.search import Search
from hawker.apps.manager.secret import KeyedHash, new_token
from hawker.core.contracts import HostView
from hawker.core.errors import BadRequest, NotFound, Unauthenticated
from hawker.core.membership import ENROLMENT_PREFIX, MEMBER_PREFIX, Enrol, Enrolled, Kind

NAMED = "named by its token"


class Enrolments(Collection[models.Enrolment]):
    """Each is good for one host, which may come again with it as long as it lasts: the answer may
    have been lost."""

    name = "enrolments"
    model = models.Enrolment
    view_type = wire.Enrolment
    cluster_field = "cluster_id"
    filters: ClassVar = {"cluster": "cluster_id", "kind": "kind"}

    def __init__(self, roster: Roster, search: Search, hashed: KeyedHash) -> None:
        self._roster = roster
        self._search = search
        self._hashed = hashed

    def operations(self) -> list[Operation]:
        return [
            *super().operations(),
            Operation(
                "POST", "/enrolments", "Let one host join; the token is told this once",
                ("enrolments", "create"), self.create, body=wire.NewEnrolment,
                answer=wire.CreatedEnrolment, status=201,
            ),
            Operation(
                "POST", "/members", "Join, with an enrolment's token", "enrolment", self.join,
                body=Enrol, answer=Enrolled, status=201,
            ),
        ]  # fmt: skip

    async def view(self, row: models.Enrolment) -> wire.Enrolment:
        return wire.Enrolment(
            id=row.id,
            cluster=row.cluster_id,
            kind=msgspec.convert(row.kind, Kind),
            names=row.names,
            host=row.host,
            created=row.created,
            expires=row.expires,
        )

    async def create(self, call: Call) -> None:
        body: wire.NewEnrolment = call.body
        call.require(None, body.cluster)
        token = new_token(ENROLMENT_PREFIX)
        now = time.time()
        async with call.change():
            if body.cluster is not None and not await models.Cluster.exists(id=body.cluster):
                raise NotFound("there is no such thing among clusters")
            row = await models.Enrolment.create(
                cluster_id=body.cluster,
                kind=body.kind,
                names=sorted(set(map(canonical, body.names))),
                digest=self._digest(token),
                created=now,
                expires=now + body.minutes * 60.0,
            )
            shown = await self.view(row)
            await call.audit("create", row.id, None, shown)
        call.answer = wire.CreatedEnrolment(**msgspec.structs.asdict(shown), token=token)
        call.headers["location"] = f"{call.mount}{PREFIX}/enrolments/{row.id}"

    def _digest(self, token: str) -> str:
        return self._hashed.digest("enrolment", token)

    # ------------------------------------------------------------------ joining

    async def join(self, call: Call) -> None:
        body: Enrol = call.body
        if not body.proven(call.token):
            raise BadRequest(
                "proof: it is not the signature of this host over this token and request"
            )
        request = Request(body.csr)
        enrolment = await self._good(call)
        names = enrolment.names or own_names(body.hostname, body.addresses, _source(call))
        request.check(names)
        cluster, reason = await self._cluster_for(enrolment, body)
        async with call.change():
            enrolment = await self._good(call, lock=True)
            if enrolment.host not in ("", body.host):
                raise Unauthenticated("another host has joined with this token")
            await models.Enrolment.filter(id=enrolment.id).update(host=body.host)
            call.answer = await self._admit(call, enrolment, cluster, names, request, reason)
        await self._roster.follow()

    async def _good(self, call: Call, *, lock: bool = False) -> models.Enrolment:
        """The enrolment that a host shows; raises Unauthenticated."""
        mine = models.Enrolment.filter(digest=self._digest(call.token), expires__gt=time.time())
        row = await (mine.select_for_update(no_key=True) if lock else mine).first()
        if row is None:
            raise Unauthenticated(
                "the enrolment's token is unknown or has expired", hint="make a new enrolment"
            )
        return row

    async def _cluster_for(self, enrolment: models.Enrolment, body: Enrol) -> tuple[str, str]:
        if enrolment.cluster_id is not None:
            return enrolment.cluster_id, NAMED
        host = HostView(body.hostname, body.addresses, body.idc, body.location)
        return await self._search.best(host)

    async def _admit(
        self,
        call: Call,
        enrolment: models.Enrolment,
        cluster_id: str,
        names: list[str],
        request: Request,
        reason: str,
    ) -> Enrolled:
        """Make the host a member, or give the one that it is a new token, in a transaction."""
        body: Enrol = call.body
        cluster = await models.Cluster.filter(id=cluster_id).select_for_update(no_key=True).first()
        if cluster is None:
            raise NotFound("the cluster was deleted just now", hint="join again")
        via = {"actor": f"host:{body.host}", "via": f"enrolment:{enrolment.id}"}
        before, row = await self._member(body, enrolment.kind, cluster_id)
        ours = await shared(cluster, self._hashed.seal)
        certificate, expires = ours.issue(body.host, request)
        token = new_token(MEMBER_PREFIX)
        digest = self._roster.digest(token)
        shown = {"digest": digest, "names": names, "expires": expires}
        await models.Credential.update_or_create(defaults=shown, member_id=row.id)
        after = await view_member(row)
        await call.audit("join", row.id, before, after, resource="members", **via)
        await models.Member.filter(id=row.id).update(changed=await changes.count())
        return Enrolled(
            id=row.id,
            host=body.host,
            cluster=cluster.id,
            cluster_name=cluster.name,
            kind=msgspec.convert(row.kind, Kind),
            reason=reason,
            token=token,
            cluster_key=ours.cluster_key,
            certificate=certificate,
            ca=ours.ca,
        )

    async def _member(
        self, body: Enrol, kind: str, cluster: str
    ) -> tuple[wire.Member | None, models.Member]:
        """The host's member of this kind, as it was and as it is; a host moves from cluster to
        cluster."""
        elsewhere = models.Member.filter(host=body.host, kind=kind).exclude(cluster_id=cluster)
        if rows := await elsewhere.order_by("id").select_for_update():
            await changes.part(rows, "left")
        mine = models.Member.filter(cluster_id=cluster, host=body.host, kind=kind)
        row = await mine.select_for_update(no_key=True).first()
        said: dict[str, Any] = {
            "hostname": body.hostname, "addresses": body.addresses, "idc": body.idc,
            "location": body.location, "version": body.version, "kept_alive": time.time(),
        }  # fmt: skip
        if row is not None:
            before = await view_member(row)
            await row.update_from_dict(said).save(update_fields=[*said])
            return before, row
        # Its first keepalive says where it is.
        said |= {"cluster_id": cluster, "host": body.host, "kind": kind, "url": ""}
        return None, await models.Member.create(id=models.new_id(), **said)


def _source(call: Call) -> str:
    """The address that the request comes from; empty for a unix socket."""
    client = call.request.client
    return client.host if client else ""
