"""The requests of an approximate simulation, and the bytes that flow for them.

Every peer has `PARALLEL` lanes, each with one request or none. All arrays of lanes have the shape
(lane, peer), so that what is done to one lane of all peers runs over memory in order. Hosts are
numbered like peers, then comes the seed, then `NOBODY`, whom an idle lane gets nothing from.

In each step every flow gets an equal share of both its links, the smaller one; then, a few times,
what its two links have room for, the scarcer of both: no link carries more than it can, and what
one flow leaves others take. That is close to max-min fair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hawker.core.simulation.bits import Indices, Words, take
from hawker.core.transfer.machine import PARALLEL

Floats = NDArray[np.float32]
# Peers worked on at once, so that what they need stays in the caches.
BLOCK = 1 << 14
# How often what one link's flows leave is given to others.
ROUNDS = 4
# What a link did not carry in one step it may in the next, up to so much of what it can.
SPARE = 0.3


class Lanes:
    """Who gets which piece from whom.

    Attributes:
        source: the host that a lane gets from, as an index; `nobody` where it is idle.
        piece: the piece it gets.
        place: the bit that its source has among the sources of the peer; 0 for the seed.
        left: bytes that are missing, infinite where it is idle.
        rate: bytes per second.
        ready: when an idle lane's next bytes can come at the earliest; infinite for busy ones.
        load: (host) requests under way at each host.
        active: (peer) requests under way of each peer.
        capacity: (host) bytes per second of each link, each way.
    """

    def __init__(self, ups: NDArray[np.float64], ready: NDArray[np.float64]) -> None:
        """`ups` has the rate of every host's link in bytes per second, the seed's last."""
        peers = len(ups) - 1
        shape = (PARALLEL, peers)
        self.peers, self.seed, self.nobody = peers, peers, peers + 1
        self.capacity = np.append(ups, 0.0).astype(np.float32)
        self.source = np.full(shape, self.nobody, dtype=np.intp)
        self.piece = np.zeros(shape, dtype=np.int32)
        self.place = np.zeros(shape, dtype=np.uint64)
        self.left = np.full(shape, np.inf, dtype=np.float32)
        self.rate = np.zeros(shape, dtype=np.float32)
        self.ready = np.empty(shape, dtype=np.float32)
        self.ready[:] = ready
        self.load = np.zeros(peers + 2, dtype=np.int32)
        self.active = np.zeros(peers, dtype=np.int32)
        # Of the last scaling, bytes per second.
        self._sent = np.zeros(peers + 2, dtype=np.float32)
        self._got = np.zeros(peers, dtype=np.float32)
        # Bytes that the last step left.
        self._spare_up = np.zeros(peers + 2, dtype=np.float32)
        self._spare_down = np.zeros(peers, dtype=np.float32)

    def flow(self, seconds: float) -> Iterator[tuple[int, Indices, Floats]]:
        """Let bytes flow; yields for each lane the peers whose request ended, and how many seconds
        before the end of the step. Whoever takes them must `release` the lane."""
        ups = self._room(self.capacity, self._spare_up, seconds)
        downs = self._room(self.capacity[: self.peers], self._spare_down, seconds)
        # An equal share of both links, the smaller one; then the links' rooms are filled.
        self.rate[:] = np.inf
        self._scale(np.minimum, _part(ups, self.load), _part(downs, self.active))
        for _ in range(ROUNDS):
            self._scale(np.multiply, _part(ups, self._sent), _part(downs, self._got))
        ends = []
        for lane in range(PARALLEL):
            self.left[lane] -= self.rate[lane] * np.float32(seconds)
            ends.append(np.flatnonzero(self.left[lane] <= 0.0))
        for lane, child in enumerate(ends):
            if len(child):
                unused = -self.left[lane, child]
                self.spare(lane, child, unused)
                yield lane, child, unused / self.rate[lane, child]

    def _scale(self, how: np.ufunc, up: Floats, down: Floats) -> None:
        """Change the rates by what both links allow, and sum them up."""
        self._sent[:] = 0.0
        self._got[:] = 0.0
        for begin in range(0, self.peers, BLOCK):
            part = slice(begin, begin + BLOCK)
            for lane in range(PARALLEL):
                source, rate = self.source[lane, part], self.rate[lane, part]
                factor = take(up, source)
                np.minimum(factor, down[part], out=factor)
                how(rate, factor, out=rate)
                self._got[part] += rate
                np.add.at(self._sent, source, rate)

    @staticmethod
    def _room(capacity: Floats, spare: Floats, seconds: float) -> Floats:
        """What links have room for in this step, with what the last one left; that is over then."""
        most = capacity * np.float32(SPARE * seconds)
        room: Floats = capacity + np.clip(spare, -most, most) / np.float32(seconds)
        spare[:] = 0.0
        return room

    def spare(self, lane: int, child: Indices, unused: Floats) -> None:
        """Some bytes of a request were not used in the last step, or are used too many."""
        np.add.at(self._spare_up, self.source[lane, child], unused)
        self._spare_down[child] += unused

    def begin(
        self, lane: int, child: Indices, source: Indices, piece: Indices, place: Words
    ) -> Floats:
        """Peers get a piece each on this lane; the rate that each begins with, a share of its
        scarcer link. The sources' load counts them already; `left` is for the caller to set."""
        self.source[lane, child] = source
        self.piece[lane, child] = piece
        self.place[lane, child] = place
        self.ready[lane, child] = np.inf
        active = take(self.active, child) + np.int32(1)
        self.active[child] = active
        share = take(self.capacity, source) / take(self.load, source).astype(np.float32)
        rate: Floats = np.minimum(share, take(self.capacity, child) / active.astype(np.float32))
        return rate

    def release(self, lane: int, child: Indices, ready: Floats | float) -> None:
        """These requests are over; the lanes' next bytes can come from `ready` on."""
        source = self.source[lane, child]
        np.subtract.at(self.load, source, np.ones(len(source), dtype=np.int32))
        self.active[child] -= np.int32(1)
        self.source[lane, child] = self.nobody
        self.left[lane, child] = np.inf
        self.ready[lane, child] = ready


def _part(room: Floats, uses: NDArray[Any]) -> Floats:
    """The room that each link has for each of its uses."""
    part: Floats = room / np.maximum(uses, 1).astype(np.float32)
    return part
