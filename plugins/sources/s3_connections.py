"""The connections of the S3 client: to the endpoint at checked addresses, or through the upstream
proxy, and nowhere else. Imported with `s3_store` alone, as that takes long."""

from __future__ import annotations

import collections
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiohttp.abc import AbstractResolver, ResolveResult
from botocore.exceptions import ProxyConnectionError  # type: ignore[import-untyped]
from botocore.httpsession import ProxyConfiguration  # type: ignore[import-untyped]

from hawker.core.contracts import Egress, UpstreamProxy
from hawker.core.errors import Forbidden, OriginFailed
from hawker.core.forwarding import own_answer, refused, unreachable, with_user

# Addresses that were checked and may be connected to just now.
MAX_CHECKED = 1024

_AMAZON = re.compile(r"(^|\.)amazonaws\.com(\.cn)?$")


class Pinned(AbstractResolver):
    """Lets the client connect to the endpoint, at addresses that the egress policy has checked.

    aiohttp follows redirects, and does not resolve addresses: whatever was not checked here gets no
    socket.
    """

    def __init__(self, egress: Egress, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._egress = egress
        self._host = (parts.hostname or "").lower()
        self._port = parts.port or (80 if parts.scheme == "http" else 443)
        self._checked: collections.deque[tuple[str, int]] = collections.deque(maxlen=MAX_CHECKED)
        # There is one, if any.
        self._proxies: dict[tuple[str, int], Sequence[str]] = {}

    async def route(self, url: str) -> UpstreamProxy | None:
        """The upstream proxy that a request of the client goes through, if any.

        Raises:
            Forbidden: it leads to another origin, or the egress policy.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
        self._check_ours(host, port)
        proxy = await self._egress.proxy(host, port)
        if proxy is not None:
            # Neither names nor addresses get a socket without that.
            addresses = await self._egress.proxy_addresses()
            self._proxies[proxy.host, proxy.port] = addresses
            self._remember(addresses, proxy.port)
        elif _is_address(host):
            # Names are asked for in `resolve`.
            self._remember(await self._egress.addresses(host, port), port)
        return proxy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = self._proxies.get((host, port))
        if addresses is None:
            self._check_ours(host, port)
            addresses = await self._egress.addresses(host, port)
            self._remember(addresses, port)
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in addresses
        ]

    def _check_ours(self, host: str, port: int) -> None:
        name = host.lower().rstrip(".")
        ours = _AMAZON.search(name) if not self._host else _is_below(name, self._host)
        if not ours or port != self._port:
            raise Forbidden(f"the endpoint leads to {host}:{port}, which is another origin")

    def socket(self, info: Any) -> socket.socket:
        """A socket for an address, as aiohttp asks for it; raises Forbidden for an unchecked."""
        family, kind, proto, _, address = info
        if (address[0], address[1]) not in self._checked:
            raise Forbidden(f"the endpoint leads to {address[0]}:{address[1]}, another origin")
        return socket.socket(family, kind, proto)

    async def close(self) -> None:
        return

    def _remember(self, addresses: Any, port: int) -> None:
        for address in addresses:
            if (address, port) in self._checked:
                self._checked.remove((address, port))
            self._checked.append((address, port))


def http_session(authorities: list[str], pinned: Pinned) -> type[Any]:
    """aiobotocore's HTTP session, which also trusts the system's authorities and these, and asks
    for every request whether it goes through the upstream proxy."""

    class Session(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Any:
            proxy = await pinned.route(request.url)
            scheme = urlsplit(request.url).scheme
            told = {} if proxy is None else {scheme: with_user(proxy)}
            # It is read before the next request has its turn.
            self._proxy_config = ProxyConfiguration(told)
            try:
                response = await super().send(request)
            except ProxyConnectionError as exc:
                assert proxy is not None
                raise _proxy_failure(proxy, request.url, exc) from None
            if proxy is not None and scheme == "http":
                fields = {str(n).lower(): str(v) for n, v in response.headers.items()}
                name = urlsplit(request.url).netloc
                own = own_answer(proxy, name, response.status_code, fields)
                if own is not None:
                    response.raw.close()
                    raise own
            return response

        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await super()._get_session(proxy_url)
            return session if proxy_url is None else _Still(session)

        def _get_ssl_context(self) -> ssl.SSLContext:
            context = ssl.create_default_context()
            for file in authorities:
                context.load_verify_locations(cafile=file)
            return context

    return Session


class _Still:
    """A client session that follows no redirect: through a proxy nobody else would see whither."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **arguments: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, allow_redirects=False, **arguments)


def _proxy_failure(proxy: UpstreamProxy, url: str, exc: Any) -> OriginFailed:
    """What it means that aiohttp could not use the upstream proxy."""
    inner = exc.kwargs.get("error")
    if isinstance(inner, aiohttp.ClientHttpProxyError):
        return refused(proxy, urlsplit(url).netloc, f"{inner.status} {inner.message}".rstrip())
    return unreachable(proxy, getattr(inner, "strerror", None) or type(inner).__name__)


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdecimal()


def _is_below(name: str, host: str) -> bool:
    return name == host or name.endswith(f".{host}")
