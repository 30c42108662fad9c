"""Streaming responses: server-sent events and lines of JSON, until done or the client has gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from hawker.apps.web.disconnect import until_disconnected

Frame = tuple[str | None, bytes]
PING: Frame = (None, b"")
"""A frame without data: keeps an idle stream alive and is no event."""


class StreamedResponse(Response):
    """Sends chunks as they come; a client that leaves closes their generator."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(media_type=media_type)
        # A body of unknown length; nothing on the way may keep or collect it.
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self.raw_headers.append((b"cache-control", b"no-store"))
        self.raw_headers.append((b"x-accel-buffering", b"no"))
        self._chunks = chunks

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await until_disconnected(receive, self._send(send))

    async def _send(self, send: Any) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event_stream(frames: AsyncGenerator[Frame, None]) -> Response:
    """Server-sent events of (id or None, data without newlines)."""
    return StreamedResponse(_format(frames), "text/event-stream")


def ndjson_stream(lines: AsyncGenerator[bytes, None]) -> Response:
    """One JSON document a line."""
    return StreamedResponse(_lines(lines), "application/x-ndjson")


async def _format(frames: AsyncGenerator[Frame, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(frames):
        async for name, data in frames:
            if not data:
                yield b": ping\n\n"
                continue
            head = b"" if name is None else b"id: " + name.encode() + b"\n"
            yield head + b"data: " + data + b"\n\n"


async def _lines(lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(lines):
        async for line in lines:
            yield line + b"\n"
