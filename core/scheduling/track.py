"""The record of one task: frames of what happened, in compressed blocks, within bounds."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from hawker.core.window import RATE_SECONDS, Happening, PeerFrame, TaskFrame, TaskLine, Totals

# Frames are collected to so many bytes before they are compressed.
BLOCK = 32 * 1024
# A record that has grown to this begins anew, and the one before is kept beside it.
SEGMENT = 1024 * 1024
# What a record takes without its frames.
OVERHEAD = 2048
# A peer has a frame to come; its edges may be others; the frame says all there is.
DIRTY, TOUCHED, WHOLE = 1, 2, 4

Parts = list[bytes | list[bytes]]
"""A log: blocks, and frames that are not in one yet."""


@dataclass(slots=True, eq=False)
class Watched:
    """What was written last of a peer: its pieces as bits, and a hash of its edges.

    `due` says what its next frame is for: see `DIRTY`, `TOUCHED`, `WHOLE`. `received` are bytes by
    the host that sent them, and of the origin under no name, since its last frame.
    """

    number: int
    bits: int = 0
    state: str = ""
    generation: str = ""
    edges: int = 0
    due: int = WHOLE
    received: dict[str, int] | None = None

    def receive(self, host: str, size: int) -> None:
        if self.received is None:
            self.received = {}
        self.received[host] = self.received.get(host, 0) + size


@dataclass(slots=True)
class Moment:
    """What was moved in one tick: bytes from the origin, bytes that became valid at who wants them,
    and (receiver, sender, bytes)."""

    at: float
    origin: int
    delivered: int
    edges: list[tuple[int, int, int]]


class Log:
    """Frames in the order they were written; the oldest are dropped, a whole segment at a time."""

    __slots__ = ("_blocks", "_older", "_segment", "_tail", "_waiting", "size")

    def __init__(self) -> None:
        self._older: list[bytes] = []
        self._blocks: list[bytes] = []
        self._segment = 0
        self._tail: list[bytes] = []
        self._waiting = 0
        self.size = OVERHEAD

    def add(self, frame: bytes) -> None:
        self._tail.append(frame)
        self._waiting += len(frame)
        self.size += len(frame)
        if self._waiting >= BLOCK:
            self.pack()

    def pack(self, *, least: int = 1) -> None:
        """Compress what is not yet, where that is `least` bytes."""
        if self._waiting < least:
            return
        block = zlib.compress(b"\n".join(self._tail), 1)
        self._blocks.append(block)
        self._segment += len(block)
        self.size += len(block) - self._waiting
        self._tail, self._waiting = [], 0

    @property
    def full(self) -> bool:
        """The next frame should be a snapshot, in a segment of its own: see `turn`."""
        return self._segment >= SEGMENT

    def turn(self) -> None:
        """Begin a segment, and drop the one before the last."""
        self.pack()
        self.size -= sum(map(len, self._older))
        self._older, self._blocks, self._segment = self._blocks, [], 0

    def copy(self) -> Parts:
        """All there is now, for `frames_of`."""
        return [*self._older, *self._blocks, list(self._tail)]


def frames_of(part: bytes | list[bytes]) -> Iterator[bytes]:
    """The frames of a part of a log."""
    if isinstance(part, bytes):
        yield from zlib.decompress(part).split(b"\n")
    else:
        yield from part


@dataclass(slots=True, eq=False)
class Track:
    """A task's record, and what is to be written into it with the next tick.

    `hosts` are the peers by their numbers, of which `live` are in the task. `fresh`: its next frame
    is a snapshot; `renewing`: so many are to be written until its segment says all there is. `head`
    is the task as it was written last, `moments` what was moved within the last seconds, `origin`
    and `delivered` before them, `written` when something was written last. `line` is what is told
    of a task that was forgotten.
    """

    id: str
    tenant: str
    log: Log = field(default_factory=Log)
    hosts: list[str] = field(default_factory=list)
    live: int = 0
    fresh: bool = True
    renewing: int = 0
    dirty: list[str] = field(default_factory=list)
    departed: list[PeerFrame] = field(default_factory=list)
    events: list[Happening] = field(default_factory=list)
    leases_changed: bool = True
    head: TaskFrame | None = None
    origin: int = 0
    delivered: int = 0
    fresh_origin: int = 0
    fresh_delivered: int = 0
    moments: deque[Moment] = field(default_factory=deque)
    written: float = 0.0
    line: TaskLine | None = None

    def rates(self, now: float) -> tuple[int, int]:
        """Bytes per second from the origin, and to those who want them, before `now`."""
        recent = [moment for moment in self.moments if moment.at > now - RATE_SECONDS]
        origin = sum(moment.origin for moment in recent)
        delivered = sum(moment.delivered for moment in recent)
        return int(origin / RATE_SECONDS), int(delivered / RATE_SECONDS)

    def edge_rates(self, now: float) -> list[tuple[int, int, int]]:
        """The same by (receiver, sender, bytes per second)."""
        moved: Counter[tuple[int, int]] = Counter()
        for moment in self.moments:
            if moment.at > now - RATE_SECONDS:
                for child, sender, size in moment.edges:
                    moved[child, sender] += size
        return [(*edge, int(size / RATE_SECONDS)) for edge, size in moved.items()]

    def totals(self, peers: int, complete: int, now: float) -> Totals:
        """Of a task with so many peers, of which so many have all."""
        origin_rate, rate = self.rates(now)
        saved = max(0, self.delivered - self.origin)
        return Totals(peers, complete, self.origin, self.delivered, saved, origin_rate, rate)
