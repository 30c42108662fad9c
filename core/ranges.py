"""Byte ranges of a representation (RFC 9110 section 14); values of the first floor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from hawker.core.errors import BadRequest

# RFC 9110 puts no bound on the numbers; more digits than this exceed any object.
MAX_DIGITS = 18
BEYOND: int = 10**MAX_DIGITS
# As many as clients are known to ask for at once (librepo, for zchunk files).
MAX_RANGES = 256
# Bytes between two ranges that cost less than the head of another part.
GAP = 80

_SPACE = " \t"
_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
_CONTENT_RANGE = re.compile(r"^bytes (\d+)-(\d+)/(\d+|\*)$")
_UNSATISFIED = re.compile(r"^bytes \*/(\d+)$")


class ByteRange(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Bytes `start` up to but not including `stop`; `stop` None means up to the end.

    Raises ValueError for a negative start, or an end before it.
    """

    start: int
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop < self.start):
            raise ValueError(f"bytes {self.start} to {self.stop} are no range")

    @property
    def size(self) -> int:
        """Bytes in the range; only of one with a definite end."""
        assert self.stop is not None
        return self.stop - self.start

    def clip(self, total: int) -> ByteRange:
        """This range with a definite end within `total` bytes."""
        stop = total if self.stop is None else min(self.stop, total)
        return ByteRange(min(self.start, stop), stop)

    def header(self) -> str:
        """The value of a Range header that asks for this range."""
        last = "" if self.stop is None else str(self.stop - 1)
        return f"bytes={self.start}-{last}"


class Unsatisfiable(BadRequest):
    """No byte of the representation is in any of the ranges (HTTP 416)."""

    title, status = "range not satisfiable", 416
    headers: Mapping[str, str] = {}


class RangeSpec(msgspec.Struct, frozen=True):
    """One range as a client wrote it: `first` None means the last `last` bytes."""

    first: int | None
    last: int | None

    def resolve(self, total: int) -> ByteRange | None:
        """The bytes meant of a representation of `total` bytes, None where there are none of them
        (RFC 9110 section 14.1.2)."""
        if self.first is None:
            start, stop = max(0, total - (self.last or 0)), total
        else:
            start = self.first
            stop = total if self.last is None else min(self.last + 1, total)
        return ByteRange(start, stop) if start < stop else None


def parse_ranges(field: str | None) -> list[RangeSpec] | None:
    """The ranges a Range field asks for, None where it must be ignored: its unit is not bytes.

    A set that breaks the syntax, or of more than `MAX_RANGES`, is empty, and so cannot be
    satisfied: RFC 9110 section 14.2 lets a server reject it.
    """
    unit, equals, listed = (field or "").partition("=")
    if not equals or unit.strip(_SPACE).lower() != "bytes":
        return None
    specs: list[RangeSpec] = []
    for text in listed.split(","):
        # A list may have empty elements (section 5.6.1.2).
        if text := text.strip(_SPACE):
            spec = _parse_spec(text)
            if spec is None or len(specs) == MAX_RANGES:
                return []
            specs.append(spec)
    return specs


def _parse_spec(text: str) -> RangeSpec | None:
    match = _SPEC.fullmatch(text)
    if match is None or text == "-":
        return None
    # Without leading zeros the longer number is the larger one.
    first, last = (_plain(digits) for digits in match.groups())
    if first and last and (len(last), last) < (len(first), first):
        return None
    return RangeSpec(_number(first), _number(last))


def _plain(digits: str) -> str:
    return digits and (digits.lstrip("0") or "0")


def _number(digits: str) -> int | None:
    if len(digits) > MAX_DIGITS:
        return BEYOND
    return int(digits) if digits else None


def satisfy(specs: Sequence[RangeSpec], total: int) -> list[ByteRange]:
    """The bytes that are sent for a set of ranges, in the order they were asked for.

    Ranges that overlap, touch or are less than `GAP` bytes apart become one, in the place of the
    first of them: no byte is sent twice, whatever was asked for.

    Raises:
        Unsatisfiable: there are none.
    """
    found = [(span, place) for place, spec in enumerate(specs) if (span := spec.resolve(total))]
    if not specs:
        raise Unsatisfiable(f"that is no set of 1 to {MAX_RANGES} ranges")
    if not found:
        raise Unsatisfiable(f"there are {total} bytes, and none of them is asked for")
    merged: list[tuple[int, int, int]] = []
    for span, place in sorted(found):
        stop = span.stop or 0
        if merged and span.start < merged[-1][2] + GAP:
            before, start, until = merged.pop()
            merged.append((min(before, place), start, max(until, stop)))
        else:
            merged.append((place, span.start, stop))
    return [ByteRange(start, stop) for _, start, stop in sorted(merged)]


def parse_content_range(header: str) -> tuple[ByteRange, int | None] | None:
    """The range and the total of a 206's Content-Range, None where it makes no sense."""
    match = _CONTENT_RANGE.match(header.strip())
    if match is None or max(map(len, match.groups())) > MAX_DIGITS:
        return None
    first, last, total = match.groups()
    if int(last) < int(first) or (total != "*" and int(last) >= int(total)):
        return None
    return ByteRange(int(first), int(last) + 1), None if total == "*" else int(total)


def parse_unsatisfied(header: str) -> int | None:
    """The total a 416's Content-Range gives, None where it gives none."""
    match = _UNSATISFIED.match(header.strip())
    return int(match[1]) if match and len(match[1]) <= MAX_DIGITS else None
