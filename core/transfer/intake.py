"""Taking what an origin sends: what is wanted is stored, the rest passes by, within a rate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hawker.core.contracts import Reading
from hawker.core.errors import OriginFailed
from hawker.core.pieces import MAX_PIECES, Layout, PieceSet
from hawker.core.storage import Entry
from hawker.core.transfer.accounting import Claimed
from hawker.core.transfer.ground import Ground, ReadingTask
from hawker.core.transfer.publisher import Publisher
from hawker.core.transfer.rate import Rate
from hawker.core.transfer.sink import PieceSink

# What came slowly is stored, and told as progress, at least so often.
STORE_EVERY = 1.0


class Intake:
    """Takes the streams of one lease, of which there may be several at once.

    Attributes:
        layout: with the total, once it is known.
        read_bytes: how many came; `read_pieces`: how many whole pieces.
        gained_at: when the last whole piece came, less the time that the origin was made to wait.
    """

    def __init__(
        self, ground: Ground, task: ReadingTask, entry: Entry, publisher: Publisher, rate: Rate
    ) -> None:
        self.layout = entry.layout
        self.read_bytes = self.read_pieces = 0
        self.gained_at = ground.clock()
        self._ground = ground
        self._task = task
        self._entry = entry
        self._publisher = publisher
        self._rate = rate
        self._claimed = PieceSet()
        self._tenant = entry.spec.tenant

    def missing(self, pieces: PieceSet) -> PieceSet:
        """Those of these that this reader is to bring, and that did not come yet."""
        open_pieces = pieces - self._entry.valid - self._publisher.waiting
        claimed = self._task.claim(open_pieces)
        self._claimed |= claimed
        return self._task.wanted(claimed)

    async def take(
        self, reading: Reading, first: int, *, only: bool, claim: Claimed | None = None
    ) -> None:
        """Store a stream that begins with piece `first`, in portions that pay a thread hop.

        One that is the `only` way to get its pieces ends early where what it brings has to wait for
        pieces that it passed before they were wanted.

        `claim` is what the tenant may read of the origin.

        Raises:
            OriginFailed: it broke off; what came before is stored.
            OverQuota: the tenant may read no more.
            QuotaExceeded, StorageFailed: it cannot be stored.
        """
        stream = _Stream(self, self._entry, self._publisher, first)
        quotas = self._ground.quotas
        chunks: list[bytes] = []
        size, since = 0, self._ground.clock()
        try:
            async for chunk in reading.stream():
                chunks.append(chunk)
                size += len(chunk)
                passed = self._ground.clock() - since
                self._rate.most = quotas.receive_part(self._tenant) if self._task.used else None
                enough = self._rate.enough(size, passed, self.layout.piece_length)
                if enough or passed > STORE_EVERY:
                    if not await self._hand_over(stream, chunks, claim, only=only):
                        return
                    chunks, size, since = [], 0, self._ground.clock()
        except OriginFailed:
            # What came before it broke off is good.
            await self._hand_over(stream, chunks, claim, only=only)
            raise
        await self._hand_over(stream, chunks, claim, only=only)
        if self.layout.total is None:
            # The body is over: now the total and the last, shorter piece are known.
            self.layout = Layout(stream.sink.offset, self.layout.piece_length)
            await self._publisher.end(self.layout, stream.sink.tail())

    async def _hand_over(
        self, stream: _Stream, chunks: list[bytes], claim: Claimed | None, *, only: bool
    ) -> bool:
        """Store what came, as fast as lease and tenant may; False where the stream is useless."""
        began, pieces = self._ground.clock(), self.read_pieces
        for part in self._rate.portions(chunks):
            while not await self._room(stream.piece):
                if only and self.missing(PieceSet.first(stream.piece)):
                    return False
            size = sum(map(len, part))
            stream.choose(size)
            await asyncio.to_thread(stream.write, part)
            self.read_bytes += size
            self._ground.counters.origin_bytes += size
            self.read_pieces += stream.publish()
            wait = self._rate.took(size, self._ground.clock())
            if wait:
                await asyncio.sleep(wait)
            await self._ground.quotas.read(self._tenant, size, claim)
            if self._task.used:
                # The bandwidth is that of downloads, wherever they are.
                await self._ground.quotas.take(self._tenant, size)
        # What the origin was made to wait for is not its fault.
        now = self._ground.clock()
        gained = self.read_pieces > pieces
        self.gained_at = now if gained else self.gained_at + now - began
        return True

    async def _room(self, piece: int) -> bool:
        """Wait (briefly) until there is room for the piece, or it passes by."""
        return not self.keeps(piece) or await self._task.may_write(piece)

    def keeps(self, piece: int) -> bool:
        """The piece is stored here; one that is valid, on its way from a peer, or that nobody waits
        for is not."""
        if self.layout.total is not None and piece not in self._claimed:
            return False
        return piece not in self._entry.valid and bool(self._task.wanted(PieceSet.of((piece,))))


class _Stream:
    """One stream on its way into the store; what is kept of a piece is decided as it begins."""

    def __init__(self, intake: Intake, entry: Entry, publisher: Publisher, first: int) -> None:
        layout = intake.layout
        last = first + MAX_PIECES if layout.count is None else layout.count - 1
        self.sink = PieceSink(layout, (first, last), self._store)
        self._layout = layout
        self._intake = intake
        self._entry = entry
        self._publisher = publisher
        self._kept = PieceSet()

    @property
    def piece(self) -> int:
        """The piece of the next byte."""
        return self.sink.offset // self._layout.piece_length

    def choose(self, size: int) -> None:
        """Before the next `size` bytes are written: a piece that is wanted only once a part of it
        passed by would have a hole."""
        begins = range(
            -(-self.sink.offset // self._layout.piece_length),
            -(-(self.sink.offset + size) // self._layout.piece_length),
        )
        self._kept |= PieceSet.of(piece for piece in begins if self._intake.keeps(piece))

    def write(self, part: Sequence[memoryview]) -> None:
        """Called in a thread."""
        for view in part:
            self.sink.write(view)

    def publish(self) -> int:
        """Hand on what is stored; returns how many pieces became whole, stored or not."""
        digests = dict(self.sink.digests)
        self.sink.digests.clear()
        self._publisher.collect({p: d for p, d in digests.items() if self._mine(p)})
        return len(digests)

    def _store(self, offset: int, part: memoryview) -> None:
        if self._mine(offset // self._layout.piece_length):
            self._entry.write(offset, part)
            if self._publisher.whole is not None:
                self._publisher.whole.feed(offset, part)

    def _mine(self, piece: int) -> bool:
        return piece in self._kept and piece not in self._entry.valid
