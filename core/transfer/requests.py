"""Which requests for parts a reader of an origin makes: in what order, and how many at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from hawker.core.pieces import MAX_PIECE_LENGTH, MIB, PieceSet, Run
from hawker.core.ranges import ByteRange
from hawker.core.signal import Signal
from hawker.core.storage import Entry

# What is wanted while something else is read has requests of its own: so many, of so much each.
BESIDE = 3
BESIDE_BYTES = 16 * MIB
LOOK_AGAIN = 3.0


class Requests:
    """The requests of one lease; no two of them ask for the same piece.

    Attributes:
        under_way: the pieces that are asked for now.
        landed: fires when a request is over.
    """

    def __init__(self) -> None:
        self.under_way = PieceSet()
        self.landed = Signal()
        self._wished = Signal()
        self._known = PieceSet()
        # What was wanted, in the order in which it was.
        self._wishes: list[PieceSet] = []

    def wish(self, wanted: PieceSet) -> None:
        """All of this is wanted now: what was not before comes after what was."""
        self._note(wanted)
        self._wished.fire()

    def first(self, missing: PieceSet, wanted: PieceSet) -> Run:
        """A run of what was wanted first of these pieces, not of what stands first: who reads in
        order would keep all others waiting."""
        self._note(wanted)
        self._wishes = [wish for wish in self._wishes if wish & missing]
        return (self._wishes[0] & missing if self._wishes else missing).runs()[0]

    @contextlib.contextmanager
    def asking(self, pieces: PieceSet) -> Iterator[None]:
        """A request for these pieces is under way."""
        self.under_way |= pieces
        try:
            yield
        finally:
            self.under_way -= pieces
            self.landed.fire()

    async def beside(
        self,
        missing: Callable[[], PieceSet],
        wanted: Callable[[], PieceSet],
        read: Callable[[Run], Coroutine[Any, Any, None]],
        piece_length: int,
    ) -> None:
        """While a request is under way `read` what else is missing, until cancelled.

        What a request failed to bring is not asked for here again: it is for the one that reads in
        turn, which knows when to give up.
        """
        most = max(1, BESIDE_BYTES // piece_length)
        tried = PieceSet()
        async with asyncio.TaskGroup() as group:
            running: set[asyncio.Task[None]] = set()

            def over(task: asyncio.Task[None]) -> None:
                running.discard(task)
                self._wished.fire()

            while True:
                seen = self._wished.seen
                free = self.under_way and len(running) < BESIDE
                open_pieces = missing() - tried if free else PieceSet()
                if not open_pieces:
                    await self._wished.wait(LOOK_AGAIN, seen)
                    continue
                first, last = self.first(open_pieces, wanted())
                run = first, min(last, first + most - 1)
                tried |= PieceSet.of_run(*run)
                reading = group.create_task(read(run))
                running.add(reading)
                reading.add_done_callback(over)
                # It says what it asks for.
                await asyncio.sleep(0)

    def _note(self, wanted: PieceSet) -> None:
        new = wanted - self._known
        self._known |= new
        self._wishes += [new] if new else []


def first_wish(ranges: Sequence[ByteRange] | None, partial: Entry | None) -> ByteRange | None:
    """What the first request asks for where these ranges are wanted, None for all, and `partial` is
    here: all, the rest of what is here, a part from the start, or one byte to learn length and
    validator where only another part is wanted."""
    if ranges is not None:
        wish = ranges[0]
        whole_pieces = wish.start == 0 and wish.stop and wish.stop % MAX_PIECE_LENGTH == 0
        return wish if whole_pieces else ByteRange(0, 1)
    if partial is None or not partial.valid or partial.layout.total is None:
        return None
    missing = partial.layout.everything() - partial.valid
    first = missing.runs()[0][0] if missing else 0
    return ByteRange(partial.layout.offset(first)) if first else None
