"""What the tests of the store share: random content, and a reader who signs its digests."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hawker.core.digests import DigestRun, HostKey, Reader
from hawker.core.ids import TaskSpec
from hawker.core.pieces import KIB, Layout, PieceSet
from hawker.core.storage import Entry, Store

PIECE = 256 * KIB


@dataclass
class Sample:
    """Random content as one generation of a task, and its reader."""

    name: str
    data: bytes
    key: HostKey
    generation: str
    length_known: bool = True
    digests: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spec = TaskSpec(url=f"http://origin.test/{self.name}")
        self.task = self.spec.task_id
        self.layout = Layout(len(self.data), PIECE)
        self.reader = Reader(host=self.key.host, key=self.key.public, lease="lease")
        self.digests = [hashlib.sha256(self.piece(p)).digest() for p in self.pieces]

    @property
    def pieces(self) -> range:
        return range(self.layout.count or 0)

    def piece(self, number: int) -> bytes:
        return self.data[number * PIECE : (number + 1) * PIECE]

    def run(self, first: int, last: int, *, total: int | None = None) -> DigestRun:
        """A signed run; `total` -1 says that the length is not known."""
        return self.key.sign(
            DigestRun(
                task=self.task,
                generation=self.generation,
                first=first,
                digests=b"".join(self.digests[first : last + 1]),
                piece_length=PIECE,
                total=len(self.data) if total is None else total,
                host=self.key.host,
                lease="lease",
            )
        )

    async def create(self, store: Store, *, window: int | None = None) -> Entry:
        layout = self.layout if self.length_known else Layout(None, PIECE)
        return await store.create(self.spec, self.generation, layout, window=window)

    async def put(self, entry: Entry, pieces: Iterable[int] | None = None) -> None:
        """Write, learn and commit pieces (all of them by default)."""
        wanted = list(self.pieces if pieces is None else pieces)
        with entry.using():
            for piece in wanted:
                part = memoryview(self.piece(piece))
                await asyncio.to_thread(entry.write, piece * PIECE, part)
            total = None if self.length_known else -1
            for first, last in PieceSet.of(wanted).runs():
                await entry.learn([self.run(first, last, total=total)], [self.reader])
            await entry.commit({piece: self.digests[piece] for piece in wanted})

    def check(self, entry: Entry) -> None:
        """Every valid piece has the right bytes."""
        stored = entry.path.read_bytes()
        for piece in entry.valid:
            assert stored[piece * PIECE : (piece + 1) * PIECE] == self.piece(piece)


MakeSample = Callable[..., Sample]


@pytest.fixture
def sample() -> MakeSample:
    """Makes content: `sample("name", pieces)`, the last piece being half a piece."""
    rng = random.Random(8)
    key = HostKey.generate()

    def make(name: str, pieces: float = 4.5, *, length_known: bool = True) -> Sample:
        data = rng.randbytes(int(pieces * PIECE))
        return Sample(name, data, key, rng.randbytes(8).hex(), length_known=length_known)

    return make


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data directory that does not exist yet."""
    return tmp_path / "data"
