"""HTTP clients for origins: they connect only to addresses that the egress policy has checked, or
to the upstream proxy, for what the policy lets it be asked for."""

from __future__ import annotations

import asyncio
import http.cookiejar
import ssl
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpcore
import httpx

from hawker.core.closing import ClosingTransport
from hawker.core.contracts import Credential, Egress, SourceServices, UpstreamProxy
from hawker.core.errors import ConfigError, OriginFailed, OriginRefused
from hawker.core.forwarding import authorization, own_answer, refused, unreachable
from hawker.core.ids import DEFAULT_PORTS, origin_of
from hawker.core.registries import Tokens, accepted, basic

MAX_REDIRECTS = 10
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
HEAD_TIMEOUT = 30.0

# Schemes by which an origin may take a connection, and not a request, for somebody's (RFC 4559,
# section 6): what follows on it would be answered as theirs.
OF_CONNECTIONS = ("negotiate", "ntlm")

MAX_CONNECTIONS = 256
KEPT_CONNECTIONS = 32


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    """Asks the policy for every connection, and connects to what it answered; with `proxy` all
    connections are to the upstream proxy."""

    def __init__(self, egress: Egress, proxy: UpstreamProxy | None) -> None:
        self._egress = egress
        self._proxy = proxy
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        if self._proxy is None:
            addresses = await self._egress.addresses(host, port)
        else:
            addresses = await self._egress.proxy_addresses()
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        assert failure is not None
        if self._proxy is not None:
            raise unreachable(self._proxy, failure)
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("an origin is not a unix socket")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class OriginClient:
    """Asks origins, with the credentials that are configured for each.

    Follows redirects; every connection asks the egress policy.
    """

    def __init__(self, services: SourceServices, context: ssl.SSLContext) -> None:
        self._credentials = services.credentials
        self._egress = services.egress
        self._context = context
        self._client = _pinned_client(services.egress, context, TIMEOUT)
        self._through: httpx.AsyncClient | None = None
        self._tokens = Tokens(self._get)

    async def ask(
        self,
        method: str,
        url: str,
        given: Mapping[str, str],
        extra: Mapping[str, str],
        *,
        tenant: str,
    ) -> httpx.Response:
        """The final answer to a GET or HEAD behind redirects, its body not read yet.

        `given` are fields for the origin of this URL alone, `extra` for whoever answers; `tenant`
        is whose configured credentials are shown.

        Raises:
            OriginRefused: a redirect, or the place where a token is had, is not to be followed.
            OriginFailed: there is no answer within 30 s, or no end of redirects.
            Forbidden: the egress policy.
        """
        first, asked = origin_of(url), url
        deadline = asyncio.get_running_loop().time() + HEAD_TIMEOUT
        for _ in range(MAX_REDIRECTS + 1):
            fields: Mapping[str, str] = {}
            if origin_of(url) == first:
                fields = {name.lower(): value for name, value in given.items()}
            response = await self._signed(method, url, fields, extra, deadline, tenant)
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            target = response.headers.get("location")
            await response.aclose()
            if not target:
                raise OriginFailed(f"{shown(url)} redirects to nowhere")
            url = _redirected(url, target)
        raise OriginFailed(f"{shown(asked)} redirects more than {MAX_REDIRECTS} times")

    async def hand_on(
        self,
        method: str,
        url: str,
        fields: Mapping[str, str],
        content: AsyncIterable[bytes] | None,
    ) -> httpx.Response:
        """One answer to a request as it is: no credentials are added, no redirect is followed."""
        return await self._sent(self._built(method, url, fields, content), None)

    async def close(self) -> None:
        await self._client.aclose()
        if self._through is not None:
            await self._through.aclose()

    async def _signed(
        self,
        method: str,
        url: str,
        given: Mapping[str, str],
        extra: Mapping[str, str],
        deadline: float,
        tenant: str,
    ) -> httpx.Response:
        """One answer. A registry that wants a token is asked again with one, unless the request
        brings an authorization of its own."""
        credential = await self._credentials.find(url, tenant)
        fields = {"accept": accepted(url), **_signing(credential), **given, **extra}
        token = ""
        if "authorization" not in given:
            token = self._tokens.known(url, credential)
        if token:
            fields["authorization"] = f"Bearer {token}"
        response = await self._send(method, url, fields, deadline)
        if response.status_code != 401 or "authorization" in given:
            return response
        try:
            async with asyncio.timeout_at(deadline):
                fresh = await self._tokens.answer(url, response, credential, token)
        except TimeoutError as exc:
            await response.aclose()
            raise OriginFailed(f"{shown(url)}: no token came in {HEAD_TIMEOUT:g} s") from exc
        except BaseException:
            await response.aclose()
            raise
        if not fresh:
            return response
        await response.aclose()
        fields["authorization"] = f"Bearer {fresh}"
        return await self._send(method, url, fields, deadline)

    async def _get(self, url: str, fields: Mapping[str, str]) -> httpx.Response:
        deadline = asyncio.get_running_loop().time() + HEAD_TIMEOUT
        return await self._send("GET", url, fields, deadline)

    async def _send(
        self, method: str, url: str, fields: Mapping[str, str], deadline: float
    ) -> httpx.Response:
        return await self._sent(self._built(method, url, fields), deadline)

    def _built(
        self,
        method: str,
        url: str,
        fields: Mapping[str, str],
        content: AsyncIterable[bytes] | None = None,
    ) -> httpx.Request:
        try:
            built = self._client.build_request(method, url, headers=fields, content=content)
            if _signs_connection(built):
                built.headers["connection"] = "close"
            return built
        except (httpx.InvalidURL, UnicodeError) as exc:
            raise OriginFailed(f"{shown(url)} cannot be asked for: {reason(exc)}") from exc

    async def _sent(self, built: httpx.Request, deadline: float | None) -> httpx.Response:
        url, proxy = str(built.url), None
        try:
            async with asyncio.timeout_at(deadline):
                host = built.url.raw_host.decode("ascii")
                port = built.url.port or DEFAULT_PORTS.get(built.url.scheme, 0)
                proxy = await self._egress.proxy(host, port)
                response = await self._client_for(proxy).send(built, stream=True)
        except httpx.ProxyError as exc:
            assert proxy is not None
            raise refused(proxy, shown(url), reason(exc)) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            hint = "add its authority with egress.ca" if "certificate" in str(exc).lower() else ""
            what = f"{shown(url)} cannot be read{_through(proxy)}"
            raise OriginFailed(f"{what}: {reason(exc)}", hint=hint) from exc
        except TimeoutError as exc:
            what = f"{shown(url)} did not answer in {HEAD_TIMEOUT:g} s{_through(proxy)}"
            raise OriginFailed(what) from exc
        if proxy is not None and built.url.scheme == "http":
            own = own_answer(proxy, shown(url), response.status_code, response.headers)
            if own is not None:
                await response.aclose()
                raise own
        return response

    def _client_for(self, proxy: UpstreamProxy | None) -> httpx.AsyncClient:
        if proxy is None:
            return self._client
        if self._through is None:
            self._through = _pinned_client(self._egress, self._context, TIMEOUT, proxy)
        return self._through


def _signs_connection(built: httpx.Request) -> bool:
    scheme, _, _ = built.headers.get("authorization", "").strip().partition(" ")
    return scheme.lower() in OF_CONNECTIONS


def _through(proxy: UpstreamProxy | None) -> str:
    """How it was asked for, for an error."""
    return "" if proxy is None else f" through the upstream proxy {proxy.name}"


def _pinned_client(
    egress: Egress,
    context: ssl.SSLContext,
    timeout: httpx.Timeout,
    proxy: UpstreamProxy | None = None,
) -> httpx.AsyncClient:
    """A client that reads nothing from the environment, follows no redirect and keeps no cookie;
    with `proxy` every request goes through it.

    TLS still verifies the name of the URL, not the address.
    """
    transport = ClosingTransport(verify=context, trust_env=False)
    # httpx has no argument for the backend of the pool that it makes.
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=MAX_CONNECTIONS,
        max_keepalive_connections=KEPT_CONNECTIONS,
        keepalive_expiry=15.0,
        network_backend=_PinnedBackend(egress, proxy),
        proxy=None if proxy is None else _as_proxy(proxy, context),
    )
    # It asks for everybody: what an origin gives to one of them to be known by is no other's.
    cookies = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(
        transport=transport,
        timeout=timeout,
        cookies=cookies,
        follow_redirects=False,
        trust_env=False,
    )


def _as_proxy(proxy: UpstreamProxy, context: ssl.SSLContext) -> httpcore.Proxy:
    shown = authorization(proxy)
    return httpcore.Proxy(
        proxy.url,
        headers=[("proxy-authorization", shown)] if shown else None,
        ssl_context=context if proxy.scheme == "https" else None,
    )


def origin_tls(ca: str, setting: str = "egress.ca") -> ssl.SSLContext:
    """The system's trusted certificates (SSL_CERT_FILE and SSL_CERT_DIR are honoured) and `ca`.

    Raises:
        ConfigError: `ca` is no file of certificates; names the setting.
    """
    context = httpx.create_ssl_context()
    if ca:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"{setting}: {ca} cannot be used: {exc}", hint="name a file of PEM certificates"
            ) from exc
    return context


async def answer_body(response: httpx.Response, url: str, limit: int) -> bytes:
    """All of an answer that is not read yet, as it was sent; the answer is closed.

    Raises:
        OriginFailed: it is longer than `limit` bytes, or breaks off.
    """
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise OriginFailed(f"{shown(url)} sends more than {limit} bytes")
    except httpx.HTTPError as exc:
        raise OriginFailed(f"{shown(url)} broke off: {reason(exc)}") from exc
    finally:
        await response.aclose()
    return bytes(body)


def shown(url: str) -> str:
    """The URL for people: what follows the path may be a credential."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


def _redirected(url: str, target: str) -> str:
    try:
        joined = urljoin(url, target)
        parts = urlsplit(joined)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise OriginRefused(f"{shown(url)} redirects to something that is not HTTP")
    if parts.username is not None:
        raise OriginRefused(f"{shown(url)} redirects to a URL with a user's name in it")
    return joined


def reason(exc: Exception) -> str:
    """What an exception of the HTTP client says."""
    return str(exc) or type(exc).__name__


def _signing(credential: Credential | None) -> dict[str, str]:
    """What a configured credential adds to a request (RFC 7617, RFC 6750)."""
    if credential is None:
        return {}
    fields = {name.lower(): value for name, value in credential.headers.items()}
    if credential.token:
        fields["authorization"] = f"Bearer {credential.token}"
    elif credential.username:
        fields["authorization"] = basic(credential)
    return fields
