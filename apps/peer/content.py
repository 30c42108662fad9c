"""Content for plain clients: identity coding, ranges of it, as it becomes valid."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from hawker.apps.peer.answers import Answer, Asked, Content
from hawker.apps.peer.reading import send_span
from hawker.apps.web.disconnect import until_disconnected
from hawker.apps.web.parts import send_part
from hawker.core.conditions import Validators
from hawker.core.errors import (
    GenerationGone,
    HawkerError,
    NotFound,
    NotHereYet,
    OriginChanged,
    Unavailable,
)
from hawker.core.messages import DownloadRequest
from hawker.core.ranges import ByteRange
from hawker.core.storage import Entry
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.downloads import Download, download
from hawker.core.transfer.naming import Named, named_digest
from hawker.core.transfer.quotas import Quotas

DEFAULT_WAIT = 120.0
STALL = 60.0
STEP = 1.0
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
        if message["type"] == "http.response.start":
            message["headers"].append((b"hawker-task", named.spec.task_id.encode()))
        begun = True
        await send(message)

    for attempt in range(GENERATIONS):
        try:
            sent = _send_generation(conductor, request, wanted, named, sending)
            await until_disconnected(receive, sent)
            return
        except (OriginChanged, GenerationGone):
            if begun or attempt + 1 == GENERATIONS:
                raise


async def _send_generation(
    conductor: Conductor,
    request: Request,
    wanted: DownloadRequest,
    named: Named,
    send: Any,
) -> None:
    asked = Asked.of(request)
    wanted = msgspec.structs.replace(wanted, range=asked.first_wish)
    wait = _patience(request.headers)
    start = 0 if wanted.range is None else wanted.range.start
    # What brings no content takes nobody's place.
    placed = not asked.head
    async with download(
        conductor, wanted, named, position=start, patience=wait, placed=placed
    ) as active:
        try:
            entry = await active.opened(wait)
        except TimeoutError as exc:
            raise NotHereYet(f"nothing of {wanted.url} was here after {wait:g} s") from exc
        await _deliver(active, entry, asked, wait, send)


async def _deliver(active: Download, entry: Entry, asked: Asked, wait: float, send: Any) -> None:
    """The answer of content that may still be arriving."""
    answer = _content(entry).answer(asked)
    if asked.head or answer.status == 304:
        active.finished = True
        await _start(send, entry, answer)
        await _end(send)
        return
    active.want(answer.spans)
    if answer.spans is not None and entry.layout.total is None:
        await _arrived(active, entry, answer.spans, wait)
        # The length may be known by now.
        answer = _content(entry).answer(asked)
        active.want(answer.spans)
    await _body(active, entry, answer, wait, send)


async def _arrived(active: Download, entry: Entry, spans: list[ByteRange], wait: float) -> None:
    """Wait for spans of content of unknown length: only then is it known that there are such."""
    pieces = entry.layout.covering(spans)
    try:
        async with asyncio.timeout(wait):
            while entry.layout.total is None and not pieces <= entry.valid:
                active.run.check(entry.generation)
                await active.run.changed.wait(STEP)
    except TimeoutError as exc:
        raise NotHereYet(f"the ranges were not here after {wait:g} s") from exc


async def send_stored(
    quotas: Quotas, entry: Entry, request: Request, receive: Any, send: Any
) -> int:
    """Answer a GET or HEAD for content that is stored whole; returns how many bytes of it."""
    asked = Asked.of(request)
    with entry.using():
        await entry.prepare()
        if not entry.complete:
            raise NotFound(f"generation {entry.generation} is not stored whole any more")
        answer = _content(entry).answer(asked)
        spans = answer.spans
        if asked.head or answer.status == 304:
            spans = []
        elif spans is None:
            spans = [ByteRange(0, entry.layout.total)]
        await _start(send, entry, answer)
        with quotas.delivering(entry.spec.tenant):
            await until_disconnected(receive, _stored_body(quotas, entry, answer, spans, send))
    return sum(span.size for span in spans)


async def _stored_body(
    quotas: Quotas, entry: Entry, answer: Answer, spans: list[ByteRange], send: Any
) -> None:
    tenant = entry.spec.tenant
    for number, span in enumerate(spans):
        await _more(send, answer.before(number))
        position, stop = span.start, span.start + span.size
        while position < stop:
            end = min(stop, position + (quotas.deliver_part(tenant) or span.size))
            await quotas.deliver(tenant, end - position)
            await send_span(entry, ByteRange(position, end), send)
            position = end
    await _end(send, answer.before(len(spans)) if spans else b"")


def _content(entry: Entry) -> Content:
    return Content(
        Validators(f'"{entry.generation}"', entry.modified),
        entry.layout.total,
        digest=named_digest(entry.spec.url),
        passing=entry.windowed,
    )


async def _body(active: Download, entry: Entry, answer: Answer, wait: float, send: Any) -> None:
    started = False
    try:
        for number, span in enumerate(answer.spans or [None]):
            # Delivered is what all of the spans are.
            active.finished = False
            # The origin's reader may be far from the next of them.
            limit = max(wait, STALL) if started else wait
            spans = active.spans(span)
            head = answer.before(number)
            async with contextlib.aclosing(spans):
                while (part := await _next(spans, limit)) is not None:
                    # Each span is of what is here now: all must be of what the answer is about.
                    active.run.check(entry.generation)
                    if not started:
                        await _start(send, entry, answer)
                        started = True
                    await _more(send, head)
                    await send_span(entry, part, send)
                    limit, head = STALL, b""
    except (HawkerError, TimeoutError) as exc:
        if started:
            raise Unavailable("the rest of the content did not come") from exc
        if isinstance(exc, TimeoutError):
            raise NotHereYet(f"no byte was here after {wait:g} s") from exc
        raise
    if not started:
        await _start(send, entry, answer)
    await _end(send, answer.before(len(answer.spans or ())))


async def _next(spans: AsyncIterator[ByteRange], limit: float) -> ByteRange | None:
    async with asyncio.timeout(limit):
        return await anext(spans, None)


async def _start(send: Any, entry: Entry, answer: Answer) -> None:
    """Status and fields; whether all of the content is here is a hint for whoever asks."""
    answer.fields["hawker-complete"] = "true" if entry.complete else "false"
    headers = [(name.encode(), value.encode()) for name, value in answer.fields.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})


async def _more(send: Any, framing: bytes) -> None:
    if framing:
        await send_part(send, framing)


async def _end(send: Any, framing: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": framing})


def _patience(headers: Mapping[str, str]) -> float:
    """Seconds a client waits for the first byte: `Prefer: wait=N` (RFC 7240)."""
    for preference in headers.get("prefer", "").split(","):
        name, _, value = preference.strip().partition("=")
        if name.strip().lower() == "wait" and value.strip().isdecimal():
            return min(float(value), DEFAULT_WAIT * 10)
    return DEFAULT_WAIT
