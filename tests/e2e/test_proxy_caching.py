"""URLs that may change come out of the swarm for as long as their origin says, and never mixed."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon
from tests.e2e.served import Quiet, Served


class Pages:
    """An origin of pages that change; counts HEADs, GETs and bytes by path."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.asked: Counter[tuple[str, str]] = Counter()
        self.sent: Counter[str] = Counter()
        # Fields for GETs in place of those for HEADs.
        self.lies: dict[str, tuple[bytes, dict[str, str]]] = {}
        # Seconds that answers to each method take.
        self.delays: dict[str, float] = {}
        pages = self

        class Handler(Quiet):
            def _serve(self) -> None:
                pages.serve(self)

            do_GET = do_HEAD = do_POST = _serve

        self._served = Served(Handler)
        self.url = self._served.url

    def put(self, path: str, data: bytes, tag: str, **fields: str) -> str:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        self.pages[path] = data, {"etag": f'"{tag}"', **named}
        return self.url + path

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        method, path = request.command, request.path
        self.asked[method, path] += 1
        time.sleep(self.delays.get(method, 0.0))
        request.rfile.read(int(request.headers.get("content-length", "0")))
        if method == "POST":
            self.pages[path] = b"written", {"etag": '"written"', "cache-control": "max-age=3600"}
        data, fields = self.pages.get(path, (b"", {}))
        if method == "GET":
            data, fields = self.lies.get(path, (data, fields))
        status = 200 if path in self.pages else 404
        if fields.get("vary") and "gzip" in request.headers.get("accept-encoding", ""):
            data, fields = gzip.compress(data), fields | {"content-encoding": "gzip"}
        request.send_response(status)
        for name, value in fields.items():
            request.send_header(name, value)
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        if method != "HEAD":
            request.wfile.write(data)
            self.sent[path] += len(data)

    def close(self) -> None:
        self._served.close()


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    yield made
    made.close()


@pytest.fixture
def client(
    cluster: Cluster, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    rules = [
        {"url": "/fixed", "action": "swarm", "fresh": 3600},
        {"url": "", "action": "swarm"},
    ]
    monkeypatch.setenv("HAWKER_PROXY__RULES", json.dumps(rules))
    node: Daemon = cluster.start("node", "up")
    node.wait_ready()
    with httpx.Client(proxy=node.ready["proxy"], trust_env=False, timeout=60) as made:
        yield made


def test_what_is_fresh_asks_nobody(client: httpx.Client, pages: Pages) -> None:
    data = os.urandom(300_000)
    url = pages.put("/page", data, "1", cache_control="max-age=60", content_type="text/x-mine")
    for _ in range(3):
        answer = client.get(url)
        assert answer.content == data
        # As its origin described it.
        assert answer.headers["etag"] == '"1"'
        assert answer.headers["content-type"] == "text/x-mine"
        assert answer.headers["cache-control"] == "max-age=60"
        assert int(answer.headers["age"]) < 60
    assert pages.asked == {("HEAD", "/page"): 1, ("GET", "/page"): 1}
    assert pages.sent["/page"] == len(data)
    # Somebody who wants to know is told what its origin has now.
    assert client.get(url, headers={"cache-control": "no-cache"}).content == data
    assert pages.asked == {("HEAD", "/page"): 2, ("GET", "/page"): 1}


def test_what_changed_is_seen_as_soon_as_it_is_stale(client: httpx.Client, pages: Pages) -> None:
    for number in range(3):
        data = os.urandom(1000)
        url = pages.put("/page", data, f"v{number}")
        for _ in range(2):
            answer = client.get(url)
            assert (answer.content, answer.headers["etag"]) == (data, f'"v{number}"')
    assert pages.asked["GET", "/page"] == 3


def test_a_rule_keeps_what_its_origin_says_nothing_of(client: httpx.Client, pages: Pages) -> None:
    url = pages.put("/fixed", b"old", "1")
    assert client.get(url).content == b"old"
    pages.put("/fixed", b"new", "2")
    assert client.get(url).content == b"old"
    # But not past a write through here.
    client.post(url, content=b"x")
    assert client.get(url).content == b"written"


def test_what_is_read_while_it_is_written_to_is_asked_about_again(
    client: httpx.Client, pages: Pages
) -> None:
    url = pages.put("/page", b"old", "1", cache_control="max-age=3600")
    pages.delays["POST"] = 1.0
    with ThreadPoolExecutor() as pool:
        writing = pool.submit(client.post, url, content=b"x")
        time.sleep(0.3)
        assert client.get(url).content == b"old"
        assert writing.result().status_code == 200
    assert client.get(url).content == b"written"


def test_many_who_ask_about_what_is_not_shared_wait_for_one_answer(
    client: httpx.Client, pages: Pages
) -> None:
    url = pages.put("/page", b"mine", "1", cache_control="no-store")
    pages.delays["HEAD"] = 0.5
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(client.get, [url] * 12))
    assert [answer.content for answer in answers] == [b"mine"] * 12
    assert pages.asked["HEAD", "/page"] <= 2


def test_all_that_its_origin_says_of_a_page_is_kept(client: httpx.Client, pages: Pages) -> None:
    fields = {
        "cache_control": "max-age=60",
        "content_security_policy": "default-src 'none'",
        "access_control_allow_origin": "*",
        "content_disposition": 'attachment; filename="\u00e9.txt"',
        "vary": "accept-encoding",
    }
    url = pages.put("/page", b"text", "1", **fields)
    for _ in range(2):
        answer = client.get(url)
        for name, value in fields.items():
            raw = dict(answer.headers.raw)[name.replace("_", "-").encode()]
            assert raw.decode("latin-1") == value


def test_conditions_and_ranges_are_about_the_origins_version(
    client: httpx.Client, pages: Pages
) -> None:
    data = os.urandom(5000)
    url = pages.put("/page", data, "1", cache_control="max-age=60")
    unchanged = client.get(url, headers={"if-none-match": 'W/"0", "1"'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == '"1"'
    assert client.get(url, headers={"if-match": '"0"'}).status_code == 412
    for fields, status, body in (
        ({"range": "bytes=10-19"}, 206, data[10:20]),
        ({"range": "bytes=10-19", "if-range": '"1"'}, 206, data[10:20]),
        ({"range": "bytes=10-19", "if-range": '"0"'}, 200, data),
    ):
        answer = client.get(url, headers=fields)
        assert (answer.status_code, answer.content) == (status, body)
        assert answer.headers["etag"] == '"1"'
    assert client.get(url, headers={"range": "bytes=9000-"}).status_code == 416
    assert pages.sent["/page"] <= len(data)


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_control": "private, max-age=60"},
        {"cache_control": "no-store"},
        {"set_cookie": "a=b"},
        {"vary": "user-agent"},
    ],
)
def test_what_is_somebodys_is_asked_for_each_time(
    client: httpx.Client, pages: Pages, fields: dict[str, str]
) -> None:
    url = pages.put("/page", b"yours", "1", **fields)
    for number in range(1, 3):
        assert client.get(url).content == b"yours"
        assert pages.asked["GET", "/page"] == number


def test_who_signs_in_is_given_nothing_that_is_kept(client: httpx.Client, pages: Pages) -> None:
    url = pages.put("/page", b"all", "1", cache_control="max-age=60")
    assert client.get(url).content == b"all"
    for number in range(2, 4):
        client.get(url, headers={"authorization": "Basic eA=="})
        assert pages.asked["GET", "/page"] == number


def test_codings_are_never_mixed(client: httpx.Client, pages: Pages) -> None:
    data = b"text " * 5000
    fields = {"vary": "accept-encoding", "cache_control": "max-age=60"}
    url = pages.put("/page", data, "1", **fields)
    for accepted in ("gzip", "identity", "gzip, br;q=0.5"):
        answer = client.get(url, headers={"accept-encoding": accepted})
        assert answer.content == data
        assert "content-encoding" not in answer.headers
        assert int(answer.headers["content-length"]) == len(data)


def test_what_is_not_there_is_not_remembered(client: httpx.Client, pages: Pages) -> None:
    url = pages.url + "/page"
    assert client.get(url).status_code == 404
    pages.put("/page", b"now", "1", cache_control="max-age=60")
    assert client.get(url).content == b"now"


def test_a_page_that_changes_while_it_is_asked_about(client: httpx.Client, pages: Pages) -> None:
    url = pages.put("/page", b"old", "1", cache_control="max-age=60")
    pages.lies["/page"] = b"newer", {"etag": '"2"', "cache-control": "max-age=60"}
    answer = client.get(url)
    # Never the bytes of one version with the description of another.
    assert (answer.content, answer.headers["etag"]) == (b"newer", '"2"')


def test_only_if_cached(client: httpx.Client, pages: Pages) -> None:
    url = pages.put("/page", b"here", "1", cache_control="max-age=60")
    only = {"cache-control": "only-if-cached"}
    assert client.get(url, headers=only).status_code == 504
    client.get(url)
    assert client.get(url, headers=only).content == b"here"
    assert pages.asked == {("HEAD", "/page"): 1, ("GET", "/page"): 1}
