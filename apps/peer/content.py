"""Content for plain clients: identity coding, single ranges, in order as it becomes valid."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from hawker.apps.peer.reading import send_span
from hawker.apps.web.disconnect import until_disconnected
from hawker.core.digests import Digest
from hawker.core.errors import (
    GenerationGone,
    HawkerError,
    NotFound,
    NotHereYet,
    OriginChanged,
    Unavailable,
)
from hawker.core.messages import DownloadRequest
from hawker.core.ranges import ByteRange, RangeSpec, Unsatisfiable, parse_range
from hawker.core.storage import Entry
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.downloads import Download, download
from hawker.core.transfer.naming import Named, named_digest

Headers = list[tuple[bytes, bytes]]

DEFAULT_WAIT = 120.0
STALL = 60.0
FIRST_BYTE = ByteRange(0, 1)
# How often content may change under a request that has not sent a byte.
GENERATIONS = 4


async def send_content(
    conductor: Conductor,
    request: Request,
    wanted: DownloadRequest,
    named: Named,
    receive: Any,
    send: Any,
) -> None:
    """Answer a GET or HEAD for a URL's content.

    Headers go out when the first wanted byte is here; before that every failure is a problem
    response, after that the connection is aborted. Content that gives way to another generation
    before then is waited for anew.

    Raises:
        HawkerError: before the headers.
        Unavailable: after them, so that the server cuts the body short.
    """
    begun = False

    async def sending(message: Any) -> None:
        nonlocal begun
        begun = True
        await send(message)

    for attempt in range(GENERATIONS):
        try:
            await _send_generation(conductor, request, wanted, named, receive, sending)
            return
        except (OriginChanged, GenerationGone):
            if begun or attempt + 1 == GENERATIONS:
                raise


async def _send_generation(
    conductor: Conductor,
    request: Request,
    wanted: DownloadRequest,
    named: Named,
    receive: Any,
    send: Any,
) -> None:
    head = request.method == "HEAD"
    spec = None if head else parse_range(request.headers.get("range"))
    wanted = _narrow(wanted, spec, head)
    wait = _patience(request.headers)
    async with download(conductor, wanted, named, position=0) as active:
        try:
            entry = await active.opened(wait)
        except TimeoutError as exc:
            raise NotHereYet(f"nothing of {wanted.url} was here after {wait:g} s") from exc
        if request.headers.get("if-range", _etag(entry)) != _etag(entry):
            spec = None
        span = _resolve(spec, entry)
        headers = _headers(entry, span, named_digest(entry.spec.url))
        if head:
            active.finished = True
            await _start(send, 200, headers)
            await send({"type": "http.response.body", "body": b""})
            return
        active.want(None if span is None else [span])
        body = _body(active, span, entry, wait, send, headers)
        await until_disconnected(receive, body)


async def send_stored(entry: Entry, request: Request, receive: Any, send: Any) -> int:
    """Answer a GET or HEAD for content that is stored whole; returns the bytes of its body."""
    head = request.method == "HEAD"
    spec = None if head else parse_range(request.headers.get("range"))
    if request.headers.get("if-range", _etag(entry)) != _etag(entry):
        spec = None
    span = _resolve(spec, entry)
    with entry.using():
        await entry.prepare()
        if not entry.complete:
            raise NotFound(f"generation {entry.generation} is not stored whole any more")
        headers = _headers(entry, span, named_digest(entry.spec.url))
        await _start(send, 200 if span is None else 206, headers)
        whole = ByteRange(0, 0) if head else span or ByteRange(0, entry.layout.total)
        await until_disconnected(receive, _stored_body(entry, whole, send))
    return (whole.stop or 0) - whole.start


async def _stored_body(entry: Entry, span: ByteRange, send: Any) -> None:
    await send_span(entry, span, send)
    await send({"type": "http.response.body", "body": b""})


def _etag(entry: Entry) -> str:
    return f'"{entry.generation}"'


def _narrow(wanted: DownloadRequest, spec: RangeSpec | None, head: bool) -> DownloadRequest:
    """The same request for no more than the client asks, as far as that is known already."""
    if head or (spec is not None and spec.first is None):
        return msgspec.structs.replace(wanted, range=FIRST_BYTE)
    if spec is not None and spec.first is not None:
        stop = None if spec.last is None else spec.last + 1
        return msgspec.structs.replace(wanted, range=ByteRange(spec.first, stop))
    return wanted


def _resolve(spec: RangeSpec | None, entry: Entry) -> ByteRange | None:
    total = entry.layout.total
    if spec is None or total is None:
        return None
    try:
        return spec.resolve(total)
    except Unsatisfiable as exc:
        raise UnsatisfiableOf(total, exc) from exc


class UnsatisfiableOf(Unsatisfiable):
    """A 416 that says how long the content is."""

    def __init__(self, total: int, cause: Unsatisfiable) -> None:
        super().__init__(cause.detail)
        self.headers: Mapping[str, str] = {"content-range": f"bytes */{total}"}


async def _body(
    active: Download,
    span: ByteRange | None,
    entry: Entry,
    wait: float,
    send: Any,
    headers: Headers,
) -> None:
    spans = active.spans(span)
    started = False
    limit = wait
    try:
        async with contextlib.aclosing(spans):
            while (part := await _next(spans, limit)) is not None:
                if not started:
                    await _start(send, 200 if span is None else 206, headers)
                    started, limit = True, STALL
                await send_span(entry, part, send)
    except (HawkerError, TimeoutError) as exc:
        if started:
            raise Unavailable("the rest of the content did not come") from exc
        if isinstance(exc, TimeoutError):
            raise NotHereYet(f"no byte was here after {wait:g} s") from exc
        raise
    if not started:
        await _start(send, 200 if span is None else 206, headers)
    await send({"type": "http.response.body", "body": b""})


async def _next(spans: AsyncIterator[ByteRange], limit: float) -> ByteRange | None:
    async with asyncio.timeout(limit):
        return await anext(spans, None)


async def _start(send: Any, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


def _headers(entry: Entry, span: ByteRange | None, digest: Digest | None) -> Headers:
    total = entry.layout.total
    headers: Headers = [
        (b"content-type", b"application/octet-stream"),
        (b"etag", _etag(entry).encode()),
        (b"accept-ranges", b"bytes"),
    ]
    if digest is not None and digest.algorithm == "sha256":
        coded = base64.b64encode(bytes.fromhex(digest.hex)).decode()
        headers.append((b"repr-digest", f"sha-256=:{coded}:".encode()))
    if span is not None and span.stop is not None:
        value = f"bytes {span.start}-{span.stop - 1}/{total}"
        headers.append((b"content-range", value.encode()))
        headers.append((b"content-length", str(span.stop - span.start).encode()))
    elif total is not None:
        headers.append((b"content-length", str(total).encode()))
    return headers


def _patience(headers: Mapping[str, str]) -> float:
    """Seconds a client waits for the first byte: `Prefer: wait=N` (RFC 7240)."""
    for preference in headers.get("prefer", "").split(","):
        name, _, value = preference.strip().partition("=")
        if name.strip().lower() == "wait" and value.strip().isdecimal():
            return min(float(value), DEFAULT_WAIT * 10)
    return DEFAULT_WAIT
