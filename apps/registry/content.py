"""Content out of the swarm: the mirror as a client of its host's peer."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlencode

import httpx
import msgspec

from hawker.core.clients.http import CONNECT_TIMEOUT, control_client, raise_for_problem
from hawker.core.errors import TooLarge, Unavailable
from hawker.core.tokens import ClusterKey

CONTENT = "/peer/v1/content"
FOR_ORIGIN = "hawker-origin-authorization"


class Asker(msgspec.Struct, frozen=True):
    """Whom content is for: a tenant, and what it shows to the upstream in `Authorization`."""

    tenant: str
    shown: str = ""

    def __repr__(self) -> str:
        return f"Asker({self.tenant!r})"


class SwarmContent:
    """Asks the peer at `endpoint`, the path of a unix socket or a base URL.

    With the cluster's `key` it asks in the name of each tenant, else with `token`, if any.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        key: ClusterKey | None,
        token: str,
        tls: ssl.SSLContext | None,
    ) -> None:
        remote = endpoint.startswith(("http://", "https://"))
        self._endpoint = endpoint
        self._base = endpoint.rstrip("/") if remote else "http://localhost"
        self._key, self._token = key, token
        self._http = control_client(uds=None if remote else endpoint, tls=tls)

    @contextlib.asynccontextmanager
    async def open(
        self, method: str, url: str, asker: Asker, fields: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """The peer's answer about a URL: 200, 206 or 416.

        Raises:
            HawkerError: what the peer says; Unavailable where there is none, or it breaks off.
        """
        mine = {"accept-encoding": "identity"}
        if asker.shown:
            mine[FOR_ORIGIN] = asker.shown
        token = self._token
        if self._key is not None:
            token = self._key.mint("", ["content"], tenant=asker.tenant, subject="registry")
        if token:
            mine["authorization"] = f"Bearer {token}"
        # The first byte may have to come from far.
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT)
        try:
            async with self._http.stream(
                method,
                f"{self._base}{CONTENT}?{urlencode({'url': url})}",
                headers={**mine, **fields},
                timeout=timeout,
            ) as response:
                if response.status_code != 416:
                    await raise_for_problem(response)
                yield response
        except httpx.HTTPError as exc:
            raise Unavailable(
                f"the peer at {self._endpoint} failed: {exc or type(exc).__name__}",
                hint="see registry.peer",
            ) from exc

    async def read(self, url: str, asker: Asker, limit: int) -> bytes:
        """All of a small object; raises TooLarge beyond `limit` bytes."""
        async with self.open("GET", url, asker, {}) as response:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"{url} has more than {limit} bytes")
            return bytes(body)

    async def close(self) -> None:
        await self._http.aclose()
