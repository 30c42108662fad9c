"""A peer that lies: the real daemon, but for what it gives away.

`liar.py MODE JOURNAL serve peer …`. It lies once JOURNAL.lies is there. Each line of
the journal is a time (CLOCK_MONOTONIC, that all processes share), then `asked FIRST LAST` for a
request for pieces, or `told` for an announcement in which it lied.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from hawker.apps.cli import run
from hawker.apps.peer.availability import Announcer
from hawker.apps.peer.pieces import PieceServer
from hawker.core.digests import DigestRun, HostKey
from hawker.core.messages import Availability
from hawker.core.pieces import MAX_PIECES, PieceSet
from hawker.core.ranges import ByteRange
from hawker.core.storage import Entry

Send = Callable[[Any], Awaitable[None]]
Body = Callable[[int, Send], Awaitable[None]]


async def part(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def wrong(size: int, send: Send) -> None:
    """As long as it should be, and none of it right."""
    await part(send, os.urandom(size))


async def stale(size: int, send: Send) -> None:
    """Plausible bytes of something else: always the same."""
    await part(send, b"old " * (size // 4) + b"o" * (size % 4))


async def short(size: int, send: Send) -> None:
    """Ends too early."""
    await part(send, b"x" * (size // 2))
    raise ConnectionResetError


async def stops(size: int, send: Send) -> None:
    """Sends a little and then nothing, with the connection open."""
    await part(send, b"x" * min(1000, size - 1))
    await asyncio.sleep(60)


async def freezes(size: int, send: Send) -> None:
    """Sends a little, then the whole process stands still until somebody wakes it."""
    await part(send, b"x" * min(1000, size - 1))
    os.kill(os.getpid(), signal.SIGSTOP)
    await asyncio.sleep(60)


async def slow(size: int, send: Send) -> None:
    """1 KiB a second."""
    for _ in range(size // 1024):
        await part(send, b"x" * 1024)
        await asyncio.sleep(1)


BODIES: dict[str, Body] = {f.__name__: f for f in (wrong, stale, short, stops, freezes, slow)}
flaps = 0


async def lie(
    self: PieceServer, entry: Entry, span: ByteRange, coding: str, send: Send, mode: str
) -> None:
    global flaps
    assert span.stop is not None
    size = span.stop - span.start
    body = BODIES.get(mode, stale)
    if mode == "flapping":
        flaps += 1
        body = short if flaps % 2 else wrong
    said = size + 7 if mode == "long" else size
    headers = [(b"content-length", str(said).encode())]
    if mode == "bomb":
        headers = [(b"content-encoding", b"zstd"), (b"content-length", b"40")]
        size = 40
    if mode == "redirects":
        headers.append((b"location", b"http://127.0.0.1:1/"))
    status = 302 if mode == "redirects" else 200
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await body(said if mode == "long" else size, send)
    await send({"type": "http.response.body", "body": b""})


def boast(entry: Entry, event: Availability, mode: str) -> Availability:
    """What the availability stream says instead."""
    match mode:
        case "boasts":
            everything = [(0, (entry.layout.count or 1) - 1)]
            return msgspec.structs.replace(event, have=everything, alone=everything)
        case "floods":
            return msgspec.structs.replace(event, have=[(0, MAX_PIECES - 1)] * 5000)
        case "forges":
            key = HostKey.generate()
            runs = [
                msgspec.structs.replace(
                    run, digests=os.urandom(len(run.digests)), signature=b"s" * 64
                )
                for run in event.runs
            ]
            runs += [key.sign(strange(run, number)) for run in runs for number in range(300)]
            return msgspec.structs.replace(event, runs=runs)
    return event


def strange(run: DigestRun, number: int) -> DigestRun:
    """A well-signed run of a lease that nobody was granted."""
    return msgspec.structs.replace(run, lease=f"none-{number}", signature=b"")


class Journal:
    """What it was asked, and when."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._sign = Path(f"{path}.lies")

    @property
    def lies(self) -> bool:
        return self._sign.exists()

    def write(self, *words: object) -> None:
        with self._path.open("a") as file:
            print(f"{time.monotonic():.4f}", *words, file=file)


def main() -> int:
    mode, journal = sys.argv[1], Journal(sys.argv[2])
    honest_call, honest_send = PieceServer.__call__, PieceServer._send
    honest_event = Announcer._event

    async def call(self: PieceServer, scope: Any, receive: Any, send: Any) -> None:
        parameters = scope["path_params"]
        journal.write("asked", parameters["first"], parameters["last"])
        await honest_call(self, scope, receive, send)

    async def send(
        self: PieceServer, entry: Entry, span: ByteRange, coding: str, out: Send
    ) -> None:
        if journal.lies:
            await lie(self, entry, span, coding, out, mode)
        else:
            await honest_send(self, entry, span, coding, out)

    def event(
        self: Announcer, entry: Entry, new: PieceSet, told: set[bytes], alone: PieceSet
    ) -> Availability:
        truth = honest_event(self, entry, new, told, alone)
        said = boast(entry, truth, mode) if journal.lies else truth
        if said != truth:
            journal.write("told")
        return said

    setattr(PieceServer, "__call__", call)  # noqa: B010
    if mode in BODIES or mode in ("flapping", "long", "bomb", "redirects"):
        setattr(PieceServer, "_send", send)  # noqa: B010
    setattr(Announcer, "_event", event)  # noqa: B010
    return run(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
