"""What tests of sources and transports stand on: a server that says just what the test wants,
credentials, and a sink."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from hawker.core.contracts import Credential, UpstreamProxy

Talk = Callable[[str, socket.socket], None]
Answer = Callable[[str], bytes]


class Straight:
    """A policy without an upstream proxy."""

    async def proxy(self, host: str, port: int) -> UpstreamProxy | None:
        return None

    async def proxy_addresses(self) -> Sequence[str]:
        raise AssertionError("there is none")


class Scripted:
    """Answers each connection's first request and closes it; remembers the heads, in lower case."""

    def __init__(self, talk: Talk, context: ssl.SSLContext | None = None) -> None:
        self.heads: list[str] = []
        self._answer = talk
        self._context = context
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def url(self, path: str = "/file") -> str:
        scheme = "https" if self._context is not None else "http"
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._sock.accept()
            except OSError:
                return
            with closing(connection):
                connection.settimeout(5)
                try:
                    self._talk(connection)
                except OSError:
                    continue

    def _talk(self, connection: socket.socket) -> None:
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        with closing(connection):
            head = b""
            while b"\r\n\r\n" not in head:
                part = connection.recv(65536)
                if not part:
                    return
                head += part
            self.heads.append(head.decode("latin-1").lower())
            self._answer(self.heads[-1], connection)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join()


@contextmanager
def serving(answer: Answer | bytes, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A server that answers with these bytes, or with those made from a request's head."""

    def talk(head: str, connection: socket.socket) -> None:
        connection.sendall(answer(head) if callable(answer) else answer)

    with closing(Scripted(talk, context)) as server:
        yield server


class Keys:
    """One credential for every URL, or none."""

    def __init__(self, credential: Credential | None = None) -> None:
        self._credential = credential

    async def find(self, url: str, tenant: str) -> Credential | None:
        return self._credential

    async def close(self) -> None:
        return


class Sink:
    """Keeps what a transport gives it."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        self.data += data
