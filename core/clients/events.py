"""Reading server-sent events (WHATWG HTML, section 9.2) as they arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

import httpx

from hawker.core.errors import BadRequest

# Of a scheduler: the largest is a lease on very many separate ranges.
MAX_EVENT = 4 * 1024 * 1024
# Of a peer, which cuts what it has to say into events that are smaller than this.
MAX_PEER_EVENT = 1024 * 1024
# Hawker's own have two; each costs the receiver about as much as 2 KiB of data.
MAX_LINES = 1024


class Event(NamedTuple):
    """One event: its id, empty where it has none, and its data lines joined by newlines."""

    id: str
    data: bytes


class Splitter:
    """Cuts a stream of bytes into events; comments and unknown fields are passed over.

    The work is linear in the bytes, however they are cut.
    """

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._rest = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes; raises BadRequest for one larger than `limit`."""
        # What was there before holds no end of an event, but perhaps half of one.
        seen = max(0, len(self._rest) - 1)
        self._rest += data
        end = self._rest.rfind(b"\n\n", seen)
        blocks: list[bytes] = []
        if end >= 0:
            blocks = [block for block in bytes(self._rest[:end]).split(b"\n\n") if block]
            del self._rest[: end + 2]
        if max([len(self._rest), *map(len, blocks)]) > self._limit:
            raise BadRequest(f"an event is larger than {self._limit} bytes")
        return [event for block in blocks if (event := _parse(block)) is not None]


async def sse(response: httpx.Response) -> AsyncIterator[Event]:
    """The events of a streaming response; raises BadRequest for one larger than 4 MiB."""
    splitter = Splitter()
    async for chunk in response.aiter_raw():
        for event in splitter.feed(chunk):
            yield event


def _parse(block: bytes) -> Event | None:
    if block.count(b"\n") >= MAX_LINES:
        raise BadRequest(f"an event has more than {MAX_LINES} lines")
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"id":
            name = value.decode("utf-8", "replace")
    return Event(name, b"\n".join(data)) if data else None
