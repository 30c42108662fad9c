"""Content that is not for everybody: who may have it here.

What was read with a request's own header fields, or through a signature in its URL, belongs to a
task of its own, so that nobody gets it by asking without any. Whoever shows others is checked at
the origin first; the answer is remembered for a moment, under a hash of what was shown and of whose
tenant showed it.

A file of this machine that is not below `sources.file.roots` is its user's own: no other host hears
of it, and it is given over the unix socket alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from hawker.core.contracts import Source, SourceRequest
from hawker.core.errors import BadRequest
from hawker.core.ids import OWN, PRIVATE, SIGNED, TaskSpec, digest_of_fields
from hawker.core.ranges import ByteRange
from hawker.core.roots import below, file_path

REMEMBERED_SECONDS = 60.0
MAX_REMEMBERED = 4096


def restricted(spec: TaskSpec) -> bool:
    """Whether content is only for those who the origin gives it to."""
    return spec.variant in (PRIVATE, SIGNED)


def is_own(spec: TaskSpec, roots: Sequence[str]) -> bool:
    """Whether content is a file of this machine that only its own user may have."""
    if spec.variant.startswith(OWN):
        return True
    if not spec.url.startswith("file:"):
        return False
    try:
        return not below(file_path(spec.url), roots)
    except BadRequest:
        return True


class AccessChecks:
    """Which header fields and signatures opened which URL lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.made = 0
        self._clock = clock
        self._granted: dict[str, float] = {}
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def granted(self, request: SourceRequest) -> None:
        """The origin has just given this content for what was shown."""
        if len(self._granted) >= MAX_REMEMBERED:
            self._granted.clear()
        self._granted[_key(request)] = self._clock() + REMEMBERED_SECONDS

    async def check(self, source: Source, request: SourceRequest) -> None:
        """Ask the origin, unless it was asked a moment ago; reads at most one byte.

        Raises:
            OriginRefused: the origin does not give this content for what is shown.
            NotFound, OriginFailed: the origin cannot be asked.
        """
        key = _key(request)
        # Many who show the same ask the origin once.
        asking = self._asking.setdefault(key, asyncio.Lock())
        async with asking:
            if self._granted.get(key, 0.0) > self._clock():
                return
            self.made += 1
            reading = await source.open(request, ByteRange(0, 1))
            await reading.close()
            self.granted(request)


def _key(request: SourceRequest) -> str:
    fields = sorted((name.lower(), value) for name, value in request.headers.items())
    parts = (part for field in fields for part in field)
    return digest_of_fields(request.tenant, request.url, *parts)
