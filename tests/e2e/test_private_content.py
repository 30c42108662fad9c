"""Content that an origin gives only to those who show something: who sends it, who gets it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hawker.core.settings import TlsSettings
from hawker.core.tls import client_context
from hawker.core.tokens import ClusterKey, read_key_file
from tests.e2e.conftest import hawker

if TYPE_CHECKING:
    from tests.e2e.conftest import Cluster, Daemon

DATA = os.urandom(2**20)
SECRET = {"authorization": "Bearer of-the-origin"}


@pytest.fixture
def private() -> Iterator[str]:
    """The URL of content that is given for one credential only."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            good = self.headers.get("authorization") == SECRET["authorization"]
            body = DATA if good else b""
            self.send_response(200 if good else 401)
            self.send_header("etag", '"one"')
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/private"
    server.shutdown()
    server.server_close()
    thread.join()


def get(daemon: Daemon, url: str) -> httpx.Response:
    with daemon.client() as client:
        answer = client.post("/peer/v1/downloads", json={"url": url, "headers": SECRET})
    assert b'"done":true' in answer.content, answer.text
    return answer


def test_what_was_read_with_credentials_is_for_those_who_may(
    cluster: Cluster, private: str
) -> None:
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    get(daemon, private)
    with httpx.Client(base_url=daemon.url, trust_env=False, timeout=30) as client:
        [stat] = client.get("/peer/v1/tasks").json()
        stored = f"/peer/v1/tasks/{stat['task']}/{stat['generation']}"
        # Anybody on this machine reaches the port; the socket is this user's alone.
        answer = client.get(f"{stored}/content")
        assert answer.status_code == 403 and answer.json()["type"].endswith(":forbidden")
        assert client.head(f"{stored}/content").status_code == 403
        assert client.get("/peer/v1/content", params={"url": private}).status_code == 403
        for verb in ("pieces/0-0", "availability"):
            assert client.get(f"{stored}/{verb}").status_code == 401
        key = ClusterKey(read_key_file(daemon.data / "cluster.key"))
        for verb, path, status in (
            ("content", "content", 200),
            ("pieces", "content", 403),
            ("pieces", "pieces/0-3", 200),
            ("content", "pieces/0-3", 403),
        ):
            headers = {"authorization": f"Bearer {key.mint('', [verb], task=stat['task'])}"}
            answer = client.get(f"{stored}/{path}", headers=headers)
            assert answer.status_code == status, (verb, path)
            assert (answer.content == DATA) == (status == 200)
    with daemon.client() as client:
        assert client.get(f"{stored}/content").content == DATA


def own_address() -> str:
    """An address of this machine that is not loopback; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address: str = probe.getsockname()[0]
    return address


@pytest.mark.parametrize("secure", [False, True])
def test_credentials_are_not_taken_from_another_machine_in_the_clear(
    cluster: Cluster, private: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secure: bool
) -> None:
    address = own_address()
    monkeypatch.setenv("HAWKER_AUTH__MODE", "required")
    monkeypatch.setenv("HAWKER_EGRESS__ALLOW", "127.0.0.0/8")
    verify: ssl.SSLContext | bool = False
    flags: list[str] = []
    if secure:
        authority = tmp_path / "ca"
        assert hawker("ca", "create", str(authority)).returncode == 0
        made = hawker("ca", "issue", address, "--ca", str(authority), "-O", str(tmp_path))
        certificate, private_key = made.stdout.decode().split()
        flags = ["--tls-ca", str(authority / "ca.crt")]
        flags += ["--tls-certificate", certificate, "--tls-key", private_key]
        verify = client_context(TlsSettings(ca=str(authority / "ca.crt"))) or False
    daemon = cluster.start("up", "up", "--host", address, *flags)
    key = ClusterKey(read_key_file(daemon.data / "cluster.key"))
    headers = {"authorization": f"Bearer {key.mint('', ['downloads'])}"}
    with httpx.Client(
        base_url=daemon.url, headers=headers, trust_env=False, timeout=30, verify=verify
    ) as client:
        answer = client.post("/peer/v1/downloads", json={"url": private, "headers": SECRET})
        if secure:
            assert b'"done":true' in answer.content, answer.text
        else:
            assert answer.status_code == 403 and "without TLS" in answer.json()["detail"]
        # Without them there is nothing to hide.
        answer = client.post("/peer/v1/downloads", json={"url": private})
        assert answer.status_code == 200 and b"origin-refused" in answer.content, answer.text


@pytest.mark.parametrize("way", ["socket", "port"])
@pytest.mark.parametrize("target", ["file", "-"])
def test_who_shows_the_credentials_gets_it_by_every_way(
    cluster: Cluster, private: str, tmp_path: Path, way: str, target: str
) -> None:
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    out = tmp_path / target if target != "-" else None
    endpoint = daemon.socket if way == "socket" else daemon.url
    header = f"Authorization: {SECRET['authorization']}"
    done = hawker("get", private, "-H", header, "-O", str(out or "-"), "-e", endpoint)
    assert done.returncode == 0, done.stderr
    assert (done.stdout if out is None else out.read_bytes()) == DATA


def test_a_ticket_is_good_for_its_content_while_its_download_is_open(
    cluster: Cluster, private: str
) -> None:
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    with httpx.Client(base_url=daemon.url, trust_env=False, timeout=30) as client:
        request = {"url": private, "headers": SECRET, "pin": True}
        with client.stream("POST", "/peer/v1/downloads", json=request) as steps:
            # Dropped, they would close the stream.
            lines = steps.iter_lines()
            for line in lines:
                step = json.loads(line)
                if step.get("done"):
                    break
            path = f"/peer/v1/tasks/{step['task']}/{step['generation']}/content"
            shown = {"hawker-ticket": step["ticket"]}
            assert client.get(path, headers=shown).content == DATA
            assert client.get(path, headers={"hawker-ticket": "0" * 32}).status_code == 403
        for _ in range(100):
            # The daemon notices a moment later that the stream was closed.
            if client.get(path, headers=shown).status_code == 403:
                return
            threading.Event().wait(0.05)
    raise AssertionError("the ticket outlives its download")
