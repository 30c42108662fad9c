"""Where the body of a piece request goes: stored and hashed while it is in the CPU's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from hawker.core.errors import DigestMismatch
from hawker.core.pieces import Layout, Run


class PieceSink:
    """Takes the bytes of a run of pieces in order; knows each whole piece's SHA-256.

    `store` writes bytes at an offset of the content. Used from one thread at a time. Pieces that
    arrived whole before a failure are in `digests` too, and as good as the others.
    """

    def __init__(
        self, layout: Layout, run: Run, store: Callable[[int, memoryview], None] | None
    ) -> None:
        span = layout.span(run)
        assert span.stop is not None
        self.digests: dict[int, bytes] = {}
        self.received = 0
        self.expected = span.stop - span.start
        self._layout = layout
        self._store = store
        self.offset = span.start
        self._piece = run[0]
        self._left = layout.length(run[0])
        self._hash = hashlib.sha256()

    def write(self, data: memoryview) -> None:
        if self.received + len(data) > self.expected:
            raise DigestMismatch(f"more than the {self.expected} bytes that were asked for")
        while len(data):
            part = data[: self._left]
            if self._store is not None:
                self._store(self.offset, part)
            self._hash.update(part)
            self._advance(len(part))
            data = data[len(part) :]

    def _advance(self, size: int) -> None:
        self.offset += size
        self.received += size
        self._left -= size
        if self._left == 0:
            self.digests[self._piece] = self._hash.digest()
            self._piece += 1
            self._left = self._layout.length(self._piece)
            self._hash = hashlib.sha256()

    def tail(self) -> tuple[int, bytes] | None:
        """The piece begun last and its digest: what ends a body whose length nobody knew."""
        if self._left == self._layout.length(self._piece):
            return None
        return self._piece, self._hash.digest()


class MemorySink(PieceSink):
    """Keeps the bytes in memory: for a repeated request, whose pieces somebody else may be
    writing to the store at the same time."""

    def __init__(self, layout: Layout, run: Run) -> None:
        super().__init__(layout, run, self._keep)
        self.start = self.offset
        self.data = bytearray(self.expected)

    def _keep(self, offset: int, part: memoryview) -> None:
        at = offset - self.start
        self.data[at : at + len(part)] = part
