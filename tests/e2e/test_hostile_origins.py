"""Whatever an origin does, each of three peers has the right bytes or an error that says why."""

from __future__ import annotations

import datetime
import json
import os
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.e2e.conftest import Cluster, Daemon, hawker, wait_for
from tests.e2e.hostile_origin import (
    Behaviour,
    HostileOrigin,
    Pausing,
    chunked,
    cut_after,
    first,
    fixed,
    good,
    later,
    stated,
    trickle,
)

SIZE = 2 * 2**20 + 345
DEADLINE = 45.0
DATA = os.urandom(SIZE)
NEWER = os.urandom(SIZE)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """A scheduler, a seed and three peers, for all tests here."""
    cluster = Cluster(tmp_path_factory.mktemp("hostile"))
    try:
        _, _, made = cluster.swarm(3)
        yield made
    finally:
        cluster.close()


@pytest.fixture
def origin() -> Iterator[HostileOrigin]:
    made = HostileOrigin()
    yield made
    made.close()


Outcome = tuple[str, bytes | dict[str, Any]]


def ask(
    peer: Daemon, url: str, headers: dict[str, str] | None = None, timeout: float = DEADLINE
) -> Outcome:
    """("ok", content) or (problem code, problem), in bounded time."""
    request = {"url": url, "timeout": timeout, "headers": headers or {}}
    with peer.client() as client:
        began = time.monotonic()
        with client.stream("POST", "/peer/v1/downloads", json=request) as answer:
            steps = [json.loads(line) for line in answer.iter_lines()]
        assert time.monotonic() - began < timeout + 5
        last = steps[-1]
        if "problem" in last:
            problem = last["problem"]
            return problem["type"].rpartition(":")[2], problem
        path = f"/peer/v1/tasks/{last['task']}/{last['generation']}/content"
        return "ok", client.get(path).content


def ask_all(peers: list[Daemon], url: str, **options: Any) -> list[Outcome]:
    with ThreadPoolExecutor(len(peers)) as pool:
        return list(pool.map(lambda peer: ask(peer, url, **options), peers))


def all_get(peers: list[Daemon], url: str, data: bytes, **options: Any) -> None:
    for kind, content in ask_all(peers, url, **options):
        assert kind == "ok", content
        assert content == data


def all_fail(peers: list[Daemon], url: str, code: str, words: str = "") -> None:
    for kind, problem in ask_all(peers, url):
        assert kind == code, problem
        assert isinstance(problem, dict)
        assert words in problem["detail"] + problem.get("hint", ""), problem


GOOD: dict[str, tuple[Behaviour, bytes]] = {
    "ranges": (good(DATA), DATA),
    "no-ranges": (good(DATA, ranges=False), DATA),
    "no-length": (lambda ask: ask.answer("200 OK", {"connection": "close"}, DATA), DATA),
    "chunked": (chunked(DATA), DATA),
    "weak": (fixed("200 OK", {"etag": 'W/"w"', "content-length": SIZE}, DATA), DATA),
    "no-validator": (fixed("200 OK", {"content-length": SIZE}, DATA), DATA),
    "old-date": (
        fixed(
            "200 OK",
            {"last-modified": later(-9000), "date": later(0), "content-length": SIZE},
            DATA,
        ),
        DATA,
    ),
    "new-date": (
        fixed(
            "200 OK", {"last-modified": later(0), "date": later(0), "content-length": SIZE}, DATA
        ),
        DATA,
    ),
    "empty": (fixed("200 OK", {"content-length": 0, "etag": '"e"'}), b""),
    "one-byte": (good(b"x"), b"x"),
    "digest": (good(DATA, more=stated(DATA)), DATA),
    "digest-chunked": (chunked(DATA, stated(DATA)), DATA),
    "digest-no-ranges": (good(DATA, ranges=False, more=stated(DATA)), DATA),
    "digest-unreadable": (good(DATA, more={"repr-digest": "sha-256=:AAAA:"}), DATA),
    "many-fields": (
        fixed("200 OK", {f"x-{n}": "y" * 50 for n in range(90)} | {"content-length": 3}, b"abc"),
        b"abc",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_one_request_serves_three_peers(
    name: str, peers: list[Daemon], origin: HostileOrigin
) -> None:
    behaviour, data = GOOD[name]
    all_get(peers, origin.put(f"/{name}", behaviour), data)
    assert origin.requests(f"/{name}") == 1


BAD: dict[str, tuple[Behaviour, str, str]] = {
    "digest": (good(DATA, more=stated(NEWER)), "digest-mismatch", "sha256:"),
    "digest-chunked": (chunked(DATA, stated(NEWER)), "digest-mismatch", "sha256:"),
    "digest-empty": (
        fixed("200 OK", {"content-length": 0, "etag": '"e"', **stated(NEWER)}),
        "digest-mismatch",
        "sha256:",
    ),
    "401": (fixed("401 No", {"content-length": 0}), "origin-refused", "401"),
    "403": (fixed("403 No", {"content-length": 0}), "origin-refused", "403"),
    "404": (fixed("404 No", {"content-length": 0}), "not-found", "404"),
    "410": (fixed("410 No", {"content-length": 0}), "not-found", "410"),
    "500": (fixed("500 No", {"content-length": 0}), "origin-failed", "500"),
    "429-long": (
        fixed("429 No", {"content-length": 0, "retry-after": 600}),
        "origin-failed",
        "429",
    ),
    "always-short": (
        fixed("200 OK", {"content-length": SIZE, "connection": "close"}, DATA[:-9]),
        "origin-failed",
        "",
    ),
    "gzip": (
        fixed("200 OK", {"content-encoding": "gzip", "content-length": 3}, b"abc"),
        "origin-failed",
        "coding",
    ),
    "unasked-206": (
        fixed("206 Part", {"content-range": "bytes 0-2/3", "content-length": 3}, b"abc"),
        "origin-failed",
        "206",
    ),
    "loop": (fixed("302 On", {"location": "/loop", "content-length": 0}), "origin-failed", "10"),
    "nowhere": (fixed("302 On", {"content-length": 0}), "origin-failed", "nowhere"),
    "to-file": (
        fixed("302 On", {"location": "file:///etc/passwd", "content-length": 0}),
        "origin-refused",
        "not HTTP",
    ),
    "to-metadata": (
        fixed("302 On", {"location": "http://169.254.169.254/", "content-length": 0}),
        "forbidden",
        "never origins",
    ),
    "always-reset": (lambda ask: ask.reset(), "origin-failed", ""),
    "no-http": (lambda ask: ask.connection.sendall(b"hello\r\n\r\n"), "origin-failed", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_origin_is_an_error_of_its_kind_at_every_peer(
    name: str, peers: list[Daemon], origin: HostileOrigin
) -> None:
    behaviour, code, words = BAD[name]
    all_fail(peers, origin.put(f"/{name}", behaviour), code, words)


RECOVERING: dict[str, tuple[Behaviour, bytes]] = {
    "short-once": (first(1, cut_after(SIZE // 2, DATA), good(DATA)), DATA),
    "reset-once": (first(1, lambda ask: ask.reset(), good(DATA)), DATA),
    "reset-in-mid-body": (first(1, cut_after(SIZE // 3, DATA, reset=True), good(DATA)), DATA),
    "503-seconds": (
        first(2, fixed("503 No", {"content-length": 0, "retry-after": 1}), good(DATA)),
        DATA,
    ),
    "429-date": (
        first(
            1,
            lambda ask: ask.answer(
                "429 No", {"content-length": 0, "date": later(0), "retry-after": later(1)}
            ),
            good(DATA),
        ),
        DATA,
    ),
    # What was cut off is another thing when it is asked for again.
    "changes-in-mid-download": (
        first(1, cut_after(SIZE // 2, DATA), good(NEWER, '"two"')),
        NEWER,
    ),
    "200-to-a-range": (
        first(1, cut_after(SIZE // 2, DATA), good(DATA, ranges=False)),
        DATA,
    ),
}


@pytest.mark.parametrize("name", RECOVERING)
def test_a_passing_fault_costs_time_and_no_right_bytes(
    name: str, peers: list[Daemon], origin: HostileOrigin
) -> None:
    behaviour, data = RECOVERING[name]
    all_get(peers, origin.put(f"/{name}", behaviour), data)
    assert origin.requests(f"/{name}") <= 6


@pytest.mark.parametrize(
    ("kind", "cut"), [("seconds", False), ("date", False), ("undated", False), ("seconds", True)]
)
def test_no_request_reaches_the_origin_before_the_pause_it_asked_for_is_over(
    kind: str, cut: bool, peers: list[Daemon], origin: HostileOrigin
) -> None:
    pausing = Pausing(kind, good(DATA))
    behaviour = first(1, cut_after(SIZE // 2, DATA), pausing) if cut else pausing

    def flowing(ask: Any) -> None:
        ask.answer("200 OK", {"content-length": SIZE, "etag": '"two"'})
        for at in range(0, SIZE, SIZE // 20):
            ask.connection.sendall(NEWER[at : at + SIZE // 20])
            time.sleep(0.1)

    url, under_way = origin.put("/pausing", behaviour), origin.put("/under-way", flowing)
    other = origin.put("/other", pausing.in_the_pause(good(NEWER)))
    with ThreadPoolExecutor(3) as pool:
        # What is read anyway says nothing against the pause.
        going_on = pool.submit(all_get, peers, under_way, NEWER)
        wait_for(lambda: origin.requests("/under-way"), "it is read")
        paused = pool.submit(all_get, peers, url, DATA)
        wait_for(lambda: pausing.until, "the origin asks for a pause")
        time.sleep(0.3)
        all_get(peers, other, NEWER)
        for each in (going_on, paused):
            each.result()
    assert not pausing.early
    assert origin.requests("/pausing") == 2 + cut


def test_a_pause_that_is_too_long_to_wait_for_is_told_at_once_with_its_end(
    peers: list[Daemon], origin: HostileOrigin
) -> None:
    later = fixed("503 No", {"content-length": 0, "retry-after": 600})
    url = origin.put("/long-pause", first(1, cut_after(SIZE // 2, DATA), later))
    began = time.monotonic()
    for kind, problem in ask_all(peers, url):
        assert kind == "origin-failed" and isinstance(problem, dict), problem
        assert 590 < problem["retry_after"] <= 601
    assert time.monotonic() - began < 10
    assert origin.requests("/long-pause") == 2
    with peers[0].client() as client:
        answer = client.get("/peer/v1/content", params={"url": origin.put("/next", good(DATA))})
    assert answer.is_error and 580 < int(answer.headers["retry-after"]) <= 601
    assert not origin.requests("/next")


def test_what_has_not_the_stated_digest_is_kept_by_nobody(
    peers: list[Daemon], origin: HostileOrigin
) -> None:
    damaged = good(NEWER, more=stated(DATA))
    url = origin.put("/damaged", first(1, damaged, good(DATA, more=stated(DATA))))
    kind, problem = ask(peers[0], url)
    assert kind == "digest-mismatch", problem
    # The same length and validator: had a piece been kept, it would be used.
    all_get(peers, url, DATA)


@pytest.mark.parametrize("content_range", ["bytes 5-/9", "bytes 1-9/10", "bytes 0-99/7", "none"])
def test_a_wrong_content_range_is_never_believed(
    content_range: str, peers: list[Daemon], origin: HostileOrigin
) -> None:
    def behave(ask: Any) -> None:
        if ask.range is None:
            cut_after(SIZE // 2, DATA)(ask)
            return
        fields = {"etag": '"one"', "content-range": content_range, "content-length": 3}
        ask.answer("206 Part", fields, b"abc")

    path = f"/wrong-range-{content_range.replace(' ', '_').replace('/', '_')}"
    all_fail(peers, origin.put(path, behave), "origin-failed")


def test_a_longer_body_than_was_said_is_cut_where_it_was_said_to_end(
    peers: list[Daemon], origin: HostileOrigin
) -> None:
    url = origin.put("/long", fixed("200 OK", {"content-length": SIZE}, DATA + b"more"))
    all_get(peers, url, DATA)


def test_a_body_that_trickles_ends_in_an_error_within_the_deadline(
    peers: list[Daemon], origin: HostileOrigin
) -> None:
    for kind, problem in ask_all(peers, origin.put("/trickle", trickle), timeout=4.0):
        assert kind in ("origin-failed", "not-here-yet"), problem


def test_a_redirect_to_another_host_is_followed_without_the_secret(
    peers: list[Daemon], origin: HostileOrigin
) -> None:
    other = HostileOrigin(host="::1")
    try:
        target = other.put("/there", good(DATA))
        url = origin.put("/away", fixed("302 On", {"location": target, "content-length": 0}))
        all_get(peers, url, DATA, headers={"Authorization": "Bearer secret"})
        assert all("secret" in str(fields) for fields in origin.asked["/away"])
        assert not any("secret" in str(fields) for fields in other.asked["/there"])
        whole = [fields for fields in other.asked["/there"] if fields.get("range") != "bytes=0-0"]
        assert len(whole) == 1, "the others only ask whether they may"
    finally:
        other.close()


def test_who_may_not_read_it_at_the_origin_does_not_get_it_from_peers(
    peers: list[Daemon], origin: HostileOrigin
) -> None:
    def behave(ask: Any) -> None:
        if ask.fields.get("authorization") == "Bearer right":
            good(DATA)(ask)
        else:
            ask.answer("403 No", {"content-length": 0})

    url = origin.put("/private", behave)
    kind, content = ask(peers[0], url, {"Authorization": "Bearer right"})
    assert (kind, content) == ("ok", DATA)
    assert ask(peers[0], url, {"Authorization": "Bearer wrong"})[0] == "origin-refused"
    assert ask(peers[1], url, {"Authorization": "Bearer wrong"})[0] == "origin-refused"
    assert ask(peers[1], url)[0] == "origin-refused"
    assert ask(peers[1], url, {"Authorization": "Bearer right"}) == ("ok", DATA)


def test_an_ipv6_origin_is_read(peers: list[Daemon]) -> None:
    origin = HostileOrigin(host="::1")
    try:
        all_get(peers, origin.put("/six", good(DATA)), DATA)
    finally:
        origin.close()


def _self_signed() -> ssl.SSLContext:
    return _server(trustme.CA().issue_cert("127.0.0.1"))


def _expired() -> ssl.SSLContext:
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    return _server(trustme.CA().issue_cert("127.0.0.1", not_after=past))


def _other_name() -> ssl.SSLContext:
    return _server(trustme.CA().issue_cert("somebody.test"))


def _server(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.mark.parametrize("make", [_self_signed, _expired, _other_name])
def test_a_bad_certificate_is_an_error_that_says_so(make: Any, peers: list[Daemon]) -> None:
    origin = HostileOrigin(context=make())
    try:
        all_fail(peers, origin.put("/tls", good(DATA)), "origin-failed", "certificate")
        assert not origin.asked
    finally:
        origin.close()


def test_an_origin_is_verified_by_the_configured_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "hawker.toml").write_text(f'[egress]\nca = "{tmp_path / "ca.pem"}"\n')
    origin = HostileOrigin(context=_server(authority.issue_cert("127.0.0.1")))
    alone = ("--data", str(tmp_path / "data"), "-O", str(tmp_path / "out"))
    try:
        url = origin.put("/own", good(DATA))
        without = hawker("get", url, *alone)
        assert without.returncode == 6 and b"egress.ca" in without.stderr
        done = hawker("get", url, *alone, "--config", str(tmp_path / "hawker.toml"))
        assert done.returncode == 0, done.stderr
    finally:
        origin.close()
    assert (tmp_path / "out").read_bytes() == DATA


def test_alone_too_a_short_pause_is_waited_for(tmp_path: Path, origin: HostileOrigin) -> None:
    pausing = Pausing("seconds", good(DATA))
    url = origin.put("/alone", first(1, cut_after(SIZE // 2, DATA), pausing))
    done = hawker("get", url, "--data", str(tmp_path / "data"), "-O", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == DATA
    assert not pausing.early and origin.requests("/alone") == 3


def test_a_recovered_origin_is_seen_at_once(peers: list[Daemon], origin: HostileOrigin) -> None:
    url = origin.put("/back", fixed("404 No", {"content-length": 0}))
    all_fail(peers, url, "not-found")
    origin.put("/back", good(DATA))
    began = time.monotonic()
    all_get(peers, url, DATA)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("status", "code"), [("404 No", 3), ("403 No", 4), ("500 No", 6)])
def test_the_command_says_what_is_wrong_in_one_line(
    status: str, code: int, peers: list[Daemon], origin: HostileOrigin, tmp_path: Path
) -> None:
    url = origin.put(f"/cli-{code}", fixed(status, {"content-length": 0}))
    done = hawker("get", url, "-O", str(tmp_path / "out"), "-e", peers[0].socket)
    message = done.stderr.decode()
    assert (done.returncode, message.count("\n")) == (code, 1)
    assert url in message and status[:3] in message
    assert not (tmp_path / "out").exists()
