"""What the idle lanes of an approximate simulation ask, and of whom.

A lane looks at a few sources of its peer that are asked nothing yet, at random, and takes the one
that sends least, as the machine takes the one that was fastest. Of what that one told it takes a
piece from the newest word in which something is missing, one that others lack if it can: new pieces
are rare. Where nothing is missing it tries another one, a few times, and so does the next step; a
source with nothing is not looked into until it tells something. One whose slots are taken refuses,
and is asked again after the machine's back-off, or once it says that a slot is free.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hawker.core.simulation.bits import (
    NONE,
    SHIFT,
    WORD,
    Words,
    below,
    bit_of,
    compiled,
    draw,
    inlined,
    nth_below,
    place_of,
)
from hawker.core.simulation.lanes import Ints, Lanes, Part, begin
from hawker.core.transfer.machine import PARALLEL

# How often a lane asks within a step, until a source has something for it.
ASKS = 4
# Of so many sources the one that sends least is asked, as the one that was fastest is.
CHOICES = 6
# How many other sources a piece's rarity is judged by.
COMPARED = 12
# So many numbers come of one random word.
DRAWN = 6
# What is added to the load of hosts that have told nothing, or are gone.
CLOSED = 1 << 16
SHUT = -1


class Wishes(NamedTuple):
    """What peers lack, and whom they may ask.

    Attributes:
        told: (word, peer) what it told others of; by words, as most that is looked at is in few.
        lack: (peer, word) what it neither has nor asks for.
        low: (peer) the first word in which it lacks anything, as many as words where nothing.
        starts, sources, degree: of the overlay; the places of a peer's sources are bits below.
        free: (peer) bits of the sources that it asks nothing of.
        worth: (peer) bits of those that told something since nothing of use was found there.
        busy: (peer) bits of those that refused, and are left alone for a while.
    """

    told: Words
    lack: Words
    low: Ints
    starts: NDArray[np.int64]
    sources: Ints
    degree: NDArray[np.int8]
    free: Words
    worth: Words
    busy: Words


@compiled
def ask(
    lanes: Lanes,
    wishes: Wishes,
    now: np.float32,
    seconds: np.float32,
    trip: np.float32,
    slots: int,
    size: float,
    newest: int,
    again: float,
    turn: int,
    part: Part,
) -> None:
    """Every idle lane of these peers asks that can, until a source gives or none has anything for
    it. Nobody has anything beyond the word `newest`; a host that refused is asked again in a step
    with the chance `again`."""
    told, lack, low, state = wishes.told, wishes.lack, wishes.low, part.state
    free, worth, busy, refused = wishes.free, wishes.worth, wishes.busy, part.refused
    starts, sources, degrees = wishes.starts, wishes.sources, wishes.degree
    ready, load, active = lanes.ready, lanes.load, lanes.active
    room, given, spare = part.room, part.given, part.spare
    for host in range(len(room)):
        mine = (slots - load[host] + (host + turn + part.number) % part.parts) // part.parts
        room[host] = SHUT if load[host] >= CLOSED else mine
    words = lack.shape[1]
    chance = int(again * (1 << 16))
    # Whoever is first finds free slots: each time somebody else.
    first = part.begin + below(part.end - part.begin, state)
    for number in range(part.end - part.begin):
        peer = number + first
        if peer >= part.end:
            peer -= part.end - part.begin
        if active[peer] == PARALLEL or low[peer] >= words:
            continue
        if busy[peer] != NONE:
            for place in range(degrees[peer]):
                if below(1 << 16, state) < chance:
                    busy[peer] &= ~bit_of(place)
        start, degree, lane, asked = starts[peer], degrees[peer], 0, 0
        while lane < PARALLEL:
            if not ready[lane, peer] <= now:
                lane, asked = lane + 1, 0
                continue
            some = free[peer] & worth[peer] & ~busy[peer]
            if some == NONE or asked == ASKS:
                # One that finds nothing speaks for its peer's others.
                break
            asked += 1
            most, source, place = SHUT - 1, 0, 0
            drawn = draw(state)
            for choice in range(CHOICES):
                at = place_of(some, nth_below(drawn, choice, degree))
                other = sources[start + at]
                if room[other] > most:
                    most, source, place = room[other], other, at
            word, useful = newest + 1, NONE
            while word > low[peer] and useful == NONE and most != SHUT:
                word -= 1
                if lack[peer, word] != NONE:
                    useful = told[word, source] & lack[peer, word]
            if useful == NONE:
                # Where nothing new was told since nothing was found there is nothing.
                worth[peer] &= ~bit_of(place)
            elif most == 0:
                refused[0] += 1
                busy[peer] |= bit_of(place)
                ready[lane, peer] += trip
            else:
                # No way out where one is left: looks into memory that wait for none go together.
                for choice in range(COMPARED):
                    if choice % DRAWN == 0:
                        drawn = draw(state)
                    other = sources[start + nth_below(drawn, choice % DRAWN, degree)]
                    rarer = useful & ~told[word, other]
                    useful = rarer if rarer != NONE else useful
                piece = (word << SHIFT) + place_of(useful, below(WORD, state))
                room[source] -= 1
                given[source] += 1
                uses = load[source] + given[source]
                came = start_request(
                    lanes, wishes, lane, peer, source, place, piece, uses, now, seconds, size
                )
                spare[source] += came


@inlined
def start_request(
    lanes: Lanes,
    wishes: Wishes,
    lane: int,
    peer: int,
    source: int,
    place: int,
    piece: int,
    uses: int,
    now: np.float32,
    seconds: np.float32,
    size: float,
) -> np.float32:
    """A peer gets a piece from a source, the one at this place among its own; -1 for the seed.
    Returns what came of it since its lane was ready, which is for the caller to take from what the
    source has to spare."""
    wishes.lack[peer, piece >> SHIFT] &= ~bit_of(piece & (WORD - 1))
    if place >= 0:
        wishes.free[peer] &= ~bit_of(place)
    # Whoever was ready within the last step began in it.
    since = now - max(lanes.ready[lane, peer], now - seconds)
    came: np.float32 = since * begin(lanes, lane, peer, source, place, piece, uses, size)
    lanes.left[lane, peer] -= came
    lanes.spare_down[peer] -= came
    return came
