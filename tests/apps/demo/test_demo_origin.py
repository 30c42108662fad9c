"""The demo's origin: what it answers, and that it counts what it sends."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hawker.apps.demo.origin import Origin

SIZE = 1_000_003
FAST = 1e9


@contextlib.contextmanager
def serving(file: Path, rate: float = FAST) -> Iterator[Origin]:
    with Origin(file, rate, 0) as origin:
        thread = threading.Thread(target=origin.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield origin
        finally:
            origin.shutdown()
            thread.join()


@pytest.fixture
def content() -> bytes:
    return secrets.token_bytes(SIZE)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "a file.bin"
    path.write_bytes(content)
    return path


def ask(
    origin: Origin, fields: dict[str, str] | None = None, *, method: str = "GET", path: str = ""
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", origin.server_address[1], timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path or origin.path, headers=fields or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def count(origin: Origin) -> dict[str, int]:
    figures: dict[str, int] = json.loads(ask(origin, path="/.count?settled")[2])
    return figures


def test_whole_content_is_sent_and_counted(file: Path, content: bytes) -> None:
    with serving(file) as origin:
        status, fields, body = ask(origin)
        assert (status, body) == (200, content)
        assert fields["etag"].startswith('"') and fields["accept-ranges"] == "bytes"
        assert count(origin) == {
            "content_bytes": SIZE,
            "requests": 1,
            "heads": 0,
            "unfinished": 0,
            "active": 0,
        }


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-99", 10, 100),
        ("bytes=-5", SIZE - 5, SIZE),
        ("bytes=70000-", 70000, SIZE),
        ("bytes=999999-99999999", 999999, SIZE),
    ],
)
def test_range_is_sent_alone(file: Path, content: bytes, asked: str, start: int, stop: int) -> None:
    with serving(file) as origin:
        status, fields, body = ask(origin, {"Range": asked})
        assert (status, body) == (206, content[start:stop])
        assert fields["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
        assert count(origin)["content_bytes"] == stop - start


@pytest.mark.parametrize("asked", ["bytes=0-1,5-9", "pieces=0-1", "bytes=9-5", "bytes=-"])
def test_range_that_need_not_be_understood_gets_everything(file: Path, asked: str) -> None:
    with serving(file) as origin:
        status, _, body = ask(origin, {"Range": asked})
        assert (status, len(body)) == (200, SIZE)


def test_range_beyond_the_end_is_refused_without_content(file: Path) -> None:
    with serving(file) as origin:
        status, fields, body = ask(origin, {"Range": f"bytes={SIZE}-"})
        assert (status, fields["content-range"], body) == (416, f"bytes */{SIZE}", b"")
        assert count(origin)["content_bytes"] == 0


def test_conditions_are_judged_by_the_strong_validator(file: Path) -> None:
    with serving(file) as origin:
        tag = ask(origin, method="HEAD")[1]["etag"]
        assert ask(origin, {"If-None-Match": tag})[0] == 304
        assert ask(origin, {"If-Match": '"other"'})[0] == 412
        assert ask(origin, {"If-Match": tag, "Range": "bytes=0-4"})[0] == 206
        assert ask(origin, {"If-Range": tag, "Range": "bytes=0-4"})[0] == 206
        assert ask(origin, {"If-Range": '"other"', "Range": "bytes=0-4"})[0] == 200


def test_head_tells_the_length_and_sends_nothing(file: Path) -> None:
    with serving(file) as origin:
        status, fields, body = ask(origin, method="HEAD")
        assert (status, fields["content-length"], body) == (200, str(SIZE), b"")
        assert count(origin)["heads"] == 1
        assert count(origin)["requests"] == 0


def test_other_paths_are_not_found(file: Path) -> None:
    with serving(file) as origin:
        assert ask(origin, path="/other")[0] == 404


def test_empty_file_is_served(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with serving(empty) as origin:
        assert ask(origin)[::2] == (200, b"")
        assert ask(origin, {"Range": "bytes=0-"})[0] == 416


def test_answer_that_the_client_leaves_is_counted_as_unfinished(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(secrets.token_bytes(16_000_000))
    with serving(large) as origin:
        with socket.create_connection(("127.0.0.1", origin.server_address[1]), 20) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.sendall(f"GET {origin.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        figures = count(origin)
        assert figures["unfinished"] == 1
        assert 0 < figures["content_bytes"] < 16_000_000


def test_one_uplink_is_shared_by_all_clients(tmp_path: Path) -> None:
    size = 500_000
    (tmp_path / "f").write_bytes(secrets.token_bytes(size))
    with serving(tmp_path / "f", rate=2.5e6) as origin:
        alone = _seconds_of(origin, clients=1)
        four = _seconds_of(origin, clients=4)
        # 0.2 s alone, 0.8 s together: twice as long would already show that it is shared.
        assert alone > 0.15
        assert 2.5 < four / alone < 8
        assert count(origin)["content_bytes"] == 5 * size


def _seconds_of(origin: Origin, clients: int) -> float:
    threads = [threading.Thread(target=ask, args=(origin,)) for _ in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began
