"""Https passes through a proxy unseen, but for hosts that are named, by an authority of ours."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.e2e.conftest import Cluster, Daemon, Origin, hawker

MIB = 2**20
RULES = [
    {"url": r"^https://[^/]*/big$", "action": "swarm", "immutable": True},
    {"url": r"^https://[^/]*/secret", "action": "block"},
]


class Https:
    """An https origin, its authority's certificate in a file, and how clients trust whom."""

    def __init__(self, origin: Origin, root: Path) -> None:
        self.origin = origin
        self.authority = trustme.CA()
        self.file = root / "origins.crt"
        self.authority.cert_pem.write_to_path(self.file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        plain = origin._server.get_request

        def secured() -> tuple[socket.socket, Any]:
            accepted, address = plain()
            return context.wrap_socket(accepted, server_side=True), address

        origin._server.get_request = secured  # type: ignore[method-assign]

    def put(self, path: str, data: bytes) -> str:
        return self.origin.put(path, data).replace("http://", "https://")


@pytest.fixture
def https(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Https]:
    made = Https(origin, tmp_path)
    monkeypatch.setenv("HAWKER_EGRESS__CA", str(made.file))
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(RULES))
    yield made


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The certificate of an authority that intercepts this machine's address."""
    assert hawker("ca", "create", str(tmp_path / "ca")).returncode == 0
    monkeypatch.setenv("HAWKER_PROXY__INTERCEPT", "127.0.0.1,*.example.com")
    monkeypatch.setenv("HAWKER_PROXY__CA_CERTIFICATE", str(tmp_path / "ca" / "ca.crt"))
    monkeypatch.setenv("HAWKER_PROXY__CA_KEY", str(tmp_path / "ca" / "ca.key"))
    return tmp_path / "ca" / "ca.crt"


def client_of(node: Daemon, trusted: Path) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(trusted))
    return httpx.Client(proxy=node.ready["proxy"], verify=context, trust_env=False, timeout=60)


def started(cluster: Cluster) -> Daemon:
    node = cluster.start("node", "up")
    node.wait_ready()
    return node


def test_the_rules_look_into_tunnels_to_hosts_that_are_named(
    cluster: Cluster, https: Https, ours: Path
) -> None:
    data = os.urandom(3 * MIB)
    url = https.put("/big", data)
    node = started(cluster)
    with client_of(node, ours) as client:
        for _ in range(2):
            assert client.get(url).content == data
        assert https.origin.sent_bytes == len(data)
        # What no rule names is the origin's own, and asked each time.
        other = https.put("/small", b"small")
        before = https.origin.requests
        for _ in range(2):
            assert client.get(other).content == b"small"
        assert https.origin.requests == before + 2
        assert client.get(url.replace("/big", "/secret")).status_code == 403
        assert client.get(url.replace("/big", "/none")).status_code == 404
    # The client sees our authority, and nobody who trusts others alone is deceived.
    with client_of(node, https.file) as client, pytest.raises(httpx.ConnectError, match="verify"):
        client.get(url)


def test_all_other_tunnels_are_left_alone(cluster: Cluster, https: Https, ours: Path) -> None:
    data = os.urandom(MIB)
    url = https.put("/big", data).replace("127.0.0.1", "localhost")
    node = started(cluster)
    with client_of(node, https.file) as client:
        for _ in range(2):
            assert client.get(url).content == data
    assert https.origin.sent_bytes == 2 * len(data)


def test_an_origin_that_cannot_be_verified_is_not_asked(
    cluster: Cluster, https: Https, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAWKER_EGRESS__CA")
    url = https.put("/small", b"small")
    node = started(cluster)
    with client_of(node, ours) as client:
        answer = client.get(url)
    assert answer.status_code == 502
    assert "certificate" in answer.json()["detail"]
    assert https.origin.requests == 0


def test_nothing_is_intercepted_without_an_authority(
    tmp_path: Path, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = (
        "--config",
        str(tmp_path / "hawker.toml"),
        "--port",
        "0",
        "--data",
        str(tmp_path / "d"),
    )
    certificate, key = ours, ours.with_name("ca.key")

    def tried(text: str) -> str:
        (tmp_path / "hawker.toml").write_text(f'[proxy]\nintercept = ["a.test"]\n{text}')
        done = hawker("up", *start)
        assert done.returncode == 2
        return done.stderr.decode()

    assert "needs proxy.ca_certificate" in tried("")
    assert "cannot be read" in tried(f'ca_certificate = "/none"\nca_key = "{key}"')
    assert "no certificate and its key" in tried(f'ca_certificate = "{key}"\nca_key = "{key}"')
    assert hawker("ca", "create", str(tmp_path / "other")).returncode == 0
    other = tmp_path / "other" / "ca.key"
    assert "no authority" in tried(f'ca_certificate = "{certificate}"\nca_key = "{other}"')
    key.chmod(0o644)
    assert "others may read" in tried(f'ca_certificate = "{certificate}"\nca_key = "{key}"')


def test_the_end_of_a_tunnel_comes_through_a_proxy_that_speaks_tls(
    cluster: Cluster, tmp_path: Path
) -> None:
    ca = tmp_path / "ca"
    assert hawker("ca", "create", str(ca)).returncode == 0
    issued = hawker("ca", "issue", "127.0.0.1", "--ca", str(ca), "--output", str(tmp_path / "own"))
    assert issued.returncode == 0, issued.stderr
    [certificate] = (tmp_path / "own").glob("*.crt")
    key = certificate.with_suffix(".key")
    files = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    node = cluster.start("node", "up", *files, "--tls-ca", str(ca / "ca.crt"))
    data = os.urandom(4 * MIB)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:

        def send() -> None:
            far, _ = server.accept()
            with far:
                far.sendall(data)

        sending = pool.submit(send)
        context = ssl.create_default_context(cafile=str(ca / "ca.crt"))
        address = ("127.0.0.1", int(node.ready["proxy"].rpartition(":")[2]))
        with socket.create_connection(address, 30) as plain:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
                target = f"127.0.0.1:{server.getsockname()[1]}"
                sock.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
                # All that fits into buffers is on its way before anything is read.
                time.sleep(1.5)
                received = b""
                while part := sock.recv(65536):
                    received += part
        sending.result()
    assert received.partition(b"\r\n\r\n")[2] == data
