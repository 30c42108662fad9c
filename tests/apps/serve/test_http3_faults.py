"""What one HTTP/3 client, or one app, does to others and to the server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import socket
import ssl
import time
from pathlib import Path

import httpx
import pytest
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import StreamReset
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStreamSender

from hawker.apps.serve import Listen
from hawker.apps.serve.listeners import Files, bind
from hawker.core.errors import Unavailable
from tests.apps.serve.h3client import Seen, h3_client
from tests.apps.serve.servers import BOTH, App, Place, eventually, served


async def _asks(place: Place) -> str:
    async with h3_client(place) as client:
        return await client.status(client.request("/hello"))


async def _answer_early(kind: str, tmp_path: Path) -> None:
    async with served(kind, App(), tmp_path, http3=True) as place:
        async with h3_client(place) as client:
            early = client.request("/refuse", method="POST", end=False)
            assert await client.status(early) == "401"
            # Not before the app is over and done with.
            await asyncio.sleep(0.2)
            client.send(early, b"more of the body")
            assert await client.status(client.request("/hello")) == "200"
        assert await _asks(place) == "200"


def _run_answer_early(kind: str, tmp_path: Path) -> None:
    asyncio.run(_answer_early(kind, tmp_path))


@BOTH
def test_an_answer_before_the_end_of_the_body_harms_nobody(kind: str, tmp_path: Path) -> None:
    # In a process of its own: hypercorn's own leaves Python 3.11 with a wrong depth of recursion.
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_run_answer_early, args=(kind, tmp_path))
    process.start()
    process.join(60)
    assert process.exitcode == 0


@BOTH
def test_an_app_is_held_up_by_a_client_that_takes_nothing(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served(kind, app, tmp_path, http3=True) as place, h3_client(place) as client:
            stream = client.request("/flood")
            assert await client.status(stream) == "200"
            client.deaf = True
            await asyncio.sleep(1)
            assert app.sent < 8 * 2**20

    asyncio.run(main())


@BOTH
@pytest.mark.parametrize("how", ["stream", "connection"])
def test_an_app_hears_that_its_client_has_gone(kind: str, how: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served(kind, app, tmp_path, http3=True) as place, h3_client(place) as client:
            stream = client.request("/wait")
            assert await client.status(stream) == "200"
            if how == "stream":
                client.cancel(stream)
            else:
                client.close()
            assert await eventually(lambda: app.disconnects == 1 and app.running == 0)

    asyncio.run(main())


def test_an_app_hears_at_once_that_its_client_has_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not when aioquic has drained the connection, which takes long where a path is slow."""
    monkeypatch.setattr(QuicPacketRecovery, "get_probe_timeout", lambda self, **_: 10.0)

    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path, http3=True) as place:
            async with h3_client(place) as client:
                assert await client.status(client.request("/flood")) == "200"
                client.close()
                assert await eventually(lambda: app.running == 0)
                monkeypatch.undo()

    asyncio.run(main())


@BOTH
def test_a_body_that_nobody_reads_blocks_nobody(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served(kind, app, tmp_path, http3=True) as place, h3_client(place) as client:
            deaf = client.request("/deaf", method="POST", end=False)
            for _ in range(30):
                client.send(deaf, b"123456789")
                await asyncio.sleep(0)
            assert await eventually(lambda: app.running == 1)
            assert await client.status(client.request("/hello")) == "200"
            assert await _asks(place) == "200"
            app.hold.set()
            assert await client.status(deaf) == "200"

    asyncio.run(main())


@BOTH
def test_an_answer_that_breaks_off_is_no_endless_wait(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(kind, App(), tmp_path, http3=True) as place, h3_client(place) as client:
            stream = client.request("/break")

            def ended(event: Seen) -> bool:
                assert not getattr(event, "stream_ended", False)
                return isinstance(event, StreamReset) and event.stream_id == stream

            await client.wait(ended)
            assert await client.status(client.request("/hello")) == "200"

    asyncio.run(main())


def test_bodies_are_exact_both_ways(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path, http3=True) as place, h3_client(place) as client:
            stream = client.request("/echo", method="POST", end=False)
            for _ in range(20):
                client.send(stream, bytes(50_000))
            client.send(stream, b"", end=True)
            event = await client.wait(lambda e: isinstance(e, DataReceived) and bool(e.data))
            assert isinstance(event, DataReceived)
            assert event.data == b"1000000"
            stream = client.request("/flood")
            before = client.received
            async with asyncio.timeout(60):
                while client.received - before < 8 * 2**20:
                    await client.wait(lambda e: isinstance(e, DataReceived))
            client.cancel(stream)
            assert await eventually(lambda: app.running == 0)

    asyncio.run(main())


def test_a_body_beyond_what_may_wait_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hawker.apps.serve.http3.UNREAD", 100_000)

    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path, http3=True) as place, h3_client(place) as client:
            stream = client.request("/deaf", method="POST", end=False)
            client.send(stream, bytes(200_000))
            await client.wait(lambda e: isinstance(e, StreamReset) and e.stream_id == stream)
            assert await client.status(client.request("/hello")) == "200"
            app.hold.set()

    asyncio.run(main())


@pytest.mark.parametrize(("method", "path"), [("GET", "/\xe9"), ("GET", "nowhere"), ("G T", "/")])
def test_a_request_that_is_none_is_refused(method: str, path: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path, http3=True) as place, h3_client(place) as client:
            stream = client.request(path, method=method)

            def refused(event: Seen) -> bool:
                status = (
                    isinstance(event, HeadersReceived) and (b":status", b"400") in event.headers
                )
                reset = isinstance(event, StreamReset)
                return (status or reset) and getattr(event, "stream_id", None) == stream

            await client.wait(refused)
            assert await client.status(client.request("/hello")) == "200"

    asyncio.run(main())


def test_a_client_that_takes_nothing_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hawker.apps.serve.http3.STALL", 0.3)

    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path, http3=True) as place, h3_client(place) as client:
            assert await client.status(client.request("/flood")) == "200"
            client.deaf = True
            assert await eventually(lambda: app.running == 0)

    asyncio.run(main())


def test_aborted_downloads_leave_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path, http3=True) as place:
            before = len(asyncio.all_tasks())
            for _ in range(5):
                async with h3_client(place) as client:
                    for _ in range(20):
                        stream = client.request("/flood")
                        assert await client.status(stream) == "200"
                        client.cancel(stream)
            assert await eventually(lambda: app.running == 0)
            assert await eventually(lambda: len(asyncio.all_tasks()) <= before)

    asyncio.run(main())


def test_what_waited_to_be_sent_goes_with_its_connection(tmp_path: Path) -> None:
    """And not only when Python looks for garbage: aioquic's connections refer to themselves."""

    def waiting() -> int:
        senders = [each for each in gc.get_objects() if isinstance(each, QuicStreamSender)]
        return sum(len(sender._buffer) for sender in senders)

    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path, http3=True) as place:
            async with h3_client(place) as client:
                for _ in range(5):
                    assert await client.status(client.request("/flood")) == "200"
                client.deaf = True
                assert await eventually(lambda: waiting() > 2**20)
            assert await eventually(lambda: waiting() < 1024)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_tcp_tells_of_http3_and_the_shutdown_is_quick(tmp_path: Path) -> None:
    async def main() -> float:
        async with contextlib.AsyncExitStack() as stack:
            server = served("ours", App(), tmp_path, http3=True)
            place = await stack.enter_async_context(server)
            client = await stack.enter_async_context(h3_client(place))
            assert await client.status(client.request("/hello")) == "200"
            context = ssl.create_default_context(cafile=place.ca)
            async with httpx.AsyncClient(verify=context) as tcp:
                answer = await tcp.get(f"https://127.0.0.1:{place.port}/hello")
                assert answer.headers["alt-svc"] == f'h3=":{place.port}"; ma=3600'
            began = time.monotonic()
            await server.__aexit__(None, None, None)
            took = time.monotonic() - began
            stack.pop_all()
            client.close()
        return took

    assert asyncio.run(main()) < 0.9


def test_a_port_that_is_taken_on_udp_is_another_or_an_error(tmp_path: Path) -> None:
    files = Files(tmp_path / "server.pem", tmp_path / "server.key")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"{port} \\(UDP\\)"):
            bind(Listen("127.0.0.1", port, tmp_path / "s", None, files))
        tcp, udp = bind(Listen("127.0.0.1", 0, tmp_path / "s", None, files))
        assert udp is not None
        assert tcp.getsockname() == udp.getsockname()
        tcp.close()
        udp.close()
