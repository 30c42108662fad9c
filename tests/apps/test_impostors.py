"""Whoever is not who it should be, over TLS, is refused by every client, and never sees a token."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from hawker.apps.cli.doctor.finding import FAILED
from hawker.apps.cli.doctor.network import scheduler
from hawker.apps.cli.local_daemon import open_daemon
from hawker.apps.scheduler.exchange import LeaseExchange
from hawker.core.clients.live import live_events
from hawker.core.clients.scheduler import SchedulerLink
from hawker.core.contracts import PieceRequest
from hawker.core.errors import Unavailable
from hawker.core.messages import HostAnnouncement
from hawker.core.settings import Settings, load
from hawker.core.tls import ClientTls
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file
from hawker.plugins.transports.http1 import Http1Transport

ANSWER = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
# The doctor shows its token to whoever says that it is Hawker.
READY = b'HTTP/1.1 200 OK\r\ncontent-length: 17\r\nconnection: close\r\n\r\n{"version":"0.0"}'
# How long a client that tries for ever is let try.
LONG = 0.8


@dataclass
class Impostor:
    """A TLS server; `requests` is what it was sent once the handshake was over."""

    url: str
    met: int = 0
    requests: list[bytes] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(b"authorization: bearer" in request.lower() for request in self.requests)


@contextlib.contextmanager
def serving(authority: trustme.CA, name: str) -> Iterator[Impostor]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))
    made = Impostor(f"https://127.0.0.1:{listener.getsockname()[1]}")

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            made.met += 1
            plain.settimeout(5)
            with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as conn:
                # Whatever comes, also of a client that finds out late.
                request = b""
                while b"\r\n\r\n" not in request and (part := conn.recv(65536)):
                    request += part
                if request:
                    made.requests.append(request)
                    conn.sendall(READY if b" /readyz " in request else ANSWER)
            plain.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield made
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture(scope="module")
def ours() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def settings(ours: trustme.CA, tmp_path: Path) -> Settings:
    """Of a process that trusts our authority and holds a cluster key."""
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    create_key_file(tmp_path / "cluster.key")
    given = {
        "tls.ca": str(tmp_path / "ca.pem"),
        "cluster.key_file": str(tmp_path / "cluster.key"),
        "storage.data": str(tmp_path / "data"),
    }
    return load(given, environ={}).settings


def key(settings: Settings) -> ClusterKey:
    return ClusterKey(read_key_file(settings.cluster_key_file))


def bearer(settings: Settings) -> dict[str, str]:
    return {"authorization": f"Bearer {key(settings).mint('a' * 32, ['pieces'])}"}


# ---------------------------------------------------------------------------- clients
# Each says whether it was refused.


async def link(settings: Settings, url: str) -> bool:
    async def announcement(boot: str) -> HostAnnouncement:
        return HostAnnouncement(url="http://127.0.0.1:1/peer", key=b"k" * 32, boot=boot)

    async def located() -> str:
        return url

    def ignore(*told: Any) -> None:
        return

    made = SchedulerLink(
        url, located, "a" * 32, key(settings), announcement, ignore, ignore, ignore, ignore,
        tls=ClientTls(settings.tls),
    )  # fmt: skip
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONG):
            await made.run()
    return made.failures > 0 and not made.connected


async def exchange(settings: Settings, url: str) -> bool:
    given = {
        "tls.ca": settings.tls.ca,
        "cluster.key_file": settings.cluster.key_file,
        "scheduler.others": [url],
    }
    core: Any = None

    async def keep(records: Any) -> None:
        raise AssertionError("nothing came that could be kept")

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LONG):
            await LeaseExchange(load(given, environ={}).settings, core, keep, keep).run()
    return True


async def availability(settings: Settings, url: str) -> bool:
    tls = await ClientTls(settings.tls).towards(url)
    try:
        async for _ in live_events(f"{url}/x", bearer(settings), connect=2.0, silence=2.0, tls=tls):
            raise AssertionError("there are no events")
    except Unavailable:
        return True
    return False


class Nowhere:
    def write(self, data: memoryview) -> None:
        raise AssertionError("there are no pieces")


async def pieces(settings: Settings, url: str) -> bool:
    transport = Http1Transport(settings.tls)
    wanted = PieceRequest(url, "/v1/pieces", headers=bearer(settings), length=100, stall=2.0)
    try:
        await transport.fetch(wanted, Nowhere())
    except Unavailable:
        return True
    finally:
        await transport.close()
    return False


async def daemon(settings: Settings, url: str) -> bool:
    async with open_daemon(settings, url) as client:
        try:
            await client.tasks()
        except Unavailable:
            return True
    return False


async def doctor(settings: Settings, url: str) -> bool:
    return {finding.state for finding in await scheduler(settings, url)} == {FAILED}


async def command(settings: Settings, url: str) -> bool:
    words = ["get", "http://origin.test/x", "-O", f"{settings.data}.out", "-e", url]
    words += ["--tls-ca", settings.tls.ca, "--cluster-key", settings.cluster.key_file]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "hawker", *words],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    return done.returncode == 1


CLIENTS = [link, exchange, availability, pieces, daemon, doctor, command]
Client = Callable[[Settings, str], Awaitable[bool]]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", ["another authority", "another name"])
def test_an_impostor_is_refused_and_sees_no_token(
    kind: str, client: Client, ours: trustme.CA, settings: Settings
) -> None:
    authority = trustme.CA() if kind == "another authority" else ours
    name = "127.0.0.1" if kind == "another authority" else "other.test"
    with serving(authority, name) as impostor:
        assert asyncio.run(_run(client, settings, impostor.url))
    assert impostor.met > 0
    assert impostor.requests == []


@pytest.mark.parametrize("client", CLIENTS)
def test_who_is_right_is_shown_a_token(
    client: Client, ours: trustme.CA, settings: Settings
) -> None:
    """The same server under its own name: what the other test sees is not for want of a chance."""
    with serving(ours, "127.0.0.1") as server:
        asyncio.run(_run(client, settings, server.url))
    assert server.tokens > 0


async def _run(client: Client, settings: Settings, url: str) -> bool:
    return await client(settings, url)
