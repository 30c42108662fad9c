"""The `http` and `https` sources: any origin that speaks HTTP.

Asks for identity coding, follows redirects by hand, verifies TLS. Every connection asks the egress
policy. Header fields of a request go to the origin that was named and to no other; configured
credentials to their own origin, wherever a redirect leads.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from hawker.core.contracts import (
    Credential,
    Reading,
    Source,
    SourceItem,
    SourceRequest,
    SourceServices,
)
from hawker.core.errors import (
    BadRequest,
    ConfigError,
    HawkerError,
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
    RangeIgnored,
)
from hawker.core.ids import origin_of
from hawker.core.ranges import ByteRange, parse_content_range, parse_unsatisfied
from hawker.core.settings import Settings
from hawker.pluggy_specs import hookimpl
from hawker.plugins.sources.answers import (
    SLOWEST_OVER,
    Pace,
    content_length,
    hold_back,
    retry_after,
    settled,
    strong_etag,
)
from hawker.plugins.sources.pinned import pinned_client

MAX_REDIRECTS = 10
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
HEAD_TIMEOUT = 30.0

_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]{44}):", re.IGNORECASE)
# Fields that decide what the answer is, or belong to the connection: ours to set.
_OWN_FIELDS = frozenset(
    {
        "accept-encoding", "connection", "content-length", "expect", "host", "if-match",
        "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "keep-alive",
        "proxy-authorization", "proxy-connection", "range", "te", "trailer", "transfer-encoding",
        "upgrade",
    }
)  # fmt: skip


class HttpReading:
    """An answer of an HTTP origin."""

    def __init__(
        self,
        response: httpx.Response | None,
        total: int | None,
        validator: str | None,
        span: ByteRange | None,
        *,
        ranges: bool,
        slowest_over: float = SLOWEST_OVER,
    ) -> None:
        self.total = total
        self.validator = validator
        self.ranges = ranges
        self.span = span
        self.digest = "" if response is None else _digest(response)
        self.modified = None if response is None else settled(response.headers)
        self._response = response
        self._slowest_over = slowest_over

    async def stream(self) -> AsyncIterator[bytes]:
        if self._response is None:
            return
        shown = _shown(str(self._response.url))
        received, pace = 0, Pace(shown, self._slowest_over)
        # In pieces as they come: a collector of larger ones would hide how slowly they do.
        chunks = self._response.aiter_raw()
        try:
            while True:
                since = time.monotonic()
                chunk = await anext(chunks, b"")
                if not chunk:
                    break
                received += len(chunk)
                pace.took(len(chunk), time.monotonic() - since)
                yield chunk
        except httpx.HTTPError as exc:
            raise OriginFailed(f"{shown} broke off after {received} bytes: {_reason(exc)}") from exc
        expected = self._expected()
        if expected is not None and received != expected:
            raise OriginFailed(f"{shown} sent {received} bytes, not {expected}")

    async def close(self) -> None:
        if self._response is not None:
            await self._response.aclose()

    def _expected(self) -> int | None:
        if self.span is not None and self.span.stop is not None:
            return self.span.stop - self.span.start
        return self.total


class HttpSource:
    """Reads URLs of both schemes with one pool of connections."""

    def __init__(
        self, services: SourceServices, *, ca: str = "", slowest_over: float = SLOWEST_OVER
    ) -> None:
        self._credentials = services.credentials
        self._client = pinned_client(services.egress, _tls(ca), TIMEOUT)
        self._slowest_over = slowest_over

    async def open(self, request: SourceRequest, span: ByteRange | None = None) -> Reading:
        headers = {} if span is None else {"range": span.header()}
        response = await self._get(request, headers)
        if response.status_code == 416 and span is not None:
            return await self._beyond_the_end(request, response)
        await _check(response, 200, 206)
        if response.status_code == 206:
            return await self._partial(response, span)
        return HttpReading(
            response,
            content_length(response.headers),
            _validator(response),
            None,
            ranges="bytes" in response.headers.get("accept-ranges", "").lower(),
            slowest_over=self._slowest_over,
        )

    async def read(
        self, request: SourceRequest, span: ByteRange, validator: str, total: int | None
    ) -> Reading:
        condition = "if-match" if validator.startswith('"') else "if-unmodified-since"
        response = await self._get(request, {"range": span.header(), condition: validator})
        shown = _shown(request.url)
        if response.status_code == 412:
            await response.aclose()
            raise OriginChanged(f"{shown} is not what it was any more")
        await _check(response, 206, 200, 416)
        reading: HttpReading | None = None
        if response.status_code == 206:
            reading = await self._partial(response, span)
            if reading.validator == validator and reading.total == total and reading.span == span:
                return reading
        await response.aclose()
        if reading is not None and reading.validator is None:
            raise OriginFailed(f"{shown} answered a part without saying of what")
        if reading is not None and reading.validator == validator and reading.total == total:
            raise RangeIgnored(f"{shown} answered with other bytes than were asked for")
        if response.status_code == 200 and _validator(response) == validator:
            raise RangeIgnored(f"{shown} ignored the range that was asked for")
        raise OriginChanged(f"{shown} is not what it was any more")

    async def list(self, request: SourceRequest) -> AsyncIterator[SourceItem]:
        raise BadRequest(f"{_shown(request.url)}: HTTP has no listing")
        yield

    async def close(self) -> None:
        await self._client.aclose()

    async def _partial(self, response: httpx.Response, wanted: ByteRange | None) -> HttpReading:
        """A 206 that is what it says; raises OriginFailed for one that makes no sense."""
        parsed = parse_content_range(response.headers.get("content-range", ""))
        shown = _shown(str(response.url))
        problem = ""
        if parsed is None or wanted is None or parsed[0].start != wanted.start:
            problem = "another range than was asked for"
        else:
            span = parsed[0]
            length = content_length(response.headers)
            if length is not None and span.stop is not None and length != span.stop - span.start:
                problem = "a length that is not its range's"
            elif wanted.stop is not None and (span.stop or 0) > wanted.stop:
                problem = "more than was asked for"
        if problem or parsed is None:
            await response.aclose()
            raise RangeIgnored(f"{shown} answered 206 with {problem}")
        return HttpReading(
            response,
            parsed[1],
            _validator(response),
            parsed[0],
            ranges=True,
            slowest_over=self._slowest_over,
        )

    async def _beyond_the_end(self, request: SourceRequest, response: httpx.Response) -> Reading:
        """416: empty content where the origin says so; otherwise ask for all."""
        total = parse_unsatisfied(response.headers.get("content-range", ""))
        validator = _validator(response)
        await response.aclose()
        if total == 0:
            return HttpReading(None, 0, validator, None, ranges=False)
        return await self.open(request)

    async def _get(self, request: SourceRequest, extra: Mapping[str, str]) -> httpx.Response:
        """The final answer behind redirects, its body not read yet."""
        _check_fields(request.headers)
        url = request.url
        first = origin_of(url)
        deadline = asyncio.get_running_loop().time() + HEAD_TIMEOUT
        for _ in range(MAX_REDIRECTS + 1):
            fields = _signing(await self._credentials.find(url))
            if origin_of(url) == first:
                fields |= {name.lower(): value for name, value in request.headers.items()}
            fields |= {**extra, "accept-encoding": "identity"}
            response = await self._send(url, fields, deadline)
            if response.status_code not in (301, 302, 303, 307, 308):
                hold_back(
                    response.extensions["network_stream"].get_extra_info("socket"), request.rate
                )
                return response
            target = response.headers.get("location")
            await response.aclose()
            if not target:
                raise OriginFailed(f"{_shown(url)} redirects to nowhere")
            url = _redirected(url, target)
        raise OriginFailed(f"{_shown(request.url)} redirects more than {MAX_REDIRECTS} times")

    async def _send(self, url: str, headers: Mapping[str, str], deadline: float) -> httpx.Response:
        try:
            built = self._client.build_request("GET", url, headers=headers)
            async with asyncio.timeout_at(deadline):
                return await self._client.send(built, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            hint = "add its authority with egress.ca" if "certificate" in str(exc).lower() else ""
            raise OriginFailed(f"{_shown(url)} cannot be read: {_reason(exc)}", hint=hint) from exc
        except TimeoutError as exc:
            raise OriginFailed(f"{_shown(url)} did not answer in {HEAD_TIMEOUT:g} s") from exc


def _tls(ca: str) -> ssl.SSLContext:
    """The system's trusted certificates (SSL_CERT_FILE and SSL_CERT_DIR are honoured) and `ca`."""
    context = httpx.create_ssl_context()
    if ca:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"egress.ca: {ca} cannot be used: {exc}", hint="name a file of PEM certificates"
            ) from exc
    return context


def _shown(url: str) -> str:
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
        raise OriginRefused(f"{_shown(url)} redirects to something that is not HTTP")
    if parts.username is not None:
        raise OriginRefused(f"{_shown(url)} redirects to a URL with a user's name in it")
    return joined


def _check_fields(headers: Mapping[str, str]) -> None:
    """Raise BadRequest for header fields that a request may not bring along."""
    for name in headers:
        if name.lower() in _OWN_FIELDS:
            raise BadRequest(f"the header field {name} is set by the source itself")


def _signing(credential: Credential | None) -> dict[str, str]:
    """What a configured credential adds to a request (RFC 7617, RFC 6750)."""
    if credential is None:
        return {}
    fields = {name.lower(): value for name, value in credential.headers.items()}
    if credential.token:
        fields["authorization"] = f"Bearer {credential.token}"
    elif credential.username:
        pair = f"{credential.username}:{credential.password}".encode()
        fields["authorization"] = "Basic " + base64.b64encode(pair).decode()
    return fields


async def _check(response: httpx.Response, *expected: int) -> None:
    """Raise what an unwelcome answer means."""
    url, status = _shown(str(response.url)), response.status_code
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    error: HawkerError | None = None
    if status in (404, 410):
        error = NotFound(f"{url} answered {status}: the origin has no such object")
    elif status in (401, 403, 407):
        error = OriginRefused(f"{url} answered {status}: the origin wants other credentials")
    elif status not in expected:
        error = OriginFailed(f"{url} answered {status}", retry_after=retry_after(response.headers))
    elif coding not in ("", "identity"):
        error = OriginFailed(f"{url} answered in a content coding that was not asked for")
    if error is not None:
        await response.aclose()
        raise error


def _validator(response: httpx.Response) -> str | None:
    """A strong validator of this answer, or None."""
    etag = strong_etag(response.headers)
    if etag is not None:
        return etag
    return None if settled(response.headers) is None else response.headers["last-modified"]


def _digest(response: httpx.Response) -> str:
    """The digest of the whole representation (RFC 9530 `Repr-Digest`), empty where none is said."""
    match = _SHA256.search(response.headers.get("repr-digest", ""))
    if match is None:
        return ""
    try:
        return "sha256:" + base64.b64decode(match[1], validate=True).hex()
    except binascii.Error:
        return ""


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__


@hookimpl
def hawker_source(scheme: str, settings: Settings, services: SourceServices) -> Source:
    return HttpSource(services, ca=settings.egress.ca)
