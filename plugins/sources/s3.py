"""The `s3` source: objects of S3 and of stores that speak its protocol, as `s3://bucket/key`.

The bucket's name is the origin; which endpoint has it is a setting. Credentials come from the
credentials plugins only. A presigned URL is an https URL, and so the `https` source's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, unquote, urlsplit

import msgspec

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
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
    RangeIgnored,
)
from hawker.core.ranges import ByteRange, parse_content_range
from hawker.core.settings import Settings
from hawker.core.validators import settled, strong_etag
from hawker.pluggy_specs import hookimpl
from hawker.plugins.sources.answers import (
    SLOWEST_OVER,
    Pace,
    content_length,
)

if TYPE_CHECKING:
    from hawker.plugins.sources.s3_store import Answer, ObjectStore

# What S3 allows in names of new buckets, and the underscore of old ones; no ARN, port or user.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")


class S3Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.options.s3]`."""

    endpoint: str = ""
    """URL of the store, `https://host[:port]`; empty: Amazon's own of the region."""
    region: str = "us-east-1"
    """Region that requests are signed for."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Where the bucket's name stands: in the path, in the host's name, or as botocore decides."""
    anonymous: bool = False
    """Send unsigned requests where no credentials plugin has something for a bucket."""
    ca: str = ""
    """Certificates (PEM) that the endpoint may be verified by, besides `egress.ca`."""


class S3Reading:
    """An object's bytes, or some of them."""

    def __init__(
        self,
        answer: Answer,
        shown: str,
        total: int | None,
        span: ByteRange | None,
        slowest_over: float,
    ) -> None:
        self.total = total
        self.validator = strong_etag(answer.headers)
        self.ranges = self.validator is not None
        self.span = span
        whole = span is None or span == ByteRange(0, total)
        self.digest = _digest(answer.headers) if whole else ""
        self.modified = settled(answer.headers)
        self._answer = answer
        self._shown = shown
        self._slowest_over = slowest_over

    async def stream(self) -> AsyncIterator[bytes]:
        expected = self.total
        if self.span is not None and self.span.stop is not None:
            expected = self.span.stop - self.span.start
        received, pace = 0, Pace(self._shown, self._slowest_over)
        while expected is None or received < expected:
            since = time.monotonic()
            chunk = await self._answer.read()
            if expected is not None:
                # Some stores answer with more than the range that was asked for.
                chunk = chunk[: expected - received]
            received += len(chunk)
            if not chunk:
                break
            pace.took(len(chunk), time.monotonic() - since)
            yield chunk
        if expected is not None and received != expected:
            raise OriginFailed(f"{self._shown} sent {received} bytes, not {expected}")

    async def close(self) -> None:
        await self._answer.close()


class S3Source:
    """Reads objects of one endpoint."""

    def __init__(
        self,
        services: SourceServices,
        options: S3Options,
        *,
        ca: str = "",
        slowest_over: float = SLOWEST_OVER,
    ) -> None:
        self._services = services
        self._options = options
        self._authorities = [file for file in (options.ca, ca) if file]
        self._slowest_over = slowest_over
        self._store: ObjectStore | None = None
        self._lock = asyncio.Lock()

    async def open(self, request: SourceRequest, span: ByteRange | None = None) -> Reading:
        answer, shown = await self._get(request, {} if span is None else {"Range": span.header()})
        if answer.status == 206 and span is not None:
            partial = self._partial(answer, shown, span)
            if partial is not None:
                return partial
        if answer.status in (206, 416):
            # Beyond the end, or a range that makes no sense: an empty object has none at all.
            await answer.close()
            answer, shown = await self._get(request, {})
        if answer.status != 200:
            await answer.close()
            raise OriginFailed(f"{shown}: the endpoint answered {answer.status}")
        return S3Reading(answer, shown, content_length(answer.headers), None, self._slowest_over)

    async def read(
        self, request: SourceRequest, span: ByteRange, validator: str, total: int | None
    ) -> Reading:
        answer, shown = await self._get(request, {"Range": span.header(), "IfMatch": validator})
        same = strong_etag(answer.headers) == validator
        if answer.status == 206 and same:
            reading = self._partial(answer, shown, span)
            if reading is not None and reading.total == total and reading.span == span:
                return reading
            same = reading is None or reading.total == total
        await answer.close()
        if not same:
            raise OriginChanged(f"{shown} is not what it was any more")
        raise RangeIgnored(f"{shown}: the endpoint ignored the range that was asked for")

    async def list(self, request: SourceRequest) -> AsyncIterator[SourceItem]:
        bucket, key = _parse(request.url, listing=True)
        prefix = key if not key or key.endswith("/") else f"{key}/"
        credential = await self._credential(request, bucket)
        found = False
        async for name, size in (await self._opened()).list(credential, bucket, prefix):
            found = True
            # The object that stands for the directory itself.
            if name != prefix:
                yield SourceItem(f"s3://{bucket}/{quote(name)}", size, size is None)
        if not found and prefix:
            raise NotFound(f"s3://{bucket}/{prefix}: the bucket has nothing below it")

    async def close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            await store.close()

    async def _get(self, request: SourceRequest, extra: Mapping[str, str]) -> tuple[Answer, str]:
        bucket, key = _parse(request.url)
        credential = await self._credential(request, bucket)
        store = await self._opened()
        return await store.get(credential, bucket, key, extra), f"s3://{bucket}/{key}"

    def _partial(self, answer: Answer, shown: str, wanted: ByteRange) -> S3Reading | None:
        """What was wanted of a 206, which may have more behind it; None where it makes no sense."""
        parsed = parse_content_range(answer.headers.get("content-range", ""))
        if parsed is None or parsed[0].stop is None or parsed[0].start != wanted.start:
            return None
        given, total = parsed
        if content_length(answer.headers) not in (None, parsed[0].stop - parsed[0].start):
            return None
        span = given if wanted.stop is None else wanted.clip(parsed[0].stop)
        return S3Reading(answer, shown, total, span, self._slowest_over)

    async def _credential(self, request: SourceRequest, bucket: str) -> Credential:
        if request.headers:
            raise BadRequest(
                f"{request.url}: requests to S3 are signed, and take no header fields",
                hint="configure credentials with sources.credentials",
            )
        found = await self._services.credentials.find(request.url, request.tenant)
        if found is not None and (found.anonymous or (found.access_key and found.secret_key)):
            return found
        if self._options.anonymous:
            return Credential(anonymous=True)
        raise OriginRefused(
            f"there are no credentials for s3://{bucket}",
            hint="name a plugin in sources.credentials, "
            "or set plugins.options.s3.anonymous for public buckets",
        )

    async def _opened(self) -> ObjectStore:
        async with self._lock:
            if self._store is None:
                self._store = await asyncio.to_thread(self._make)
            return self._store

    def _make(self) -> ObjectStore:
        from hawker.plugins.sources.s3_store import ObjectStore

        options = self._options
        return ObjectStore(
            self._services.egress,
            options.endpoint,
            options.region,
            options.addressing,
            self._authorities,
        )


def _parse(url: str, *, listing: bool = False) -> tuple[str, str]:
    """Bucket and key of a URL; only a listing may leave out the key."""
    parts = urlsplit(url)
    bucket, key = parts.netloc, unquote(parts.path.removeprefix("/"), errors="surrogateescape")
    if not _BUCKET.fullmatch(bucket):
        raise BadRequest(f"{url} names no bucket", hint="write s3://bucket/key")
    if parts.query or parts.fragment:
        raise BadRequest(f"{url} has a query", hint="write ? and # in keys as %3F and %23")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as exc:
        raise BadRequest(f"{url}: the key is not UTF-8") from exc
    if (not key and not listing) or size > 1024:
        raise BadRequest(f"{url} names no object", hint="write s3://bucket/key")
    return bucket, key


def _digest(headers: Mapping[str, str]) -> str:
    """The SHA-256 that the store keeps of the whole object; not that of its parts' checksums."""
    checksum = headers.get("x-amz-checksum-sha256", "")
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return ""
    try:
        digest = base64.b64decode(checksum, validate=True)
    except (binascii.Error, ValueError):
        return ""
    return f"sha256:{digest.hex()}" if len(digest) == 32 else ""


def _options(settings: Settings) -> S3Options:
    try:
        options = msgspec.convert(settings.plugins.options.get("s3", {}), S3Options)
        parts = urlsplit(options.endpoint)
        port_is_right = parts.port is None or parts.port > 0
    except (msgspec.ValidationError, ValueError) as exc:
        raise ConfigError(f"plugins.options.s3: {exc}") from exc
    bare = parts.path in ("", "/") and not parts.query and parts.username is None
    if options.endpoint and not (
        parts.scheme in ("http", "https") and parts.hostname and port_is_right and bare
    ):
        raise ConfigError(
            "plugins.options.s3.endpoint is no endpoint", hint="write https://host[:port]"
        )
    return options


@hookimpl
def hawker_source(scheme: str, settings: Settings, services: SourceServices) -> Source:
    return S3Source(services, _options(settings), ca=settings.egress.ca)
