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

from tests.e2e.conftest import Cluster, Daemon, Origin, hawker, wait_for
from tests.e2e.served import secure
from tests.e2e.test_proxy import Site, site  # noqa: F401

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
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.context)
        secure(origin._server, self.context)

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


def client_of(node: Daemon, trusted: Path, **more: Any) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(trusted))
    return httpx.Client(
        proxy=node.ready["proxy"], verify=context, trust_env=False, timeout=60, **more
    )


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


class TestHttp2:
    """Inside an intercepted tunnel HTTP/2 is spoken with whoever offers it."""

    @pytest.fixture
    def secured(self, site: Site, https: Https) -> Site:  # noqa: F811
        """The site over TLS; its URL says so."""
        secure(site._served.server, https.context)
        site.url = f"https://{site.name}"
        return site

    def test_many_requests_at_once_share_a_connection(
        self, cluster: Cluster, https: Https, ours: Path
    ) -> None:
        data = os.urandom(3 * MIB)
        url = https.put("/big", data)
        small = https.put("/small", b"small")
        node = started(cluster)
        with client_of(node, ours, http2=True) as client:
            assert client.get(url.replace("/big", "/secret")).status_code == 403
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(client.get, [url, small] * 8))
            for number, answer in enumerate(answers):
                assert answer.http_version == "HTTP/2"
                assert answer.content == (b"small" if number % 2 else data)
                assert len(answer.headers.get_list("date")) <= 1
            part = client.get(url, headers={"range": "bytes=5-9"})
            assert (part.status_code, part.content) == (206, data[5:10])
            assert client.get(url.replace("/big", "/none")).status_code == 404
        # One read of what the swarm gives, and each of the others.
        assert https.origin.sent_bytes == len(data) + 8 * 5
        assert node.metric('hawker_proxy_requests_total{action="intercept"}') == 1

    def test_requests_pass_as_they_are(self, cluster: Cluster, secured: Site, ours: Path) -> None:
        node = started(cluster)
        with client_of(node, ours, http2=True) as client:
            body = os.urandom(2 * MIB)
            answer = client.post(f"{secured.url}/echo?q=%2F", content=body)
            assert (answer.status_code, answer.content) == (207, body)
            assert (answer.headers["x-mine"], answer.http_version) == ("1", "HTTP/2")
            assert "x-hop" not in answer.headers
            # A body whose length nobody said.
            answer = client.put(f"{secured.url}/echo", content=iter([body[:10], body[10:]]))
            assert answer.content == body
            assert client.head(f"{secured.url}/echo").status_code == 207
            cookies = [("cookie", "a=1"), ("cookie", "b=2"), ("x-dragonfly-tag", "t")]
            assert client.get(f"{secured.url}/echo", headers=cookies).status_code == 207
            seen = secured.seen[-1][2]
            assert (seen["cookie"], seen["host"]) == ("a=1; b=2", secured.name)
            assert "x-dragonfly-tag" not in seen
            assert seen["via"].startswith("2.0 hawker-")

    def test_a_body_that_breaks_off_ends_its_stream_alone(
        self, cluster: Cluster, secured: Site, ours: Path
    ) -> None:
        node = started(cluster)
        with client_of(node, ours, http2=True) as client:
            for _ in range(2):
                with pytest.raises(httpx.RemoteProtocolError):
                    client.get(f"{secured.url}/short")
                assert client.get(f"{secured.url}/echo").status_code == 207
        assert node.metric('hawker_proxy_requests_total{action="intercept"}') == 1

    def test_events_come_when_they_are_sent_and_the_origin_hears_of_the_end(
        self, cluster: Cluster, secured: Site, ours: Path
    ) -> None:
        node = started(cluster)
        with client_of(node, ours, http2=True) as client:
            with client.stream("GET", f"{secured.url}/events") as answer:
                assert next(answer.iter_raw()) == b"data: 1\n\n"
                # Another stream goes on beside it.
                assert client.get(f"{secured.url}/echo").status_code == 207
        secured.go_on.set()
        wait_for(secured.left.is_set, "the origin heard that nobody waits", 20)

    def test_who_offers_http1_alone_is_answered_so(
        self, cluster: Cluster, https: Https, ours: Path
    ) -> None:
        url = https.put("/small", b"small")
        node = started(cluster)
        with client_of(node, ours) as client:
            assert client.get(url).http_version == "HTTP/1.1"
