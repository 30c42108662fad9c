"""Answers out of the swarm: the proxy as a client of its host's peer."""

from __future__ import annotations

import h11
import httpx

from hawker.apps.proxy.freshness import Version, wish_of
from hawker.apps.proxy.messages import as_mapping, with_via
from hawker.apps.proxy.rules import Decision
from hawker.apps.proxy.versions import Origins
from hawker.apps.proxy.wire import Wire
from hawker.apps.web.content import Asker, SwarmContent
from hawker.core.conditions import Conditions, PreconditionFailed, Validators
from hawker.core.errors import HawkerError, NotHereYet

# Of what never changes the peer judges conditions by itself.
CONDITIONAL = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range")
TOLD = (
    "accept-ranges", "content-length", "content-range", "content-type", "etag", "last-modified",
    "repr-digest",
)  # fmt: skip
Fields = list[tuple[bytes, bytes]]


def can_be_asked(request: h11.Request) -> bool:
    """It is about its URL alone: it has no body, and is nobody's own."""
    fields = {name for name, _ in request.headers}
    return not fields & {b"cookie", b"content-length", b"transfer-encoding", b"upgrade"}


class Swarm:
    """Answers GETs for a proxy called `name`."""

    def __init__(self, content: SwarmContent, origins: Origins, name: str) -> None:
        self._content = content
        self._origins = origins
        self._name = name

    async def answer(
        self, client: Wire, request: h11.Request, decision: Decision, tenant: str
    ) -> bool:
        """Answer a GET; False where the origin itself is to be asked, for the swarm has nothing, or
        may not have it. The connection is cut where the rest of a body does not come.

        Raises:
            NotHereYet: the client wants only what needs no question, and there is none (504).
        """
        fields = as_mapping(request.headers)
        if decision.immutable:
            return await self._immutable(client, fields, decision.url, tenant)
        wish = wish_of(fields)
        # RFC 9111 section 3.5: what somebody signed in for is not kept for others.
        if wish.unstored or "authorization" in fields:
            return False
        if wish.only_cached and self._origins.fresh(decision.url, wish) is None:
            raise _NothingFresh("nothing that is fresh is here")
        version = await self._origins.version(decision.url, wish, decision.fresh)
        if version is None:
            return False
        return await self._versioned(client, fields, decision.url, tenant, version)

    async def _immutable(self, client: Wire, fields: dict[str, str], url: str, tenant: str) -> bool:
        asked = {n: fields[n] for n in (*CONDITIONAL, "range") if n in fields}
        asker = Asker(tenant, fields.get("authorization", ""))
        began = False
        try:
            async with self._content.open("GET", url, asker, asked) as found:
                told = [(n, found.headers[n]) for n in TOLD if n in found.headers]
                began = True
                await self._send(client, found.status_code, dict(told), found)
        except (HawkerError, httpx.HTTPError):
            if not began:
                return False
            client.abort()
        return True

    async def _versioned(
        self, client: Wire, fields: dict[str, str], url: str, tenant: str, version: Version
    ) -> bool:
        current = Validators(version.fields.get("etag", ""), version.modified)
        told = dict(version.fields) | {"age": str(version.age(self._origins.now()))}
        conditions = Conditions(*(fields.get(name) for name in _IN_ORDER))
        try:
            if conditions.not_modified(current):
                await self._send(client, 304, told, None)
                return True
        except PreconditionFailed:
            await self._send(client, 412, told | {"content-length": "0"}, None)
            return True
        asked = {}
        if "range" in fields and conditions.allow_range(current):
            asked["range"] = fields["range"]
        began = False
        try:
            async with self._content.open(
                "GET", url, Asker(tenant), asked, version.validator
            ) as found:
                if found.headers.get("etag") != f'"{version.generation}"':
                    # It changed in between: what is described is not what came.
                    self._origins.forget(url)
                    return False
                for name in ("accept-ranges", "content-length", "content-range"):
                    if name in found.headers:
                        told[name] = found.headers[name]
                multipart = found.headers.get("content-type", "").startswith("multipart/")
                if multipart:
                    told["content-type"] = found.headers["content-type"]
                began = True
                await self._send(client, found.status_code, told, found)
        except (HawkerError, httpx.HTTPError):
            if not began:
                return False
            client.abort()
        return True

    async def _send(
        self, client: Wire, status: int, told: dict[str, str], body: httpx.Response | None
    ) -> None:
        """An answer; with `body` what follows comes from there."""
        head: Fields = [(n.encode(), v.encode("latin-1")) for n, v in told.items()]
        reason = httpx.codes.get_reason_phrase(status).encode()
        head = with_via(head, b"1.1", self._name)
        await client.send(h11.Response(status_code=status, headers=head, reason=reason))
        if body is not None:
            async for chunk in body.aiter_raw():
                await client.send(h11.Data(data=chunk))
        await client.send(h11.EndOfMessage())


# As the fields of `Conditions` are.
_IN_ORDER = ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "if-range")


class _NothingFresh(NotHereYet):
    """RFC 9111 section 5.2.1.7."""

    status = 504
