"""Who wants what of a task on this host, and what came from where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hawker.core.messages import Arrival
from hawker.core.pieces import MIB, Layout, PieceSet
from hawker.core.ranges import ByteRange

READ_AHEAD = 16 * MIB
WINDOW = 64 * MIB


@dataclass(eq=False)
class User:
    """One request for bytes of a task.

    `ranges` None means all of it. `position` is the next byte that a streaming user will deliver;
    None for one that waits for everything to be valid.
    """

    ranges: list[ByteRange] | None = None
    position: int | None = None
    readable: bool = True
    priority: int | None = None

    def wanted(self, layout: Layout, offered: PieceSet) -> PieceSet:
        """The pieces this user wants; of unknown content what anybody offers."""
        if layout.total is None and (
            self.ranges is None or any(r.stop is None for r in self.ranges)
        ):
            return offered
        return layout.covering(self.ranges)

    def urgent(self, layout: Layout, window: int = READ_AHEAD) -> PieceSet:
        """The pieces a streaming user delivers next."""
        if self.position is None:
            return PieceSet()
        return layout.touching(ByteRange(self.position, self.position + window))

    def rest(self, layout: Layout) -> PieceSet:
        """The pieces of content of known length that a streaming user did not deliver yet."""
        passed = PieceSet.first((self.position or 0) // layout.piece_length)
        return layout.covering(self.ranges) - passed

    def satisfied(self, layout: Layout, valid: PieceSet) -> bool:
        """Everything this user wants is valid."""
        if layout.total is None and self.ranges is None:
            return False
        return self.wanted(layout, PieceSet()) <= valid


@dataclass
class Tally:
    """Bytes by where they came from, and each arrival with its time."""

    clock: Callable[[], float]
    origin: int = 0
    seeds: int = 0
    peers: int = 0
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All bytes that became valid."""
        return self.origin + self.seeds + self.peers

    def add(self, layout: Layout, pieces: PieceSet, source: str, *, seed: bool) -> None:
        """Pieces that became valid; `source` is a host, empty for the origin."""
        size = sum(layout.length(piece) for piece in pieces)
        if not source:
            self.origin += size
        elif seed:
            self.seeds += size
        else:
            self.peers += size
        now = self.clock()
        self.arrivals.extend(Arrival(first, last, source, now) for first, last in pieces.runs())
