"""Byte ranges of a representation (RFC 9110 section 14); values of the first floor."""

from __future__ import annotations

import re

import msgspec

from hawker.core.errors import BadRequest

# RFC 9110 puts no bound on the numbers; more digits than this exceed any object.
MAX_DIGITS = 18

_SPEC = re.compile(r"^(\d*)-(\d*)$")
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

    def clip(self, total: int) -> ByteRange:
        """This range with a definite end within `total` bytes."""
        stop = total if self.stop is None else min(self.stop, total)
        return ByteRange(min(self.start, stop), stop)

    def header(self) -> str:
        """The value of a Range header that asks for this range."""
        last = "" if self.stop is None else str(self.stop - 1)
        return f"bytes={self.start}-{last}"


class Unsatisfiable(BadRequest):
    """The range lies beyond the end (HTTP 416)."""

    title, status = "range not satisfiable", 416


class RangeSpec(msgspec.Struct, frozen=True):
    """One range as a client wrote it: `first` None means the last `last` bytes."""

    first: int | None
    last: int | None

    def resolve(self, total: int) -> ByteRange:
        """The bytes meant of a representation of `total` bytes (RFC 9110 14.1.2).

        Raises:
            Unsatisfiable: no byte of the representation is in the range.
        """
        if self.first is None:
            length = self.last or 0
            if length == 0 or total == 0:
                raise Unsatisfiable(f"the last {length} bytes of {total} bytes are no bytes")
            return ByteRange(max(0, total - length), total)
        if self.first >= total:
            raise Unsatisfiable(f"range starts at byte {self.first} of {total} bytes")
        stop = total if self.last is None else min(self.last + 1, total)
        return ByteRange(self.first, stop)


def parse_range(header: str | None) -> RangeSpec | None:
    """The single range a Range header asks for, None where it must be ignored.

    An unknown unit, a syntax error or several ranges mean "ignore": RFC 9110 section 14.2 lets a
    server answer 200 with the whole then.
    """
    if header is None:
        return None
    unit, _, rest = header.strip().partition("=")
    if unit.strip().lower() != "bytes":
        return None
    match = _SPEC.match(rest.strip())
    if match is None:
        return None
    first, last = match.groups()
    if (not first and not last) or max(len(first), len(last)) > MAX_DIGITS:
        return None
    spec = RangeSpec(int(first) if first else None, int(last) if last else None)
    if spec.first is not None and spec.last is not None and spec.last < spec.first:
        return None
    return spec


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
