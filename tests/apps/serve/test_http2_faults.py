"""What one HTTP/2 client, or one app, does to others on its connection and to the server."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import h2.events
import httpx
import pytest
from h2.errors import ErrorCodes

from tests.apps.serve.servers import BOTH, PATIENCE, App, eventually, h2_client, served


@BOTH
def test_an_answer_before_the_end_of_the_body_harms_no_other_stream(
    kind: str, tmp_path: Path
) -> None:
    async def main() -> None:
        app = App()
        async with served(kind, app, tmp_path) as place, h2_client(place) as client:
            waiting = client.request("/wait")
            assert await client.status(waiting) == "200"
            early = client.request("/refuse", method="POST", end=False)
            assert await client.status(early) == "401"
            client.connection.send_data(early, b"more of the body")
            await client.flush()
            assert await client.status(client.request("/hello")) == "200"
            assert await eventually(lambda: app.running == 1)

    asyncio.run(main())


def test_the_rest_of_a_body_is_taken_so_that_its_sender_sees_the_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            transport = httpx.AsyncHTTPTransport(http1=False, http2=True)
            async with httpx.AsyncClient(transport=transport, timeout=5) as client:
                url = f"http://127.0.0.1:{place.port}"
                # httpx sends all of it before it looks at the answer.
                answer = await client.post(f"{url}/refuse", content=bytes(500_000))
                assert answer.status_code == 401
                assert (await client.get(f"{url}/hello")).text == "hello"

    asyncio.run(main())


@BOTH
def test_an_app_is_held_up_by_a_client_that_takes_nothing(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served(kind, app, tmp_path) as place, h2_client(place) as client:
            client.request("/flood")
            await client.flush()
            assert await eventually(lambda: app.running == 1)
            await asyncio.sleep(0.5)
            assert app.sent < 2 * 2**20

    asyncio.run(main())


@BOTH
def test_downloads_that_lose_their_connection_leave_nothing(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served(kind, app, tmp_path) as place:
            before = len(asyncio.all_tasks())
            for _ in range(10):
                async with h2_client(place) as client:
                    client.request("/pour")
                    for _ in range(20):
                        await client.wait(lambda e: isinstance(e, h2.events.DataReceived))
            assert await eventually(lambda: app.running == 0)
            assert await eventually(lambda: len(asyncio.all_tasks()) <= before)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["connection lost", "stream reset"])
def test_an_app_that_waits_to_send_ends_with_its_client(how: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place:
            async with h2_client(place) as client:
                stream = client.request("/pour")
                await client.flush()
                assert await eventually(lambda: app.running == 1)
                if how == "stream reset":
                    client.connection.reset_stream(stream)
                    await client.flush()
                    assert await eventually(lambda: app.running == 0)
            assert await eventually(lambda: app.running == 0)

    asyncio.run(main())


@BOTH
def test_a_body_that_nobody_reads_blocks_no_other_stream(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served(kind, app, tmp_path) as place, h2_client(place) as client:
            deaf = client.request("/deaf", method="POST", end=False)
            for _ in range(20):
                client.connection.send_data(deaf, b"123456789")
            await client.flush()
            assert await eventually(lambda: app.running == 1)
            assert await client.status(client.request("/hello")) == "200"
            app.hold.set()

    asyncio.run(main())


def test_unread_bodies_do_not_take_the_connections_room(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place, h2_client(place) as client:
            for _ in range(3):
                deaf = client.request("/deaf", method="POST", end=False)
                sent = 0
                while sent < 65535:
                    part = min(16384, 65535 - sent)
                    await client.flush()
                    while client.connection.local_flow_control_window(deaf) < part:
                        await client.wait(lambda e: isinstance(e, h2.events.WindowUpdated))
                    client.connection.send_data(deaf, bytes(part))
                    sent += part
                # Its own room is used up, and not given back before it is read.
                stream = client.connection.streams[deaf]
                assert stream.outbound_flow_control_window == 0
            app.hold.set()
            assert await client.status(client.request("/hello")) == "200"

    asyncio.run(main())


def test_a_long_body_goes_through_as_it_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            transport = httpx.AsyncHTTPTransport(http1=False, http2=True)
            async with httpx.AsyncClient(transport=transport, timeout=10) as client:
                url = f"http://127.0.0.1:{place.port}/echo"
                answers = await asyncio.gather(
                    *(client.post(url, content=bytes(3_000_000)) for _ in range(4))
                )
                assert [answer.text for answer in answers] == ["3000000"] * 4

    asyncio.run(main())


@BOTH
def test_an_answer_that_breaks_off_is_no_endless_wait(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with served(kind, App(), tmp_path) as place, h2_client(place) as client:
            end = await client.end_of(client.request("/break"))
            assert isinstance(end, h2.events.StreamReset)
            assert await client.status(client.request("/hello")) == "200"

    asyncio.run(main())


@pytest.mark.parametrize("how", ["connection", "stream"])
def test_a_body_whose_sender_ends_at_once_is_still_read(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            assert (await receive())["body"] == b"some"
            assert (await receive())["type"] == "http.disconnect"
        except BaseException as exc:
            failures.append(exc)
            raise
        finally:
            ended.set()

    ended = asyncio.Event()

    async def main() -> None:
        async with served("ours", app, tmp_path) as place, h2_client(place) as client:
            stream = client.request("/", method="POST", end=False)
            client.connection.send_data(stream, b"some")
            # All of it comes to the server in one read.
            if how == "stream":
                client.connection.reset_stream(stream)
            else:
                client.connection.close_connection()
            await client.flush()
            async with asyncio.timeout(PATIENCE):
                await ended.wait()

    asyncio.run(main())
    assert not failures and not caplog.records


@BOTH
@pytest.mark.parametrize("headers", [{"method": "CONNECT"}, {"path": "/\xe9"}])
def test_a_request_that_is_none_harms_no_other_stream(
    kind: str, headers: dict[str, str], tmp_path: Path
) -> None:
    async def main() -> None:
        async with served(kind, App(), tmp_path) as place, h2_client(place) as client:
            waiting = client.request("/wait")
            assert await client.status(waiting) == "200"
            client.connection.config.validate_outbound_headers = False
            client.connection.config.normalize_outbound_headers = False
            stream = client.connection.get_next_available_stream_id()
            fields = [(":method", "CONNECT"), (":authority", "localhost")]
            if "path" in headers:
                fields = [
                    *((":method", "GET"), (":scheme", "http"), (":authority", "localhost")),
                    (":path", headers["path"]),
                ]
            client.connection.send_headers(stream, fields, end_stream=True)
            assert await client.status(stream) in ("400", "501")
            assert await client.status(client.request("/hello")) == "200"

    asyncio.run(main())


def test_websocket_is_refused_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with served("ours", App(), tmp_path) as place:
            async with h2_client(place) as client:
                headers = [(":protocol", "websocket")]
                stream = client.request(method="CONNECT", headers=headers, end=False)
                assert await client.status(stream) == "501"
                assert await client.status(client.request("/hello")) == "200"
                settings = client.connection.remote_settings
                assert not settings.enable_connect_protocol

    asyncio.run(main())
    assert not caplog.records


def test_a_thousand_aborted_downloads_leave_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place, h2_client(place) as client:
            before = len(asyncio.all_tasks())
            for _ in range(100):
                streams = [client.request("/flood") for _ in range(10)]
                await client.status(streams[-1])
                for stream in streams:
                    client.connection.reset_stream(stream)
            await client.flush()
            assert await eventually(lambda: app.running == 0)
            assert await client.status(client.request("/hello")) == "200"
            assert await eventually(lambda: len(asyncio.all_tasks()) <= before + 4)

    asyncio.run(main())


def test_a_client_that_takes_nothing_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hawker.apps.serve.http2.STALL", 0.3)

    async def main() -> None:
        app = App()
        async with served("ours", app, tmp_path) as place, h2_client(place) as client:
            stream = client.request("/flood")
            end = (h2.events.StreamReset,)
            await client.wait(lambda e: isinstance(e, end) and e.stream_id == stream, take=False)
            assert await eventually(lambda: app.running == 0)
            assert await client.status(client.request("/hello")) == "200"

    asyncio.run(main())


def test_streams_that_come_after_the_end_was_announced_may_go_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        app = App()
        server = served("ours", app, tmp_path)
        async with contextlib.AsyncExitStack() as stack:
            place = await stack.enter_async_context(server)
            client = await stack.enter_async_context(h2_client(place))
            held = client.request("/deaf")
            await client.flush()
            assert await eventually(lambda: app.running == 1)
            stopping = asyncio.ensure_future(server.__aexit__(None, None, None))
            await asyncio.sleep(0.1)
            end = await client.end_of(client.request("/hello"))
            assert isinstance(end, h2.events.StreamReset)
            assert end.error_code == ErrorCodes.REFUSED_STREAM
            # What runs is answered before the connection ends.
            app.hold.set()
            assert await client.status(held) == "200"
            await stopping
            stack.pop_all()

    asyncio.run(main())
