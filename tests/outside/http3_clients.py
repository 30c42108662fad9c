"""Clients of HTTP/3, each on a stack of its own, against a real daemon whose origin is slow.

    python -m tests.outside.http3_clients

aioquic, curl (ngtcp2 with BoringSSL, of curl_cffi), gtlsclient (ngtcp2 with GnuTLS, also where
packets are lost) and chromium get content while it is arriving and again when it is stored, parts
of it, and break off in mid-download. What they got must be right to the byte and have come by
HTTP/3; what was broken off leaves no task, no download and no descriptor in the daemon; the origin
gives nothing twice. Exits with 1 where a row is wrong, with 2 where a client is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from aioquic.h3.events import DataReceived
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hawker.core.pieces import MIB
from tests.apps.serve.h3client import H3Client, h3_client
from tests.apps.serve.servers import Place
from tests.e2e.conftest import Cluster, Daemon, wait_for
from tests.e2e.test_mutual_tls import authority, issue
from tests.outside.beginning import demand, directory
from tests.outside.clients import given, origin

NEEDED = {"gtlsclient": "ngtcp2-client", "chromium": "chromium"}
PATIENCE = 180.0
# What an origin may give of its content: single bytes for its length, and the ends of streams that
# were closed because what they bring is not wanted.
ONCE = 1.02
PART = slice(MIB - 5, 3 * MIB)
BROKEN_OFF = MIB
GAUGES = ("hawker_peer_tasks_active", "hawker_peer_downloads_active")


@dataclass
class Server:
    """The daemon as its clients see it."""

    daemon: Daemon
    ca: Path
    certificate: Path

    @property
    def address(self) -> str:
        return self.daemon.url.removeprefix("https://")

    def path(self, url: str) -> str:
        return f"/peer/v1/content?url={quote(url, safe='')}"

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.daemon.process.pid}/fd"))

    def at_work(self) -> int:
        """Its tasks and downloads."""
        with self.daemon.client() as client:
            text = client.get("/metrics").text
        return sum(
            int(float(count))
            for count in re.findall(rf"(?m)^(?:{'|'.join(GAUGES)})\S* (\S+)", text)
        )


class Client:
    """One stack; each method raises AssertionError where what it got is wrong."""

    name = ""
    parts = True

    def get(self, server: Server, url: str, part: slice | None) -> bytes | str:
        """The content or a part of it, or its SHA-256 in hexadecimal."""
        raise NotImplementedError

    def break_off(self, server: Server, url: str) -> None:
        """Leave when something has come."""
        raise NotImplementedError


def run(*command: str) -> str:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False
    )
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"exit {done.returncode}: {said[-500:]}"
    return said


class Aioquic(Client):
    name = "aioquic"

    def get(self, server: Server, url: str, part: slice | None) -> bytes:
        return asyncio.run(self._get(server, url, part))

    async def _get(self, server: Server, url: str, part: slice | None) -> bytes:
        fields = {} if part is None else {"range": ranged(part)}
        got = bytearray()
        async with h3_client(Place(int(server.daemon.port), server.ca)) as client:
            stream = client.request(server.path(url), fields=fields)
            assert await client.status(stream) == ("200" if part is None else "206")
            ended = False
            while not ended:
                event = await self._data(client)
                got += event.data
                ended = event.stream_ended
        return bytes(got)

    async def _data(self, client: H3Client) -> DataReceived:
        event = await client.wait(lambda event: isinstance(event, DataReceived))
        assert isinstance(event, DataReceived)
        return event

    def break_off(self, server: Server, url: str) -> None:
        asyncio.run(self._break_off(server, url))

    async def _break_off(self, server: Server, url: str) -> None:
        async with h3_client(Place(int(server.daemon.port), server.ca)) as client:
            stream = client.request(server.path(url))
            while client.received < BROKEN_OFF:
                await self._data(client)
            client.cancel(stream)
            # The connection lives on.
            assert await client.status(client.request("/healthy")) == "200"


CURL = """
import sys
from curl_cffi import CurlHttpVersion, requests
url, ca, part, target, enough = sys.argv[1:]
answer = requests.get(
    url, headers={"range": part} if part else {}, http_version=CurlHttpVersion.V3ONLY, verify=ca,
    stream=True, timeout=180,
)
assert answer.status_code == (206 if part else 200), answer.status_code
assert answer.http_version == CurlHttpVersion.V3, answer.http_version
size = 0
with open(target, "wb") as file:
    for chunk in answer.iter_content():
        size += file.write(chunk)
        if size >= int(enough):
            break
answer.close()
"""


class Curl(Client):
    name = "curl"

    def __init__(self, folder: Path) -> None:
        self._target = folder / "curl"

    def _run(self, server: Server, url: str, part: str, enough: int) -> None:
        whole = f"{server.daemon.url}{server.path(url)}"
        words = (whole, str(server.ca), part, str(self._target), str(enough))
        run(sys.executable, "-c", CURL, *words)

    def get(self, server: Server, url: str, part: slice | None) -> bytes:
        self._run(server, url, "" if part is None else ranged(part), 2**62)
        return self._target.read_bytes()

    def break_off(self, server: Server, url: str) -> None:
        self._run(server, url, "", BROKEN_OFF)
        assert self._target.stat().st_size >= BROKEN_OFF


class Gtlsclient(Client):
    """It shows no status and takes no header fields; it has no other protocol."""

    name = "gtlsclient"
    parts = False

    def __init__(self, folder: Path, loss: str = "") -> None:
        self._folder = folder / f"gtlsclient{loss}"
        self._folder.mkdir()
        self._flags = ("-t", loss, "-r", loss) if loss else ()
        self.name += f", {float(loss):.0%} lost" if loss else ""

    def _command(self, server: Server, url: str, *more: str) -> tuple[str, ...]:
        host, _, port = server.address.rpartition(":")
        flags = ("-q", "--exit-on-all-streams-close", f"--download={self._folder}", *self._flags)
        return ("gtlsclient", *flags, *more, host, port, f"{server.daemon.url}{server.path(url)}")

    def get(self, server: Server, url: str, part: slice | None) -> bytes:
        run(*self._command(server, url))
        [file] = self._folder.iterdir()
        try:
            return file.read_bytes()
        finally:
            file.unlink()

    def break_off(self, server: Server, url: str) -> None:
        """By an end without a word, as that of a machine that lost its power."""
        command = self._command(server, url, "--timeout=5s")
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for(self._begun, "gtlsclient wrote nothing")
            finally:
                process.kill()
        for file in self._folder.iterdir():
            file.unlink()

    def _begun(self) -> bool:
        return any(file.stat().st_size >= BROKEN_OFF for file in self._folder.iterdir())


GET = """
async (path, part, broken_off) => {
  const stop = new AbortController();
  const headers = part ? {range: part} : {};
  const answer = await fetch(path, {headers, cache: "no-store", signal: stop.signal});
  if (broken_off) {
    const reader = answer.body.getReader();
    for (let size = 0; size < broken_off;) size += (await reader.read()).value.length;
    stop.abort();
    await fetch("/healthy", {cache: "no-store"});
    return {protocol: performance.getEntriesByType("resource").pop().nextHopProtocol};
  }
  const body = await answer.arrayBuffer();
  const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", body));
  const entry = performance.getEntriesByName(new URL(path, location).href).pop();
  return {
    status: answer.status,
    sum: Array.from(sum, byte => byte.toString(16).padStart(2, "0")).join(""),
    protocol: entry.nextHopProtocol,
  };
}
"""
POST = """
async path => (await fetch(path, {method: "POST", body: "content of a page"})).status
"""


class Chromium(Client):
    """A page of the daemon's own origin fetches, told so through a pipe."""

    name = "chromium"

    def __init__(self, folder: Path, server: Server) -> None:
        spki = x509.load_pem_x509_certificate(server.certificate.read_bytes()).public_key()
        der = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        known = base64.b64encode(hashlib.sha256(der).digest()).decode()
        flags = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-dev-shm-usage", "--no-proxy-server", "--remote-debugging-pipe"),
            f"--user-data-dir={folder / 'chromium'}",
            # QUIC wants an authority that everybody knows, or to be told.
            f"--ignore-certificate-errors-spki-list={known}",
            f"--origin-to-force-quic-on={server.address}",
        )
        reading, self._write = os.pipe()
        self._read, writing = os.pipe()

        def move() -> None:
            os.dup2(reading, 63)
            os.dup2(writing, 64)
            os.dup2(63, 3)
            os.dup2(64, 4)

        self._process = subprocess.Popen(
            ["chromium", *flags, "about:blank"],
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=move,
        )
        os.close(reading)
        os.close(writing)
        self._told = b""
        self._number = 0
        self._session = ""
        target = self.call("Target.createTarget", url=f"{server.daemon.url}/healthy")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        here = "document.readyState == 'complete' && location.protocol"
        wait_for(lambda: self._value(here) == "https:", "chromium did not open the page")

    def call(self, method: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol; its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, msgspec.json.encode(command) + b"\0")
        while True:
            while b"\0" not in self._told:
                data = os.read(self._read, 2**16)
                assert data, "chromium has ended"
                self._told += data
            line, _, self._told = self._told.partition(b"\0")
            message = msgspec.json.decode(line)
            if message.get("id") == self._number:
                assert "result" in message, message
                return message["result"]

    def _value(self, expression: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def script(self, function: str, *arguments: Any) -> Any:
        """What a function of a page returns."""
        return self._value(f"({function})(...{msgspec.json.encode(arguments).decode()})")

    def get(self, server: Server, url: str, part: slice | None) -> str:
        asked = "" if part is None else ranged(part)
        found = self.script(GET, server.path(url), asked, 0)
        assert found["status"] == (200 if part is None else 206), found
        assert found["protocol"] == "h3", found
        return str(found["sum"])

    def break_off(self, server: Server, url: str) -> None:
        found = self.script(GET, server.path(url), "", BROKEN_OFF)
        assert found["protocol"] == "h3", found

    def post(self) -> float:
        """A request with `Origin`: a page of the daemon's own may what its user may."""
        status = self.script(POST, "/peer/v1/tasks/import?url=http://page.test/content")
        assert status == 200, status
        return 0.0

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        self._process.wait(20)


def ranged(part: slice) -> str:
    return f"bytes={part.start}-{part.stop - 1}"


# ------------------------------------------------------------------ the table


class Table:
    """Its rows as they come, and how many were wrong."""

    def __init__(self) -> None:
        self.wrong = 0
        print(f"{'client':<22}{'what':<12}{'content':<10}{'seconds':>7}{'origin':>8}")

    def row(self, client: str, what: str, content: str, play: Callable[[], float]) -> None:
        """Play, which returns how often the origin was read."""
        began, read, problem = time.monotonic(), 0.0, ""
        try:
            read = play()
            if read > ONCE:
                problem = "the origin was read more than once"
        except (AssertionError, OSError, EOFError, TimeoutError, subprocess.SubprocessError) as exc:
            problem = f"{type(exc).__name__}: {exc}"
        seconds = time.monotonic() - began
        line = f"{client:<22}{what:<12}{content:<10}{seconds:>7.1f}{read:>8.3f}"
        print(f"{line}  WRONG: {problem}" if problem else line, flush=True)
        self.wrong += bool(problem)


def check(got: bytes | str, wanted: bytes) -> None:
    if isinstance(got, str):
        assert got == hashlib.sha256(wanted).hexdigest(), "what it got is not the content"
    else:
        assert got == wanted, f"what it got is not the content: {len(got)} bytes"


def play_all(server: Server, source: str, data: bytes, folder: Path) -> int:
    table = Table()

    def whole(client: Client, url: str, part: slice | None) -> float:
        before = given(source)
        check(client.get(server, url, part), data if part is None else data[part])
        return (given(source) - before) / len(data)

    def broken(client: Client, url: str) -> float:
        wait_for(lambda: not server.at_work(), "it is at work before it is asked")
        files, before = server.descriptors(), given(source)
        client.break_off(server, url)
        # A client that ends without a word is noticed when its connection has been idle; what has
        # begun to arrive arrives to its end.
        wait_for(lambda: not server.at_work(), "a task or a download was left")
        wait_for(lambda: server.descriptors() <= files, "a descriptor was left")
        return (given(source) - before) / len(data)

    def play(client: Client) -> None:
        name = client.name
        url = f"{source}?{quote(name)}"
        table.row(name, "all", "arriving", lambda: whole(client, url, None))
        table.row(name, "all", "stored", lambda: whole(client, url, None))
        if client.parts:
            table.row(name, "206", "arriving", lambda: whole(client, f"{url}-part", PART))
            table.row(name, "206", "stored", lambda: whole(client, url, PART))
        table.row(name, "broken off", "arriving", lambda: broken(client, f"{url}-broken"))
        table.row(name, "broken off", "stored", lambda: broken(client, url))

    for client in (Aioquic(), Curl(folder), Gtlsclient(folder), Gtlsclient(folder, "0.02")):
        play(client)
    chromium = Chromium(folder, server)
    try:
        play(chromium)
        table.row(chromium.name, "POST", "", chromium.post)
    finally:
        chromium.close()
    return table.wrong


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    """A daemon with HTTP/3 and a certificate of its own authority."""
    ca = authority(root / "ca")
    flags = issue(ca, root / "own", "127.0.0.1", "localhost")
    cluster = Cluster(root)
    try:
        daemon = cluster.start("up", "up", "--http3", *flags)
        daemon.wait_ready()
        yield Server(daemon, ca / "ca.crt", Path(flags[3]))
    finally:
        cluster.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.outside.http3_clients", description=__doc__)
    parser.add_argument("--size", type=int, default=16, help="MiB of content")
    parser.add_argument("--rate", type=float, default=8e6, help="bytes per second of the origin")
    arguments = parser.parse_args()
    demand(NEEDED, "curl_cffi")
    with directory("http3") as root:
        file = root / "file"
        data = random.Random(1).randbytes(arguments.size * MIB)
        file.write_bytes(data)
        with serving(root) as server, origin(file, arguments.rate) as source:
            sys.exit(1 if play_all(server, source, data, root) else 0)


if __name__ == "__main__":
    main()
