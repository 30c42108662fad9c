"""What OCI registries ask of their clients: media types, token challenges, digests in paths.

Content that a registry names by its digest is known to be right wherever it came from, and a token
for pulling is had by asking the place that a challenge names (the Docker Registry token
specification; RFC 6750 for the challenge, RFC 9110 section 11.6.1 for its form).
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode, urlsplit
from weakref import WeakValueDictionary

import httpx
import msgspec

from hawker.core.contracts import Credential
from hawker.core.digests import ALGORITHMS
from hawker.core.errors import OriginFailed, OriginRefused
from hawker.core.ids import digest_of_fields

MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
# Registries give a token that says nothing of its end for this long, and no shorter.
SHORTEST_LIFE = 60.0
# Asked for anew so many seconds before its end.
MARGIN = 10.0
MAX_TOKENS = 1024
MAX_ANSWER = 256 * 1024

_CONTENT = re.compile(r"^/v2/(.+)/(manifests|blobs)/([a-z0-9]+:[0-9a-f]+)\Z")
_PLACE = re.compile(r"^/v2/(.+)/(?:manifests|blobs|tags|referrers)/")
_SCHEME = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s+|\s*$)")
_FIELD = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')

Send = Callable[[str, Mapping[str, str]], Awaitable[httpx.Response]]


def digest_in(url: str) -> str:
    """The digest, `sha256:<hex>`, by which a registry's URL names its content; empty for others."""
    match = _CONTENT.match(urlsplit(url).path)
    if match is None:
        return ""
    algorithm, _, value = match[3].partition(":")
    return match[3] if len(value) == ALGORITHMS.get(algorithm) else ""


def accepted(url: str) -> str:
    """The `Accept` field for a URL: without one a registry gives a manifest in an old form, or says
    that there is none."""
    manifest = re.match(r"^/v2/.+/manifests/[^/]+\Z", urlsplit(url).path)
    return ", ".join((*MANIFEST_TYPES, "*/*")) if manifest else "*/*"


def basic(credential: Credential) -> str:
    """A user of HTTP's Basic scheme, as `Authorization` (RFC 7617)."""
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


class Challenge(msgspec.Struct, frozen=True):
    """What a 401 asks for: a scheme in lower case, and its parameters."""

    scheme: str
    fields: dict[str, str]


def parse_challenge(text: str) -> Challenge | None:
    """The first challenge of a `WWW-Authenticate` field, None where it makes no sense."""
    scheme = _SCHEME.match(text)
    if scheme is None:
        return None
    fields: dict[str, str] = {}
    position = scheme.end()
    while (field := _FIELD.match(text, position)) is not None:
        value = field[3] if field[2] is None else re.sub(r"\\(.)", r"\1", field[2])
        fields.setdefault(field[1].lower(), value)
        position = field.end()
    return Challenge(scheme[1].lower(), fields)


def trusts(registry: str, realm: str) -> bool:
    """Whether a registry's users may show at this realm what they have for the registry: it is the
    same host, or one below the same registrable domain (and then over TLS).

    A domain counts as registrable that has two labels, or three where the last two are short, as in
    `example.co.uk`; addresses and names without a dot are no domains.
    """
    ours, theirs = urlsplit(registry), urlsplit(realm)
    if not ours.hostname or not theirs.hostname or theirs.scheme not in ("http", "https"):
        return False
    if ours.scheme == "https" and theirs.scheme != "https":
        return False
    if ours.hostname == theirs.hostname:
        return True
    domain = _registrable(ours.hostname)
    return theirs.scheme == "https" and bool(domain) and domain == _registrable(theirs.hostname)


def _registrable(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.rstrip(".").split(".")
        short = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
        count = 3 if short else 2
        return ".".join(labels[-count:]) if len(labels) >= count else ""
    return ""


class Tokens:
    """Bearer tokens for pulling, each for one registry, scope and credential.

    `send` makes a GET of a URL with header fields; its answer's body is not read yet.
    """

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def known(self, url: str, credential: Credential | None) -> str:
        """The token that opened this part of a registry last, empty where there is none."""
        place = _place(url)
        if not place or not self._held:
            return ""
        token, until = self._held.get(_key(place, credential), ("", 0.0))
        return token if until > self._clock() else ""

    async def answer(
        self, url: str, refusal: httpx.Response, credential: Credential | None, shown: str
    ) -> str:
        """A token that this refusal (401) asks for, empty where it asks for none; `shown` is the
        token that was refused, if any.

        Raises:
            OriginRefused: the realm is not to be shown this credential, or refuses it.
            OriginFailed: it cannot be asked.
        """
        place = _place(url)
        challenge = parse_challenge(refusal.headers.get("www-authenticate", ""))
        if not place or challenge is None or challenge.scheme != "bearer":
            return ""
        key = _key(place, credential)
        asking = self._asking.setdefault(key, asyncio.Lock())
        async with asking:
            # Many who were refused together ask once.
            known = self.known(url, credential)
            if known and known != shown:
                return known
            realm = challenge.fields.get("realm", "")
            fields = {"accept": "application/json"}
            if credential is not None and credential.username:
                if not trusts(url, realm):
                    raise OriginRefused(
                        f"{urlsplit(url).netloc} wants its users to sign in at {realm!r}, which is"
                        " not its own",
                        hint="its credential is not shown there",
                    )
                fields["authorization"] = basic(credential)
            token, life = await self._ask(_query(realm, challenge.fields), fields)
            if len(self._held) >= MAX_TOKENS:
                self._held.clear()
            until = self._clock() + max(SHORTEST_LIFE, life) - MARGIN
            self._held[key] = (token, until)
            return token

    async def _ask(self, url: str, fields: Mapping[str, str]) -> tuple[str, float]:
        """A token, and the seconds it lives."""
        host = urlsplit(url).netloc
        response = await self._send(url, fields)
        try:
            if response.status_code in (401, 403):
                raise OriginRefused(f"{host} gave no token: it answered {response.status_code}")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise OriginFailed(f"{host} gave no token: its answer is too long")
            given = msgspec.json.decode(bytes(body), type=_Given)
        except (msgspec.DecodeError, httpx.HTTPError) as exc:
            raise OriginFailed(f"{host} gave no token: {type(exc).__name__}") from exc
        finally:
            await response.aclose()
        token = given.token or given.access_token
        if response.status_code != 200 or not token or not token.isascii() or "\n" in token:
            raise OriginFailed(f"{host} gave no token: it answered {response.status_code}")
        return token, given.expires_in


class _Given(msgspec.Struct):
    """A token endpoint's answer."""

    token: str = ""
    access_token: str = ""
    expires_in: float = SHORTEST_LIFE


def _place(url: str) -> str:
    """A registry and one of its repositories; empty for what is no registry's."""
    parts = urlsplit(url)
    match = _PLACE.match(parts.path)
    return "" if match is None else f"{parts.scheme}://{parts.netloc}/{match[1]}"


def _key(place: str, credential: Credential | None) -> str:
    if credential is None:
        return digest_of_fields(place)
    # Some registries give a token by other fields than a user's name.
    fields = (part for field in sorted(credential.headers.items()) for part in field)
    shown = (credential.username, credential.password, credential.token)
    return digest_of_fields(place, *shown, *fields)


def _query(realm: str, fields: Mapping[str, str]) -> str:
    """The realm's URL with what a token is wanted for."""
    parts = urlsplit(realm)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise OriginFailed(f"{realm!r} is no place to get a token from")
    wanted = [("service", fields["service"])] if "service" in fields else []
    wanted += [("scope", scope) for scope in fields.get("scope", "").split()]
    query = "&".join(part for part in (parts.query, urlencode(wanted)) if part)
    return parts._replace(query=query, fragment="").geturl()
