"""Reading server-sent events (WHATWG HTML, section 9.2) as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx

from hawker.core.errors import BadRequest

MAX_EVENT = 16 * 1024 * 1024


class Event(NamedTuple):
    """One event: its id, empty where it has none, and its data lines joined by newlines."""

    id: str
    data: bytes


async def sse(response: httpx.Response) -> AsyncIterator[Event]:
    """The events of a streaming response; comments and unknown fields are passed over.

    Raises:
        BadRequest: an event is larger than 16 MiB.
    """
    buffer = b""
    async for chunk in response.aiter_raw():
        buffer += chunk
        *blocks, buffer = buffer.split(b"\n\n")
        if len(buffer) > MAX_EVENT:
            raise BadRequest(f"an event is larger than {MAX_EVENT} bytes")
        for block in blocks:
            event = _parse(block)
            if event is not None:
                yield event


def _parse(block: bytes) -> Event | None:
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"id":
            name = value.decode("utf-8", "replace")
    return Event(name, b"\n".join(data)) if data else None
