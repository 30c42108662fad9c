"""An OpenID Connect provider: what it says of itself (OpenID Connect Discovery 1.0) and its signing
keys, kept, and asked for again.

They are asked for when the first token is shown, every ten minutes, and where a token names a key
that is not known; never more often than every ten seconds, whatever is shown. While the provider is
away its keys count for an hour more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey

from hawker.core.egress import is_loopback
from hawker.core.errors import HawkerError, OriginFailed, Unavailable
from hawker.core.outgoing import OriginClient, answer_body, shown

log = logging.getLogger(__name__)

DISCOVERY = "/.well-known/openid-configuration"
# Seconds.
FRESH = 600.0
USABLE = FRESH + 3600.0
MIN_INTERVAL = 10.0
FETCH_TIMEOUT = 10.0

MAX_DOCUMENT = 256 * 1024
MAX_KEYS = 64
MIN_RSA_BITS = 2048

_NOTHING: Mapping[str, str] = {}
_PLACES = {
    "jwks_uri": "keys",
    "authorization_endpoint": "sign-in page",
    "token_endpoint": "tokens",
    "device_authorization_endpoint": "devices",
    "revocation_endpoint": "revocations",
    "userinfo_endpoint": "users",
}


class Provider:
    """One issuer; asked by one request at a time, however many callers wait."""

    def __init__(
        self, issuer: str, client: OriginClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.issuer = issuer
        self._client = client
        self._clock = clock
        self._document: Mapping[str, Any] = {}
        self._keys: tuple[Key, ...] = ()
        self._fetched = self._tried = float("-inf")
        self._failure: HawkerError | None = None
        self._flight: asyncio.Task[None] | None = None

    async def named(self, kid: str | None) -> list[Key]:
        """The keys of this id; all of them where a token names none.

        Raises:
            Unavailable: the provider is away, and what it said before is of no use here.
        """
        await self._known()
        found = self._find(kid)
        if not found and kid is not None:
            await self._refresh()
            found = self._find(kid)
            if not found and self._failure is not None:
                raise self._away()
        return found

    async def document(self) -> Mapping[str, Any]:
        """What it says of itself; raises Unavailable where it is away."""
        await self._known()
        return self._document

    async def close(self) -> None:
        if self._flight is not None:
            self._flight.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flight
        await self._client.close()

    async def _known(self) -> None:
        age = self._clock() - self._fetched
        if age > USABLE:
            await self._refresh()
            if self._clock() - self._fetched > USABLE:
                raise self._away()
        elif age > FRESH:
            # Nobody waits for what may take until a timeout.
            self._begin()

    def _find(self, kid: str | None) -> list[Key]:
        return [key for key in self._keys if kid is None or key.kid == kid]

    def _away(self) -> Unavailable:
        return Unavailable(
            f"the keys of {self.issuer} cannot be had now",
            hint="the log says why",
            retry_after=MIN_INTERVAL,
        )

    async def _refresh(self) -> None:
        """Until the request that is under way, or was due, has ended; it has a deadline."""
        flight = self._begin()
        if flight is not None:
            # Whoever waits may leave; the others still want the answer.
            await asyncio.shield(flight)

    def _begin(self) -> asyncio.Task[None] | None:
        """The request under way, a new one where one is due, else None."""
        if self._flight is not None and not self._flight.done():
            return self._flight
        now = self._clock()
        if now - self._tried < MIN_INTERVAL:
            return None
        self._tried = now
        # Of this object, and ended by `close`: it outlives the caller that began it.
        self._flight = asyncio.ensure_future(self._fetch())
        return self._flight

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                document, keys = await self._ask()
        except TimeoutError:
            self._failure = OriginFailed(f"it did not answer in {FETCH_TIMEOUT:g} s")
        except HawkerError as exc:
            self._failure = exc
        else:
            self._document, self._keys = document, keys
            self._fetched, self._failure = self._clock(), None
        finally:
            self._tried = self._clock()
        if self._failure is not None:
            log.warning("the keys of %s cannot be had: %s", self.issuer, self._failure)

    async def _ask(self) -> tuple[Mapping[str, Any], tuple[Key, ...]]:
        document = await discover(self._client, self.issuer)
        place = endpoint(document, "jwks_uri")
        listed = (await read_json(self._client, place)).get("keys")
        if not isinstance(listed, list):
            raise OriginFailed(f"{shown(place)} is no set of keys")
        keys = tuple(key for entry in listed[:MAX_KEYS] if (key := _signing_key(entry)) is not None)
        if not keys:
            raise OriginFailed(f"{shown(place)} has no key that can be used")
        return document, keys


async def discover(client: OriginClient, issuer: str) -> Mapping[str, Any]:
    """What the provider says of itself; raises OriginFailed, Forbidden."""
    document = await read_json(client, issuer.rstrip("/") + DISCOVERY)
    if document.get("issuer") != issuer:
        raise OriginFailed(
            f"the provider calls itself {str(document.get('issuer'))[:200]!r}",
            hint="write the issuer as the provider does, to the last slash",
        )
    return document


def endpoint(document: Mapping[str, Any], name: str) -> str:
    """A place that the provider names, such as `token_endpoint`; raises OriginFailed where it names
    none that can be trusted."""
    place = document.get(name)
    if not isinstance(place, str) or not is_trustworthy(place):
        raise OriginFailed(f"the provider names no place for its {_PLACES[name]} ({name})")
    return place


async def read_json(
    client: OriginClient, url: str, headers: Mapping[str, str] = _NOTHING
) -> dict[str, Any]:
    """A JSON object; redirects are not followed, no credentials are shown but those given.

    Raises:
        OriginFailed: there is none, or it is longer than `MAX_DOCUMENT`.
        Forbidden: the egress policy.
    """
    fields = {"accept": "application/json", "accept-encoding": "identity", **headers}
    response = await client.hand_on("GET", url, fields, None)
    status, body = response.status_code, await read_answer(response, url)
    if status != 200:
        raise OriginFailed(f"{shown(url)} answered {status}")
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise OriginFailed(f"{shown(url)} is no JSON object")
    return document


async def read_answer(response: httpx.Response, url: str) -> bytes:
    """The body of an answer that is not read yet; raises OriginFailed for one that is coded or
    longer than `MAX_DOCUMENT`, or breaks off."""
    coding = response.headers.get("content-encoding", "identity").lower()
    if coding != "identity":
        await response.aclose()
        raise OriginFailed(f"{shown(url)} answered {response.status_code} {coding}")
    return await answer_body(response, url, MAX_DOCUMENT)


def is_trustworthy(url: str) -> bool:
    """Whoever answers there is whom the URL names: `https`, or this machine itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        sound = bool(host) and parts.username is None and parts.port != 0
    except ValueError:
        return False
    return sound and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))


def is_issuer(url: str) -> bool:
    """OpenID Connect Discovery 1.0 section 3: without a query and a fragment."""
    return is_trustworthy(url) and {"?", "#"}.isdisjoint(url)


def _signing_key(entry: object) -> Key | None:
    """A public key; None for any other entry, as one that cannot be understood does not spoil the
    set (RFC 7517 section 5). Shared secrets are no provider's business.

    What the key is for (`use`, `key_ops`, `alg`) is looked at where it is used.
    """
    if not isinstance(entry, dict) or entry.get("kty") not in ("RSA", "EC", "OKP"):
        return None
    try:
        with warnings.catch_warnings():
            # Short RSA keys, which are not taken.
            warnings.simplefilter("ignore")
            key = JWKRegistry.import_key(entry)
            usable = _is_strong(key)
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    return key if usable else None


def _is_strong(key: Key) -> bool:
    match key:
        case RSAKey():
            return key.public_key.key_size >= MIN_RSA_BITS
        case ECKey():
            return key.curve_name == "P-256"
        case OKPKey():
            return key.as_dict(private=False).get("crv") == "Ed25519"
        case _:
            return False
