"""What the http source shows to whom, and where it does not go."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import closing

import pytest

from hawker.core.contracts import Credential, SourceRequest, SourceServices
from hawker.core.egress import EgressPolicy
from hawker.core.errors import BadRequest, Forbidden, OriginFailed, OriginRefused
from hawker.core.settings import EgressSettings
from hawker.plugins.sources.http import HttpSource
from tests.plugins.scripted import Scripted, Straight, Talk


def ok(head: str, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def to(url: str) -> Talk:
    line = f"HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\n\r\n".encode()
    return lambda head, connection: connection.sendall(line)


class Keyring:
    """Credentials by the beginning of a URL."""

    def __init__(self, known: dict[str, Credential] | None = None) -> None:
        self.known = known or {}

    async def find(self, url: str, tenant: str) -> Credential | None:
        return next((found for start, found in self.known.items() if url.startswith(start)), None)

    async def close(self) -> None:
        return


class Names(Straight):
    """A policy that knows some names, and remembers what it was asked."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.known:
            raise Forbidden(f"{host} may not be read")
        return [self.known[host]]


def read(
    url: str,
    *,
    headers: dict[str, str] | None = None,
    keys: Keyring | None = None,
    names: Names | None = None,
    slowest_over: float = 30.0,
) -> bytes:
    egress = names or EgressPolicy(EgressSettings(), loopback=True)

    async def main() -> bytes:
        services = SourceServices(egress, keys or Keyring())
        source = HttpSource(services, slowest_over=slowest_over)
        try:
            reading = await source.open(SourceRequest(url, headers or {}))
            try:
                return b"".join([chunk async for chunk in reading.stream()])
            finally:
                await reading.close()
        finally:
            await source.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://0xa9fea9fe/",
        "http://[::ffff:169.254.169.254]/",
        "http://127.0.0.1:6379/",
    ],
)
def test_a_redirect_to_where_it_may_not_go_is_refused(target: str) -> None:
    server = Scripted(to(target))
    with closing(server), pytest.raises(Forbidden):
        read(f"http://127.0.0.1:{server.port}/")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://h/", "http://a@h/"])
def test_a_redirect_to_what_is_no_plain_http_url_is_refused(target: str) -> None:
    server = Scripted(to(target))
    with closing(server), pytest.raises(OriginRefused):
        read(f"http://127.0.0.1:{server.port}/")


def test_the_connection_goes_to_the_checked_address_and_only_there() -> None:
    server = Scripted(ok)
    with closing(server):
        names = Names({"no-such-name.invalid": "127.0.0.1"})
        assert read(f"http://no-such-name.invalid:{server.port}/", names=names) == b"ok"
        assert f"host: no-such-name.invalid:{server.port}\r\n" in server.heads[0]
    assert names.asked == ["no-such-name.invalid"]


def test_own_header_fields_do_not_follow_a_redirect_to_another_host() -> None:
    other = Scripted(ok)
    first = Scripted(to(f"http://127.0.0.1:{other.port}/elsewhere"))
    with closing(other), closing(first):
        secret = {"Authorization": "Bearer secret", "X-Key": "secret"}
        assert read(f"http://127.0.0.1:{first.port}/", headers=secret) == b"ok"
        assert "bearer secret" in first.heads[0]
        assert "secret" not in other.heads[0]


def test_configured_credentials_go_to_their_own_origin_only() -> None:
    other = Scripted(ok)
    first = Scripted(to(f"http://127.0.0.1:{other.port}/elsewhere"))
    with closing(other), closing(first):
        mine = Credential(username="ann", password="pass")
        keys = Keyring({f"http://127.0.0.1:{first.port}/": mine})
        assert read(f"http://127.0.0.1:{first.port}/", keys=keys) == b"ok"
        assert base64.b64encode(b"ann:pass").decode().lower() in first.heads[0]
        assert "authorization" not in other.heads[0]
        keys = Keyring({f"http://127.0.0.1:{other.port}/": Credential(token="t0ken")})
        assert read(f"http://127.0.0.1:{first.port}/", keys=keys) == b"ok"
        assert "authorization" not in first.heads[1]
        assert "authorization: bearer t0ken" in other.heads[1]


@pytest.mark.parametrize("name", ["Host", "Range", "If-Match", "Transfer-Encoding", "Connection"])
def test_fields_that_the_source_sets_itself_are_refused(name: str) -> None:
    with pytest.raises(BadRequest, match=name):
        read("http://127.0.0.1:9/", headers={name: "x"})


def test_a_body_that_trickles_is_given_up() -> None:
    ended = threading.Event()

    def trickle(head: str, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not ended.is_set():
            connection.sendall(b"x")
            time.sleep(0.05)

    server = Scripted(trickle)
    try:
        with pytest.raises(OriginFailed, match="trickles"):
            read(f"http://127.0.0.1:{server.port}/", slowest_over=0.5)
    finally:
        ended.set()
        server.close()


def test_a_query_is_never_shown() -> None:
    def refuse(head: str, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n")

    server = Scripted(refuse)
    with closing(server), pytest.raises(OriginFailed) as failure:
        read(f"http://127.0.0.1:{server.port}/a?X-Amz-Signature=secret")
    assert "secret" not in str(failure.value) and "/a?…" in str(failure.value)
