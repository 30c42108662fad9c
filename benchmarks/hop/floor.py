"""The least that Python can do: threads that receive, hash and write, and nothing else.

    python -m benchmarks.hop.floor URL SIZE FILE

Takes SIZE bytes from an HTTP/1.1 server by four connections, in pieces of 4 MiB as a peer does;
prints the seconds. It keeps no index, checks no signature, repeats nothing.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

CONNECTIONS = 4
PIECE = 4 * 2**20
CHUNK = 2**20


def work(url: str, fd: int, pieces: SimpleQueue[tuple[int, int]]) -> list[str]:
    """Take pieces until there are none; their digests."""
    parts = urlsplit(url)
    buffer = memoryview(bytearray(CHUNK))
    digests: list[str] = []
    with socket.create_connection((parts.hostname or "", parts.port or 80)) as sock:
        while True:
            try:
                offset, stop = pieces.get_nowait()
            except Empty:
                return digests
            span = f"bytes={offset}-{stop - 1}"
            sock.sendall(f"GET {parts.path} HTTP/1.1\r\nhost: x\r\nrange: {span}\r\n\r\n".encode())
            rest = _after_head(sock)
            digest = hashlib.sha256()
            while offset < stop:
                view = buffer[: min(CHUNK, stop - offset)]
                view[: len(rest)] = rest
                size = len(rest) + sock.recv_into(view[len(rest) :], 0, socket.MSG_WAITALL)
                rest = b""
                os.pwrite(fd, view[:size], offset)
                digest.update(view[:size])
                offset += size
            digests.append(digest.hexdigest())


def _after_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(4096)
    return data.partition(b"\r\n\r\n")[2]


def main() -> None:
    url, size, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    began = time.perf_counter()
    pieces: SimpleQueue[tuple[int, int]] = SimpleQueue()
    for start in range(0, size, PIECE):
        pieces.put((start, min(size, start + PIECE)))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.truncate(fd, size)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        jobs = [pool.submit(work, url, fd, pieces) for _ in range(CONNECTIONS)]
        for job in jobs:
            job.result()
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
