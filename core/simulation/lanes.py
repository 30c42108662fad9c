"""The requests of an approximate simulation, and the bytes that flow for them.

Every peer has `PARALLEL` lanes, each with one request or none. All arrays of lanes have the shape
(lane, peer), a peer's lanes side by side in memory. Hosts are numbered like peers, then comes the
seed, then `nobody`, whom an idle lane gets nothing from.

In each step every flow gets an equal share of both its links, the smaller one; then, a few times,
what its two links have room for, the scarcer of both: no link carries more than it can, and what
one flow leaves others take. That is close to max-min fair.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hawker.core.simulation.bits import compiled, inlined
from hawker.core.transfer.machine import PARALLEL

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
# How often what one link's flows leave is given to others.
ROUNDS = 4
# What a link did not carry in one step it may in the next, up to so much of what it can.
SPARE = 0.3


class Lanes(NamedTuple):
    """Who gets which piece from whom.

    Attributes:
        peers, seed, nobody: how many peers there are; the numbers of the seed and of nobody.
        source: the host that a lane gets from, as an index; `nobody` where it is idle.
        piece: the piece it gets.
        place: the place that its source has among the sources of the peer; -1 for the seed.
        left: bytes that are missing, infinite where it is idle.
        rate: bytes per second.
        ready: when an idle lane's next bytes can come at the earliest; infinite for busy ones.
        load: (host) requests under way at each host.
        active: (peer) requests under way of each peer.
        capacity: (host) bytes per second of each link, each way.
        spare_up, spare_down: (host, peer) bytes that the last step left.
    """

    peers: int
    seed: int
    nobody: int
    source: Ints
    piece: Ints
    place: NDArray[np.int8]
    left: Floats
    rate: Floats
    ready: Floats
    load: Ints
    active: NDArray[np.int8]
    capacity: Floats
    spare_up: Floats
    spare_down: Floats

    @classmethod
    def idle(cls, ups: NDArray[np.float64], ready: NDArray[np.float64]) -> Lanes:
        """`ups` has the rate of every host's link in bytes per second, the seed's last."""
        peers = len(ups) - 1
        shape = (PARALLEL, peers)
        lanes = cls(
            peers,
            peers,
            peers + 1,
            np.full(shape, peers + 1, dtype=np.int32, order="F"),
            np.zeros(shape, dtype=np.int32, order="F"),
            np.zeros(shape, dtype=np.int8, order="F"),
            np.full(shape, np.inf, dtype=np.float32, order="F"),
            np.zeros(shape, dtype=np.float32, order="F"),
            np.empty(shape, dtype=np.float32, order="F"),
            np.zeros(peers + 2, dtype=np.int32),
            np.zeros(peers, dtype=np.int8),
            np.append(ups, 0.0).astype(np.float32),
            np.zeros(peers + 2, dtype=np.float32),
            np.zeros(peers, dtype=np.float32),
        )
        lanes.ready[:] = ready
        return lanes


@compiled
def flow(lanes: Lanes, seconds: np.float32) -> tuple[NDArray[np.int8], Ints, Floats]:
    """Let bytes flow; returns the lanes and the peers whose request ended, and how many seconds
    before the end of the step. Whoever takes them must `release` each."""
    source, rate, left = lanes.source, lanes.rate, lanes.left
    ups = _room(lanes.capacity, lanes.spare_up, seconds)
    downs = _room(lanes.capacity, lanes.spare_down, seconds)
    load, active = lanes.load, lanes.active
    zero, one = np.float32(0.0), np.float32(1.0)
    # An equal share of both links, the smaller one; then the links' rooms are filled.
    up = np.empty_like(ups)
    sent, got = np.zeros_like(ups), np.zeros_like(downs)
    for host in range(len(ups)):
        up[host] = ups[host] / np.float32(max(load[host], 1))
    for peer in range(lanes.peers):
        down = downs[peer] / np.float32(max(active[peer], 1))
        total = zero
        for lane in range(PARALLEL):
            host = source[lane, peer]
            share = min(up[host], down)
            rate[lane, peer] = share
            sent[host] += share
            total += share
        got[peer] = total
    for _ in range(ROUNDS - 1):
        for host in range(len(ups)):
            up[host] = ups[host] / max(sent[host], one)
            sent[host] = zero
        for peer in range(lanes.peers):
            down = downs[peer] / max(got[peer], one)
            total = zero
            for lane in range(PARALLEL):
                host = source[lane, peer]
                share = rate[lane, peer] * min(up[host], down)
                rate[lane, peer] = share
                sent[host] += share
                total += share
            got[peer] = total
    for host in range(len(ups)):
        up[host] = ups[host] / max(sent[host], one)
    count, most = 0, 0
    for peer in range(lanes.peers):
        most += active[peer]
    lane_of, child = np.empty(most, dtype=np.int8), np.empty(most, dtype=np.int32)
    early = np.empty(most, dtype=np.float32)
    for peer in range(lanes.peers):
        down = downs[peer] / max(got[peer], one)
        for lane in range(PARALLEL):
            share = rate[lane, peer] * min(up[source[lane, peer]], down)
            rate[lane, peer] = share
            missing = left[lane, peer] - share * seconds
            left[lane, peer] = missing
            if missing <= zero:
                spare(lanes, lane, peer, -missing)
                lane_of[count], child[count], early[count] = lane, peer, -missing / share
                count += 1
    return lane_of[:count], child[:count], early[:count]


@compiled
def _room(capacity: Floats, spares: Floats, seconds: np.float32) -> Floats:
    """What links have room for in this step, with what the last one left; that is over then."""
    room = np.empty_like(spares)
    for host in range(len(spares)):
        most = capacity[host] * np.float32(SPARE) * seconds
        room[host] = capacity[host] + min(max(spares[host], -most), most) / seconds
        spares[host] = np.float32(0.0)
    return room


@inlined
def spare(lanes: Lanes, lane: int, child: int, unused: np.float32) -> None:
    """Some bytes of a request were not used in the last step, or are used too many."""
    lanes.spare_up[lanes.source[lane, child]] += unused
    lanes.spare_down[child] += unused


@inlined
def begin(
    lanes: Lanes,
    lane: int,
    child: int,
    source: int,
    place: int,
    piece: int,
    uses: int,
    size: float,
) -> np.float32:
    """A peer gets a piece of so many bytes on this lane; the rate that it begins with, a share of
    its scarcer link. The source's requests are `uses` with this one; its load is for the caller to
    count."""
    lanes.source[lane, child] = source
    lanes.piece[lane, child] = piece
    lanes.place[lane, child] = place
    lanes.left[lane, child] = size
    lanes.ready[lane, child] = np.inf
    lanes.active[child] += 1
    up = lanes.capacity[source] / np.float32(uses)
    return min(up, lanes.capacity[child] / np.float32(lanes.active[child]))


@inlined
def release(lanes: Lanes, lane: int, child: int, ready: float) -> None:
    """This request is over; the lane's next bytes can come from `ready` on."""
    lanes.load[lanes.source[lane, child]] -= 1
    lanes.active[child] -= 1
    lanes.source[lane, child] = lanes.nobody
    lanes.left[lane, child] = np.inf
    lanes.ready[lane, child] = ready
