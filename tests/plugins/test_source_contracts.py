"""The built-in sources keep the contract: real files, a real HTTP server, moto's S3."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3  # type: ignore[import-untyped]
import pytest

from hawker.core.contracts import Credential, Source, SourceRequest, SourceServices
from hawker.core.egress import EgressPolicy
from hawker.core.ranges import ByteRange, Unsatisfiable, parse_ranges, satisfy
from hawker.core.settings import EgressSettings
from hawker.core.testing.sources import SourceContract
from hawker.plugins.sources.file import FileSource
from hawker.plugins.sources.http import HttpSource
from hawker.plugins.sources.s3 import S3Options, S3Source
from tests.plugins.scripted import Keys, Straight


def services(credential: Credential | None = None) -> SourceServices:
    return SourceServices(EgressPolicy(EgressSettings(), loopback=True), Keys(credential))


class TestFileSource(SourceContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path

    def make_source(self) -> Source:
        return FileSource()

    def put(self, name: str, data: bytes) -> str:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return "file://" + quote(str(file))

    def change(self, name: str, data: bytes) -> None:
        self.put(name, data)
        status = (self.path / name).stat()
        # The clock of some filesystems is too coarse for two writes of one test.
        os.utime(self.path / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))

    def remove(self, name: str) -> None:
        (self.path / name).unlink()

    def forbid(self, name: str) -> None:
        if os.geteuid() == 0:
            pytest.skip("the superuser may read every file")
        (self.path / name).chmod(0)


class Handler(BaseHTTPRequestHandler):
    """ETags, one range, If-Match: what RFC 9110 wants of a server of files."""

    protocol_version = "HTTP/1.1"
    server: Files

    def do_GET(self) -> None:
        data = self.server.files.get(self.path)
        if data is None:
            return self._answer(404)
        if self.path in self.server.forbidden:
            return self._answer(403)
        etag = '"' + hashlib.md5(data).hexdigest() + '"'
        if self.headers.get("if-match", etag) != etag:
            return self._answer(412)
        fields = {"ETag": etag, "Accept-Ranges": "bytes"}
        wanted = parse_ranges(self.headers.get("range"))
        if wanted is None:
            return self._answer(200, data, fields)
        try:
            [span] = satisfy(wanted, len(data))
        except Unsatisfiable:
            return self._answer(416, b"", fields | {"Content-Range": f"bytes */{len(data)}"})
        assert span.stop is not None
        fields["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{len(data)}"
        self._answer(206, data[span.start : span.stop], fields)

    def _answer(self, status: int, data: bytes = b"", fields: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(fields or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            # The client went away in the middle, as some tests want.
            self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        return


class Files(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.forbidden: set[str] = set()


class TestHttpSource(SourceContract):
    @pytest.fixture(autouse=True)
    def serving(self) -> Iterator[None]:
        self.server = Files()
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        thread.start()
        yield
        self.server.shutdown()
        thread.join()
        self.server.server_close()

    def make_source(self) -> Source:
        return HttpSource(services())

    def put(self, name: str, data: bytes) -> str:
        self.server.files["/" + quote(name)] = data
        return f"http://127.0.0.1:{self.server.server_port}/{quote(name)}"

    def remove(self, name: str) -> None:
        del self.server.files["/" + quote(name)]

    def forbid(self, name: str) -> None:
        self.server.forbidden.add("/" + quote(name))


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The URL of moto's server, a process of its own."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "moto does not start"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class Names(Straight):
    """A policy that knows one name, of this machine, and what it was asked for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.asked: set[str] = set()

    async def addresses(self, host: str, port: int) -> list[str]:
        self.asked.add(host)
        assert host == self._name
        return ["127.0.0.1"]


class TestS3Source(SourceContract):
    bucket = "contract-bucket"

    @pytest.fixture(autouse=True)
    def store(self, moto: str) -> Iterator[None]:
        self.endpoint = moto
        self._ask("reset")
        self.client = boto3.client(
            "s3",
            endpoint_url=moto,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        self.client.create_bucket(Bucket=self.bucket)
        yield
        self._ask("reset-auth", b"inf")
        self.client.close()

    def _ask(self, what: str, body: bytes = b"") -> None:
        url, kind = f"{self.endpoint}/moto-api/{what}", {"content-type": "text/plain"}
        request = urllib.request.Request(url, body, kind, method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def make_source(self) -> Source:
        options = S3Options(endpoint=self.endpoint, addressing="path")
        return S3Source(services(Credential(access_key="key", secret_key="secret")), options)

    def put(self, name: str, data: bytes) -> str:
        self.client.put_object(Bucket=self.bucket, Key=name, Body=data, ChecksumAlgorithm="SHA256")
        return f"s3://{self.bucket}/{quote(name)}"

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=name)

    def forbid(self, name: str) -> None:
        # From now on moto checks signatures, and knows no such key.
        self._ask("reset-auth", b"0")

    def test_a_presigned_url_is_for_the_http_source(self) -> None:
        data = os.urandom(5000)
        self.put("a folder/signed", data)
        params = {"Bucket": self.bucket, "Key": "a folder/signed"}
        url = self.client.generate_presigned_url("get_object", Params=params)

        async def main() -> bytes:
            source = HttpSource(services())
            try:
                reading = await source.open(SourceRequest(url))
                return b"".join([chunk async for chunk in reading.stream()])
            finally:
                await source.close()

        assert asyncio.run(main()) == data

    def test_the_stored_checksum_is_the_digest(self) -> None:
        data = os.urandom(5000)
        url = self.put("checked", data)

        async def main() -> str:
            source = self.make_source()
            try:
                reading = await source.open(SourceRequest(url))
                await reading.close()
                return reading.digest
            finally:
                await source.close()

        assert asyncio.run(main()) == "sha256:" + hashlib.sha256(data).hexdigest()

    def test_the_name_of_a_bucket_in_that_of_the_host(self) -> None:
        data = os.urandom(5000)
        url = self.put("a folder/named", data)
        port = self.endpoint.rpartition(":")[2]
        names = Names(f"{self.bucket}.s3.store.test")
        options = S3Options(endpoint=f"http://s3.store.test:{port}", addressing="virtual")
        keys = Keys(Credential(access_key="key", secret_key="secret"))

        async def main() -> tuple[bytes, bytes, list[str]]:
            source = S3Source(SourceServices(names, keys), options)
            try:
                request = SourceRequest(url)
                whole = await source.open(request)
                assert whole.validator is not None
                all_of_it = b"".join([chunk async for chunk in whole.stream()])
                part = await source.read(request, ByteRange(9, 99), whole.validator, whole.total)
                some = b"".join([chunk async for chunk in part.stream()])
                folder = SourceRequest(f"s3://{self.bucket}/a%20folder/")
                return all_of_it, some, [item.url async for item in source.list(folder)]
            finally:
                await source.close()

        assert asyncio.run(main()) == (data, data[9:99], [url])
        assert names.asked == {f"{self.bucket}.s3.store.test"}
