"""Pieces: how a generation is cut, which pieces a range touches, and sets of pieces.

A piece is a fixed-length range of a generation, the unit of verification and availability. Numbers
start at 0; only the last piece may be shorter.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator

import msgspec

from hawker.core.errors import BadRequest
from hawker.core.ranges import ByteRange

KIB = 1024
MIB = 1024 * KIB
MIN_PIECE_LENGTH = 256 * KIB
MAX_PIECE_LENGTH = 16 * MIB
UNKNOWN_PIECE_LENGTH = MIB
TARGET_PIECES = 256
# 16 MiB pieces of 16 TiB: a bound for what a message may claim, so that sets stay small.
MAX_PIECES = 1 << 20

Run = tuple[int, int]
"""First and last piece of a run, both included."""
# Each of these takes as many steps as there are pieces; of more runs, peers may send very many, all
# are taken together in that many steps.
FEW_RUNS = 64
_ONES = re.compile("1+")


def piece_length_for(total: int | None) -> int:
    """Next power of two of total / 256, clamped to 256 KiB … 16 MiB; 1 MiB for an unknown total."""
    if total is None:
        return UNKNOWN_PIECE_LENGTH
    wanted = -(-total // TARGET_PIECES)
    power = 1 << max(0, wanted - 1).bit_length()
    return min(max(power, MIN_PIECE_LENGTH), MAX_PIECE_LENGTH)


class Layout(msgspec.Struct, frozen=True):
    """How a generation is cut: `total` bytes (None while unknown) in pieces of `piece_length`."""

    total: int | None
    piece_length: int

    def check(self) -> Layout:
        """This layout.

        Raises:
            BadRequest: the numbers cannot be those of a generation.
        """
        length = self.piece_length
        if not MIN_PIECE_LENGTH <= length <= MAX_PIECE_LENGTH or length & (length - 1):
            raise BadRequest(f"piece length {length} is not a power of two from 256 KiB to 16 MiB")
        if self.total is not None and not 0 <= self.total <= MAX_PIECES * length:
            raise BadRequest(f"a total of {self.total} bytes cannot be cut in pieces of {length}")
        return self

    @property
    def count(self) -> int | None:
        """Number of pieces, None while the total is unknown."""
        return None if self.total is None else -(-self.total // self.piece_length)

    def offset(self, piece: int) -> int:
        """First byte of the piece."""
        return piece * self.piece_length

    def length(self, piece: int) -> int:
        """Bytes in the piece; while the total is unknown the most it can have."""
        if self.total is None:
            return self.piece_length
        return max(0, min(self.piece_length, self.total - self.offset(piece)))

    def span(self, run: Run) -> ByteRange:
        """The bytes of a run of pieces."""
        return ByteRange(self.offset(run[0]), self.offset(run[1]) + self.length(run[1]))

    def touching(self, span: ByteRange) -> PieceSet:
        """The pieces a range of bytes touches; the total must be known where the range is open.

        Beyond the largest piece number there are none, however far the range says it goes.
        """
        stop = self.total if span.stop is None else span.stop
        if stop is None:
            raise BadRequest("an open range of content of unknown length has no known pieces")
        if self.total is not None:
            stop = min(stop, self.total)
        stop = min(stop, MAX_PIECES * self.piece_length)
        if stop <= span.start:
            return PieceSet()
        return PieceSet.of_run(span.start // self.piece_length, (stop - 1) // self.piece_length)

    def covering(self, ranges: Iterable[ByteRange] | None) -> PieceSet:
        """The pieces that any of the ranges touches, all of them for None; see `touching`."""
        if ranges is None:
            return self.everything()
        pieces = PieceSet()
        for span in ranges:
            pieces |= self.touching(span)
        return pieces

    def everything(self) -> PieceSet:
        """All pieces; the total must be known."""
        if self.count is None:
            raise BadRequest("content of unknown length has no known number of pieces")
        return PieceSet.first(self.count)


class PieceSet:
    """An immutable set of piece numbers, one bit each in a Python integer.

    Unions, differences and counts of a thousand pieces are then single operations in C.
    """

    __slots__ = ("bits",)

    def __init__(self, bits: int = 0) -> None:
        self.bits = bits

    @classmethod
    def of(cls, pieces: Iterable[int]) -> PieceSet:
        bits = 0
        for piece in pieces:
            bits |= 1 << piece
        return cls(bits)

    @classmethod
    def first(cls, count: int) -> PieceSet:
        """Pieces 0 up to but not including `count`."""
        return cls((1 << count) - 1)

    @classmethod
    def of_run(cls, first: int, last: int) -> PieceSet:
        return cls(((1 << (last - first + 1)) - 1) << first)

    @classmethod
    def from_runs(cls, runs: Iterable[Run]) -> PieceSet:
        """The set that `runs` describe.

        Raises:
            BadRequest: a run is reversed, negative or beyond the largest piece number.
        """
        runs = list(runs)
        for first, last in runs:
            if not 0 <= first <= last < MAX_PIECES:
                raise BadRequest(f"{first}-{last} is not a run of pieces")
        if len(runs) > FEW_RUNS:
            return cls(_bits_of(runs))
        bits = 0
        for first, last in runs:
            bits |= ((1 << (last - first + 1)) - 1) << first
        return cls(bits)

    def runs(self) -> list[Run]:
        """Maximal runs, in order."""
        found: list[Run] = []
        bits, base = self.bits, 0
        while bits and len(found) < FEW_RUNS:
            skip = (bits & -bits).bit_length() - 1
            bits >>= skip
            base += skip
            length = (~bits & (bits + 1)).bit_length() - 1
            found.append((base, base + length - 1))
            bits >>= length
            base += length
        if bits:
            ones = _ONES.finditer(bin(bits)[:1:-1])
            found.extend((base + run.start(), base + run.end() - 1) for run in ones)
        return found

    def pick(self, rng: random.Random) -> int:
        """A random member, by a random starting bit; the set has some."""
        offset = rng.randrange(self.bits.bit_length())
        above = self.bits >> offset
        bits, base = (above, offset) if above else (self.bits, 0)
        return base + (bits & -bits).bit_length() - 1

    def __iter__(self) -> Iterator[int]:
        for first, last in self.runs():
            yield from range(first, last + 1)

    def __contains__(self, piece: int) -> bool:
        return bool(self.bits >> piece & 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __bool__(self) -> bool:
        return self.bits != 0

    def __or__(self, other: PieceSet) -> PieceSet:
        return PieceSet(self.bits | other.bits)

    def __and__(self, other: PieceSet) -> PieceSet:
        return PieceSet(self.bits & other.bits)

    def __sub__(self, other: PieceSet) -> PieceSet:
        return PieceSet(self.bits & ~other.bits)

    def __le__(self, other: PieceSet) -> bool:
        return not self.bits & ~other.bits

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PieceSet) and self.bits == other.bits

    def __hash__(self) -> int:
        return hash(self.bits)

    def __repr__(self) -> str:
        return "{" + ",".join(f"{a}-{b}" if a != b else str(a) for a, b in self.runs()) + "}"


def _bits_of(runs: Iterable[Run]) -> int:
    text: list[str] = []
    end = 0
    for first, last in sorted(runs):
        if last >= end:
            begin = max(first, end)
            text += ["0" * (begin - end), "1" * (last + 1 - begin)]
            end = last + 1
    return int("".join(text)[::-1], 2)
