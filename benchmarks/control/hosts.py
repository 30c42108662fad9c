"""Hosts as a scheduler sees them, without a peer behind them: bare keep-alive connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from hawker.core.digests import HostKey
from hawker.core.ids import TaskSpec
from hawker.core.messages import (
    AnyReport,
    Have,
    HostAnnouncement,
    LeaseProgress,
    Read,
    Register,
    ReportAnswer,
    ReportBatch,
    decision_decoder,
    decode_answer,
    encode,
)
from hawker.core.pieces import MIB, Layout
from hawker.core.tokens import ClusterKey

PIECES = 1024
LAYOUT = Layout(PIECES * 4 * MIB, 4 * MIB)
GENERATION = "0123456789abcdef"
READ = 256 * 1024


def spec_of(number: int) -> TaskSpec:
    return TaskSpec(f"https://origin.test/{number}")


class Line:
    """One connection to the scheduler, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Line:
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, limit=READ))

    async def head(self, method: str, path: str, token: str, body: bytes = b"") -> int:
        """Send a request and read an answer's head; the length of its body, -1 for a stream."""
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if not answer.startswith(b"http/1.1 2"):
            raise SystemExit(f"{method} {path}: {answer[:200]!r} {await self._reader.read(500)!r}")
        _, found, rest = answer.partition(b"content-length: ")
        return int(rest.split(b"\r\n")[0]) if found else -1

    async def ask(self, method: str, path: str, token: str, body: bytes = b"") -> bytes:
        """The body of an answer."""
        return await self._reader.readexactly(await self.head(method, path, token, body))

    async def wait_for(self, mark: bytes) -> None:
        """Read a stream until the mark has come."""
        rest = b""
        while mark not in rest:
            data = await self._reader.read(READ)
            if not data:
                raise SystemExit("the scheduler closed a decision stream")
            rest = rest[-len(mark) :] + data

    def close(self) -> None:
        self._writer.close()


class Host:
    """A host that announces itself, follows its decisions, and reports."""

    def __init__(self, key: bytes, *, seed: bool = False) -> None:
        self._own = HostKey.generate()
        self._key = ClusterKey(key, own=self._own)
        self._base = f"/scheduler/v1/hosts/{self._own.host}"
        self._seed = seed
        self._seq = 0
        self._token = self._key.mint(self._own.host, ["report"])
        self.stream: Line | None = None

    @property
    def id(self) -> str:
        return self._own.host

    async def announce(self, line: Line) -> None:
        announcement = HostAnnouncement(
            url="http://127.0.0.1:9/peer", key=self._own.public, boot="boot", seed=self._seed
        )
        token = self._key.mint(self._own.host, ["announce"])
        await line.ask("PUT", self._base, token, encode(announcement))

    async def follow(self, url: str) -> Line:
        """Open the decision stream."""
        line = self.stream = await Line.open(url)
        token = self._key.mint(self._own.host, ["decisions"])
        await line.head("GET", f"{self._base}/decisions", token)
        return line

    def batch(self, reports: Sequence[AnyReport]) -> bytes:
        """What is sent for these reports, numbered on."""
        events = []
        for report in reports:
            self._seq += 1
            events.append(encode(msgspec.structs.replace(report, seq=self._seq)))
        return encode(ReportBatch("boot", [msgspec.Raw(event) for event in events]))

    async def send(self, line: Line, batch: bytes) -> bytes:
        return await line.ask("POST", f"{self._base}/reports", self._token, batch)

    async def report(self, line: Line, *reports: AnyReport) -> ReportAnswer:
        return decode_answer(await self.send(line, self.batch(reports)))


async def provide(seed: Host, line: Line, numbers: Sequence[int]) -> None:
    """Let a seed have all of the contents of these tasks, by a lease on each."""
    decode = decision_decoder()
    for number in numbers:
        spec = spec_of(number)
        answer = await seed.report(line, Register(task=spec.task_id, spec=spec))
        decisions = [decode(bytes(raw)) for raw in answer.decisions]
        lease = next(d.lease for d in decisions if isinstance(d, Read))

        progress = LeaseProgress(
            task=spec.task_id,
            lease=lease,
            generation=GENERATION,
            layout=LAYOUT,
            validator='"v"',
            ranged=True,
            read_bytes=LAYOUT.total or 0,
            read_pieces=PIECES,
        )
        have = Have(task=spec.task_id, generation=GENERATION, pieces=[(0, PIECES - 1)])
        await seed.report(line, progress, have, msgspec.structs.replace(progress, done=True))
