"""An OpenID Connect provider's signing keys: found by discovery, kept, and asked for again.

Keys are asked for when the first token is shown, every ten minutes, and where a token names a key
that is not known; never more often than every ten seconds, whatever is shown. While the provider is
away its keys count for an hour more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey

from hawker.core.egress import is_loopback
from hawker.core.errors import HawkerError, OriginFailed, Unavailable
from hawker.core.outgoing import OriginClient, reason, shown

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


class ProviderKeys:
    """The keys of one issuer; asked for by one request at a time, however many callers wait."""

    def __init__(
        self, issuer: str, client: OriginClient, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._issuer = issuer
        self._client = client
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetched = self._tried = float("-inf")
        self._failure: HawkerError | None = None
        self._flight: asyncio.Task[None] | None = None

    async def named(self, kid: str | None) -> list[Key]:
        """The keys of this id; all of them where a token names none.

        Raises:
            Unavailable: the provider is away, and what it said before is of no use here.
        """
        age = self._clock() - self._fetched
        if age > USABLE:
            await self._refresh()
            if self._clock() - self._fetched > USABLE:
                raise self._away()
        elif age > FRESH:
            # Nobody waits for what may take until a timeout.
            self._begin()
        found = self._find(kid)
        if not found and kid is not None:
            await self._refresh()
            found = self._find(kid)
            if not found and self._failure is not None:
                raise self._away()
        return found

    async def close(self) -> None:
        if self._flight is not None:
            self._flight.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flight
        await self._client.close()

    def _find(self, kid: str | None) -> list[Key]:
        return [key for key in self._keys if kid is None or key.kid == kid]

    def _away(self) -> Unavailable:
        return Unavailable(
            f"the keys of {self._issuer} cannot be had now",
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
                keys = await self._ask()
        except TimeoutError:
            self._failure = OriginFailed(f"it did not answer in {FETCH_TIMEOUT:g} s")
        except HawkerError as exc:
            self._failure = exc
        else:
            self._keys, self._fetched, self._failure = keys, self._clock(), None
        finally:
            self._tried = self._clock()
        if self._failure is not None:
            log.warning("the keys of %s cannot be had: %s", self._issuer, self._failure)

    async def _ask(self) -> tuple[Key, ...]:
        document = await self._get(self._issuer.rstrip("/") + DISCOVERY)
        if document.get("issuer") != self._issuer:
            raise OriginFailed(
                f"the provider calls itself {str(document.get('issuer'))[:200]!r}",
                hint="write the issuer as the provider does, to the last slash",
            )
        place = document.get("jwks_uri")
        if not isinstance(place, str) or not is_trustworthy(place):
            raise OriginFailed("the provider names no place for its keys (jwks_uri)")
        listed = (await self._get(place)).get("keys")
        if not isinstance(listed, list):
            raise OriginFailed(f"{shown(place)} is no set of keys")
        keys = tuple(key for entry in listed[:MAX_KEYS] if (key := _signing_key(entry)) is not None)
        if not keys:
            raise OriginFailed(f"{shown(place)} has no key that can be used")
        return keys

    async def _get(self, url: str) -> dict[str, Any]:
        """A JSON object; redirects are not followed, no credentials are shown."""
        fields = {"accept": "application/json", "accept-encoding": "identity"}
        response = await self._client.hand_on("GET", url, fields, None)
        try:
            coding = response.headers.get("content-encoding", "identity").lower()
            if response.status_code != 200 or coding != "identity":
                raise OriginFailed(f"{shown(url)} answered {response.status_code} {coding}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_DOCUMENT:
                    raise OriginFailed(f"{shown(url)} sends more than {MAX_DOCUMENT} bytes")
        except httpx.HTTPError as exc:
            raise OriginFailed(f"{shown(url)} broke off: {reason(exc)}") from exc
        finally:
            await response.aclose()
        try:
            document = msgspec.json.decode(bytes(body))
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise OriginFailed(f"{shown(url)} is no JSON object")
        return document


def is_trustworthy(url: str) -> bool:
    """Whoever answers there is whom the URL names: `https`, or this machine itself."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        sound = bool(host) and parts.username is None and parts.port != 0
    except ValueError:
        return False
    return sound and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))


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
