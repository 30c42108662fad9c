"""The http source against real servers that say exactly what the test wants."""

from __future__ import annotations

import asyncio
import email.utils
import re
import socket
import ssl
import time
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from hawker.core import outgoing
from hawker.core.contracts import Source, SourceRequest, SourceServices
from hawker.core.errors import (
    BadRequest,
    HawkerError,
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
)
from hawker.core.ranges import ByteRange
from hawker.core.registry import PluginHost
from hawker.core.scheduling.origin import STUCK
from hawker.core.settings import EgressSettings, Settings
from hawker.plugins.sources import answers, s3_store
from hawker.plugins.sources.http import HttpSource
from tests.e2e.served import Quiet, Served
from tests.plugins.scripted import Keys, Scripted, Straight, Talk, serving


class Anywhere(Straight):
    """An egress policy that allows everything."""

    async def addresses(self, host: str, port: int) -> list[str]:
        return [host]


def make_source(slowest_over: float = 30.0) -> HttpSource:
    return HttpSource(SourceServices(Anywhere(), Keys()), slowest_over=slowest_over)


def response(status: str, body: bytes = b"", *fields: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", *fields, "connection: close"]
    if length:
        lines.append(f"content-length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def take(url: str, span: ByteRange | None = None, **headers: str) -> tuple[bytes, object]:
    """Open, read all, close."""

    async def main() -> tuple[bytes, object]:
        source = make_source()
        try:
            reading = await source.open(SourceRequest(url, headers), span)
            try:
                body = b"".join([chunk async for chunk in reading.stream()])
                return body, (reading.total, reading.validator, reading.ranges, reading.span)
            finally:
                await reading.close()
        finally:
            await source.close()

    return asyncio.run(main())


def read(url: str, span: ByteRange, validator: str, total: int) -> bytes:
    async def main() -> bytes:
        source = make_source()
        try:
            reading = await source.read(SourceRequest(url), span, validator, total)
            try:
                return b"".join([chunk async for chunk in reading.stream()])
            finally:
                await reading.close()
        finally:
            await source.close()

    return asyncio.run(main())


def test_one_request_tells_length_validator_and_ranges() -> None:
    answer = response("200 OK", b"content", 'etag: "v1"', "accept-ranges: bytes")
    with serving(answer) as server:
        assert take(server.url()) == (b"content", (7, '"v1"', True, None))
        assert len(server.heads) == 1
        assert "accept-encoding: identity" in server.heads[0].lower()


def test_a_stream_without_length_ends_where_it_ends() -> None:
    with serving(response("200 OK", b"content", length=False)) as server:
        assert take(server.url()) == (b"content", (None, None, False, None))


@pytest.mark.parametrize(
    ("fields", "validator"),
    [
        (['etag: W/"weak"'], None),
        (["etag: unquoted"], None),
        (["last-modified: Tue, 24 Nov 2026 00:00:00 GMT"], None),
        (
            ["date: Tue, 24 Nov 2026 00:00:30 GMT", "last-modified: Tue, 24 Nov 2026 00:00:00 GMT"],
            None,
        ),
        (
            ["date: Tue, 24 Nov 2026 01:00:00 GMT", "last-modified: Tue, 24 Nov 2026 00:00:00 GMT"],
            "Tue, 24 Nov 2026 00:00:00 GMT",
        ),
    ],
)
def test_only_strong_validators_count(fields: list[str], validator: str | None) -> None:
    with serving(response("200 OK", b"x", *fields)) as server:
        assert take(server.url())[1] == (1, validator, False, None)


@pytest.mark.parametrize(
    ("modified", "seconds"),
    [
        ("Tue, 24 Nov 2026 00:00:00 GMT", 1795478400),
        ("Tue, 24 Nov 2026 00:59:30 GMT", None),
        ("Tue, 24 Nov 1969 00:00:00 GMT", None),
        ("yesterday", None),
    ],
)
def test_the_date_of_the_last_change_is_told_where_it_is_a_strong_validator(
    modified: str, seconds: int | None
) -> None:
    fields = ["date: Tue, 24 Nov 2026 01:00:00 GMT", f"last-modified: {modified}", 'etag: "v"']

    async def main(url: str) -> int | None:
        source = make_source()
        try:
            reading = await source.open(SourceRequest(url))
            await reading.close()
            return reading.modified
        finally:
            await source.close()

    with serving(response("200 OK", b"x", *fields)) as server:
        assert asyncio.run(main(server.url())) == seconds


def test_a_range_is_taken_where_the_origin_gives_it() -> None:
    part = response("206 Partial", b"nt", 'etag: "v"', "content-range: bytes 2-3/7")
    with serving(part) as server:
        answer = take(server.url(), ByteRange(2, 4))
        assert answer == (b"nt", (7, '"v"', True, ByteRange(2, 4)))
        assert "range: bytes=2-3" in server.heads[0].lower()
    with serving(response("200 OK", b"content")) as server:
        assert take(server.url(), ByteRange(2, 4)) == (b"content", (7, None, False, None))
    with serving(response("416 Beyond", b"", "content-range: bytes */0")) as server:
        assert take(server.url(), ByteRange(0, 1))[1] == (0, None, False, None)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (response("404 Not Found"), NotFound),
        (response("410 Gone"), NotFound),
        (response("401 Unauthorized"), OriginRefused),
        (response("403 Forbidden"), OriginRefused),
        (response("500 Broken"), OriginFailed),
        (response("200 OK", b"\x1f\x8b", "content-encoding: gzip"), OriginFailed),
        (response("200 OK", b"content").replace(b"length: 7", b"length: 9"), OriginFailed),
        (response("302 Found", b"", "location: ftp://elsewhere/"), OriginRefused),
        (response("302 Found"), OriginFailed),
        (b"nonsense\r\n\r\n", OriginFailed),
        (b"", OriginFailed),
    ],
)
def test_what_goes_wrong_has_its_name(answer: bytes, error: type[HawkerError]) -> None:
    with serving(answer) as server, pytest.raises(error):
        take(server.url())


@pytest.mark.parametrize(
    "content_range", ["", "bytes 0-1/7", "bytes 2-3/3", "bytes 3-2/7", "items 2-3/7"]
)
def test_a_206_with_another_range_is_refused(content_range: str) -> None:
    part = response("206 Partial", b"nt", f"content-range: {content_range}")
    with serving(part) as server, pytest.raises(OriginFailed):
        take(server.url(), ByteRange(2, 4))


def test_retry_after_is_passed_on() -> None:
    with serving(response("503 Later", b"", "retry-after: 7")) as server:
        with pytest.raises(OriginFailed) as caught:
            take(server.url())
        assert caught.value.retry_after == 7


def http_date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("fields", "least", "most"),
    [
        (["retry-after: 7"], 7, 7),
        # By the origin's own clock, however wrong it is.
        (["retry-after: <5040>", "date: <5000>"], 39, 41),
        # By ours where it shows none, or nonsense.
        (["retry-after: <40>"], 30, 40),
        (["retry-after: <40>", "date: yesterday"], 30, 40),
        (["retry-after: <-40>"], 0, 0),
        (["retry-after: 999999999999999999999"], 86400, 86400),
    ],
)
def test_when_to_come_back_is_a_number_or_a_date(
    fields: list[str], least: float, most: float
) -> None:
    """`<n>` is the date in so many seconds."""
    dated = [re.sub(r"<(-?\d+)>", lambda m: http_date(float(m[1])), field) for field in fields]
    with serving(response("429 Later", b"", *dated)) as server:
        with pytest.raises(OriginFailed) as caught:
            take(server.url())
    assert least <= (caught.value.retry_after or 0.0) <= most


@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "Wed, 99 Foo 2026", ""])
def test_a_retry_after_that_makes_no_sense_is_none(text: str) -> None:
    with serving(response("503 Later", b"", f"retry-after: {text}")) as server:
        with pytest.raises(OriginFailed) as caught:
            take(server.url())
    assert caught.value.retry_after is None


def test_redirects_are_followed_and_credentials_stay_with_their_origin() -> None:
    with serving(response("200 OK", b"there")) as target:
        elsewhere = response("302 Found", b"", f"location: {target.url()}")
        with serving(elsewhere) as first:
            assert take(first.url(), authorization="Bearer secret")[0] == b"there"
            assert "secret" in first.heads[0] and "secret" not in target.heads[0]


def test_a_loop_of_redirects_ends() -> None:
    with serving(response("302 Found", b"", "location: /file")) as server:
        with pytest.raises(OriginFailed, match="more than"):
            take(server.url())
        assert len(server.heads) == 11


def trickling_head(head: str, connection: socket.socket) -> None:
    """A byte of the head now and then, and never the end of it."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.02)


def slow_redirect(head: str, connection: socket.socket) -> None:
    time.sleep(0.15)
    connection.sendall(b"HTTP/1.1 302 On\r\nlocation: /file\r\ncontent-length: 0\r\n\r\n")


@pytest.mark.parametrize("talk", [trickling_head, slow_redirect])
def test_a_head_that_does_not_come_to_its_end_is_given_up(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "HEAD_TIMEOUT", 0.5)
    began = time.monotonic()
    with closing(Scripted(talk)) as server:
        with pytest.raises(OriginFailed, match=r"did not answer in 0\.5 s"):
            take(server.url())
    assert 0.4 < time.monotonic() - began < 1.4


def test_a_source_says_what_is_wrong_before_its_lease_is_taken_away() -> None:
    limits = (
        outgoing.HEAD_TIMEOUT,
        outgoing.TIMEOUT.read,
        answers.SLOWEST_OVER,
        s3_store.HEAD_TIMEOUT,
    )
    assert all(limit is not None and limit + 5 < STUCK for limit in limits)


def test_ranged_reads_are_conditional_and_checked() -> None:
    part = response("206 Partial", b"nt", 'etag: "v"', "content-range: bytes 2-3/7")
    with serving(part) as server:
        assert read(server.url(), ByteRange(2, 4), '"v"', 7) == b"nt"
        assert 'if-match: "v"' in server.heads[0].lower()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (response("412 Changed"), OriginChanged),
        (response("206 P", b"nt", 'etag: "w"', "content-range: bytes 2-3/7"), OriginChanged),
        (response("206 P", b"nt", 'etag: "v"', "content-range: bytes 2-3/8"), OriginChanged),
        (response("200 OK", b"content", 'etag: "w"'), OriginChanged),
        (response("200 OK", b"content", 'etag: "v"'), OriginFailed),
        (response("206 P", b"nte", 'etag: "v"', "content-range: bytes 2-4/7"), OriginFailed),
    ],
)
def test_a_read_of_changed_or_wrong_content_is_refused(
    answer: bytes, error: type[HawkerError]
) -> None:
    with serving(answer) as server, pytest.raises(error):
        read(server.url(), ByteRange(2, 4), '"v"', 7)


def test_http_has_no_listing() -> None:
    async def main() -> None:
        source = make_source()
        try:
            with pytest.raises(BadRequest):
                async for _ in source.list(SourceRequest("http://e.test/")):
                    pass
        finally:
            await source.close()

    asyncio.run(main())


def test_tls_is_verified(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    with serving(response("200 OK", b"secret"), context) as server:
        with pytest.raises(OriginFailed, match=r"(?i)certificate"):
            take(server.url())
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert take(server.url())[0] == b"secret"


def test_an_origin_with_a_private_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))

    async def main(ca: str) -> bytes:
        # As the daemon makes it.
        egress = EgressSettings(allow=["127.0.0.0/8"], ca=ca)
        host = PluginHost(Settings(egress=egress))
        source: Source = host.get("hawker.sources", "https")
        try:
            reading = await source.open(SourceRequest(server.url()))
            try:
                return b"".join([chunk async for chunk in reading.stream()])
            finally:
                await reading.close()
        finally:
            await host.close()

    with serving(response("200 OK", b"secret"), context) as server:
        with pytest.raises(OriginFailed) as caught:
            asyncio.run(main(""))
        assert "egress.ca" in caught.value.hint
        assert asyncio.run(main(str(trusted))) == b"secret"
        with pytest.raises(HawkerError, match=r"egress\.ca"):
            asyncio.run(main(str(tmp_path / "none.pem")))


def test_a_cookie_that_one_request_is_given_goes_with_no_other() -> None:
    """It may stand for the credentials of whoever made the first, who is not who makes the next."""
    body = response("200 OK", b"x", "set-cookie: session=secret; path=/")
    with serving(body) as server:

        async def main() -> None:
            source = make_source()
            for _ in range(2):
                reading = await source.open(SourceRequest(server.url()))
                async for _ in reading.stream():
                    pass
                await reading.close()
            await source.close()

        asyncio.run(main())
        assert len(server.heads) == 2
        assert not any("cookie" in head for head in server.heads)


@pytest.mark.parametrize(
    ("shown", "kept"),
    [
        ("Negotiate YIIabc", False),
        ("negotiate YIIabc", False),
        ("NTLM TlRMTVNT", False),
        ("Bearer abc", True),
    ],
)
def test_a_connection_that_may_be_somebody_s_carries_no_other_request(
    shown: str, kept: bool
) -> None:
    """An origin that has let somebody in by Kerberos answers all that follows on the connection."""
    seen: list[tuple[str, int]] = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            seen.append((self.headers.get("authorization", ""), self.client_address[1]))
            self.send_response(200)
            self.send_header("content-length", "1")
            self.end_headers()
            self.wfile.write(b"x")

    served = Served(Handler)

    async def main() -> None:
        source = make_source()
        for fields in ({"authorization": shown}, {}):
            reading = await source.open(SourceRequest(f"{served.url}/a", fields))
            assert [chunk async for chunk in reading.stream()] == [b"x"]
            await reading.close()
        await source.close()

    try:
        asyncio.run(main())
    finally:
        served.close()
    (first, connection), (second, other) = seen
    assert (first, second) == (shown, "") and (connection == other) is kept
