"""Content behind a signature in its URL: one task for all signatures, nothing for those without."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, hawker, wait_for

DATA = os.urandom(3 * 2**20)
GOOD = ("of-alice", "of-bob")


class SigningOrigin:
    """Gives content to those whose URL is signed; counts contents, checks and refusals."""

    def __init__(self) -> None:
        self.contents = 0
        self.checks = 0
        self.refusals = 0
        # Seconds that a refusal takes.
        self.hesitation = 0.0
        # So many requests are told to come back in a second.
        self.ill = 0
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                signature = parse_qs(parts.query).get("X-Amz-Signature", [""])[0]
                asked = self.headers.get("range", "")
                if origin.ill:
                    origin.ill -= 1
                    self._answer(503, b"", more={"retry-after": "1"})
                elif not parts.path.startswith("/v2/") and signature not in GOOD:
                    origin.refusals += 1
                    time.sleep(origin.hesitation)
                    self._answer(403, b"")
                elif asked == "bytes=0-0":
                    origin.checks += 1
                    self._answer(206, DATA[:1], f"bytes 0-0/{len(DATA)}")
                elif asked:
                    origin.contents += 1
                    first, _, last = asked.removeprefix("bytes=").partition("-")
                    stop = int(last) + 1 if last else len(DATA)
                    span = f"bytes {first}-{stop - 1}/{len(DATA)}"
                    self._answer(206, DATA[int(first) : stop], span)
                else:
                    origin.contents += 1
                    self._answer(200, DATA)

            def _answer(
                self, status: int, body: bytes, span: str = "", more: dict[str, str] | None = None
            ) -> None:
                self.send_response(status)
                for name, value in (more or {}).items():
                    self.send_header(name, value)
                self.send_header("etag", '"one"')
                self.send_header("accept-ranges", "bytes")
                if span:
                    self.send_header("content-range", span)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def url(self, signature: str = "", path: str = "/object") -> str:
        plain = f"http://127.0.0.1:{self._server.server_address[1]}{path}"
        return f"{plain}?X-Amz-Date=1&X-Amz-Signature={signature}" if signature else plain

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def signing() -> Iterator[SigningOrigin]:
    made = SigningOrigin()
    yield made
    made.close()


def ask(daemon: Daemon, url: str, method: str = "GET") -> httpx.Response:
    return httpx.request(
        method, f"{daemon.url}/peer/v1/content", params={"url": url}, trust_env=False, timeout=60
    )


def refused(answer: httpx.Response) -> bool:
    return answer.status_code == 403 and answer.json()["type"].endswith(":origin-refused")


def test_an_origin_that_cannot_say_so_just_now_is_asked_again(
    cluster: Cluster, signing: SigningOrigin
) -> None:
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    assert ask(daemon, signing.url("of-alice")).content == DATA
    # Both looks at what another signature may have fall into it.
    signing.ill = 2
    assert ask(daemon, signing.url("of-bob")).content == DATA
    assert (signing.contents, signing.ill) == (1, 0)
    signing.ill = 100
    assert ask(daemon, signing.url("forged")).status_code == 502


def test_who_has_no_good_signature_gets_nothing_of_what_others_read(
    cluster: Cluster, signing: SigningOrigin, tmp_path: Path
) -> None:
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    assert ask(daemon, signing.url("of-alice")).content == DATA
    assert (signing.contents, signing.checks) == (1, 1)
    for bad in (signing.url(), signing.url("forged"), signing.url("of-alicf")):
        assert refused(ask(daemon, bad))
        head = ask(daemon, bad, "HEAD")
        assert head.status_code == 403 and head.headers["content-length"] != str(len(DATA))
        done = hawker("get", bad, "-O", str(tmp_path / "out"), "-e", daemon.socket)
        assert done.returncode == 4, done.stderr
        with daemon.client() as client:
            steps = client.post("/peer/v1/downloads", json={"url": bad})
        assert "origin-refused" in steps.text and '"path"' not in steps.text
    # Another signature is checked with one byte, once; what is stored is what it gets.
    for _ in range(3):
        assert ask(daemon, signing.url("of-bob")).content == DATA
    assert (signing.contents, signing.checks) == (1, 2)
    # By its id it is not for everybody who reaches the port either.
    with httpx.Client(base_url=daemon.url, trust_env=False) as client:
        [stat] = [task for task in client.get("/peer/v1/tasks").json() if task["complete"]]
        stored = f"/peer/v1/tasks/{stat['task']}/{stat['generation']}/content"
        assert client.get(stored).status_code == 403


def test_hosts_share_the_pieces_and_each_checks_its_own_users(
    cluster: Cluster, signing: SigningOrigin, tmp_path: Path
) -> None:
    _, _, peers = cluster.swarm(2)
    assert ask(peers[0], signing.url("of-alice")).content == DATA
    assert refused(ask(peers[1], signing.url()))
    assert refused(ask(peers[1], signing.url("forged")))
    # Now that host has the pieces, perhaps, and gives none of them away.
    assert refused(ask(peers[1], signing.url("forged")))
    assert ask(peers[1], signing.url("of-bob")).content == DATA
    assert refused(ask(peers[1], signing.url("forged")))
    assert signing.contents == 1
    # Who is at the machine names what is stored by its id.
    with peers[1].client() as client:
        [task] = [t["task"] for t in client.get("/peer/v1/tasks").json() if t["complete"]]
    for name in (task[:16], signing.url("of-bob")):
        out = tmp_path / name[:4]
        done = hawker("export", name, "-O", str(out), "-e", peers[1].socket)
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == DATA


def test_forged_signatures_do_not_end_the_downloads_of_others(
    cluster: Cluster, signing: SigningOrigin
) -> None:
    _, _, peers = cluster.swarm(2)
    signing.hesitation = 1.0
    with ThreadPoolExecutor() as threads:
        forged = [
            threads.submit(ask, peer, signing.url(f"forged-{number}"))
            for number in range(2)
            for peer in peers
        ]
        wait_for(lambda: signing.refusals, "nobody asked")
        good = [threads.submit(ask, peer, signing.url("of-alice")) for peer in peers]
        assert all(refused(answer.result()) for answer in forged)
        assert all(answer.result().content == DATA for answer in good)
    assert signing.contents == 1


def test_a_filtered_parameter_may_be_a_signature_and_ns_is_none(
    cluster: Cluster, signing: SigningOrigin, tmp_path: Path
) -> None:
    _, seed, [peer] = cluster.swarm(1)
    blob = signing.url(path="/v2/library/app/blobs/sha256:00")
    assert ask(peer, f"{blob}?ns=docker.io").content == DATA
    assert ask(peer, blob).content == DATA
    assert (signing.contents, signing.checks) == (1, 0)
    # Nothing is lost with it, so that the seed can read for all.
    with seed.client() as client:
        assert [task["spec"]["url"] for task in client.get("/peer/v1/tasks").json()] == [blob]
    for number in (1, 2):
        out = tmp_path / str(number)
        url = f"{blob}?token={number}"
        done = hawker(
            "get", url, "--filtered-query-param", "token", "-O", str(out), "-e", peer.socket
        )
        assert done.returncode == 0 and out.read_bytes() == DATA, done.stderr
    assert (signing.contents, signing.checks) == (2, 2)
