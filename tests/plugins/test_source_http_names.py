"""Names that mean something else a moment later: the real policy, resolver and sockets.

The names are in an `/etc/hosts` of this module's own processes, in a mount namespace.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from hawker.core.contracts import SourceRequest, SourceServices
from hawker.core.egress import EgressPolicy
from hawker.core.errors import Forbidden
from hawker.core.settings import EgressSettings
from hawker.plugins.sources.http import HttpSource
from tests.e2e.small_disk import namespace

HOSTS = Path("/etc/hosts")
LINES = {
    "here.test": "127.0.0.1",
    "metadata.test": "169.254.169.254",
    "company.test": "10.1.2.3",
    "carrier.test": "100.64.1.2",
}
MOUNT = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


class Origin:
    """Answers at one address of loopback with its own text, and counts who came."""

    def __init__(self, address: str, port: int, text: bytes, target: str = "") -> None:
        self.came = 0
        self._sock = socket.create_server((address, port))
        self.port: int = self._sock.getsockname()[1]
        head = f"HTTP/1.1 302 Found\r\nlocation: {target}\r\n" if target else "HTTP/1.1 200 OK\r\n"
        self._answer = f"{head}content-length: {len(text)}\r\n\r\n".encode() + text
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            with closing(connection):
                self.came += 1
                connection.recv(65536)
                connection.sendall(self._answer)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join()


class Turning(EgressPolicy):
    """The policy, with names that change as soon as it has looked at them."""

    turn: Callable[[], None] = staticmethod(lambda: None)

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            return await super().addresses(host, port)
        finally:
            self.turn()


class Nothing:
    """No credentials."""

    async def find(self, url: str, tenant: str) -> None:
        return None

    async def close(self) -> None:
        return


def name(host: str, address: str) -> None:
    """From now on the name has this address."""
    known = LINES | {host: address}
    HOSTS.write_text("".join(f"{address} {host}\n" for host, address in known.items()))


def read(policy: EgressPolicy, url: str) -> bytes:
    async def main() -> bytes:
        source = HttpSource(SourceServices(policy, Nothing()))
        try:
            reading = await source.open(SourceRequest(url))
            try:
                return b"".join([chunk async for chunk in reading.stream()])
            finally:
                await reading.close()
        finally:
            await source.close()

    return asyncio.run(main())


def refused(policy: EgressPolicy, url: str) -> bool:
    try:
        read(policy, url)
    except Forbidden:
        return True
    return False


def plain_names() -> None:
    """What a name means is judged, not the name; networks of a company are origins by default."""
    policy = EgressPolicy(EgressSettings(), loopback=False)
    assert refused(policy, "http://here.test/")
    assert refused(EgressPolicy(EgressSettings(), loopback=True), "http://metadata.test/")
    for host, network in (("company.test", "10.0.0.0/8"), ("carrier.test", "100.64.0.0/10")):
        assert asyncio.run(policy.addresses(host, 80)) == [LINES[host]]
        denying = EgressPolicy(EgressSettings(deny=[network]), loopback=False)
        assert refused(denying, f"http://{host}/")
        others = EgressPolicy(EgressSettings(allow=["192.0.2.0/24"]), loopback=False)
        assert refused(others, f"http://{host}/")


def rebinding() -> None:
    """The connection goes to the address that was looked at."""
    good = Origin("127.0.0.1", 0, b"good")
    trap = Origin("127.0.0.2", good.port, b"trap")
    with closing(good), closing(trap):
        policy = Turning(EgressSettings(allow=["127.0.0.1/32"]), loopback=False)
        policy.turn = lambda: name("turns.test", "127.0.0.2")
        name("turns.test", "127.0.0.1")
        url = f"http://turns.test:{good.port}/"
        assert read(policy, url) == b"good"
        # Looked at again, it is another address.
        assert refused(policy, url)
        assert (good.came, trap.came) == (1, 0)


def redirect() -> None:
    """A redirect is looked at anew, also one to the same name."""
    trap = Origin("127.0.0.2", 0, b"trap")
    first = Origin("127.0.0.1", 0, b"", f"http://turns.test:{trap.port}/")
    with closing(first), closing(trap):
        policy = Turning(EgressSettings(allow=["127.0.0.1/32"]), loopback=False)
        policy.turn = lambda: name("turns.test", "127.0.0.2")
        name("turns.test", "127.0.0.1")
        assert refused(policy, f"http://turns.test:{first.port}/")
        assert (first.came, trap.came) == (1, 0)


@pytest.mark.parametrize("scene", [plain_names, rebinding, redirect])
def test_names(scene: Callable[[], None], tmp_path: Path) -> None:
    """Each scene in a process with names of its own."""
    made = namespace()
    if made is None:
        pytest.skip("no mount namespaces here")
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{address} {host}\n" for host, address in LINES.items()))
    command = [sys.executable, "-m", __name__, scene.__name__]
    done = subprocess.run(
        [*made, "sh", "-c", MOUNT, "sh", str(hosts), *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    # Written to in what follows: it must not be the machine's own.
    assert "here.test" in HOSTS.read_text()
    globals()[sys.argv[1]]()
