"""An HTTP transport whose answers are closed even while their reader is cancelled.

httpcore closes a connection in several steps, and a cancelled task takes none of them after the one
it is at: the connection stays open, its server goes on writing, and the pool counts it for ever.
That happens where one event both fails a transfer and cancels it, such as a client that resets its
connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx


class ClosingTransport(httpx.AsyncHTTPTransport):
    """The general transport; closing an answer is finished, whatever becomes of who closes it."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Closing(response.stream)
        return response


class _Closing(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        await asyncio.shield(self._stream.aclose())
