"""The s3 source against s3rver, another's S3 server, which knows one access key.

Not collected by itself: `pytest tests/outside/s3rver.py` installs s3rver 3.7.1 with npm into a
temporary directory and starts it on loopback.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import boto3  # type: ignore[import-untyped]
import pytest

from hawker.core.contracts import Credential, Source, SourceServices
from hawker.core.egress import EgressPolicy
from hawker.core.settings import EgressSettings
from hawker.core.testing.sources import SourceContract
from hawker.plugins.sources.s3 import S3Options, S3Source

PACKAGE = "s3rver@3.7.1"
# The only user that s3rver knows.
USER = "S3RVER"
BUCKET = "contract-bucket"


class Keys:
    """One credential for every URL."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def find(self, url: str, tenant: str) -> Credential | None:
        return self._credential

    async def close(self) -> None:
        return


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running s3rver."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.fail("npm is not installed, and s3rver needs it: install Node.js")
    folder = tmp_path_factory.mktemp("s3rver")
    install = [npm, "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder)]
    subprocess.run([*install, PACKAGE], check=True, timeout=240)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    program = folder / "node_modules" / ".bin" / "s3rver"
    data = folder / "data"
    data.mkdir()
    command = [str(program), "-d", str(data), "-a", "127.0.0.1", "-p", str(port), "--silent"]
    process = subprocess.Popen(command)
    try:
        _wait_for(process, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        assert process.poll() is None and time.monotonic() < deadline, "s3rver does not start"
        time.sleep(0.05)


class TestS3Source(SourceContract):
    """The contract, with a bucket of s3rver."""

    @pytest.fixture(autouse=True)
    def store(self, endpoint: str, tmp_path: Path) -> Iterator[None]:
        self.endpoint = endpoint
        self.access_key = USER
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=USER,
            aws_secret_access_key=USER,
            # It takes what it does not know, such as newer checksums' trailers, for content.
            config=boto3.session.Config(
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )
        with contextlib.suppress(self.client.exceptions.BucketAlreadyExists):
            self.client.create_bucket(Bucket=BUCKET)
        yield
        for item in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            self.client.delete_object(Bucket=BUCKET, Key=item["Key"])
        self.client.close()

    def make_source(self) -> Source:
        credential = Credential(access_key=self.access_key, secret_key=USER)
        services = SourceServices(EgressPolicy(EgressSettings(), loopback=True), Keys(credential))
        return S3Source(services, S3Options(endpoint=self.endpoint, addressing="path"))

    def put(self, name: str, data: bytes) -> str:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data)
        return f"s3://{BUCKET}/{quote(name)}"

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=name)

    def forbid(self, name: str) -> None:
        # It has no rights for single objects; an unknown user is refused like a missing right.
        self.access_key = "another"
