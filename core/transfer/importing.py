"""Putting local bytes into the store as a task: this host is their reader."""

from __future__ import annotations

import asyncio
import secrets

from hawker.core.digests import PIECE_DIGEST_BYTES, Digest, DigestRun, Reader
from hawker.core.errors import BadRequest
from hawker.core.ids import TaskSpec, random_generation
from hawker.core.pieces import Layout, piece_length_for
from hawker.core.storage import Entry
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.naming import named_digest
from hawker.core.transfer.sink import PieceSink

PIECES_PER_RUN = 1024


class Import:
    """An import in progress: `write` in order, then `finish`; `abandon` leaves nothing behind."""

    def __init__(self, ground: Ground, entry: Entry, digest: Digest | None) -> None:
        self._ground = ground
        self._entry = entry
        self._digest = digest
        self._hash = digest.hasher() if digest is not None else None
        last = max(0, (entry.layout.count or 0) - 1)
        self._sink = PieceSink(entry.layout, (0, last), entry.write)

    @classmethod
    async def begin(cls, ground: Ground, spec: TaskSpec, total: int) -> Import:
        """Make room for `total` bytes.

        Raises:
            BadRequest: the total or the digest that the URL names cannot be.
            QuotaExceeded: there is no room.
        """
        layout = Layout(total, piece_length_for(total)).check()
        # Before anything is stored: what it raises must leave nothing behind.
        digest = named_digest(spec.url)
        return cls(ground, await ground.store.create(spec, random_generation(), layout), digest)

    async def write(self, data: bytes) -> None:
        """The next bytes; about a mebibyte at a time is best."""
        with self._entry.using():
            await asyncio.to_thread(self._take, data)

    def _take(self, data: bytes) -> None:
        if self._sink.received + len(data) > (self._entry.layout.total or 0):
            raise BadRequest(f"more than the {self._entry.layout.total} bytes that were announced")
        self._sink.write(memoryview(data))
        if self._hash is not None:
            self._hash.update(data)

    async def finish(self) -> Entry:
        """Make it valid; raises BadRequest for missing bytes, DigestMismatch for wrong ones."""
        entry = self._entry
        if self._sink.received != entry.layout.total:
            raise BadRequest(f"only {self._sink.received} of {entry.layout.total} bytes came")
        if self._digest is not None and self._hash is not None:
            self._digest.check(self._hash, "the imported content")
        key = self._ground.key
        lease = f"import-{secrets.token_hex(8)}"
        reader = Reader(host=key.host, key=key.public, lease=lease)
        with entry.using():
            await entry.learn(self._runs(lease), [reader])
            await entry.commit(self._sink.digests)
        return entry

    async def abandon(self) -> None:
        """Remove what was written."""
        await self._ground.store.remove(self._entry.task, self._entry.generation)

    def _runs(self, lease: str) -> list[DigestRun]:
        entry, digests = self._entry, self._sink.digests
        count = entry.layout.count or 0
        runs: list[DigestRun] = []
        for first in range(0, max(1, count), PIECES_PER_RUN):
            pieces = range(first, min(count, first + PIECES_PER_RUN))
            run = DigestRun(
                task=entry.task,
                generation=entry.generation,
                first=first,
                digests=b"".join(digests[piece] for piece in pieces),
                piece_length=entry.layout.piece_length,
                total=entry.layout.total or 0,
                host="",
                lease=lease,
            )
            assert len(run.digests) == len(pieces) * PIECE_DIGEST_BYTES
            runs.append(self._ground.key.sign(run))
        return runs
