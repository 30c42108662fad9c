"""What a host tells its children of new pieces, and when: the pace of availability streams, and
which child may take a new piece of the reader first.

While a host reads the origin, each new piece is offered to one child first and to all once it has
left (or after a moment): the children then have different pieces to exchange, and the reader
uploads little more than one copy. In simulation this is the largest single lever.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hawker.core.pieces import PieceSet

# The longest silence of a stream.
BEAT = 0.45
# The same while pieces are held back for a first child.
HELD_BEAT = 0.05
# Each stream waits this long for each stream there is between two events, so that telling many
# others costs this host a bounded share of its time (an event takes about 0.1 ms at each end).
EVENT_COST = 0.005
# A piece that the first child did not take by then is offered to all.
FIRST_TURN = 1.0


@dataclass(eq=False)
class Turns:
    """Which child may take which new piece first, for one generation."""

    children: list[int] = field(default_factory=list)
    seen: PieceSet = field(default_factory=PieceSet)
    held: dict[int, tuple[int, float]] = field(default_factory=dict)
    next: int = 0

    def deal(self, valid: PieceSet, now: float, *, reading: bool) -> None:
        """Give each new piece to one child while this host reads; let go of overdue ones."""
        new = valid - self.seen
        self.seen = valid
        if reading and len(self.children) > 1:
            for piece in new:
                self.next = (self.next + 1) % len(self.children)
                self.held[piece] = (self.children[self.next], now + FIRST_TURN)
        for piece in [piece for piece, (_, until) in self.held.items() if until <= now]:
            del self.held[piece]

    def visible(self, child: int, valid: PieceSet) -> PieceSet:
        """What this child may ask for."""
        others = PieceSet.of(piece for piece, (first, _) in self.held.items() if first != child)
        return valid - others
