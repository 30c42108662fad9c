"""Client of a manager's API for a user: signing in, and asking as whom `hawker login` signed in."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import httpx
import msgspec

from hawker.core.clients.events import sse
from hawker.core.clients.http import (
    CONNECT_TIMEOUT,
    REQUEST_TIMEOUT,
    control_client,
    raise_for_problem,
)
from hawker.core.clients.logins import Login, Logins
from hawker.core.clients.manager import API
from hawker.core.errors import ConfigError, Unauthenticated, Unavailable
from hawker.core.openid.client import Device, ProviderClient, Refused, Tokens, ask_about
from hawker.core.openid.provider import is_issuer, is_trustworthy
from hawker.core.outgoing import OriginClient

COOKIE = "hawker_session"
SECRET_VARIABLE = "HAWKER_CLIENT_SECRET"
SESSION_SECONDS = 12 * 3600.0
# A request takes a while, too.
MARGIN = 30.0
# A stream of events says something every ten.
SILENCE = 30.0


class Method(msgspec.Struct, frozen=True):
    """A provider that one may sign in with, as the manager tells."""

    name: str
    issuer: str
    device_client: str
    scopes: list[str]
    resource: str


class _Methods(msgspec.Struct, frozen=True):
    providers: list[Method]


class UserClient:
    """Talks to the manager at a base URL, such as https://manager:4000; `origins` to providers.

    Raises:
        ConfigError: the URL would show passwords and tokens to whoever listens in between.
    """

    def __init__(self, manager: str, tls: ssl.SSLContext, origins: OriginClient) -> None:
        if not is_trustworthy(manager):
            raise ConfigError(
                f"{manager} is not encrypted, and would be shown a password or a token",
                hint="use https, or http on this machine; see `hawker ca`",
            )
        self.manager = manager
        self._origins = origins
        self._http = control_client(tls=tls)

    async def __aenter__(self) -> UserClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()
        await self._origins.close()

    # ------------------------------------------------------------------ signing in

    async def methods(self) -> list[Method]:
        """The providers that one may sign in with."""
        answer = await self._send("GET", "/auth", {}, None)
        return _decoded(answer, _Methods).providers

    async def by_password(self, name: str, password: str) -> Login:
        answer = await self._send("POST", "/session", {}, {"name": name, "password": password})
        cookie = answer.cookies.get(COOKIE)
        if not cookie:
            raise Unavailable(f"{self.manager} began no session")
        return Login(self.manager, "password", cookie, time.time() + SESSION_SECONDS)

    async def begin_device(self, method: Method) -> tuple[ProviderClient, Device]:
        """Somebody is to agree elsewhere; wait for them with `by_device`."""
        if not method.device_client:
            raise ConfigError(
                f"{method.name} has no client for `hawker login`",
                hint="set the provider's device_client at the manager",
            )
        client = await self._provider(
            method.issuer, method.device_client, "", method.scopes, method.resource
        )
        return client, await client.begin_device()

    async def by_device(self, method: Method, client: ProviderClient, device: Device) -> Login:
        tokens = await client.by_device(device)
        return self._login(tokens, "device", method, method.device_client)

    async def by_credentials(self, method: Method, client: str, secret: str) -> Login:
        # OpenID Connect's scopes are about people.
        scopes = [scope for scope in method.scopes if scope not in ("openid", "offline_access")]
        method = msgspec.structs.replace(method, scopes=scopes)
        asking = await self._provider(method.issuer, client, secret, scopes, method.resource)
        tokens = await asking.by_credentials()
        return self._login(tokens, "client-credentials", method, client)

    async def sign_out(self, login: Login) -> None:
        """End it at the manager, or at the provider that has a place for that."""
        if login.how == "password":
            await self._send("DELETE", "/session", _shown(login), None)
            return
        if login.refresh:
            client = await self._provider(login.issuer, login.client, "", [], "")
            await client.revoke(login.refresh)

    # ------------------------------------------------------------------ signed in

    async def ask(
        self, login: Login, logins: Logins, method: str, path: str, body: Any = None
    ) -> bytes:
        """The answer to a request as the one who signed in, renewed where that has ended.

        Raises:
            Unauthenticated: it has ended for good.
            HawkerError: what the manager says.
        """
        if not login.is_good(MARGIN):
            login = await self.renewed(login, logins)
        try:
            answer = await self._send(method, path, _shown(login), body)
        except Unauthenticated as exc:
            exc.hint = exc.hint or "sign in again with `hawker login`"
            raise
        return answer.content

    @asynccontextmanager
    async def events(
        self, login: Login, logins: Logins, path: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The data of a stream's events, as the one who signed in; raises as `ask`, here or from
        the events."""
        if not login.is_good(MARGIN):
            login = await self.renewed(login, logins)
        headers = {"accept": "text/event-stream", **_shown(login)}
        timeout = httpx.Timeout(REQUEST_TIMEOUT, connect=CONNECT_TIMEOUT, read=SILENCE)
        try:
            async with self._http.stream(
                "GET", self.manager + API + path, headers=headers, timeout=timeout
            ) as answer:
                await raise_for_problem(answer)
                yield (event.data async for event in sse(answer))
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self._failed(exc) from exc

    async def renewed(self, login: Login, logins: Logins) -> Login:
        """The same one with a new access token; raises Unauthenticated where that cannot be had."""
        async with logins.locked():
            # Another command may have renewed it.
            kept = logins.find(login.manager)
            if kept.is_good(MARGIN):
                return kept
            secret = os.environ.get(SECRET_VARIABLE, "")
            tokens: Tokens | None = None
            try:
                if kept.how == "device" and kept.refresh:
                    client = await self._provider(
                        kept.issuer, kept.client, "", kept.scopes, kept.resource
                    )
                    tokens = await client.by_refresh(kept.refresh)
                elif kept.how == "client-credentials" and secret:
                    client = await self._provider(
                        kept.issuer, kept.client, secret, kept.scopes, kept.resource
                    )
                    tokens = await client.by_credentials()
            except Refused as exc:
                raise _over(kept, str(exc)) from exc
            if tokens is None:
                raise _over(kept, "it has ended")
            kept = msgspec.structs.replace(
                kept, access=tokens.access, refresh=tokens.refresh, expires=tokens.expires
            )
            logins.keep(kept)
            return kept

    # ------------------------------------------------------------------ own

    def _login(self, tokens: Tokens, how: Any, method: Method, client: str) -> Login:
        return Login(
            self.manager,
            how,
            tokens.access,
            tokens.expires,
            tokens.refresh,
            method.issuer,
            client,
            method.scopes,
            method.resource,
        )

    async def _provider(
        self, issuer: str, client: str, secret: str, scopes: list[str], resource: str
    ) -> ProviderClient:
        if not is_issuer(issuer):
            raise Unavailable(f"{issuer!r} is no provider's issuer")
        document = await ask_about(self._origins, issuer)
        return ProviderClient(
            document, self._origins, client, secret, scopes=scopes, resource=resource
        )

    async def _send(
        self, method: str, path: str, headers: dict[str, str], body: Any
    ) -> httpx.Response:
        content = None if body is None else msgspec.json.encode(body)
        try:
            answer = await self._http.request(
                method, self.manager + API + path, headers=headers, content=content
            )
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise self._failed(exc) from exc
        await raise_for_problem(answer)
        return answer

    def _failed(self, exc: Exception) -> Unavailable:
        told = str(exc) or type(exc).__name__
        hint = "see --tls-ca" if "certificate" in told.lower() else ""
        return Unavailable(f"{self.manager} cannot be asked: {told}", hint=hint)


def _shown(login: Login) -> dict[str, str]:
    if login.how == "password":
        return {"cookie": f"{COOKIE}={login.access}"}
    return {"authorization": f"Bearer {login.access}"}


def _over(login: Login, why: str) -> Unauthenticated:
    more = f", or set {SECRET_VARIABLE}" if login.how == "client-credentials" else ""
    return Unauthenticated(
        f"the sign-in at {login.manager} cannot be renewed: {why}",
        hint=f"sign in again with `hawker login`{more}",
    )


def _decoded(answer: httpx.Response, kind: type[_Methods]) -> _Methods:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Unavailable(f"{answer.request.url} is not understood: {exc}") from exc
