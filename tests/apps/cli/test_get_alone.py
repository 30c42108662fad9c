"""`hawker get` without a daemon, against a real origin."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.apps.cli.conftest import CommandLine

CONTENT = random.Random(9).randbytes(8 * 1024 * 1024)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Origin(ThreadingHTTPServer):
    """Serves one object at /file, with ranges; counts the content bytes it sends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.sent = 0
        self.hold_at: int | None = None
        """No byte from here on is sent until `go_on`."""
        self.held = threading.Event()
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients are killed in these tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Origin
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path != "/file":
            self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        first, last = 0, len(CONTENT) - 1
        if match := re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("range", "")):
            first, last = int(match[1]), min(last, int(match[2] or last))
            self.send_response(206)
            self.send_header("content-range", f"bytes {first}-{last}/{len(CONTENT)}")
        else:
            self.send_response(200)
        self.send_header("accept-ranges", "bytes")
        self.send_header("etag", '"v1"')
        self.send_header("content-length", str(last + 1 - first))
        self.end_headers()
        for at in range(first, last + 1, 65536):
            hold_at = self.server.hold_at
            if hold_at is not None and at >= hold_at:
                self.server.held.set()
                self.server.go_on.wait(30)
            part = CONTENT[at : min(at + 65536, last + 1)]
            self.wfile.write(part)
            self.server.sent += len(part)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def get(hawker: CommandLine, *arguments: str) -> Any:
    return hawker("get", *arguments, "--data", str(hawker.data))


def leftovers(hawker: CommandLine) -> list[str]:
    return sorted(set(os.listdir(hawker.home)) - {"data"})


def read(pipe: IO[bytes] | None, size: int = -1) -> bytes:
    assert pipe is not None
    return pipe.read(size)


def test_file_is_saved_and_nothing_else_kept(hawker: CommandLine, origin: Origin) -> None:
    done = get(hawker, origin.url, "--json", "--digest", SHA256)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (hawker.home / "file").read_bytes() == CONTENT
    result = json.loads(done.stdout)
    assert result["from_origin"] == result["bytes"] == len(CONTENT)
    assert result["through"] == "alone"
    assert origin.sent == len(CONTENT)
    kept = [file.stat().st_size for file in hawker.data.rglob("*") if file.is_file()]
    assert sum(kept) < 1_000_000


def test_absent_object_is_not_found(hawker: CommandLine, origin: Origin) -> None:
    done = get(hawker, origin.url + "-none")
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith(b"hawker: ") and done.stderr.count(b"\n") == 1
    assert leftovers(hawker) == []


def test_absent_origin_is_an_origin_failure(hawker: CommandLine) -> None:
    done = get(hawker, "http://127.0.0.1:4/file")
    assert done.returncode == 6, done.stderr
    assert done.stderr.count(b"\n") == 1


def test_wrong_digest_leaves_no_output_and_can_be_tried_again(
    hawker: CommandLine, origin: Origin
) -> None:
    done = get(hawker, origin.url, "--digest", "sha256:" + "0" * 64)
    assert done.returncode == 5, done.stderr
    assert leftovers(hawker) == []
    assert get(hawker, origin.url, "--digest", SHA256).returncode == 0
    assert origin.sent == 2 * len(CONTENT)


def test_killed_download_continues(hawker: CommandLine, origin: Origin) -> None:
    origin.hold_at = len(CONTENT) // 2
    with hawker.start("get", origin.url, "-O", "-", "--data", str(hawker.data)) as process:
        # What was printed is valid in the store by then.
        assert read(process.stdout, len(CONTENT) * 3 // 8) == CONTENT[: len(CONTENT) * 3 // 8]
        process.kill()
        process.communicate(timeout=30)
    origin.hold_at = None
    origin.go_on.set()
    origin.sent = 0
    done = get(hawker, origin.url, "--digest", SHA256)
    assert done.returncode == 0, done.stderr
    assert (hawker.home / "file").read_bytes() == CONTENT
    # The killed process's own request may still send the chunk that was held back.
    assert origin.sent <= len(CONTENT) * 5 // 8 + 2**16


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_no_output(
    number: signal.Signals, code: int, hawker: CommandLine, origin: Origin
) -> None:
    origin.hold_at = len(CONTENT) // 2
    with hawker.start("get", origin.url, "--data", str(hawker.data)) as process:
        assert origin.held.wait(30)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert b"Traceback" not in err
    assert leftovers(hawker) == []


def test_deadline_is_told_and_leaves_no_output(hawker: CommandLine, origin: Origin) -> None:
    origin.hold_at = len(CONTENT) // 2
    done = get(hawker, origin.url, "--timeout", "1")
    assert done.returncode == 7, done.stderr
    assert leftovers(hawker) == []


def test_standard_output_gets_bytes_before_the_end(hawker: CommandLine, origin: Origin) -> None:
    origin.hold_at = len(CONTENT) // 2
    command = ("get", origin.url, "-O", "-", "--digest", SHA256, "--data", str(hawker.data))
    with hawker.start(*command) as process:
        first = read(process.stdout, 1_000_000)
        assert not origin.go_on.is_set()
        origin.go_on.set()
        assert first + read(process.stdout) == CONTENT
        assert (process.wait(timeout=30), read(process.stderr)) == (0, b"")
    assert leftovers(hawker) == []


def test_wrong_digest_on_standard_output_is_a_failure(hawker: CommandLine, origin: Origin) -> None:
    assert get(hawker, origin.url, "-O", "-", "--digest", "sha256:" + "0" * 64).returncode == 5


def test_standard_output_of_a_broken_origin_is_a_failure(
    hawker: CommandLine, origin: Origin
) -> None:
    origin.hold_at = len(CONTENT) // 2
    command = ("get", origin.url, "-O", "-", "--timeout", "2", "--data", str(hawker.data))
    with hawker.start(*command) as process:
        out, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert CONTENT.startswith(out) and len(out) < len(CONTENT)


def test_existing_output_is_refused_before_the_origin_is_asked(
    hawker: CommandLine, origin: Origin
) -> None:
    (hawker.home / "file").write_text("mine")
    assert get(hawker, origin.url).returncode == 8
    assert origin.sent == 0
    assert get(hawker, origin.url, "--overwrite").returncode == 0
    assert (hawker.home / "file").read_bytes() == CONTENT


def test_file_origin_is_read(hawker: CommandLine) -> None:
    (hawker.home / "source").write_bytes(CONTENT)
    done = get(hawker, f"file://{hawker.home}/source", "-O", "copy")
    assert done.returncode == 0, done.stderr
    assert (hawker.home / "copy").read_bytes() == CONTENT
