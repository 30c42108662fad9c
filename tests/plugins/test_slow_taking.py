"""An origin sends not much more than is taken of it where a reader says how fast that is."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

from hawker.core.contracts import SourceRequest, SourceServices
from hawker.core.egress import EgressPolicy
from hawker.core.settings import EgressSettings
from hawker.plugins.sources.http import HttpSource
from tests.plugins.scripted import Keys, Scripted

SIZE = 4_000_000
PART = 4096
RATE = 300_000
# The system's part of what is ahead: the server's own buffer, what it sent before it was held back.
SLACK = 260_000


class Counting:
    """Sends as much as the other end takes."""

    sent = 0

    def __call__(self, head: str, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 << 10)
        connection.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n".encode())
        for _ in range(SIZE // PART):
            connection.sendall(bytes(PART))
            self.sent += PART


def test_what_is_taken_slowly_is_not_sent_far_ahead() -> None:
    counting = Counting()

    async def main(url: str) -> int:
        policy = EgressPolicy(EgressSettings(), loopback=True)
        source, taken, ahead = HttpSource(SourceServices(policy, Keys())), 0, 0
        reading = await source.open(SourceRequest(url, rate=RATE))
        try:
            async for chunk in reading.stream():
                taken += len(chunk)
                await asyncio.sleep(len(chunk) / RATE)
                ahead = max(ahead, counting.sent - taken)
                if taken > RATE:
                    break
        finally:
            await reading.close()
            await source.close()
        return ahead

    with closing(Scripted(counting)) as server:
        assert asyncio.run(main(server.url())) < SLACK
