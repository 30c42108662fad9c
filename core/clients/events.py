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


class Splitter:
    """Cuts a stream of bytes into events; comments and unknown fields are passed over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes; raises BadRequest for one larger than 16 MiB."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > MAX_EVENT:
            raise BadRequest(f"an event is larger than {MAX_EVENT} bytes")
        return [event for block in blocks if (event := _parse(block)) is not None]


async def sse(response: httpx.Response) -> AsyncIterator[Event]:
    """The events of a streaming response; raises BadRequest for one larger than 16 MiB."""
    splitter = Splitter()
    async for chunk in response.aiter_raw():
        for event in splitter.feed(chunk):
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
