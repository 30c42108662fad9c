"""The file beside the content: a header and signed digest runs, appended as they are learned.

Each record stands in a frame: its length and its CRC-32 (four bytes each, big-endian), then
MessagePack. A frame that is cut or damaged ends the file for the reader. From these files a damaged
index is rebuilt.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from hawker.core.digests import DigestRun, Reader
from hawker.core.ids import TaskSpec
from hawker.core.pieces import Layout
from hawker.core.storage.content import write_fully

_FRAME = struct.Struct(">II")


class Header(msgspec.Struct, frozen=True, tag="header"):
    """The first record: which generation this is; its time of creation, and that of
    its last change at the origin, in seconds."""

    spec: TaskSpec
    generation: str
    layout: Layout
    created: float
    modified: int | None = None


class Learned(msgspec.Struct, frozen=True, tag="learned"):
    """Runs that were accepted together, and the readers who signed them."""

    runs: Sequence[DigestRun]
    readers: Sequence[Reader]


_decoder = msgspec.msgpack.Decoder(Header | Learned)


class Digests:
    """The accepted digests of one generation."""

    def __init__(self) -> None:
        self.runs: list[DigestRun] = []
        self.readers: dict[tuple[str, str], Reader] = {}
        self.total: int | None = None
        self._by_piece: dict[int, DigestRun] = {}

    def digest_of(self, piece: int) -> bytes | None:
        run = self._by_piece.get(piece)
        return None if run is None else run.digest(piece)

    def by_piece(self) -> dict[int, bytes]:
        """Every known digest."""
        return {piece: run.digest(piece) for piece, run in self._by_piece.items()}

    def read_alone(self, host: str) -> dict[int, bytes]:
        """Digests that nobody vouches for but a host that read alone."""
        return {
            piece: run.digest(piece)
            for piece, run in self._by_piece.items()
            if run.alone and run.host == host
        }

    def news(self, learned: Learned, total: int | None) -> Learned | None:
        """What of it is not known yet, `total` being the known length; None where all is."""
        readers = [r for r in learned.readers if self.readers.get((r.host, r.lease)) != r]
        runs = [run for run in learned.runs if self.is_new(run, total)]
        return Learned(runs, readers) if runs or readers else None

    def add(self, learned: Learned) -> None:
        """Take in what was checked; the first digest of a piece stays."""
        for reader in learned.readers:
            self.readers[reader.host, reader.lease] = reader
        for run in learned.runs:
            if not self.is_new(run, self.total):
                continue
            merged = self._merged(run)
            if merged:
                self.runs = [known for known in self.runs if known.signature not in merged]
            self.runs.append(run)
            if self.total is None:
                self.total = run.layout.total
            replaced = False
            for piece in range(run.first, run.first + run.count):
                if self._by_piece.setdefault(piece, run).signature in merged:
                    self._by_piece[piece] = run
                elif self._vouches(piece, run):
                    self._by_piece[piece] = run
                    replaced = True
            if replaced:
                used = {known.signature for known in self._by_piece.values()}
                self.runs = [r for r in self.runs if not r.alone or r.signature in used]

    def is_new(self, run: DigestRun, total: int | None) -> bool:
        """Whether it says a digest or the total for the first time, or with a lease for the first
        time, or says many runs in one."""
        if total is None and run.layout.total is not None:
            return True
        pieces = range(run.first, run.first + run.count)
        if any(p not in self._by_piece or self._vouches(p, run) for p in pieces):
            return True
        return bool(self._merged(run))

    def _vouches(self, piece: int, run: DigestRun) -> bool:
        """Whether a reader with a lease says what a host that read alone has said before."""
        known = self._by_piece[piece]
        return known.alone and not run.alone and known.digest(piece) == run.digest(piece)

    def _merged(self, run: DigestRun) -> set[bytes]:
        """Signatures of known runs that this one says again, where there are several.

        It takes their place: whoever comes late has one signature to check and not hundreds.
        """
        first, last = run.run
        if run.count < 2 or self._by_piece.get(first) is self._by_piece.get(last):
            return set()
        within: set[bytes] = set()
        for piece in range(first, last + 1):
            known = self._by_piece.get(piece)
            if known is None or known.digest(piece) != run.digest(piece):
                return set()
            if run.alone and not known.alone:
                return set()
            if first <= known.run[0] and known.run[1] <= last:
                within.add(known.signature)
        return within if len(within) > 1 else set()


class Sidecar:
    """One sidecar. Methods block; `create` and `append` are called from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Where the next frame goes: behind the last whole one, for a torn tail hides what follows.
        self._end: int | None = None

    def create(self, header: Header) -> None:
        """Write a new file; raises OSError."""
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self._end = 0
        self._write(header)

    def append(self, learned: Learned) -> None:
        """Add a record; raises OSError, and leaves no half of one."""
        self._write(learned)

    def read(self) -> tuple[Header | None, list[Learned]]:
        """The records up to the first that is cut or damaged; nothing of a missing file."""
        header: Header | None = None
        learned: list[Learned] = []
        for record, _ in _records(self._bytes()):
            if isinstance(record, Header):
                header = header or record
            else:
                learned.append(record)
        return header, learned

    def _write(self, record: Header | Learned) -> None:
        if self._end is None:
            self._end = max((end for _, end in _records(self._bytes())), default=0)
        payload = msgspec.msgpack.encode(record)
        frame = _FRAME.pack(len(payload), zlib.crc32(payload)) + payload
        fd = os.open(self._path, os.O_WRONLY)
        try:
            os.ftruncate(fd, self._end)
            write_fully(fd, self._end, memoryview(frame))
            self._end += len(frame)
        except OSError:
            os.ftruncate(fd, self._end)
            raise
        finally:
            os.close(fd)

    def _bytes(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""


def _records(data: bytes) -> Iterator[tuple[Header | Learned, int]]:
    """Each whole record, and where it ends."""
    start = 0
    while start + _FRAME.size <= len(data):
        length, crc = _FRAME.unpack_from(data, start)
        payload = data[start + _FRAME.size : start + _FRAME.size + length]
        if len(payload) != length or zlib.crc32(payload) != crc:
            return
        try:
            record = _decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        start += _FRAME.size + length
        yield record, start
