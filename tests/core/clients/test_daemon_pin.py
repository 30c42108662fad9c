"""A pinned download stays open until its user leaves, not only until its last step."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

from hawker.core.clients.daemon import DaemonClient
from hawker.core.messages import DownloadRequest, Progress, encode


def test_a_download_stays_open_after_its_last_step(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    done = encode(Progress(task="ab" * 32, done=True)) + b"\n"
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%s\r\n" % (len(done), done))
        while await reader.read(1024):
            continue
        left.set()
        writer.close()

    async def main() -> None:
        async with (
            await asyncio.start_unix_server(serve, path),
            DaemonClient(str(path)) as client,
        ):
            request = DownloadRequest(url="http://origin.test/x", pin=True)
            async with asyncio.timeout(20), client.download(request) as steps:
                async for step in steps:
                    assert step.done
                gc.collect()
                # Whatever would close the stream has had its turns of the loop, and more.
                for _ in range(50):
                    await asyncio.sleep(0.002)
                assert not left.is_set()
            async with asyncio.timeout(20):
                await left.wait()

    asyncio.run(main())
