"""A forward proxy passes on what no rule names as it is, and gives the rest out of the swarm."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import pytest

from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import Cluster, Daemon, Origin, wait_for
from tests.e2e.served import Quiet, Served

MIB = 2**20
SWARM = [{"url": r"/big\b", "action": "swarm", "immutable": True}]


class Site:
    """An origin that shows what it was asked, streams, breaks off, and speaks another protocol."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.go_on = threading.Event()
        self.left = threading.Event()
        site = self

        class Handler(Quiet):
            def _serve(self) -> None:
                fields = {name.lower(): value for name, value in self.headers.items()}
                site.seen.append((self.command, self.path, fields))
                getattr(site, "do_" + self.path.strip("/").partition("/")[0], site.do_echo)(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_BREW = _serve

        self._served = Served(Handler)
        self.name, self.url = self._served.name, self._served.url

    def close(self) -> None:
        self.go_on.set()
        self._served.close()

    def _head(self, request: BaseHTTPRequestHandler, status: int, **fields: str) -> None:
        request.send_response(status)
        for name, value in fields.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    def do_echo(self, request: BaseHTTPRequestHandler) -> None:
        """The request's body, whichever way it was framed."""
        body = b""
        if "chunked" in request.headers.get("transfer-encoding", ""):
            while size := int(request.rfile.readline(), 16):
                body += request.rfile.read(size)
                request.rfile.readline()
            request.rfile.readline()
        else:
            body = request.rfile.read(int(request.headers.get("content-length", "0")))
        length = str(len(body))
        self._head(request, 207, content_length=length, x_mine="1", connection="x-hop", x_hop="1")
        if request.command != "HEAD":
            request.wfile.write(body)

    def do_events(self, request: BaseHTTPRequestHandler) -> None:
        self._head(request, 200, content_type="text/event-stream", transfer_encoding="chunked")
        request.wfile.write(b"9\r\ndata: 1\n\n\r\n")
        self.go_on.wait(30)
        with contextlib.suppress(OSError):
            while not self.left.wait(0.05):
                request.wfile.write(b"9\r\ndata: 2\n\n\r\n")
        self.left.set()

    def do_short(self, request: BaseHTTPRequestHandler) -> None:
        """Ends before its length."""
        self._head(request, 200, content_length="1000")
        request.wfile.write(b"x" * 10)
        request.close_connection = True

    def do_refuse(self, request: BaseHTTPRequestHandler) -> None:
        """Answers before the body was read."""
        self._head(request, 413, content_length="0", connection="close")
        request.close_connection = True

    def do_switch(self, request: BaseHTTPRequestHandler) -> None:
        """Speaks another protocol from here on: what it hears, in upper case."""
        self._head(request, 101, connection="upgrade", upgrade="shout")
        while data := request.connection.recv(1000):
            request.connection.sendall(data.upper())
        request.close_connection = True


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def proxy_of(node: Daemon) -> str:
    """The URL of a node's proxy: each listens beside its own port, which was free, too."""
    proxy: str = node.ready["proxy"]
    return proxy


def client_of(node: Daemon, **more: Any) -> httpx.Client:
    return httpx.Client(proxy=proxy_of(node), trust_env=False, timeout=60, **more)


def connected(node: Daemon) -> socket.socket:
    host, _, port = proxy_of(node).removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), 20)


def answer_to(node: Daemon, request: bytes) -> bytes:
    """All that comes for bytes that are sent."""
    with connected(node) as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        received = b""
        while data := sock.recv(65536):
            received += data
    return received


def received_until(sock: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        data = sock.recv(1)
        assert data, received
        received += data
    return received


class TestUntouched:
    @pytest.fixture
    def node(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Daemon:
        rules = [{"url": "^https?://[^/]*/secret", "action": "block"}]
        monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(rules))
        return cluster.start("node", "up")

    def test_requests_and_answers_pass_as_they_are(self, node: Daemon, site: Site) -> None:
        with client_of(node) as client:
            for method in ("GET", "HEAD", "DELETE", "OPTIONS", "BREW"):
                answer = client.request(
                    method, f"{site.url}/a%20b?q=%2F&q", headers=[(b"x-own", b"\xe9")]
                )
                assert (answer.status_code, answer.headers["x-mine"]) == (207, "1")
                seen = site.seen[-1]
                assert seen[:2] == (method, "/a%20b?q=%2F&q")
                assert seen[2]["host"] == site.name
                assert seen[2]["x-own"]
        # One connection each way for all of them, and both ends know who is between.
        assert seen[2]["via"].startswith("1.1 hawker-")
        assert answer.headers["via"].startswith("1.1 hawker-")

    def test_bodies_go_up_and_come_down(self, node: Daemon, site: Site) -> None:
        data = os.urandom(9 * MIB)
        with client_of(node) as client:
            assert client.post(site.url, content=data).content == data
            pieces = iter([data[:5], data[5 : 3 * MIB], data[3 * MIB :]])
            assert client.put(site.url, content=pieces).content == data
            assert site.seen[-1][2]["transfer-encoding"] == "chunked"

    def test_what_is_about_one_connection_stays_there(self, node: Daemon, site: Site) -> None:
        fields = {
            "proxy-authorization": "Basic eDp5",
            "proxy-connection": "keep-alive",
            "connection": "keep-alive, x-listed",
            "x-listed": "1",
            "te": "trailers",
            "authorization": "Basic eA==",
        }
        with client_of(node) as client:
            answer = client.get(site.url, headers=fields)
        seen = site.seen[-1][2]
        assert not {"proxy-authorization", "proxy-connection", "x-listed", "te"} & set(seen)
        assert seen["authorization"] == "Basic eA=="
        assert "x-hop" not in answer.headers

    def test_events_come_when_they_are_sent(self, node: Daemon, site: Site) -> None:
        with client_of(node) as client, client.stream("GET", f"{site.url}/events") as answer:
            chunks = answer.iter_raw()
            assert next(chunks) == b"data: 1\n\n"
            # The second is sent only now.
            site.go_on.set()
            assert next(chunks).startswith(b"data: 2")
        # And whoever sends them hears that nobody listens.
        assert site.left.wait(20)

    def test_a_body_that_breaks_off_is_not_taken_for_whole(self, node: Daemon, site: Site) -> None:
        with client_of(node) as client, pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{site.url}/short")

    def test_an_answer_before_the_body_was_sent(self, node: Daemon, site: Site) -> None:
        with connected(node) as sock:
            length = 10**9
            head = f"POST {site.url}/refuse HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
            sock.sendall(head.encode() + bytes(1000))
            assert received_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 413")

    def test_another_protocol_after_an_upgrade(self, node: Daemon, site: Site) -> None:
        with connected(node) as sock:
            head = f"GET {site.url}/switch HTTP/1.1\r\nhost: x\r\n"
            sock.sendall(head.encode() + b"connection: upgrade\r\nupgrade: shout\r\n\r\n")
            answer = received_until(sock, b"\r\n\r\n").lower()
            assert answer.startswith(b"http/1.1 101") and b"upgrade: shout" in answer
            sock.sendall(b"hello")
            assert received_until(sock, b"O") == b"HELLO"

    def test_a_tunnel_carries_bytes_both_ways(self, node: Daemon) -> None:
        data = os.urandom(5 * MIB)
        with socket.create_server(("127.0.0.1", 0)) as server, connected(node) as sock:
            target = f"127.0.0.1:{server.getsockname()[1]}"
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
            far, _ = server.accept()
            with far, ThreadPoolExecutor() as pool:
                assert received_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
                sending = pool.submit(sock.sendall, data)
                got = b""
                while len(got) < len(data):
                    got += far.recv(65536)
                sending.result()
                assert got == data
                # One direction may end before the other.
                sock.shutdown(socket.SHUT_WR)
                assert far.recv(1) == b""
                far.sendall(b"still here")
                assert received_until(sock, b"here") == b"still here"

    def test_a_body_with_two_ends_goes_on_with_one(self, node: Daemon, site: Site) -> None:
        with connected(node) as sock:
            head = f"POST {site.url}/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
            sock.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
            assert received_until(sock, b"abc").startswith(b"HTTP/1.1 207")
        seen = site.seen[-1][2]
        assert seen["transfer-encoding"] == "chunked" and "content-length" not in seen

    def test_no_connection_becomes_http2_behind_the_rules(self, node: Daemon, site: Site) -> None:
        fields = {"connection": "upgrade, http2-settings", "upgrade": "h2c", "http2-settings": "AA"}
        with client_of(node) as client:
            assert client.get(site.url, headers=fields).status_code == 207
        assert not {"upgrade", "http2-settings"} & set(site.seen[-1][2])

    def test_an_origin_without_an_answer(self, node: Daemon) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"

            def answering(*answers: bytes) -> None:
                far, _ = server.accept()
                with far:
                    for answer in answers:
                        far.recv(65536)
                        far.sendall(answer)

            good = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            with client_of(node) as client, ThreadPoolExecutor() as pool:
                for answers in ([b""], [b"nonsense\r\n\r\n"]):
                    far = pool.submit(answering, *answers)
                    assert client.get(url).status_code == 502
                    far.result()
                # A kept connection that was closed meanwhile is no failure.
                far = pool.submit(answering, good)
                assert client.get(url).content == b"ok"
                far.result()
                far = pool.submit(answering, good)
                assert client.get(url).content == b"ok"
                far.result()

    def test_the_origin_hears_that_a_client_left(self, node: Daemon) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            for request in (
                f"GET {url} HTTP/1.1\r\nhost: x\r\n\r\n",
                f"POST {url} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc",
            ):
                with connected(node) as sock:
                    sock.sendall(request.encode())
                    far, _ = server.accept()
                    assert far.recv(10)
                far.settimeout(10)
                with far, contextlib.suppress(ConnectionResetError):
                    while far.recv(65536):
                        pass

    def test_what_leads_nowhere_is_said(self, node: Daemon, site: Site) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with client_of(node) as client:
            for url, code in (
                (f"http://127.0.0.1:{port}/", 502),
                (f"{site.url}/secret/x", 403),
                (f"{site.url}/%73ecret/x".replace("http:", "HTTP:"), 403),
                ("http://169.254.169.254/latest", 403),
                (f"{node.url}/healthy", 403),
                (f"{proxy_of(node)}/", 403),
                ("http://no-such-host.invalid/", 502),
            ):
                answer = client.get(url)
                assert answer.status_code == code, url
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["detail"]
        for request, status in (
            (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
            (b"GET ftp://x/ HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
            (b"GET http://[x/ HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
            (b"CONNECT x HTTP/1.1\r\nhost: x\r\n\r\n", b"400"),
            (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: x\r\n\r\n", b"403"),
            (f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), b"502"),
            (b"\x16\x03\x01\x02\x00nonsense\r\n\r\n", b"400"),
            (b"GET " + b"x" * 100_000, b"400"),
        ):
            assert answer_to(node, request).startswith(b"HTTP/1.1 " + status), request[:60]
        assert not [path for _, path, _ in site.seen if "secret" in path]

    def test_it_ends_though_tunnels_are_open(self, node: Daemon) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, connected(node) as sock:
            target = f"127.0.0.1:{server.getsockname()[1]}"
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
            received_until(sock, b"\r\n\r\n")
            node.process.terminate()
            assert node.process.wait(15) == 0


class TestSwarm:
    def test_three_nodes_read_the_origin_once(
        self, cluster: Cluster, origin: Origin, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(SWARM))
        cluster.make_key()
        scheduler = cluster.scheduler()
        key = ("--cluster-key", str(cluster.key), "--scheduler", scheduler.url)
        nodes = [cluster.start(f"node-{n}", "serve", "peer", "proxy", *key) for n in range(3)]
        for node in nodes:
            node.wait_ready()
        data = os.urandom(6 * MIB + 1)
        url = origin.put("/big", data)

        def through(node: Daemon) -> bytes:
            with client_of(node) as client:
                return client.get(url).content

        with ThreadPoolExecutor() as pool:
            assert list(pool.map(through, nodes)) == [data] * 3
        assert origin.sent_bytes == len(data)
        with client_of(nodes[0]) as client:
            part = client.get(url, headers={"range": "bytes=5-9"})
            assert (part.status_code, part.content) == (206, data[5:10])
            # What curl --http2 offers with each request in the clear.
            offer = {"connection": "upgrade, http2-settings", "upgrade": "h2c"}
            offer["http2-settings"] = "AAMAAABkAAQAoAAAAAIAAAAA"
            assert client.get(url, headers=offer).content == data
            tag = {"if-none-match": part.headers["etag"]}
            assert client.get(url, headers=tag).status_code == 304
        assert origin.sent_bytes == len(data)

    def test_what_the_swarm_cannot_give_the_origin_is_asked_for(
        self, cluster: Cluster, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(
            "HAWKER_PROXY__RULES", json.dumps([{"url": "", "action": "swarm", "immutable": True}])
        )
        node = cluster.start("node", "up")
        node.wait_ready()
        with client_of(node) as client:
            # Status 207 is nothing that can be shared.
            answer = client.get(f"{site.url}/echo")
            assert (answer.status_code, answer.headers["x-mine"]) == (207, "1")
            assert client.post(f"{site.url}/echo", content=b"up").content == b"up"
            assert client.get(site.url, headers={"cookie": "a=b"}).status_code == 207

    def test_a_redirect_asks_another_origin(
        self, cluster: Cluster, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rules = [{"url": "^http://old.invalid/", "action": "redirect", "to": site.url}]
        monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(rules))
        node = cluster.start("node", "up")
        with client_of(node) as client:
            assert client.get("http://old.invalid/path?q=1").status_code == 207
        assert site.seen[-1][1] == "/path?q=1"


def test_clients_are_asked_who_they_are_where_that_is_required(
    cluster: Cluster, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_AUTH__MODE", "required")
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(SWARM))
    node = cluster.start("node", "up")
    node.wait_ready()
    token = ClusterKey(read_key_file(node.data / "cluster.key")).mint("", ["content"])
    other = ClusterKey(read_key_file(node.data / "cluster.key")).mint("", ["tasks"])

    def asked(user: str) -> httpx.Response:
        shown = base64.b64encode(user.encode()).decode()
        with connected(node) as sock:
            field = f"proxy-authorization: Basic {shown}\r\n" if user else ""
            request = f"GET {site.url}/echo HTTP/1.1\r\nhost: x\r\n{field}\r\n"
            sock.sendall(request.encode())
            head = received_until(sock, b"\r\n\r\n").decode().split("\r\n")
        status = int(head[0].split()[1])
        fields = [line.partition(": ") for line in head[1:] if line]
        return httpx.Response(status, headers=[(name, value) for name, _, value in fields])

    for user in ("", "ann:wrong"):
        answer = asked(user)
        assert answer.status_code == 407
        assert answer.headers["proxy-authenticate"] == 'Basic realm="hawker"'
    assert asked(f"ann:{other}").status_code == 403
    assert not site.seen
    assert asked(f"ann:{token}").status_code == 207
    assert "proxy-authorization" not in site.seen[-1][2]


def test_an_aborted_client_ends_what_nobody_else_wants(
    cluster: Cluster, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(SWARM))
    node = cluster.start("node", "up")
    node.wait_ready()
    origin.delay = 0.05
    url = origin.put("/big", os.urandom(32 * MIB))
    with client_of(node) as client, client.stream("GET", url) as answer:
        next(answer.iter_raw())
    wait_for(lambda: node.metric("hawker_peer_downloads_active") == 0, "nobody waits for it", 20)
    # Which would take 25 s to its end.
    wait_for(lambda: node.metric("hawker_peer_tasks_reading") == 0, "it is not read on", 20)
    read = origin.sent_bytes
    assert read < 32 * MIB
    # Who asks again gets all of it; what is here already is not read again.
    origin.delay = 0.0
    with client_of(node) as client:
        assert client.get(url).content == origin.files["/big"]
    assert origin.sent_bytes < 40 * MIB
