"""A client of an OpenID Connect provider: how a program, or somebody at a browser or a terminal,
comes by tokens. The requests are authlib's, over our own connections (egress policy, size, time).

Sources of the rules: RFC 6749 (grants, errors), RFC 7636 (PKCE), RFC 8628 (devices), RFC 7009
(revocation), RFC 8707 (`resource`), OpenID Connect Core 1.0.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import httpx
import msgspec

from hawker.core.errors import HawkerError, OriginFailed, Unauthenticated
from hawker.core.openid.provider import discover, endpoint, read_answer, read_json
from hawker.core.outgoing import OriginClient, shown

ANSWER_TIMEOUT = 20.0
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
DEFAULT_INTERVAL = 5.0
# RFC 8628 section 3.5: what `slow_down` adds.
SLOWER = 5.0
MAX_DEVICE_SECONDS = 3600.0
MAX_FAILURES = 4
_MAX_TOLD = 300


class Tokens(msgspec.Struct, frozen=True):
    """What a provider gave; `expires` is in seconds since 1970, 0 where it does not say."""

    access: str
    refresh: str = ""
    identity: str = ""
    expires: float = 0.0

    def __repr__(self) -> str:
        return f"Tokens(expires={self.expires})"


class Device(msgspec.Struct, frozen=True):
    """What somebody does elsewhere: opens `url` (`complete` has the code in it already) and enters
    `code`; `device` is asked for every `interval` seconds, until `seconds` have passed."""

    device: str
    code: str
    url: str
    complete: str
    interval: float
    seconds: float


class Refused(Unauthenticated):
    """The provider said no; `error` is the code of RFC 6749 section 5.2 or RFC 8628 section 3.5."""

    def __init__(self, error: str, told: str) -> None:
        what = f"the provider refuses: {error}" + (f" ({told})" if told else "")
        super().__init__(what)
        self.error = error


async def ask_about(origins: OriginClient, issuer: str) -> Mapping[str, Any]:
    """What a provider says of itself; raises OriginFailed, Forbidden."""
    async with _in_time():
        return await discover(origins, issuer)


class ProviderClient:
    """One client of a provider; `document` is what the provider says of itself. Without a secret it
    is a public one, which only names itself."""

    def __init__(
        self,
        document: Mapping[str, Any],
        origins: OriginClient,
        client_id: str,
        secret: str = "",
        *,
        scopes: Sequence[str] = (),
        resource: str = "",
    ) -> None:
        self._document = document
        self._origins = origins
        self._id = client_id
        self._secret = secret
        self._scope = " ".join(scopes)
        self._more = {"resource": resource} if resource else {}

    async def sign_in_url(self, redirect_uri: str, *, state: str, nonce: str, verifier: str) -> str:
        """Where a browser goes to sign in (OpenID Connect Core 1.0 section 3.1.2.1, RFC 7636)."""
        authlib = await asyncio.to_thread(_authlib)
        client = self._client(authlib, redirect_uri=redirect_uri, code_challenge_method="S256")
        url, _ = client.create_authorization_url(
            endpoint(self._document, "authorization_endpoint"),
            state=state,
            nonce=nonce,
            code_verifier=verifier,
            **self._more,
        )
        return cast(str, url)

    async def by_code(self, code: str, redirect_uri: str, verifier: str) -> Tokens:
        """Raises Refused, OriginFailed, as the others do."""
        async with self._asking(redirect_uri=redirect_uri) as client:
            return await self._fetch(
                client, grant_type="authorization_code", code=code, code_verifier=verifier
            )

    async def by_credentials(self) -> Tokens:
        """The client's own token (RFC 6749 section 4.4)."""
        async with self._asking() as client:
            return await self._fetch(client, grant_type="client_credentials")

    async def by_refresh(self, refresh: str) -> Tokens:
        """New tokens; a provider that gives no new refresh token leaves the old one good."""
        async with self._asking() as client:
            tokens = await self._fetch(client, grant_type="refresh_token", refresh_token=refresh)
        return msgspec.structs.replace(tokens, refresh=tokens.refresh or refresh)

    async def begin_device(self) -> Device:
        """RFC 8628 section 3.1; authlib has nothing for it but its client's authentication."""
        place = endpoint(self._document, "device_authorization_endpoint")
        fields = {"scope": self._scope, **self._more}
        async with self._asking() as client:
            auth = client.client_auth(client.token_endpoint_auth_method)
            answer = await client.request("POST", place, data=fields, auth=auth)
        told = _object(answer, place)
        if "error" in told:
            described = _text(told, "error_description", limit=_MAX_TOLD)
            raise Refused(str(told["error"])[:_MAX_TOLD], described)
        device, code, url = (
            _text(told, name) for name in ("device_code", "user_code", "verification_uri")
        )
        if not device or not code or not url.startswith(("https://", "http://")):
            raise OriginFailed(f"{shown(place)} gave no code for a device")
        return Device(
            device,
            code,
            url,
            _text(told, "verification_uri_complete"),
            max(1.0, _number(told, "interval", DEFAULT_INTERVAL)),
            min(MAX_DEVICE_SECONDS, _number(told, "expires_in", MAX_DEVICE_SECONDS)),
        )

    async def by_device(self, device: Device) -> Tokens:
        """Waits until somebody has agreed elsewhere; raises Refused where they did not, or not in
        time."""
        interval, failures = device.interval, 0
        deadline = time.monotonic() + device.seconds
        while True:
            await asyncio.sleep(interval)
            try:
                async with self._asking() as client:
                    return await self._fetch(
                        client, grant_type=DEVICE_GRANT, device_code=device.device
                    )
            except Refused as exc:
                if exc.error == "slow_down":
                    interval += SLOWER
                elif exc.error != "authorization_pending":
                    raise
            except OriginFailed:
                # Somebody may have agreed already (RFC 8628 section 3.5).
                failures += 1
                interval *= 2
                if failures == MAX_FAILURES:
                    raise
            if time.monotonic() > deadline:
                raise Refused("expired_token", "nobody agreed in time")

    async def revoke(self, token: str) -> bool:
        """Whether the provider was asked to forget a token; raises as the others do."""
        if "revocation_endpoint" not in self._document:
            return False
        place = endpoint(self._document, "revocation_endpoint")
        async with self._asking() as client:
            answer = await client.revoke_token(place, token=token)
        return bool(answer.status_code == 200)

    async def user_info(self, access: str) -> Mapping[str, Any]:
        """What else it says of somebody (OpenID Connect Core 1.0 section 5.3); empty where it has
        no such place."""
        if "userinfo_endpoint" not in self._document:
            return {}
        place = endpoint(self._document, "userinfo_endpoint")
        async with _in_time():
            return await read_json(self._origins, place, {"authorization": f"Bearer {access}"})

    # ------------------------------------------------------------------ own

    def _client(self, authlib: _Authlib, **options: Any) -> Any:
        listed = self._document.get("token_endpoint_auth_methods_supported")
        known = listed if isinstance(listed, list) else ["client_secret_basic"]
        method = "none"
        if self._secret:
            post = "client_secret_basic" not in known and "client_secret_post" in known
            method = "client_secret_post" if post else "client_secret_basic"
        return authlib.client(
            self._id,
            self._secret or None,
            token_endpoint_auth_method=method,
            revocation_endpoint_auth_method=method,
            scope=self._scope or None,
            transport=_Transport(self._origins, authlib.http),
            trust_env=False,
            follow_redirects=False,
            **options,
        )

    @contextlib.asynccontextmanager
    async def _asking(self, **options: Any) -> AsyncIterator[Any]:
        authlib = await asyncio.to_thread(_authlib)
        try:
            async with _in_time(), self._client(authlib, **options) as client:
                yield client
        except authlib.error as exc:
            told = str(exc.description or "")
            raise Refused(str(exc.error)[:_MAX_TOLD], told[:_MAX_TOLD]) from exc
        except HawkerError:
            raise
        except (authlib.http.HTTPError, ValueError, KeyError, TypeError) as exc:
            raise OriginFailed(f"the provider's answer is not understood: {exc}") from exc

    async def _fetch(self, client: Any, **fields: str) -> Tokens:
        place = endpoint(self._document, "token_endpoint")
        given = cast("Awaitable[dict[str, Any]]", client.fetch_token(place, **self._more, **fields))
        told = await given
        access = _text(told, "access_token", limit=64 * 1024)
        if not access or _text(told, "token_type").lower() != "bearer":
            raise OriginFailed(f"{shown(place)} gave no bearer token")
        lasts = _number(told, "expires_in", 0.0)
        return Tokens(
            access,
            _text(told, "refresh_token", limit=64 * 1024),
            _text(told, "id_token", limit=64 * 1024),
            time.time() + lasts if lasts else 0.0,
        )


class _Authlib(NamedTuple):
    """`http` is httpx, or its successor httpx2 where that is installed, for whatever reason: its
    client takes no other's answers."""

    client: Any
    error: Any
    http: Any


@functools.cache
def _authlib() -> _Authlib:
    """What we need of it. Loading takes long, and few processes ever ask a provider for tokens."""
    with warnings.catch_warnings():
        # It prefers a successor of httpx, and says so to everybody's standard error.
        import authlib.deprecate  # noqa: F401

        warnings.simplefilter("ignore")
        from authlib.integrations.base_client import OAuthError
        from authlib.integrations.httpx_client import AsyncOAuth2Client
    bases = AsyncOAuth2Client.__mro__
    http = next(base.__module__ for base in bases if base.__name__ == "AsyncClient")
    return _Authlib(AsyncOAuth2Client, OAuthError, importlib.import_module(http.partition(".")[0]))


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            yield
    except TimeoutError as exc:
        raise OriginFailed(f"the provider did not answer in {ANSWER_TIMEOUT:g} s") from exc


class _Transport(httpx.AsyncBaseTransport):
    """authlib's way out: one request as it is, its answer read as far as one may be long."""

    def __init__(self, origins: OriginClient, http: Any) -> None:
        self._origins = origins
        self._http = http

    async def handle_async_request(self, request: Any) -> Any:
        url = str(request.url)
        body = await request.aread()
        fields = {name: value for name, value in request.headers.items() if name != "host"}
        fields["accept-encoding"] = "identity"

        async def content() -> AsyncIterator[bytes]:
            yield body

        response = await self._origins.hand_on(request.method, url, fields, content())
        kind = response.headers.get("content-type", "")
        read = await read_answer(response, url)
        fields = {"content-type": kind}
        return self._http.Response(response.status_code, headers=fields, content=read)


def _object(answer: httpx.Response, place: str) -> dict[str, Any]:
    try:
        told = msgspec.json.decode(answer.content)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise OriginFailed(f"{shown(place)} answered {answer.status_code}, and no JSON object")
    return told


def _text(told: Mapping[str, Any], name: str, *, limit: int = 2048) -> str:
    """A string of an answer; empty where there is none, or a longer one."""
    found = told.get(name)
    return found if isinstance(found, str) and len(found) <= limit and found.isprintable() else ""


def _number(told: Mapping[str, Any], name: str, default: float) -> float:
    found = told.get(name, default)
    # Some write numbers as strings.
    try:
        number = float(found)
    except (TypeError, ValueError):
        return default
    return number if 0 <= number < 1e9 else default
