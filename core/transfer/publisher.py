"""What a reader has read becomes valid: signed, committed and announced, together as it comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from hawker.core.digests import (
    ALONE,
    MAX_RUN_PIECES,
    PIECE_DIGEST_BYTES,
    UNKNOWN_TOTAL,
    DigestRun,
    Reader,
)
from hawker.core.messages import AnyReport, Have, Length
from hawker.core.pieces import Layout, PieceSet
from hawker.core.signal import Signal
from hawker.core.storage import Entry
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.whole import WholeDigest

log = logging.getLogger(__name__)

DRAIN_WAIT = 1.0


class Audience(Protocol):
    """Who is told of pieces that became valid."""

    def arrived(self, pieces: PieceSet) -> None: ...

    def report(self, report: AnyReport, *, urgent: bool = False) -> None: ...


class Publisher:
    """Signs for one lease. With `whole`, what would complete the content waits for that digest;
    `checked` once that was found right."""

    def __init__(self, ground: Ground, audience: Audience, entry: Entry, lease: str) -> None:
        self.layout = entry.layout
        self.whole: WholeDigest | None = None
        self._ground = ground
        self._audience = audience
        self._entry = entry
        self._lease = lease
        self._fresh: dict[int, bytes] = {}
        self._filled = asyncio.Event()
        self._published = Signal()
        self.checked = False

    @property
    def waiting(self) -> PieceSet:
        """Pieces that were read and are not valid yet."""
        return PieceSet.of(self._fresh)

    def collect(self, digests: Mapping[int, bytes]) -> None:
        """Pieces that are stored, with their digests."""
        if digests:
            self._fresh.update(digests)
            self._filled.set()

    async def run(self) -> None:
        """Publish whatever came together in one go, until cancelled.

        Raises:
            DigestMismatch: the content is not what the origin says it is.
        """
        while True:
            await self._filled.wait()
            self._filled.clear()
            await self._publish()

    async def vouch(self) -> None:
        """Say again, under this lease, what this host read while nobody could grant one: others go
        by it now, and need not read it."""
        if self._lease.startswith(ALONE):
            return
        digests = self._entry.read_alone(self._ground.host)
        if not digests:
            return
        await self._entry.learn(self._sign_all(digests), [self._reader()])
        have = Have(
            task=self._entry.task,
            generation=self._entry.generation,
            pieces=PieceSet.of(digests).runs(),
        )
        self._audience.report(have, urgent=True)

    async def _publish(self) -> None:
        digests = dict(self._fresh)
        if not digests:
            return
        if self._completes(digests):
            await self._check_whole()
        pieces = PieceSet.of(digests)
        runs = self._sign_all(digests)
        # Both in one batch of the store, digests first.
        await asyncio.gather(self._entry.learn(runs, [self._reader()]), self._entry.commit(digests))
        for piece in digests:
            self._fresh.pop(piece, None)
        self._audience.arrived(pieces)
        self._published.fire()

    def _completes(self, digests: Mapping[int, bytes]) -> bool:
        count = self.layout.count
        if count is None:
            return False
        if self._entry.windowed:
            # Nothing is complete of what is dropped behind its user; its end is its last piece.
            return count - 1 in digests
        return self.layout.everything() - self._entry.valid <= PieceSet.of(digests)

    async def _check_whole(self) -> None:
        total = self.layout.total
        if self.whole is None or total is None:
            return
        if self._entry.windowed and not self.whole.reached(total):
            log.warning("%s was not read in order: its digest is not checked", self._entry)
            return
        await asyncio.to_thread(self.whole.check, self._entry.path)
        self.checked = True

    async def drain(self) -> None:
        """Until everything read is valid."""
        while self._fresh:
            await self._published.wait(DRAIN_WAIT)

    async def end(self, layout: Layout, tail: tuple[int, bytes] | None) -> None:
        """The length that nobody knew is this; `tail` is the last, shorter piece.

        Raises:
            DigestMismatch: the content is not what the origin says it is.
        """
        await self.drain()
        self.layout = layout.check()
        assert layout.total is not None
        await self._check_whole()
        digests = b"" if tail is None else tail[1]
        run = self._sign((layout.count or 0) - (1 if tail else 0), digests, layout.total)
        await self._entry.learn([run], [self._reader()])
        length = Length(
            task=self._entry.task, generation=self._entry.generation, total=layout.total
        )
        self._audience.report(length, urgent=True)
        if tail is not None:
            self.collect({tail[0]: tail[1]})

    async def seal(self) -> None:
        """Say all digests again in as few runs as can be, where all were read under this lease.

        Raises:
            DigestMismatch: the content is not what the origin says it is.
        """
        entry = self._entry
        if entry.complete and not self.checked:
            # There was nothing left to read that could have waited for it.
            await self._check_whole()
        own = all(run.lease == self._lease for run in entry.runs)
        if not entry.complete or not own or len(entry.runs) < 2:
            return
        digests = {
            piece: digest
            for piece in range(self.layout.count or 0)
            if (digest := entry.digest_of(piece)) is not None
        }
        await entry.learn(self._sign_all(digests), [self._reader()])

    def _sign_all(self, digests: Mapping[int, bytes]) -> list[DigestRun]:
        total = UNKNOWN_TOTAL if self.layout.total is None else self.layout.total
        spans = [
            range(start, min(last + 1, start + MAX_RUN_PIECES))
            for first, last in PieceSet.of(digests).runs()
            for start in range(first, last + 1, MAX_RUN_PIECES)
        ]
        return [self._sign(s[0], b"".join(digests[piece] for piece in s), total) for s in spans]

    def _sign(self, first: int, digests: bytes, total: int) -> DigestRun:
        assert len(digests) % PIECE_DIGEST_BYTES == 0
        return self._ground.key.sign(
            DigestRun(
                task=self._entry.task,
                generation=self._entry.generation,
                first=first,
                digests=digests,
                piece_length=self.layout.piece_length,
                total=total,
                host=self._ground.host,
                lease=self._lease,
            )
        )

    def _reader(self) -> Reader:
        key = self._ground.key
        return Reader(host=key.host, key=key.public, lease=self._lease)
