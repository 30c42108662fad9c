"""Content that an origin gives only to those who show something: who may have it here.

What was read with a request's own header fields belongs to a task of its own (`VARIANT`), so that
nobody gets it by asking without any. Whoever shows other fields is checked at the origin first; the
answer is remembered for a moment, under a hash of what was shown.
"""

from __future__ import annotations

from collections.abc import Callable

from hawker.core.contracts import Source, SourceRequest
from hawker.core.ids import digest_of_fields
from hawker.core.ranges import ByteRange

VARIANT = "private"
REMEMBERED_SECONDS = 60.0
MAX_REMEMBERED = 4096


class AccessChecks:
    """Which header fields opened which URL lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.made = 0
        self._clock = clock
        self._granted: dict[str, float] = {}

    def granted(self, request: SourceRequest) -> None:
        """The origin has just given this content for these fields."""
        if len(self._granted) >= MAX_REMEMBERED:
            self._granted.clear()
        self._granted[_key(request)] = self._clock() + REMEMBERED_SECONDS

    async def check(self, source: Source, request: SourceRequest) -> None:
        """Ask the origin, unless it was asked a moment ago; reads at most one byte.

        Raises:
            OriginRefused: the origin does not give this content for these fields.
            NotFound, OriginFailed: the origin cannot be asked.
        """
        if self._granted.get(_key(request), 0.0) > self._clock():
            return
        self.made += 1
        reading = await source.open(request, ByteRange(0, 1))
        await reading.close()
        self.granted(request)


def _key(request: SourceRequest) -> str:
    fields = sorted((name.lower(), value) for name, value in request.headers.items())
    return digest_of_fields(request.url, *(part for field in fields for part in field))
