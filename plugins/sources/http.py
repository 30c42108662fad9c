"""The `http` and `https` sources: any origin that speaks HTTP.

Asks for identity coding, follows redirects by hand, verifies TLS. Every connection asks the egress
policy. Header fields of a request go to the origin that was named and to no other; configured
credentials to their own origin, wherever a redirect leads.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import AsyncIterator, Mapping

import httpx

from hawker.core.contracts import (
    Reading,
    Source,
    SourceItem,
    SourceRequest,
    SourceServices,
)
from hawker.core.errors import (
    BadRequest,
    HawkerError,
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
    RangeIgnored,
)
from hawker.core.outgoing import OriginClient, origin_tls, reason, shown
from hawker.core.ranges import ByteRange, parse_content_range, parse_unsatisfied
from hawker.core.registries import digest_in
from hawker.core.settings import Settings
from hawker.core.validators import settled, strong_validator
from hawker.pluggy_specs import hookimpl
from hawker.plugins.sources.answers import (
    SLOWEST_OVER,
    Pace,
    content_length,
    hold_back,
    retry_after,
)

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
        named: str = "",
    ) -> None:
        self.total = total
        self.validator = validator
        self.ranges = ranges
        self.span = span
        # A registry's content is what its URL names, whatever the answer says.
        self.digest = named or ("" if response is None else _digest(response))
        self.modified = None if response is None else settled(response.headers)
        self._response = response
        self._slowest_over = slowest_over

    async def stream(self) -> AsyncIterator[bytes]:
        if self._response is None:
            return
        name = shown(str(self._response.url))
        received, pace = 0, Pace(name, self._slowest_over)
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
            raise OriginFailed(f"{name} broke off after {received} bytes: {reason(exc)}") from exc
        expected = self._expected()
        if expected is not None and received != expected:
            raise OriginFailed(f"{name} sent {received} bytes, not {expected}")

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
        self._origins = OriginClient(services, origin_tls(ca))
        self._slowest_over = slowest_over

    async def open(self, request: SourceRequest, span: ByteRange | None = None) -> Reading:
        headers = {} if span is None else {"range": span.header()}
        response = await self._get(request, headers)
        if response.status_code == 416 and span is not None:
            return await self._beyond_the_end(request, response)
        await _check(response, 200, 206)
        if response.status_code == 206:
            return await self._partial(request, response, span)
        return HttpReading(
            response,
            content_length(response.headers),
            strong_validator(response.headers),
            None,
            ranges="bytes" in response.headers.get("accept-ranges", "").lower(),
            slowest_over=self._slowest_over,
            named=digest_in(request.url),
        )

    async def read(
        self, request: SourceRequest, span: ByteRange, validator: str, total: int | None
    ) -> Reading:
        condition = "if-match" if validator.startswith('"') else "if-unmodified-since"
        response = await self._get(request, {"range": span.header(), condition: validator})
        name = shown(request.url)
        if response.status_code == 412:
            await response.aclose()
            raise OriginChanged(f"{name} is not what it was any more")
        await _check(response, 206, 200, 416)
        reading: HttpReading | None = None
        if response.status_code == 206:
            reading = await self._partial(request, response, span)
            if reading.validator == validator and reading.total == total and reading.span == span:
                return reading
        await response.aclose()
        if reading is not None and reading.validator is None:
            raise OriginFailed(f"{name} answered a part without saying of what")
        if reading is not None and reading.validator == validator and reading.total == total:
            raise RangeIgnored(f"{name} answered with other bytes than were asked for")
        if response.status_code == 200 and strong_validator(response.headers) == validator:
            raise RangeIgnored(f"{name} ignored the range that was asked for")
        raise OriginChanged(f"{name} is not what it was any more")

    async def list(self, request: SourceRequest) -> AsyncIterator[SourceItem]:
        raise BadRequest(f"{shown(request.url)}: HTTP has no listing")
        yield

    async def close(self) -> None:
        await self._origins.close()

    async def _partial(
        self, request: SourceRequest, response: httpx.Response, wanted: ByteRange | None
    ) -> HttpReading:
        """A 206 that is what it says; raises OriginFailed for one that makes no sense."""
        parsed = parse_content_range(response.headers.get("content-range", ""))
        name = shown(str(response.url))
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
            raise RangeIgnored(f"{name} answered 206 with {problem}")
        return HttpReading(
            response,
            parsed[1],
            strong_validator(response.headers),
            parsed[0],
            ranges=True,
            slowest_over=self._slowest_over,
            named=digest_in(request.url),
        )

    async def _beyond_the_end(self, request: SourceRequest, response: httpx.Response) -> Reading:
        """416: empty content where the origin says so; otherwise ask for all."""
        total = parse_unsatisfied(response.headers.get("content-range", ""))
        validator = strong_validator(response.headers)
        await response.aclose()
        if total == 0:
            return HttpReading(None, 0, validator, None, ranges=False)
        return await self.open(request)

    async def _get(self, request: SourceRequest, extra: Mapping[str, str]) -> httpx.Response:
        """The final answer behind redirects, its body not read yet."""
        _check_fields(request.headers)
        fields = {**extra, "accept-encoding": "identity"}
        response = await self._origins.ask(
            "GET", request.url, request.headers, fields, tenant=request.tenant
        )
        hold_back(response.extensions["network_stream"].get_extra_info("socket"), request.rate)
        return response


def _check_fields(headers: Mapping[str, str]) -> None:
    """Raise BadRequest for header fields that a request may not bring along."""
    for name in headers:
        if name.lower() in _OWN_FIELDS:
            raise BadRequest(f"the header field {name} is set by the source itself")


async def _check(response: httpx.Response, *expected: int) -> None:
    """Raise what an unwelcome answer means."""
    url, status = shown(str(response.url)), response.status_code
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


def _digest(response: httpx.Response) -> str:
    """The digest of the whole representation (RFC 9530 `Repr-Digest`), empty where none is said."""
    match = _SHA256.search(response.headers.get("repr-digest", ""))
    if match is None:
        return ""
    try:
        return "sha256:" + base64.b64decode(match[1], validate=True).hex()
    except binascii.Error:
        return ""


@hookimpl
def hawker_source(scheme: str, settings: Settings, services: SourceServices) -> Source:
    return HttpSource(services, ca=settings.egress.ca)
