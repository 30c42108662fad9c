"""Processes that are asked to stop: streams are told to go, what is served is finished."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

from tests.e2e.conftest import Cluster, Origin, fetch, wait_for


def test_a_scheduler_that_stops_keeps_nobody_waiting(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(2**20)
    url = origin.put("/file", data)
    scheduler, seed, peers = cluster.swarm(2)
    # Each of three hosts holds a decision stream, which would go on for ever.
    began = time.monotonic()
    scheduler.stop()
    assert scheduler.process.returncode == 0
    assert time.monotonic() - began < 4
    # It comes back, and its hosts with it.
    again = cluster.start(
        "scheduler",
        *("serve", "scheduler", "--cluster-key", str(cluster.key), "--port", scheduler.port),
    )
    wait_for(lambda: len(cluster.view(again.url, "hosts")) == 3, "the hosts came back")
    assert fetch(peers[0], url, tmp_path / "out", "--timeout", "30") == (0, "")
    assert (tmp_path / "out").read_bytes() == data
    assert seed.process.poll() is None


def test_a_peer_that_stops_finishes_what_it_serves(cluster: Cluster, origin: Origin) -> None:
    data = os.urandom(24 * 2**20)
    url = origin.put("/file", data)
    daemon = cluster.start("daemon", "up")
    with daemon.client() as client:
        assert client.get("/peer/v1/content", params={"url": url}).content == data
    address = (urlsplit(daemon.url).hostname, int(daemon.port))
    with socket.create_connection(address, timeout=10) as conn:
        target = f"/peer/v1/content?url={quote(url, safe='')}"
        conn.sendall(f"GET {target} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n".encode())
        received = bytearray(conn.recv(2**20))
        daemon.process.send_signal(signal.SIGTERM)
        # Slower than the daemon would like, and within the time that it gives.
        time.sleep(1.5)
        while part := conn.recv(2**20):
            received += part
    assert bytes(received).partition(b"\r\n\r\n")[2] == data
    assert daemon.process.wait(timeout=20) == 0


def test_whoever_waits_for_content_is_told_that_the_daemon_stops(
    cluster: Cluster, origin: Origin
) -> None:
    origin.delay = 5.0
    url = origin.put("/file", os.urandom(2**22))
    daemon = cluster.start("daemon", "up")
    address = (urlsplit(daemon.url).hostname, int(daemon.port))
    with socket.create_connection(address, timeout=10) as conn:
        target = f"/peer/v1/content?url={quote(url, safe='')}"
        conn.sendall(f"GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        wait_for(lambda: origin.requests == 1, "the origin was asked")
        began = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        answer = b""
        while part := conn.recv(2**16):
            answer += part
        assert time.monotonic() - began < 3
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"this daemon is stopping" in answer
    assert daemon.process.wait(timeout=20) == 0
    # Nothing it waits for needs its whole time.
    assert time.monotonic() - began < 4
