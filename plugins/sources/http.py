"""The `http` and `https` sources: any origin that speaks HTTP.

Asks for identity coding, follows redirects by hand, verifies TLS. Header fields of a request go to
the origin that was named and to no other. The one place, beside the control client, that imports
httpx.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

import httpx

from hawker.core.contracts import Reading, Source, SourceItem, SourceRequest
from hawker.core.errors import (
    BadRequest,
    HawkerError,
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
)
from hawker.core.ranges import ByteRange, parse_content_range, parse_unsatisfied
from hawker.pluggy_specs import hookimpl

CHUNK = 256 * 1024
MAX_REDIRECTS = 10
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
# A Last-Modified time is a strong validator only where the content cannot have changed twice within
# its one-second resolution: RFC 9110 section 8.8.2.2; the 60 s are RFC 7232's.
SETTLED_SECONDS = 60.0


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
    ) -> None:
        self.total = total
        self.validator = validator
        self.ranges = ranges
        self.span = span
        self._response = response

    async def stream(self) -> AsyncIterator[bytes]:
        if self._response is None:
            return
        received = 0
        try:
            async for chunk in self._response.aiter_raw(CHUNK):
                received += len(chunk)
                yield chunk
        except httpx.HTTPError as exc:
            raise OriginFailed(
                f"{self._response.url} broke off after {received} bytes: {_reason(exc)}"
            ) from exc
        expected = self._expected()
        if expected is not None and received != expected:
            raise OriginFailed(f"{self._response.url} sent {received} bytes, not {expected}")

    async def close(self) -> None:
        if self._response is not None:
            await self._response.aclose()

    def _expected(self) -> int | None:
        if self.span is not None and self.span.stop is not None:
            return self.span.stop - self.span.start
        return self.total


class HttpSource:
    """Reads URLs of both schemes with one pool of connections."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT, follow_redirects=False, trust_env=False, verify=_tls()
        )

    async def open(self, request: SourceRequest, span: ByteRange | None = None) -> Reading:
        headers = {} if span is None else {"range": span.header()}
        response = await self._get(request, headers)
        if response.status_code == 416 and span is not None:
            return await self._beyond_the_end(request, response)
        await _check(response, 200, 206)
        if response.status_code == 206:
            return _partial(response, span)
        return HttpReading(
            response,
            _length(response),
            _validator(response),
            None,
            ranges="bytes" in response.headers.get("accept-ranges", "").lower(),
        )

    async def read(
        self, request: SourceRequest, span: ByteRange, validator: str, total: int | None
    ) -> Reading:
        condition = "if-match" if validator.startswith('"') else "if-unmodified-since"
        response = await self._get(request, {"range": span.header(), condition: validator})
        if response.status_code == 412:
            await response.aclose()
            raise OriginChanged(f"{request.url} is not what it was any more")
        await _check(response, 206, 200, 416)
        reading: HttpReading | None = None
        if response.status_code == 206:
            reading = _partial(response, span)
            if reading.validator == validator and reading.total == total and reading.span == span:
                return reading
        await response.aclose()
        if reading is not None and reading.validator == validator and reading.total == total:
            raise OriginFailed(f"{request.url} answered with other bytes than were asked for")
        if response.status_code == 200 and _validator(response) == validator:
            raise OriginFailed(f"{request.url} ignored the range that was asked for")
        raise OriginChanged(f"{request.url} is not what it was any more")

    async def list(self, request: SourceRequest) -> AsyncIterator[SourceItem]:
        raise BadRequest(f"{request.url}: HTTP has no listing")
        yield

    async def close(self) -> None:
        await self._client.aclose()

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
        url = request.url
        first = _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            own = dict(request.headers) if _origin(url) == first else {}
            headers = {**own, **extra, "accept-encoding": "identity"}
            try:
                built = self._client.build_request("GET", url, headers=headers)
                response = await self._client.send(built, stream=True)
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                raise OriginFailed(f"{url} cannot be read: {_reason(exc)}") from exc
            if response.status_code not in (301, 302, 303, 307, 308):
                return response
            target = response.headers.get("location")
            await response.aclose()
            if not target:
                raise OriginFailed(f"{url} redirects to nowhere")
            url = urljoin(url, target)
            if urlsplit(url).scheme not in ("http", "https"):
                raise OriginRefused(f"{request.url} redirects to {url}, which is not HTTP")
        raise OriginFailed(f"{request.url} redirects more than {MAX_REDIRECTS} times")


def _tls() -> ssl.SSLContext:
    """The system's trusted certificates; SSL_CERT_FILE and SSL_CERT_DIR are honoured."""
    return httpx.create_ssl_context()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


async def _check(response: httpx.Response, *expected: int) -> None:
    """Raise what an unwelcome answer means."""
    url, status = response.url, response.status_code
    error: HawkerError | None = None
    if status in (404, 410):
        error = NotFound(f"{url} answered {status}: the origin has no such object")
    elif status in (401, 403):
        error = OriginRefused(f"{url} answered {status}: the origin wants other credentials")
    elif status not in expected:
        error = OriginFailed(f"{url} answered {status}", retry_after=_retry_after(response))
    elif response.headers.get("content-encoding", "identity").lower() != "identity":
        error = OriginFailed(f"{url} answered in a content coding that was not asked for")
    if error is not None:
        await response.aclose()
        raise error


def _partial(response: httpx.Response, wanted: ByteRange | None) -> HttpReading:
    """A 206 that is what it says; raises OriginFailed for one that makes no sense."""
    parsed = parse_content_range(response.headers.get("content-range", ""))
    if parsed is None or wanted is None or parsed[0].start != wanted.start:
        raise OriginFailed(f"{response.url} answered 206 with another range than was asked for")
    span, total = parsed
    length = _length(response)
    if length is not None and span.stop is not None and length != span.stop - span.start:
        raise OriginFailed(f"{response.url} answered 206 with a length that is not its range's")
    return HttpReading(response, total, _validator(response), span, ranges=True)


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isdigit() and len(text) <= 18 else None


def _validator(response: httpx.Response) -> str | None:
    """A strong validator of this answer, or None."""
    etag: str = response.headers.get("etag", "")
    if etag.startswith('"') and etag.endswith('"') and len(etag) >= 2:
        return etag
    modified: str = response.headers.get("last-modified", "")
    try:
        age = (
            parsedate_to_datetime(response.headers["date"]) - parsedate_to_datetime(modified)
        ).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None
    return modified if age >= SETTLED_SECONDS else None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, from a number or a date (RFC 9110 section 10.2.3)."""
    text: str = response.headers.get("retry-after", "")
    if text.isdigit():
        return min(float(text), 86400.0)
    try:
        later = parsedate_to_datetime(text)
        now = parsedate_to_datetime(response.headers["date"])
    except (KeyError, TypeError, ValueError):
        return None
    return min(max(0.0, (later - now).total_seconds()), 86400.0)


def _reason(exc: Exception) -> str:
    return str(exc) or type(exc).__name__


@hookimpl
def hawker_source(scheme: str) -> Source:
    return HttpSource()
