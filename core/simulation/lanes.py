"""The requests of an approximate simulation, and the bytes that flow for them.

Every peer has `PARALLEL` lanes, each with one request or none. All arrays of lanes have the shape
(lane, peer), a peer's lanes side by side in memory. Hosts are numbered like peers, then comes the
seed, then `nobody`, whom an idle lane gets nothing from.

In each step every flow gets an equal share of both its links, the smaller one; then, a few times,
what its two links have room for, the scarcer of both: no link carries more than it can, and what
one flow leaves others take. That is close to max-min fair.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hawker.core.simulation.bits import Words, compiled, inlined
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
        most_up, most_down: (host, peer) bytes per second that each link has room for in this step.
        up: (host) what of it a flow there gets; got: (peer) what its flows get. See `flow`.
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
    most_up: Floats
    most_down: Floats
    up: Floats
    got: Floats

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
            np.zeros(peers + 2, dtype=np.float32),
            np.zeros(peers, dtype=np.float32),
            np.zeros(peers + 2, dtype=np.float32),
            np.zeros(peers, dtype=np.float32),
        )
        lanes.ready[:] = ready
        return lanes


class Part(NamedTuple):
    """Some peers, that one thread does the work for. What comes of it does not depend on threads:
    a part changes what its own peers have, and counts at hosts in arrays of its own, which `settle`
    adds to those of all; of a host's free slots each part has its own.

    Attributes:
        number, parts: which one of how many.
        begin, end: its peers.
        state: of its random generator.
        refused: how many requests found no slot.
        room: (host) requests that it may still make in a step.
        sent: (host) bytes per second that its peers get there.
        given: (host) requests that it made there and that did not count yet, less those that ended.
        spare: (host) bytes that it took there of what the last step left, or left itself.
    """

    number: int
    parts: int
    begin: int
    end: int
    state: Words
    refused: NDArray[np.int64]
    room: NDArray[np.int16]
    sent: Floats
    given: NDArray[np.int16]
    spare: Floats


def parts_of(hosts: int, peers: int, count: int, rng: np.random.Generator) -> list[Part]:
    """The peers in parts of about equal size."""
    return [
        Part(
            number,
            count,
            peers * number // count,
            peers * (number + 1) // count,
            rng.integers(1, 1 << 63, 1, dtype=np.uint64),
            np.zeros(1, dtype=np.int64),
            np.zeros(hosts, dtype=np.int16),
            np.zeros(hosts, dtype=np.float32),
            np.zeros(hosts, dtype=np.int16),
            np.zeros(hosts, dtype=np.float32),
        )
        for number in range(count)
    ]


# Calls a function with each part, at once or one after the other, like `map`.
Run = Callable[[Callable[[Part], Any], Iterable[Part]], Iterable[Any]]
# The lanes and the peers whose request ended, and how many seconds before the end of the step.
Ended = tuple[NDArray[np.int8], Ints, Floats]


@compiled
def settle(lanes: Lanes, part: Part) -> None:
    """What a part did counts at its sources."""
    for host in range(len(part.given)):
        lanes.load[host] += part.given[host]
        lanes.spare_up[host] -= part.spare[host]
        part.given[host] = 0
        part.spare[host] = np.float32(0.0)


def flow(lanes: Lanes, parts: Sequence[Part], seconds: float, run: Run = map) -> list[Ended]:
    """Let bytes flow; returns what ended, by parts. Whoever takes it must `release` each request,
    and `settle` the parts."""
    # An equal share of both links, the smaller one; then the links' rooms are filled.
    time = np.float32(seconds)
    _open(lanes, time)
    list(run(functools.partial(_share, lanes, time), parts))
    for _ in range(ROUNDS - 1):
        _fit(lanes, parts)
        list(run(functools.partial(_share_again, lanes), parts))
    _fit(lanes, parts)
    return list(run(functools.partial(_move, lanes, time), parts))


def _fit(lanes: Lanes, parts: Sequence[Part]) -> None:
    """By how much what flows from each host is to change so that its link is full."""
    lanes.up[:] = 0.0
    for part in parts:
        lanes.up[:] += part.sent
        part.sent[:] = 0.0
    np.divide(lanes.most_up, np.maximum(lanes.up, np.float32(1.0)), out=lanes.up)


@compiled
def _open(lanes: Lanes, seconds: np.float32) -> None:
    """What links have room for in this step, and an equal share for each flow of an uplink."""
    for host in range(len(lanes.up)):
        room = _room(lanes.capacity[host], lanes.spare_up[host], seconds)
        lanes.spare_up[host] = np.float32(0.0)
        lanes.most_up[host] = room
        lanes.up[host] = room / np.float32(max(lanes.load[host], 1))


@inlined
def _room(capacity: np.float32, spare: np.float32, seconds: np.float32) -> np.float32:
    """What a link has room for, with what the last step left."""
    most = capacity * np.float32(SPARE) * seconds
    return capacity + min(max(spare, -most), most) / seconds


@compiled
def _share(lanes: Lanes, seconds: np.float32, part: Part) -> None:
    source, rate, sent = lanes.source, lanes.rate, part.sent
    for peer in range(part.begin, part.end):
        room = _room(lanes.capacity[peer], lanes.spare_down[peer], seconds)
        lanes.spare_down[peer] = np.float32(0.0)
        lanes.most_down[peer] = room
        down = room / np.float32(max(lanes.active[peer], 1))
        total = np.float32(0.0)
        for lane in range(PARALLEL):
            host = source[lane, peer]
            share = min(lanes.up[host], down)
            rate[lane, peer] = share
            sent[host] += share
            total += share
        lanes.got[peer] = total


@compiled
def _share_again(lanes: Lanes, part: Part) -> None:
    source, rate, sent = lanes.source, lanes.rate, part.sent
    for peer in range(part.begin, part.end):
        down = lanes.most_down[peer] / max(lanes.got[peer], np.float32(1.0))
        total = np.float32(0.0)
        for lane in range(PARALLEL):
            host = source[lane, peer]
            share = rate[lane, peer] * min(lanes.up[host], down)
            rate[lane, peer] = share
            sent[host] += share
            total += share
        lanes.got[peer] = total


@compiled
def _move(lanes: Lanes, seconds: np.float32, part: Part) -> Ended:
    source, rate, left = lanes.source, lanes.rate, lanes.left
    zero, count, most = np.float32(0.0), 0, 0
    for peer in range(part.begin, part.end):
        most += lanes.active[peer]
    lane_of, child = np.empty(most, dtype=np.int8), np.empty(most, dtype=np.int32)
    early = np.empty(most, dtype=np.float32)
    for peer in range(part.begin, part.end):
        down = lanes.most_down[peer] / max(lanes.got[peer], np.float32(1.0))
        for lane in range(PARALLEL):
            host = source[lane, peer]
            share = rate[lane, peer] * min(lanes.up[host], down)
            rate[lane, peer] = share
            missing = left[lane, peer] - share * seconds
            left[lane, peer] = missing
            if missing <= zero:
                # What it was given too much is for others in the next step.
                part.spare[host] += missing
                lanes.spare_down[peer] -= missing
                lane_of[count], child[count], early[count] = lane, peer, -missing / share
                count += 1
    return lane_of[:count], child[:count], early[:count]


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
def release(lanes: Lanes, part: Part, lane: int, child: int, ready: float) -> None:
    """This request is over; the lane's next bytes can come from `ready` on."""
    part.given[lanes.source[lane, child]] -= 1
    lanes.active[child] -= 1
    lanes.source[lane, child] = lanes.nobody
    lanes.left[lane, child] = np.inf
    lanes.ready[lane, child] = ready
