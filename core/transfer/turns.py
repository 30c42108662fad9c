"""What a host tells its children of new pieces, and when: the pace of availability streams, and
which child may take a new piece of the reader.

While a host reads the origin, each new piece is offered to one child alone: the children then have
different pieces to exchange, and the reader uploads little more than one copy. What a child took is
not offered to others as long as there are pieces that nobody took: the others get it from that
child, and the reader's upload is for what nobody else can give. In simulation this is the largest
single lever: without, a reader uploads two copies, and the swarm takes twice the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hawker.core.pieces import PieceSet

# The longest silence of a stream.
BEAT = 0.45
# The same while pieces are held back for one child.
HELD_BEAT = 0.05
# Each stream waits this long for each stream there is between two events, so that telling many
# others costs this host a bounded share of its time (an event takes about 0.3 ms at each end).
EVENT_COST = 0.002
# And as long as so many pieces take to come: several are told at once where that delays them by
# little of what moving them takes. Fewer while a host has few, when each is what others wait for:
# one for each `PIECES_FOR_ONE` that it has. Measured over so many seconds, and never more than the
# last.
PIECES_AN_EVENT = 5
PIECES_FOR_ONE = 16
GAP_OVER = 0.5
# Only where more pieces than these are still to come: of the few that readers of small parts want
# each is waited for, and the next may be asked for only once it is told.
FEW = 16
LONGEST_PAUSE = BEAT
# A host that is late has no time for many events: so many times what it wakes late, on average over
# about as many events, is added.
LATE_TIMES = 10
LATE_EVENTS = 16
# A child that asked for nothing for so long, while others took `ROUNDS` pieces each on average, or
# nobody took any, stands still: what it was to take is offered to another one, too. One that finds
# no slot does not: what is passed on for no reason leaves the reader twice, which takes slots.
FIRST_TURN = 1.0
ROUNDS = 2
# What a child took is offered to all after so long, a piece each `HELD_BEAT`, where there is
# nothing newer to give and the uplink idles: that child may have been the only one to get it, and
# stand still.
ALONE = 2.0
# And after so long in any case.
ALONE_AT_MOST = 30.0


def pause(streams: float, gap: float, pieces: float, late: float = 0.0) -> float:
    """Seconds between two events of a stream, on a host with so many streams and pieces that gets a
    piece every `gap` seconds, and wakes `late` seconds after it should. Pieces that came meanwhile
    and that few others can give are told after as long as with a gap of 0."""
    at_once = min(PIECES_AN_EVENT, pieces / PIECES_FOR_ONE)
    wanted = at_once * gap + LATE_TIMES * late
    return max(EVENT_COST * streams, min(LONGEST_PAUSE, wanted))


@dataclass
class Lateness:
    """How many seconds late a host wakes, on average."""

    seconds: float = 0.0

    def woke(self, late: float) -> None:
        self.seconds += (max(0.0, late) - self.seconds) / LATE_EVENTS


@dataclass(eq=False)
class Turns:
    """Which child may take which piece, for one generation.

    `waiting` are new pieces that nobody took while there was one child or none; `fresh` those that
    nobody took yet, with the child they are offered to; `taken` those that one child took, with
    that child and when.
    """

    children: list[int] = field(default_factory=list)
    seen: PieceSet = field(default_factory=PieceSet)
    waiting: PieceSet = field(default_factory=PieceSet)
    fresh: dict[int, int] = field(default_factory=dict)
    taken: dict[int, tuple[int, float]] = field(default_factory=dict)
    served_at: float = 0.0
    served_count: int = 0
    _last: dict[int, tuple[float, int]] = field(default_factory=dict)
    _turn: int = 0
    _load: dict[int, int] = field(default_factory=dict)
    _hidden: int = 0
    _own: dict[int, int] = field(default_factory=dict)
    _gap: float = 0.0
    _counted: int = 0
    _counted_at: float | None = None
    _released_at: float = -HELD_BEAT

    @property
    def held(self) -> bool:
        """Something is held back from some children."""
        return bool(self._hidden)

    def join(self, child: int, now: float) -> None:
        """Another child takes part."""
        self.children.append(child)
        self._own[child] = self._load[child] = 0
        self._last[child] = (now, self.served_count)

    def leave(self, child: int, now: float) -> None:
        """The child is gone: what it was to take goes to others, what it took to all."""
        self.children.remove(child)
        del self._own[child], self._last[child], self._load[child]
        for piece in [piece for piece, (owner, _) in self.taken.items() if owner == child]:
            self._release(piece)
        for piece in [piece for piece, owner in self.fresh.items() if owner == child]:
            self._pass_on(piece)

    def deal(self, valid: PieceSet, now: float, *, reading: bool, idle: bool) -> None:
        """Give each new piece to one child while this host reads, the more to a child the quicker
        it takes them; let go of overdue ones. `idle`: few uploads are under way."""
        new = valid - self.seen
        self.seen = valid
        self.waiting = self.waiting | new if reading else PieceSet()
        if len(self.children) > 1:
            for piece in self.waiting:
                self._pass_on(piece)
            self.waiting = PieceSet()
        if self.fresh:
            self._hurry(now, idle=idle)
        patience = ALONE_AT_MOST if reading or self.fresh else 0.0
        for piece, (_, since) in list(self.taken.items()):
            if now - since < patience:
                # They are in order.
                break
            self._release(piece)
        if idle and self.taken and not self.fresh and now - self._released_at >= HELD_BEAT:
            # One after the other: what is new comes first.
            piece, (_, since) = next(iter(self.taken.items()))
            if now - since >= ALONE:
                self._release(piece)
                self._released_at = now

    def asked(self, pieces: PieceSet, now: float) -> None:
        """Some child asked for these, whether there was a slot for it or not: it does not stand
        still."""
        for piece in pieces if self.fresh else ():
            child = self.fresh.get(piece)
            if child is not None:
                self._last[child] = (now, self.served_count)

    def served(self, pieces: PieceSet, now: float) -> None:
        """These pieces left this host."""
        self.waiting -= pieces
        for piece in pieces:
            child = self.fresh.pop(piece, None)
            self.served_count += 1
            if child is not None:
                self.taken[piece] = (child, now)
                self._load[child] -= 1
                self._last[child] = (now, self.served_count)
        self.served_at = now

    def visible(self, child: int, valid: PieceSet) -> PieceSet:
        """What this child may ask for."""
        return PieceSet(valid.bits & ~self._hidden | valid.bits & self._own.get(child, 0))

    def alone(self, child: int, pieces: PieceSet) -> PieceSet:
        """Those of these that only this child may ask for."""
        return PieceSet(pieces.bits & self._hidden & self._own.get(child, 0))

    def pause(self, streams: int, now: float, late: float = 0.0, *, coming: int = FEW + 1) -> float:
        """Seconds of silence on a stream after an event, on a host with so many streams that wakes
        `late` seconds after it should, and to which so many pieces are still to come."""
        count = len(self.seen)
        if self._counted_at is None:
            self._counted, self._counted_at = count, now
        if now - self._counted_at >= GAP_OVER:
            if count > self._counted:
                self._gap = (now - self._counted_at) / (count - self._counted)
            self._counted, self._counted_at = count, now
        if coming <= FEW:
            return pause(streams, 0.0, count)
        return pause(streams, self._gap, count, late)

    def _hurry(self, now: float, *, idle: bool) -> None:
        """Pass on what children were to take that ask for nothing."""
        idle = idle and now - self.served_at >= FIRST_TURN
        enough = ROUNDS * len(self.children)
        late = {
            child
            for child, (when, count) in self._last.items()
            if now - when >= FIRST_TURN and (idle or self.served_count - count >= enough)
        }
        if late:
            for piece in [piece for piece, owner in self.fresh.items() if owner in late]:
                self._pass_on(piece)
            for child in self.children:
                if child in late:
                    self._last[child] = (now, self.served_count)

    def _pass_on(self, piece: int) -> None:
        """Offer a piece to the child that has the fewest to take, in turn where several have."""
        former = self.fresh.pop(piece, None)
        others = [child for child in self.children if child != former]
        if former in self._load:
            self._load[former] -= 1
        if not others or len(self.children) < 2:
            self._release(piece)
            return
        self._turn += 1
        start = self._turn % len(others)
        child = min(others[start:] + others[:start], key=self._load.__getitem__)
        self.fresh[piece] = child
        self._load[child] += 1
        self._own[child] |= 1 << piece
        self._hidden |= 1 << piece

    def _release(self, piece: int) -> None:
        """Offer a piece to all."""
        self.taken.pop(piece, None)
        self.fresh.pop(piece, None)
        self._hidden &= ~(1 << piece)
