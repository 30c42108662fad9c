"""The side of a simulated host that tells others what it has: `hawker.apps.peer.availability`
without HTTP.

Left out: heartbeats without news, which would only tell of free slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hawker.core.pieces import PieceSet
from hawker.core.transfer.turns import HELD_BEAT, Turns, pause

if TYPE_CHECKING:
    from hawker.core.simulation.host import SimulatedHost


class Stream:
    """What one child was told; `seen` is what there was as it was looked for news, `beats` that it
    will be looked for again though nothing came, `events` how many there were; what is rare waits
    until `soonest`."""

    __slots__ = (
        "beats",
        "child",
        "events",
        "number",
        "open",
        "said",
        "seen",
        "soonest",
        "waiting",
    )

    def __init__(self, child: SimulatedHost, number: int) -> None:
        self.child = child
        self.number = number
        self.said = 0
        self.seen = -1
        self.waiting = False
        self.beats = False
        self.events = 0
        self.soonest = 0.0
        self.open = True


class Teller:
    """Tells children what its host has, each at its own pace."""

    __slots__ = ("_host", "_numbers", "_streams", "_turns")

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self._streams: dict[str, Stream] = {}
        self._turns = Turns()
        self._numbers = 0

    def open(self, child: SimulatedHost) -> None:
        """A child listens from now on."""
        if self._host.gone or child.id in self._streams or self._host.id not in child.watches:
            return
        self._numbers += 1
        stream = self._streams[child.id] = Stream(child, self._numbers)
        self._turns.join(stream.number, self._host.world.timeline.now)
        self._look(stream)

    def close(self, child: str) -> None:
        """A child listens no more."""
        stream = self._streams.pop(child, None)
        if stream is not None:
            stream.open = False
            self._turns.leave(stream.number, self._host.world.timeline.now)

    @property
    def children(self) -> list[SimulatedHost]:
        return [stream.child for stream in self._streams.values()]

    def gained(self, *, rare: bool) -> None:
        """The host has more than before; `rare`: few others can give it yet."""
        timeline = self._host.world.timeline
        for stream in list(self._streams.values()):
            if stream.waiting:
                self._look(stream)
            elif rare:
                timeline.at(stream.soonest, self._awake, stream, stream.events)

    def asked(self, pieces: PieceSet) -> None:
        """A child asks for these."""
        self._turns.asked(pieces, self._host.world.timeline.now)

    def served(self, pieces: PieceSet) -> None:
        """These left the host."""
        if self._turns.held:
            self._turns.served(pieces, self._host.world.timeline.now)

    def _look(self, stream: Stream) -> None:
        host = self._host
        if host.frozen or host.gone or not stream.open:
            return
        valid = host.machine.valid
        stream.seen = valid.bits
        world = host.world
        now = world.timeline.now
        if host.brings or self._turns.held:
            idle = host.slots.idle
            self._turns.deal(valid, now, reading=host.brings, idle=idle)
            have = self._turns.visible(stream.number, valid).bits
        else:
            self._turns.seen = valid
            have = valid.bits
        news = have & ~stream.said
        if not news:
            self._wait(stream)
            return
        stream.said |= news
        stream.waiting = False
        later = now + world.scenario.latency
        new = PieceSet(news)
        alone = self._turns.alone(stream.number, new)
        world.timeline.at(later, stream.child.heard, host.id, new, alone, host.slots.free)
        streams = len(self._streams)
        stream.events += 1
        stream.soonest = now + pause(streams, 0.0, 0)
        due = now + self._turns.pause(streams, now)
        world.timeline.at(due, self._awake, stream, stream.events)

    def _beat(self, stream: Stream) -> None:
        stream.beats = False
        if stream.waiting:
            self._look(stream)

    def _awake(self, stream: Stream, events: int) -> None:
        """Its pause is over, unless there was another event meanwhile."""
        if stream.waiting or events != stream.events:
            return
        if stream.seen != self._host.machine.valid.bits:
            self._look(stream)
        else:
            self._wait(stream)

    def _wait(self, stream: Stream) -> None:
        """For news, or for what is held back to be let go."""
        stream.waiting = True
        if self._turns.held and not stream.beats:
            stream.beats = True
            timeline = self._host.world.timeline
            timeline.at(timeline.now + HELD_BEAT, self._beat, stream)
