"""Bodies that no honest client sends: what is no JSON, what means nothing, what is huge."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence

import pytest

from tests.apps.running import MIB, WITH_BODY, Endpoint, Running, refused


def bodies(endpoint: Endpoint) -> Sequence[bytes]:
    """What is not the JSON that an endpoint takes."""
    deep = 100_000
    common = [
        b"", b"null", b"[]", b"1", b'"x"', b"{", b"{}x", b"\xff\xfe", b"{'url': 1}",
        b"[" * deep, b"[" * deep + b"]" * deep, b'{"x":' * deep + b"1" + b"}" * deep,
        b'{"unknown":' + b"[" * deep + b"]" * deep + b"}", b"NaN", b"\xef\xbb\xbf{}",
    ]  # fmt: skip
    wrong: dict[str, list[dict[str, object]]] = {
        "downloads": [
            {"url": None}, {"url": 1}, {"url": ["x"]}, {"url": ""}, {"url": "no url"},
            {"url": "http://"}, {"url": "http://["}, {"url": "http://a:99999/"},
            {"url": "http://a b/"}, {"url": "http://a/\x00"}, {"url": "http://a/\r\nx: y"},
            {"url": "http://user:pw@a/"}, {"url": "http://" + "a" * 20000},
            {"url": "gopher://a/"}, {"url": "sha256:ab"}, {"url": "sha256:" + "A" * 64},
            {"url": "sha256:" + "a" * 63}, {"url": "sha256:" + "a" * 65}, {"url": "md5:abc"},
            {"url": "http://a/", "tag": None}, {"url": "http://a/", "tag": "t" * 5000},
            {"url": "http://a/", "filtered_query_params": None},
            {"url": "http://a/", "filtered_query_params": "x"},
            {"url": "http://a/", "filtered_query_params": [1]},
            {"url": "http://a/", "priority": "high"}, {"url": "http://a/", "priority": 1.5},
            {"url": "http://a/", "range": [5, 3]}, {"url": "http://a/", "range": [-1, 3]},
            {"url": "http://a/", "range": {}}, {"url": "http://a/", "range": ["0", "1"]},
            {"url": "http://a/", "timeout": "1"}, {"url": "http://a/", "timeout": None},
            {"url": "http://a/", "pin": 1}, {"url": "http://a/", "headers": []},
            {"url": "http://a/", "headers": {"a": 1}}, {"url": "http://a/", "headers": None},
            {"url": "http://a/", "digest": "md5:" + "a" * 32},
            {"url": "http://a/", "digest": "sha256:"}, {"url": "http://a/", "digest": "sha256"},
            {"url": "http://a/", "digest": "sha256:" + "a" * 65},
            {"url": "http://a/", "digest": "x sha256:" + "a" * 64},
            {"url": "http://a/", "digest": "sha256:" + "a" * 64 + "\n"},
        ],
        "reports": [
            {}, {"boot": None, "events": []}, {"boot": "a", "events": None},
            {"boot": "a", "events": {}}, {"boot": 1, "events": []}, {"boot": "a"},
        ],
        "{host}": [
            {}, {"url": None, "key": "", "boot": ""}, {"url": "http://127.0.0.1:1/", "boot": "b"},
            {"url": "http://127.0.0.1:1/", "key": "!", "boot": "b"},
            {"url": "http://127.0.0.1:1/", "key": "", "boot": "b", "transports": None},
            {"url": "http://127.0.0.1:1/", "key": "", "boot": "b", "upload_slots": "4"},
        ],
    }  # fmt: skip
    own = wrong[endpoint.path.rpartition("/")[2]]
    return [*common, *(json.dumps(value).encode() for value in own)]


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=lambda e: f"{e.method} {e.path}")
def test_a_body_that_makes_no_sense_is_told_so(closed: Running, endpoint: Endpoint) -> None:
    for body in bodies(endpoint):
        answer = closed.send(endpoint.method, closed.path(endpoint), body)
        if answer.status_code == 200 and endpoint.path.endswith("downloads"):
            # A name that means something, but nothing that can be had.
            assert b'"problem"' in answer.content.splitlines()[-1], (body[:80], answer.text)
            continue
        assert answer.status_code in (400, 403, 404, 413), (body[:80], answer.text)
        refused(answer)
    closed.check()


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=lambda e: f"{e.method} {e.path}")
@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_refused_unread_and_costs_no_memory(
    closed: Running, endpoint: Endpoint, chunked: bool
) -> None:
    size = 100 * MIB
    block = b" " * 65536
    before = closed.most_memory
    token = closed.own.mint(closed.host.host, ["*"])
    with socket.create_connection(closed.address, 20) as connection:
        length = "transfer-encoding: chunked" if chunked else f"content-length: {size}"
        head = f"{endpoint.method} {closed.path(endpoint)} HTTP/1.1\r\nhost: localhost\r\n"
        head += f"authorization: Bearer {token}\r\n{length}\r\n\r\n"
        connection.sendall(head.encode())
        frame = b"%x\r\n%s\r\n" % (len(block), block) if chunked else block
        sent = 0
        try:
            while sent < size:
                connection.sendall(frame)
                sent += len(block)
        except (BrokenPipeError, ConnectionResetError):
            # Refused in mid-body, as it should be.
            assert sent < size
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            # What was sent after the refusal may take its answer away.
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413 "), answer
    assert sent < 32 * MIB, "the rest of the body is not read"
    assert closed.most_memory - before < 24 * MIB
    closed.check()


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=lambda e: f"{e.method} {e.path}")
def test_a_body_announced_as_huge_is_413_before_it_comes(
    closed: Running, endpoint: Endpoint
) -> None:
    token = closed.own.mint(closed.host.host, ["*"])
    for size in (str(endpoint.limit + 1), str(10**18), "9" * 400):
        with socket.create_connection(closed.address, 20) as connection:
            head = f"{endpoint.method} {closed.path(endpoint)} HTTP/1.1\r\nhost: localhost\r\n"
            head += f"authorization: Bearer {token}\r\ncontent-length: {size}\r\n\r\n"
            connection.sendall(head.encode())
            status = int(connection.recv(65536).split(b" ", 2)[1])
        assert status == 413 or (len(size) > 20 and status == 400)
    closed.check()
