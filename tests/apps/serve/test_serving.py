"""The server on real sockets: protocols side by side, addresses, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hawker.apps.serve import Bound, Listen, serving
from hawker.apps.serve.server import GRACE, configuration
from hawker.core.errors import Unavailable


async def _who(request: Request) -> Response:
    scope = request.scope
    local = scope.get("client") is None and scope.get("server") is None
    return JSONResponse({"version": scope["http_version"], "local": local})


async def _endless(request: Request) -> Response:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    return StreamingResponse(body())


def _app() -> Starlette:
    return Starlette(routes=[Route("/who", _who), Route("/endless", _endless)])


def _listen(tmp_path: Path, port: int = 0) -> Listen:
    return Listen("127.0.0.1", port, tmp_path / "s.sock")


@contextlib.asynccontextmanager
async def _client(*, h2: bool = False, uds: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(http1=not h2, http2=h2, uds=uds, trust_env=False)
    async with httpx.AsyncClient(transport=transport, timeout=10, trust_env=False) as client:
        yield client


async def _curl(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--noproxy", "*", "--max-time", "10", *arguments, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def test_all_protocols_are_served_at_once(tmp_path: Path) -> None:
    async def ask(url: str, *, h2: bool = False, uds: str | None = None) -> object:
        async with _client(h2=h2, uds=uds) as client:
            answers = await asyncio.gather(*(client.get(f"{url}/who") for _ in range(20)))
        assert len({answer.text for answer in answers}) == 1
        return answers[0].json()

    async def main() -> None:
        async with serving(_app(), _listen(tmp_path)) as bound:
            uds = str(bound.socket_path)
            answers = await asyncio.gather(
                ask(bound.url),
                ask(bound.url, h2=True),
                ask("http://localhost", uds=uds),
                ask("http://localhost", h2=True, uds=uds),
            )
        assert list(answers) == [
            {"version": "1.1", "local": False},
            {"version": "2", "local": False},
            {"version": "1.1", "local": True},
            {"version": "2", "local": True},
        ]

    asyncio.run(main())


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_speaks_all_protocols(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(_app(), _listen(tmp_path)) as bound:
            unix = ["--unix-socket", str(bound.socket_path), "http://localhost/who"]
            url = f"{bound.url}/who"
            told = await asyncio.gather(
                _curl("--http1.1", url),
                _curl("--http2-prior-knowledge", url),
                _curl("--http1.1", *unix),
                _curl("--http2-prior-knowledge", *unix),
            )
        assert list(told) == [
            '{"version":"1.1","local":false}',
            '{"version":"2","local":false}',
            '{"version":"1.1","local":true}',
            '{"version":"2","local":true}',
        ]

    asyncio.run(main())


def test_free_port_is_taken_and_told(tmp_path: Path) -> None:
    async def main() -> list[Bound]:
        async with (
            serving(_app(), Listen("127.0.0.1", 0, tmp_path / "a")) as one,
            serving(_app(), Listen("127.0.0.1", 0, tmp_path / "b")) as two,
        ):
            return [one, two]

    one, two = asyncio.run(main())
    assert one.port != two.port and 0 not in (one.port, two.port)
    assert one.url == f"http://127.0.0.1:{one.port}"


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_url_has_brackets(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(_app(), Listen("::1", 0, tmp_path / "s")) as bound, _client() as client:
            assert bound.url == f"http://[::1]:{bound.port}"
            assert (await client.get(f"{bound.url}/who")).json()["local"] is False

    asyncio.run(main())


@pytest.mark.parametrize("port", [-1, 65536, 70000])
def test_port_that_cannot_be_is_a_clear_error(port: int, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving(_app(), _listen(tmp_path, port)):
                pytest.fail("nothing can listen there")

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_taken_port_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(_app(), Listen("127.0.0.1", 0, tmp_path / "first")) as bound:
            with pytest.raises(Unavailable, match=f"127.0.0.1:{bound.port}") as caught:
                async with serving(_app(), _listen(tmp_path, bound.port)):
                    pytest.fail("the port is taken")
            assert "--port" in caught.value.hint
            assert not (tmp_path / "s.sock").exists()

    asyncio.run(main())


def test_address_of_another_machine_is_a_clear_error(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(Unavailable, match=r"cannot listen on 192.0.2.1:0"):
            async with serving(_app(), Listen("192.0.2.1", 0, tmp_path / "s")):
                pytest.fail("the address is not ours")

    asyncio.run(main())


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()

    async def main() -> None:
        async with serving(_app(), _listen(tmp_path)), _client(uds=str(path)) as client:
            assert (await client.get("http://localhost/who")).json()["local"] is True
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    asyncio.run(main())
    assert not path.exists()


def test_socket_that_somebody_listens_on_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(_app(), _listen(tmp_path)) as bound:
            with pytest.raises(Unavailable, match="another process listens on"):
                async with serving(_app(), _listen(tmp_path)):
                    pytest.fail("the socket is taken")
            async with _client(uds=str(bound.socket_path)) as client:
                assert (await client.get("http://localhost/who")).status_code == 200

    asyncio.run(main())


def test_file_that_is_no_socket_is_kept(tmp_path: Path) -> None:
    (tmp_path / "s.sock").write_text("precious")

    async def main() -> None:
        with pytest.raises(Unavailable, match="cannot listen on"):
            async with serving(_app(), _listen(tmp_path)):
                pytest.fail("there is a file")

    asyncio.run(main())
    assert (tmp_path / "s.sock").read_text() == "precious"


def test_path_too_long_for_a_socket_is_a_clear_error(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(Unavailable, match="too long") as caught:
            async with serving(_app(), Listen("127.0.0.1", 0, tmp_path / ("x" * 120))):
                pytest.fail("the path is too long")
        assert "listen.unix_socket" in caught.value.hint

    asyncio.run(main())


@pytest.mark.parametrize("h2", [False, True])
def test_shutdown_is_bounded_while_an_answer_streams(h2: bool, tmp_path: Path) -> None:
    async def main() -> float:
        async with contextlib.AsyncExitStack() as stack:
            server = serving(_app(), _listen(tmp_path))
            bound = await server.__aenter__()
            client = await stack.enter_async_context(_client(h2=h2))
            answer = await stack.enter_async_context(client.stream("GET", f"{bound.url}/endless"))
            chunks = answer.aiter_raw()
            assert await anext(chunks)
            began = time.monotonic()
            async with asyncio.timeout(10):
                await server.__aexit__(None, None, None)
            took = time.monotonic() - began
            # Cut in the middle: the client is told, or its connection ends.
            with contextlib.suppress(httpx.HTTPError):
                async with asyncio.timeout(5):
                    async for _ in chunks:
                        pass
        assert asyncio.all_tasks() == {asyncio.current_task()}
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", bound.port)
        return took

    assert asyncio.run(main()) < GRACE + 2
    assert not (tmp_path / "s.sock").exists()


def test_idle_connections_do_not_delay_the_shutdown(tmp_path: Path) -> None:
    async def main() -> float:
        async with _client() as client:
            async with serving(_app(), _listen(tmp_path)) as bound:
                await client.get(f"{bound.url}/who")
                began = time.monotonic()
            return time.monotonic() - began

    assert asyncio.run(main()) < 0.9


def test_more_than_a_thousand_requests_on_one_connection(tmp_path: Path) -> None:
    count = 1100
    began = time.monotonic()
    request = b"GET /who HTTP/1.1\r\nhost: localhost\r\n\r\n"

    async def main() -> None:
        async with serving(_app(), _listen(tmp_path)) as bound:
            reader, writer = await asyncio.open_connection("127.0.0.1", bound.port)
            for _ in range(count):
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                assert b"connection: close" not in head.lower()
                await reader.readexactly(len('{"version":"1.1","local":false}'))
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())
    # 40 ms each where answers wait for delayed acknowledgements (Nagle's algorithm).
    assert time.monotonic() - began < count * 0.02


def test_more_than_a_thousand_streams_on_one_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(_app(), _listen(tmp_path)) as bound, _client(h2=True) as client:
            peers = set()
            for _ in range(22):
                answers = await asyncio.gather(*(client.get(f"{bound.url}/who") for _ in range(50)))
                assert {answer.status_code for answer in answers} == {200}
                for answer in answers:
                    stream = answer.extensions["network_stream"]
                    peers.add(stream.get_extra_info("client_addr"))
            assert len(peers) == 1

    asyncio.run(main())


def test_server_leaves_no_descriptor(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(_app(), _listen(tmp_path)) as bound, _client() as client:
            await client.get(f"{bound.url}/who")

    asyncio.run(main())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        asyncio.run(main())
    assert len(os.listdir("/proc/self/fd")) <= before


def test_answers_have_the_date_of_their_second(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(4433)
    for now, date in (
        (784111777.0, b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (784111777.9, b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (784111778.0, b"Sun, 06 Nov 1994 08:49:38 GMT"),
    ):
        for clock in ("time.time", "hypercorn.config.time"):
            monkeypatch.setattr(clock, lambda now=now: now)
        fields = dict(config.response_headers("h11"))
        assert fields == {b"date": date, b"alt-svc": b'h3=":4433"; ma=3600'}
