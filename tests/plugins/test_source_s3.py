"""The s3 source against servers that say exactly what the test wants, and where it does not go."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import hashlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from hawker.core.contracts import Credential, SourceItem, SourceRequest, SourceServices
from hawker.core.egress import EgressPolicy
from hawker.core.errors import (
    BadRequest,
    Forbidden,
    HawkerError,
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
    RangeIgnored,
)
from hawker.core.ranges import ByteRange
from hawker.core.registry import PluginHost
from hawker.core.settings import EgressSettings, PluginSettings, Settings
from hawker.plugins.sources.s3 import S3Options, S3Source
from tests.e2e.upstream_proxy import UpstreamProxy
from tests.plugins.scripted import Keys, Scripted

KEYS = Credential(access_key="id", secret_key="s3cr3t-word", session_token="session-word")
OBJECT = SourceRequest("s3://a-bucket/a/key")


def answer(status: str, body: bytes = b"", **fields: str) -> bytes:
    head = {"content-length": str(len(body)), "connection": "close"}
    head |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def error(status: str, code: str, **fields: str) -> bytes:
    document = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"
    return answer(status, document.encode(), content_type="application/xml", **fields)


@contextmanager
def serving(
    reply: bytes | Callable[[str], bytes], context: ssl.SSLContext | None = None
) -> Iterator[Scripted]:
    """A server that answers so; the body byte by byte where a field asks for it."""

    def talk(head: str, connection: socket.socket) -> None:
        answer = reply(head) if callable(reply) else reply
        sent = answer.index(b"\r\n\r\n") + 4 if b"x-slow" in answer else len(answer)
        connection.sendall(answer[:sent])
        for at in range(sent, len(answer)):
            connection.sendall(answer[at : at + 1])
            time.sleep(0.005)

    with closing(Scripted(talk, context)) as server:
        yield server


def reading(
    endpoint: str,
    work: Callable[[S3Source], Awaitable[Any]],
    *,
    credential: Credential | None = KEYS,
    loopback: bool = True,
    anonymous: bool = False,
    ca: str = "",
    egress_ca: str = "",
    proxy: str = "",
    slowest_over: float = 30.0,
) -> Any:
    """What the work returns, with a source that is closed afterwards."""

    async def main() -> Any:
        policy = EgressPolicy(EgressSettings(proxy=proxy), loopback=loopback)
        options = S3Options(endpoint=endpoint, addressing="path", anonymous=anonymous, ca=ca)
        services = SourceServices(policy, Keys(credential))
        source = S3Source(services, options, ca=egress_ca, slowest_over=slowest_over)
        try:
            async with asyncio.timeout(30):
                return await work(source)
        finally:
            await source.close()

    return asyncio.run(main())


async def content(source: S3Source) -> tuple[bytes, str]:
    opened = await source.open(OBJECT)
    try:
        return b"".join([chunk async for chunk in opened.stream()]), opened.digest
    finally:
        await opened.close()


async def part(source: S3Source) -> bytes:
    opened = await source.read(OBJECT, ByteRange(2, 4), '"v"', 6)
    try:
        return b"".join([chunk async for chunk in opened.stream()])
    finally:
        await opened.close()


def test_a_request_is_signed_with_the_configured_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "there-is-no-such-profile")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(answer("200 OK", b"hello", etag='"v"')) as server:
        endpoint = f"http://127.0.0.1:{server.port}"
        assert reading(endpoint, content) == (b"hello", "")
    (head,) = server.heads
    assert head.startswith("get /a-bucket/a/key ")
    assert "credential=id/" in head and "x-amz-security-token: session-word\r\n" in head
    assert "s3cr3t-word" not in head


def test_an_unsigned_request_has_no_signature() -> None:
    with serving(answer("200 OK", b"hello")) as server:
        endpoint = f"http://127.0.0.1:{server.port}"
        reading(endpoint, content, credential=None, anonymous=True)
        reading(endpoint, content, credential=Credential(anonymous=True))
    assert len(server.heads) == 2
    assert not any("authorization" in head or "x-amz-sec" in head for head in server.heads)


def test_without_credentials_nothing_is_asked_anywhere() -> None:
    with serving(answer("200 OK")) as server:
        with pytest.raises(OriginRefused, match=r"sources\.credentials"):
            reading(f"http://127.0.0.1:{server.port}", content, credential=None)
    assert server.heads == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_endpoint_that_the_policy_denies_is_not_connected_to(host: str) -> None:
    with serving(answer("200 OK", b"hello")) as server:
        with pytest.raises(Forbidden, match="may not be read"):
            reading(f"http://{host}:{server.port}", content, loopback=False)
    assert server.heads == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirect_to_another_origin_gets_no_connection(host: str) -> None:
    with serving(answer("200 OK", b"stolen")) as other:
        to = f"http://{host}:{other.port}/a-bucket/a/key"
        with serving(answer("307 Temporary Redirect", location=to)) as server:
            with pytest.raises(Forbidden, match="another origin"):
                reading(f"http://127.0.0.1:{server.port}", content)
    assert other.heads == [] and len(server.heads) == 1


def test_an_endpoint_with_a_private_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    with serving(answer("200 OK", b"hello"), context) as server:
        endpoint = f"https://localhost:{server.port}"
        with pytest.raises(OriginFailed, match=r"egress\.ca"):
            reading(endpoint, content)
        assert reading(endpoint, content, ca=str(file)) == (b"hello", "")
        assert reading(endpoint, content, egress_ca=str(file)) == (b"hello", "")


SHA256 = hashlib.sha256(b"hello").digest()
CHECKSUM = base64.b64encode(SHA256).decode()


@pytest.mark.parametrize(
    ("fields", "digest"),
    [
        ({"x_amz_checksum_sha256": CHECKSUM}, f"sha256:{SHA256.hex()}"),
        (
            {"x_amz_checksum_sha256": CHECKSUM, "x_amz_checksum_type": "FULL_OBJECT"},
            f"sha256:{SHA256.hex()}",
        ),
        ({"x_amz_checksum_sha256": CHECKSUM, "x_amz_checksum_type": "COMPOSITE"}, ""),
        ({"x_amz_checksum_sha256": f"{CHECKSUM}-3"}, ""),
        ({"x_amz_checksum_sha256": "AAAA"}, ""),
        ({}, ""),
    ],
)
def test_the_digest_is_the_stored_checksum_of_the_whole(
    fields: dict[str, str], digest: str
) -> None:
    with serving(answer("200 OK", b"hello", **fields)) as server:
        assert reading(f"http://127.0.0.1:{server.port}", content) == (b"hello", digest)
    assert "x-amz-checksum-mode: enabled\r\n" in server.heads[0]


@pytest.mark.parametrize(
    ("reply", "expected", "words"),
    [
        (error("404 Not Found", "NoSuchKey"), NotFound, "NoSuchKey"),
        (error("404 Not Found", "NoSuchBucket"), NotFound, "NoSuchBucket"),
        (error("403 Forbidden", "SignatureDoesNotMatch"), OriginRefused, "check the access key"),
        (error("401 Unauthorized", "X"), OriginRefused, "401"),
        (error("503 Slow Down", "SlowDown", retry_after="7"), OriginFailed, "SlowDown"),
        (
            error("301 Moved", "PermanentRedirect", x_amz_bucket_region="eu-west-1"),
            OriginFailed,
            "eu-west-1",
        ),
        (answer("500 Oh no", b"not XML at all"), OriginFailed, "500"),
        (answer("200 OK", b"short", content_length="9"), OriginFailed, "broke off|sent 5"),
        (b"nonsense\r\n\r\n", OriginFailed, "cannot be read"),
    ],
)
def test_what_the_answers_mean(reply: bytes, expected: type[HawkerError], words: str) -> None:
    with serving(reply) as server, pytest.raises(expected, match=words) as caught:
        reading(f"http://127.0.0.1:{server.port}", content)
    assert type(caught.value) is expected
    if words == "SlowDown":
        assert caught.value.retry_after == 7.0 and len(server.heads) == 1


def test_a_date_to_come_back_at_counts_too() -> None:
    date = email.utils.formatdate(time.time() + 40, usegmt=True)
    with serving(error("503 Slow Down", "SlowDown", retry_after=date)) as server:
        with pytest.raises(OriginFailed) as caught:
            reading(f"http://127.0.0.1:{server.port}", content)
    assert 30 < (caught.value.retry_after or 0.0) <= 40


def test_a_body_that_trickles_is_given_up() -> None:
    body = bytes(2000)
    with serving(answer("200 OK", body, x_slow="yes")) as server:
        with pytest.raises(OriginFailed, match="trickles"):
            reading(f"http://127.0.0.1:{server.port}", content, slowest_over=0.1)


def of(span: str, body: bytes, etag: str = '"v"') -> bytes:
    return answer("206 Partial Content", body, content_range=f"bytes {span}", etag=etag)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (of("2-3/6", b"cd"), b"cd"),
        # More than was asked for, from the right place: the rest is left.
        (of("2-5/6", b"cdef"), b"cd"),
        (of("1-3/6", b"bcd"), RangeIgnored),
        (of("2-2/6", b"c"), RangeIgnored),
        (of("2-3/6", b"c"), RangeIgnored),
        (of("2-3/7", b"cd"), OriginChanged),
        (of("2-3/6", b"cd", '"w"'), OriginChanged),
        (of("2-3/6", b"cd", 'W/"v"'), OriginChanged),
        (answer("200 OK", b"abcdef", etag='"v"'), RangeIgnored),
        (answer("200 OK", b"abcdef", etag='"w"'), OriginChanged),
        (error("412 Precondition Failed", "PreconditionFailed"), OriginChanged),
        (error("416 Range", "InvalidRange"), OriginChanged),
    ],
)
def test_a_part_is_what_was_asked_for_or_an_error(
    reply: bytes, expected: bytes | type[HawkerError]
) -> None:
    with serving(reply) as server:
        endpoint = f"http://127.0.0.1:{server.port}"
        if isinstance(expected, bytes):
            assert reading(endpoint, part) == expected
        else:
            with pytest.raises(expected):
                reading(endpoint, part)
    (head,) = server.heads
    assert "range: bytes=2-3\r\n" in head and 'if-match: "v"\r\n' in head


def test_a_listing_goes_through_all_pages() -> None:
    def page(head: str) -> bytes:
        last = "continuation-token=more" in head
        key = "two%20words" if last else "one"
        more = "" if last else "<NextContinuationToken>more</NextContinuationToken>"
        document = (
            "<?xml version='1.0'?><ListBucketResult><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(not last).lower()}</IsTruncated>{more}"
            f"<Contents><Key>d/{key}</Key><Size>3</Size></Contents></ListBucketResult>"
        )
        return answer("200 OK", document.encode(), content_type="application/xml")

    async def listed(source: S3Source) -> list[SourceItem]:
        return [item async for item in source.list(SourceRequest("s3://a-bucket/d"))]

    with serving(page) as server:
        items = reading(f"http://127.0.0.1:{server.port}", listed)
    assert items == [
        SourceItem("s3://a-bucket/d/one", 3),
        SourceItem("s3://a-bucket/d/two%20words", 3),
    ]
    assert all("delimiter=%2f" in head and "prefix=d%2f" in head for head in server.heads)


@pytest.mark.parametrize(
    "url",
    ["s3://a-bucket", "s3://a-bucket/", "s3://user@a-bucket/k", "s3://a-bucket:80/k", "s3:///k",
     "s3://a-bucket/k?versionId=1", "s3://arn:aws:s3/k", "s3://a-bucket/%ff"],
)  # fmt: skip
def test_a_url_that_names_no_object_is_not_understood(url: str) -> None:
    async def opened(source: S3Source) -> None:
        await source.open(SourceRequest(url))

    with pytest.raises(BadRequest):
        reading("http://127.0.0.1:9", opened)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": "store.example"},
        {"endpoint": "https://store.example/path"},
        {"endpoint": "https://user:word@store.example"},
        {"endpoint": "https://store.example:x"},
        {"adressing": "path"},
        {"addressing": "paths"},
    ],
)
def test_wrong_options_are_refused(options: dict[str, str]) -> None:
    host = PluginHost(Settings(plugins=PluginSettings(options={"s3": options})))
    with pytest.raises(HawkerError, match=r"plugins\.options\.s3"):
        host.get("hawker.sources", "s3")


@pytest.fixture
def upstream() -> Iterator[UpstreamProxy]:
    made = UpstreamProxy()
    made.user = "ann@home:p/w"
    made.names["store.example.test"] = ("127.0.0.1", 0)
    yield made
    made.close()


def named(upstream: UpstreamProxy) -> str:
    return f"http://ann%40home:p%2Fw@{upstream.name}"


def test_an_endpoint_is_read_through_the_upstream_proxy(upstream: UpstreamProxy) -> None:
    with serving(answer("200 OK", b"content", etag='"v"')) as server:
        upstream.names["store.example.test"] = ("127.0.0.1", server.port)
        endpoint = "http://store.example.test"
        assert reading(endpoint, content, proxy=named(upstream))[0] == b"content"
        assert upstream.asked == [("GET", f"{endpoint}/a-bucket/a/key")]
        assert "proxy-authorization" not in server.heads[0]
        # Nothing that the endpoint says leads the proxy elsewhere.
    upstream.asked.clear()
    with serving(answer("307 Moved", location="http://169.254.169.254/latest")) as server:
        upstream.names["store.example.test"] = ("127.0.0.1", server.port)
        with pytest.raises(OriginFailed):
            reading(endpoint, content, proxy=named(upstream))
    # Once: what a redirect leads to is not looked for, either.
    assert len(upstream.asked) == 1
    assert all(target.startswith(f"{endpoint}/a-bucket") for _, target in upstream.asked)


def test_an_https_endpoint_is_tunnelled_to(upstream: UpstreamProxy, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("store.example.test").configure_cert(context)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    with serving(answer("200 OK", b"content", etag='"v"'), context) as server:
        upstream.names["store.example.test"] = ("127.0.0.1", server.port)
        endpoint = "https://store.example.test"
        got = reading(endpoint, content, proxy=named(upstream), egress_ca=str(file))
        assert got[0] == b"content"
    assert upstream.asked == [("CONNECT", "store.example.test:443")]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("status", [407, 502])
def test_the_upstream_proxys_refusal_is_not_the_endpoints(
    upstream: UpstreamProxy, scheme: str, status: int
) -> None:
    upstream.refusal = status, {}
    text = f"the upstream proxy {upstream.name} answered {status}"
    with pytest.raises(OriginFailed, match=text) as told:
        reading(f"{scheme}://store.example.test", content, proxy=named(upstream))
    assert "p/w" not in str(told.value)
    assert "p%2Fw" not in str(told.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_upstream_proxy_that_is_not_there(upstream: UpstreamProxy, scheme: str) -> None:
    upstream.close()
    text = f"the upstream proxy {upstream.name} cannot be reached"
    with pytest.raises(OriginFailed, match=text) as told:
        reading(f"{scheme}://store.example.test", content, proxy=named(upstream))
    assert "p%2Fw" not in str(told.value)


def test_the_upstream_proxy_is_not_asked_for_a_closed_endpoint(upstream: UpstreamProxy) -> None:
    with pytest.raises(Forbidden):
        reading("http://169.254.169.254", content, proxy=named(upstream))
    assert upstream.asked == []
