"""An answer that nobody reads on ends its connection, however its reader ended."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from hawker.core.clients.http import control_client


@pytest.mark.parametrize("turns", range(1, 6))
def test_who_is_cancelled_while_it_closes_an_answer_leaves_no_connection(turns: int) -> None:
    asyncio.run(_is_closed(turns))


async def _is_closed(turns: int) -> None:
    left = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        left.set()
        writer.close()

    async def use(url: str) -> None:
        async with client.stream("GET", url) as answer:
            async for _ in answer.aiter_raw():
                begun.set()
                await failed.wait()
                raise ConnectionResetError

    begun, failed = asyncio.Event(), asyncio.Event()
    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, control_client() as client, asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError, asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                using = group.create_task(use(f"http://127.0.0.1:{port}/"))
                await begun.wait()
                failed.set()
                for _ in range(turns):
                    await asyncio.sleep(0)
                using.cancel()
        await left.wait()
