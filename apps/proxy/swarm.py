"""Answers out of the swarm: the proxy as a client of its host's peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import h11
import httpx

from hawker.apps.proxy.freshness import Version, wish_of
from hawker.apps.proxy.messages import with_via
from hawker.apps.proxy.rules import Decision
from hawker.apps.proxy.versions import Origins
from hawker.apps.proxy.wire import Client
from hawker.apps.web.content import Asker, SwarmContent
from hawker.apps.web.dragonfly import Wishes, swarm_fields
from hawker.apps.web.prefetch import Prefetching
from hawker.core.conditions import Conditions, PreconditionFailed, Validators
from hawker.core.errors import HawkerError, NotHereYet, OverQuota

# As the fields of `Conditions` are.
CONDITIONAL = ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "if-range")
TOLD = (
    "accept-ranges", "content-length", "content-range", "content-type", "etag", "last-modified",
    "repr-digest",
)  # fmt: skip
PLACE = ("accept-ranges", "content-length", "content-range")
# What a request may not have, to be about its URL alone: it has no body, and is nobody's own.
OWN = frozenset({"cookie", "content-length", "transfer-encoding", "upgrade"})


def can_be_asked(fields: Mapping[str, str]) -> bool:
    """Whether the swarm can answer a request with these fields, by lower-case name. Nobody has to
    take up the offer of HTTP/2 in the clear (RFC 9110 section 7.8), which some make always."""
    own = OWN & set(fields)
    return not own or (own == {"upgrade"} and fields["upgrade"].strip().lower() == "h2c")


@dataclass(frozen=True)
class _Wanted:
    """What the peer is asked for; `asked` are the fields of a range or condition."""

    url: str
    asker: Asker
    asked: dict[str, str]
    wishes: Wishes
    revision: str = ""


class Swarm:
    """Answers GETs for a proxy called `name`."""

    def __init__(
        self, content: SwarmContent, origins: Origins, prefetching: Prefetching, name: str
    ) -> None:
        self._content = content
        self._prefetching = prefetching
        self._origins = origins
        self._name = name

    async def answer(
        self,
        client: Client,
        fields: Mapping[str, str],
        decision: Decision,
        tenant: str,
        wishes: Wishes,
    ) -> bool:
        """Answer a GET; False where the origin itself is to be asked, for the swarm has nothing, or
        may not have it. The connection is cut where the rest of a body does not come.

        Raises:
            NotHereYet: the client wants only what needs no question, and there is none (504).
            OverQuota: its tenant may have no more now.
        """
        url = decision.url
        if decision.immutable:
            # The peer judges conditions by itself.
            asked = {n: fields[n] for n in (*CONDITIONAL, "range") if n in fields}
            asker = Asker(tenant, fields.get("authorization", ""))
            wanted = _Wanted(url, asker, asked, wishes)
            return await self._content_of(client, wanted, _as_it_is)
        wish = wish_of(fields)
        # RFC 9111 section 3.5: what somebody signed in for is not kept for others.
        if wish.unstored or "authorization" in fields:
            return False
        if wish.only_cached and self._origins.fresh(tenant, url, wish) is None:
            raise _NothingFresh("nothing that is fresh is here")
        version = await self._origins.version(tenant, url, wish, decision.fresh)
        if version is None:
            return False
        wanted = _Wanted(url, Asker(tenant), {}, wishes, version.validator)
        return await self._versioned(client, fields, wanted, version)

    async def _versioned(
        self, client: Client, fields: Mapping[str, str], wanted: _Wanted, version: Version
    ) -> bool:
        current = Validators(version.fields.get("etag", ""), version.modified)
        told = dict(version.fields) | {"age": str(version.age(self._origins.now()))}
        conditions = Conditions(*(fields.get(name) for name in CONDITIONAL))
        try:
            if conditions.not_modified(current):
                await self._send(client, 304, told, None)
                return True
        except PreconditionFailed:
            await self._send(client, 412, told | {"content-length": "0"}, None)
            return True
        if "range" in fields and conditions.allow_range(current):
            wanted.asked["range"] = fields["range"]

        def described(found: Mapping[str, str]) -> dict[str, str] | None:
            if found.get("etag") != f'"{version.generation}"':
                # It changed in between: what is described is not what came.
                self._origins.forget(wanted.url)
                return None
            if found.get("content-type", "").startswith("multipart/"):
                told["content-type"] = found["content-type"]
            return told | {name: found[name] for name in PLACE if name in found}

        return await self._content_of(client, wanted, described)

    async def _content_of(
        self,
        client: Client,
        wanted: _Wanted,
        described: Callable[[Mapping[str, str]], dict[str, str] | None],
    ) -> bool:
        """Give what the peer has, with the fields that `described` makes of the peer's; None of
        them where it is not what was wanted."""
        began = False
        url, asker, wishes, revision = wanted.url, wanted.asker, wanted.wishes, wanted.revision
        try:
            async with self._content.open(
                "GET", url, asker, wanted.asked, revision, wishes
            ) as found:
                told = described(found.headers)
                if told is None:
                    return False
                told |= swarm_fields(found.headers)
                if wishes.prefetch and found.status_code == 206:
                    self._prefetching.begin(url, asker, wishes, revision)
                began = True
                await self._send(client, found.status_code, told, found)
        except OverQuota:
            if not began:
                # Past the swarm it would have what its tenant may not.
                raise
            client.abort()
        except (HawkerError, httpx.HTTPError):
            if not began:
                return False
            client.abort()
        return True

    async def _send(
        self, client: Client, status: int, told: dict[str, str], body: httpx.Response | None
    ) -> None:
        """An answer; with `body` what follows comes from there."""
        head = [(n.encode(), v.encode("latin-1")) for n, v in told.items()]
        reason = httpx.codes.get_reason_phrase(status).encode()
        head = with_via(head, b"1.1", self._name)
        await client.send(h11.Response(status_code=status, headers=head, reason=reason))
        if body is not None:
            async for chunk in body.aiter_raw():
                await client.send(h11.Data(data=chunk))
        await client.send(h11.EndOfMessage())


def _as_it_is(found: Mapping[str, str]) -> dict[str, str]:
    return {name: found[name] for name in TOLD if name in found}


class _NothingFresh(NotHereYet):
    """RFC 9111 section 5.2.1.7."""

    status = 504
