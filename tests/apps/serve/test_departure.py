"""An app can wait until its answer has left this host: the kernel takes it long before."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from hawker.apps.serve.departure import LEFT, PATIENCE
from hawker.apps.web.departure import until_departed
from tests.apps.serve.servers import served

BODY = bytes(8 * LEFT)


def _take(port: int, rest: float, left: int) -> None:
    """A client on a small buffer that asks, does something else, and reads."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        sock.settimeout(10.0)
        sock.connect(("127.0.0.1", port))
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(rest)
        while left > 0 and (data := sock.recv(65536)):
            left -= len(data)


@pytest.mark.parametrize(
    ("rest", "reads", "least", "most"),
    [
        pytest.param(0.0, True, 0.0, 0.5, id="reads at once"),
        pytest.param(0.6, True, 0.4, 0.95, id="reads later"),
        pytest.param(PATIENCE + 1.5, False, PATIENCE * 0.9, PATIENCE + 0.5, id="reads nothing"),
    ],
)
def test_an_answer_is_waited_for_as_long_as_its_client_takes_it(
    rest: float, reads: bool, least: float, most: float, tmp_path: Path
) -> None:
    waits: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = [(b"content-length", str(len(BODY)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        began = time.monotonic()
        await send({"type": "http.response.body", "body": BODY})
        await until_departed(scope)
        waits.append(time.monotonic() - began)

    async def main() -> None:
        async with served("ours", app, tmp_path) as place:
            await asyncio.to_thread(_take, place.port, rest, len(BODY) if reads else 0)

    asyncio.run(main())
    assert len(waits) == 1
    assert least <= waits[0] <= most


def test_a_server_that_cannot_tell_is_not_waited_for() -> None:
    asyncio.run(until_departed({"type": "http"}))
