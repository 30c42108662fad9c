"""Content out of the swarm: a role as a client of the peer on its host."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import httpx
import msgspec

from hawker.apps.web.dragonfly import NOTHING, Wishes
from hawker.core.clients.http import CONNECT_TIMEOUT, endpoint_client, raise_for_problem
from hawker.core.contracts import RoleContext
from hawker.core.errors import (
    ConfigError,
    Forbidden,
    HawkerError,
    NotFound,
    OriginFailed,
    OriginRefused,
    TooLarge,
    Unavailable,
    from_problem,
)
from hawker.core.ids import DEFAULT_TENANT
from hawker.core.messages import DownloadRequest, decode_progress, encode
from hawker.core.tls import ClientTls
from hawker.core.tokens import ClusterKey, claim_of, read_key_file

CONTENT = "/peer/v1/content"
DOWNLOADS = "/peer/v1/downloads"
# Fields of a request for content that go to its origin, without this prefix.
FOR_ORIGIN = "hawker-origin-"
# Answers to ranges and conditions, which are no failures.
CONDITIONAL = (304, 412, 416)
_KINDS: dict[int, type[HawkerError]] = {403: OriginRefused, 404: NotFound, 502: OriginFailed}


class Asker(msgspec.Struct, frozen=True):
    """Whom content is for: a tenant, and what it shows to the upstream in `Authorization`."""

    tenant: str
    shown: str = ""

    def __repr__(self) -> str:
        return f"Asker({self.tenant!r})"


class SwarmContent:
    """Asks the peer at `endpoint`, the path of a unix socket or a base URL.

    With the cluster's `key` it asks in the name of each tenant. Without it, with `token`, if any,
    and in the name of that token's tenant alone: any other would be given what is not its own.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        role: str,
        key: ClusterKey | None,
        token: str,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._endpoint = endpoint
        self._role, self._key, self._token = role, key, token
        self._tenant = claim_of(token, "tenant") or DEFAULT_TENANT
        self._base, self._http = endpoint_client(endpoint, tls)

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        asker: Asker,
        fields: Mapping[str, str],
        revision: str = "",
        wishes: Wishes = NOTHING,
    ) -> AsyncIterator[httpx.Response]:
        """The peer's answer about a URL: 200, 206, or 304, 412, 416 where `fields` may bring that.
        Versions of a URL that differ in `revision` are tasks of their own, as `wishes` may be.

        Raises:
            HawkerError: what the peer says; Unavailable where there is none, or it breaks off.
        """
        mine = {"accept-encoding": "identity", **self._token_for(asker, "content")}
        query = {"url": url, "revision": revision, "tag": wishes.tag}
        query |= {"application": wishes.application}
        query |= {"filtered_query_params": ",".join(wishes.filtered)}
        if wishes.priority is not None:
            query["priority"] = str(wishes.priority)
        query = {name: value for name, value in query.items() if value}
        if asker.shown:
            mine[f"{FOR_ORIGIN}authorization"] = asker.shown
        # The first byte may have to come from far.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT)
        try:
            async with self._http.stream(
                method,
                f"{self._base}{CONTENT}?{urlencode(query)}",
                headers={**mine, **fields},
                timeout=timeout,
            ) as response:
                conditional = response.status_code in CONDITIONAL
                if method == "HEAD" and response.is_error and not conditional:
                    raise _error_of(response.status_code, url)
                if not conditional:
                    await raise_for_problem(response)
                yield response
        except httpx.HTTPError as exc:
            raise self._failed(exc) from exc

    async def read(self, url: str, asker: Asker, limit: int, wishes: Wishes = NOTHING) -> bytes:
        """All of a small object; raises TooLarge beyond `limit` bytes."""
        async with self.open("GET", url, asker, {}, wishes=wishes) as response:
            return await whole(response, limit)

    async def fetch(self, url: str, asker: Asker, wishes: Wishes, revision: str = "") -> None:
        """Have the peer store all of some content.

        Raises:
            HawkerError: it does not; Unavailable where there is none, or it breaks off.
        """
        wanted = DownloadRequest(
            url=url,
            revision=revision,
            tag=wishes.tag,
            application=wishes.application,
            priority=wishes.priority,
            filtered_query_params=list(wishes.filtered),
            headers={"authorization": asker.shown} if asker.shown else {},
        )
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT)
        try:
            async with self._http.stream(
                "POST",
                f"{self._base}{DOWNLOADS}",
                content=encode(wanted),
                headers=self._token_for(asker, "downloads"),
                timeout=timeout,
            ) as response:
                await raise_for_problem(response)
                async for line in response.aiter_lines():
                    problem = decode_progress(line.encode()).problem if line else None
                    if problem is not None:
                        raise from_problem(problem)
        except httpx.HTTPError as exc:
            raise self._failed(exc) from exc

    def _failed(self, exc: httpx.HTTPError) -> Unavailable:
        return Unavailable(
            f"the peer at {self._endpoint} failed: {exc or type(exc).__name__}",
            hint=f"see {self._role}.peer",
        )

    def _token_for(self, asker: Asker, verb: str) -> dict[str, str]:
        token = self._token
        if self._key is not None:
            token = self._key.mint("", [verb], tenant=asker.tenant, subject=self._role)
        elif asker.tenant != self._tenant:
            raise Forbidden(
                f"this {self._role} cannot ask its peer in the name of the tenant {asker.tenant}",
                hint="give it the cluster's key: cluster.key_file",
            )
        return {"authorization": f"Bearer {token}"} if token else {}

    async def close(self) -> None:
        await self._http.aclose()


@contextlib.asynccontextmanager
async def swarm_content(context: RoleContext, role: str) -> AsyncIterator[SwarmContent]:
    """The peer that `role` gets content from: `<role>.peer`, or the one of its own process.

    Raises:
        ConfigError: there is neither.
    """
    settings = context.settings
    named: str = getattr(settings, role).peer
    if not named and "peer" not in context.beside:
        raise ConfigError(
            f"a {role} needs a peer that brings content",
            hint=f"serve it beside one (`hawker serve peer {role}`), or set {role}.peer",
        )
    endpoint = named or str(settings.unix_socket)
    tls = ClientTls(settings.tls)
    content = SwarmContent(
        endpoint,
        role=role,
        key=await asyncio.to_thread(_key_of, settings.cluster_key_file),
        token=settings.auth.token,
        tls=await tls.towards(endpoint),
    )
    try:
        yield content
    finally:
        await content.close()


async def whole(response: httpx.Response, limit: int) -> bytes:
    """The body of an answer; raises TooLarge beyond `limit` bytes."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"{response.url.path} has more than {limit} bytes")
    return bytes(body)


def _key_of(file: Path) -> ClusterKey | None:
    return ClusterKey(read_key_file(file)) if file.exists() else None


def _error_of(status: int, url: str) -> HawkerError:
    """What an answer to HEAD means, which has no body to say it."""
    kind = _KINDS.get(status, Unavailable)
    return kind(f"the peer answered {status} for {url}")
