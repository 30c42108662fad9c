"""However many connections come, a proxy takes its share of descriptors, and says so."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, logging_to, wait_for
from tests.e2e.test_proxy import client_of, connected, received_until
from tests.e2e.test_proxy_https import Https, https, ours  # noqa: F401
from tests.e2e.test_proxy_https import client_of as trusting

OPEN_FILES = 256
CLIENTS = OPEN_FILES // 8


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """What the node says."""
    return tmp_path / "node.log"


@pytest.fixture
def node(cluster: Cluster, log: Path) -> Daemon:
    """One that may open few files; what is started has the limit, and the standard error, of who
    starts it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with logging_to(log):
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))
        try:
            made = cluster.start("node", "up")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    made.wait_ready()
    return made


@pytest.fixture
def echo() -> Iterator[str]:
    """A server of tunnels that sends back what it hears; its host and port."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        opened: list[socket.socket] = []

        def back(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError):
                while data := sock.recv(1000):
                    sock.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    opened.append(listening.accept()[0])
                    threading.Thread(target=back, args=(opened[-1],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        for sock in opened:
            sock.close()


def tunnel(node: Daemon, target: str) -> socket.socket:
    sock = connected(node)
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert received_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    return sock


def test_who_comes_when_there_is_no_room_is_told_when_to_come_back(
    node: Daemon, echo: str, origin: Origin, log: Path
) -> None:
    url = origin.put("/one", b"one")
    with contextlib.ExitStack() as held:
        tunnels = [held.enter_context(tunnel(node, echo)) for _ in range(CLIENTS)]
        for request in (f"CONNECT {echo} HTTP/1.1", f"GET {url} HTTP/1.1"):
            with connected(node) as sock:
                sock.sendall(f"{request}\r\nhost: x\r\n\r\n".encode())
                head = received_until(sock, b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"\r\nretry-after: 2\r\n" in head.lower()
                problem = json.loads(received_until(sock, b"}"))
                assert problem["type"] == "urn:hawker:problem:unavailable"
                assert "ulimit" in problem["hint"]
                assert sock.recv(1) == b""
        assert node.metric("hawker_proxy_connections") == CLIENTS
        assert node.metric("hawker_proxy_refused_total") == 2
        # A flood that says nothing is cut; the process goes on, and so do the tunnels.
        flood = [held.enter_context(connected(node)) for _ in range(300)]
        assert len(flood) == 300
        for sock in tunnels:
            sock.sendall(b"ping")
            assert received_until(sock, b"ping") == b"ping"
        with node.client() as client:
            answer = client.get("/peer/v1/content", params={"url": url})
            assert (answer.status_code, answer.content) == (200, b"one")
        assert node.metric("hawker_proxy_connections") == CLIENTS
    wait_for(lambda: node.metric("hawker_proxy_connections") == 0, "all have left", 20)
    with client_of(node) as client:
        assert client.get(url).content == b"one"
    assert "out of system resource" not in log.read_text()


def test_streams_of_one_connection_count_by_what_they_open(
    cluster: Cluster,
    https: Https,  # noqa: F811
    ours: Path,  # noqa: F811
    request: pytest.FixtureRequest,
) -> None:
    node: Daemon = request.getfixturevalue("node")
    https.origin.delay = 0.2
    url = https.put("/slow", bytes(5 * 2**16))
    statuses: list[int] = []

    def one(client: httpx.Client) -> None:
        statuses.append(client.get(url).status_code)

    with trusting(node, ours, http2=True) as client:
        assert client.get(url).status_code == 200
        threads = [threading.Thread(target=one, args=(client,)) for _ in range(2 * CLIENTS)]
        for thread in threads:
            thread.start()
        wait_for(lambda: node.metric("hawker_proxy_connections") == CLIENTS, "all are busy", 20)
        for thread in threads:
            thread.join()
        assert sorted(set(statuses)) == [200, 503]
        assert statuses.count(200) == CLIENTS
        # What was opened for them is closed again, but for a few.
        wait_for(lambda: node.metric("hawker_proxy_connections") <= 4, "they are over", 20)
        assert client.get(url).status_code == 200
    wait_for(lambda: node.metric("hawker_proxy_connections") == 0, "it has left", 20)


def test_a_flood_at_the_other_listener_takes_its_share_alone(
    node: Daemon, origin: Origin, log: Path
) -> None:
    url = origin.put("/one", b"one")
    address = ("127.0.0.1", httpx.URL(node.url).port or 0)
    with contextlib.ExitStack() as held:
        # All of them wait when it looks next.
        node.process.send_signal(signal.SIGSTOP)
        try:
            for _ in range(2 * OPEN_FILES):
                held.enter_context(socket.create_connection(address, 20))
        finally:
            node.process.send_signal(signal.SIGCONT)
        wait_for(lambda: "a connection was refused" in log.read_text(), "it looked at them", 20)
        with client_of(node) as client:
            assert client.get(url).content == b"one"
    assert "out of system resource" not in log.read_text()
