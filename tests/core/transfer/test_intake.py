"""What an origin sends is stored where somebody waits for it, whole pieces only."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

from hawker.core.ids import TaskSpec
from hawker.core.pieces import KIB, Layout, PieceSet
from hawker.core.transfer.intake import Intake
from hawker.core.transfer.quotas import Quotas
from hawker.core.transfer.rate import Rate

PIECE = 256 * KIB
LAYOUT = Layout(8 * PIECE, PIECE)
DATA = os.urandom(8 * PIECE)


class Bench:
    """A task whose wishes a test changes as bytes come, in half pieces."""

    def __init__(self) -> None:
        self.wishes = PieceSet()
        self.room = LAYOUT.everything()
        self.used = True
        self.stored = bytearray(8 * PIECE)
        self.collected: dict[int, bytes] = {}
        # What happens when so many half pieces have come.
        self.at: dict[int, Callable[[], None]] = {}
        self.sent = 0
        spec = TaskSpec("http://origin/it")
        entry: Any = SimpleNamespace(spec=spec, layout=LAYOUT, valid=PieceSet(), write=self._write)
        store: Any = SimpleNamespace()
        ground: Any = SimpleNamespace(
            clock=time.monotonic,
            counters=SimpleNamespace(origin_bytes=0),
            quotas=Quotas(store, time.monotonic),
        )
        publisher: Any = SimpleNamespace(
            waiting=PieceSet(), whole=None, collect=self.collected.update
        )
        task: Any = self
        # Each half piece is a portion of its own.
        rate = Rate(0, 0.0)
        rate.enough = lambda *_: True  # type: ignore[method-assign]
        self.intake = Intake(ground, task, entry, publisher, rate)

    def claim(self, pieces: PieceSet) -> PieceSet:
        return pieces

    def wanted(self, pieces: PieceSet) -> PieceSet:
        return pieces & self.wishes

    async def may_write(self, piece: int) -> bool:
        await asyncio.sleep(0)
        return piece in self.room

    def _write(self, offset: int, part: memoryview) -> None:
        self.stored[offset : offset + len(part)] = part

    async def stream(self) -> AsyncIterator[bytes]:
        for at in range(0, len(DATA), PIECE // 2):
            self.sent += 1
            self.at.get(self.sent, lambda: None)()
            yield DATA[at : at + PIECE // 2]

    def take(self, *, only: bool = True) -> None:
        async def main() -> None:
            self.intake.missing(LAYOUT.everything())
            reading: Any = self
            async with asyncio.timeout(10):
                await self.intake.take(reading, 0, only=only)

        asyncio.run(main())
        for piece in range(8):
            span = slice(piece * PIECE, (piece + 1) * PIECE)
            right = DATA[span] if piece in self.collected else bytes(PIECE)
            assert self.stored[span] == right, f"piece {piece}"


def test_what_nobody_waits_for_passes_by() -> None:
    bench = Bench()
    # There is no room for others, and none is waited for.
    bench.wishes = bench.room = PieceSet.of([5, 6])
    bench.take()
    assert set(bench.collected) == {5, 6}


def test_a_piece_of_which_a_part_passed_by_is_not_stored() -> None:
    bench = Bench()

    def change() -> None:
        bench.wishes = PieceSet.of([2, 3])

    # The first half of piece 2 has passed by.
    bench.at[6] = change
    bench.take()
    assert set(bench.collected) == {3}


def test_a_stream_that_passed_what_is_wanted_now_ends() -> None:
    bench = Bench()
    bench.wishes = bench.room = PieceSet.of([6])

    def change() -> None:
        bench.wishes, bench.room = PieceSet.of([1, 6]), PieceSet.of([1])

    bench.at[10] = change
    bench.take()
    # Piece 6 has no room before piece 1 was delivered, which comes by only when all is read again.
    assert bench.collected == {} and bench.sent == 13
