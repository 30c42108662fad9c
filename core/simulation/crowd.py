"""All peers of an approximate simulation at once, as arrays; pieces are bits of 64-bit words.

Each peer has the machine's parallel fetches as lanes. Sources are known by what they told last, at
the pace of their streams. A peer's sources are known by their places among them, as bits of a word.
"""

from __future__ import annotations

import functools
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hawker.core.errors import BadRequest
from hawker.core.settings import PeerSettings
from hawker.core.simulation.asking import CLOSED, Wishes, ask, start_request
from hawker.core.simulation.bits import NONE, SHIFT, WORD, Words, bit_of, compiled, lowest_bits
from hawker.core.simulation.dealing import CrowdSeed
from hawker.core.simulation.lanes import (
    Floats,
    Ints,
    Lanes,
    Part,
    Run,
    flow,
    parts_of,
    release,
    settle,
)
from hawker.core.simulation.overlay import build
from hawker.core.simulation.scenario import Scenario
from hawker.core.transfer.machine import BUSY_BACKOFF, PARALLEL
from hawker.core.transfer.swarm import STALL
from hawker.core.transfer.turns import EVENT_COST, pause

# Messages before the first byte flows: asked, leased, opened, told, named, listened, heard.
MESSAGES_BEFORE = 9
# No peer asks more hosts than that.
MOST_SOURCES = 56
# From so many peers on they ask in so many parts.
MANY = 1 << 14
PARTS = 2
_LAST = WORD - 1


class Crowd:
    """All peers of one scenario and their seed.

    Attributes:
        words: how many words a set of pieces has.
        have: (peer, word) what it has.
        wishes: what they lack and whom they may ask.
        lanes: their requests.
        count: (peer) pieces that it has.
        began, finished: (peer) seconds at which it asked for the content, and had all of it.
        gone: (peer) it died or stands still.
        wasted: bytes that came in vain.
    """

    def __init__(self, scenario: Scenario) -> None:
        if scenario.zones > 1 or scenario.seeds != 1:
            raise BadRequest(
                "the approximate simulation has one zone and one seed", hint="use --exact"
            )
        self.scenario = scenario
        self.rng = np.random.Generator(np.random.SFC64(scenario.seed))
        peers = scenario.peers
        self.words = -(-scenario.pieces // WORD)
        self.slots = PeerSettings().upload_slots
        classes = np.array([scenario.rate(n) for n in range(len(scenario.classes))])
        self.rates = classes[np.arange(peers) % len(classes)]
        self.overlay = build(peers, self.rng)
        degree = np.minimum(np.diff(self.overlay.starts), MOST_SOURCES)
        lack = np.full((peers, self.words), np.iinfo(np.uint64).max)
        if scenario.pieces % WORD:
            lack[:, -1] = np.uint64((1 << scenario.pieces % WORD) - 1)
        self.have = np.zeros_like(lack)
        self.wishes = Wishes(
            np.zeros((self.words, peers), dtype=np.uint64),
            lack,
            np.zeros(peers, dtype=np.int32),
            self.overlay.starts,
            self.overlay.sources,
            degree.astype(np.int8),
            lowest_bits(degree.astype(np.uint64)),
            np.zeros(peers, dtype=np.uint64),
            np.zeros(peers, dtype=np.uint64),
        )
        self._parts = parts_of(peers + 2, peers, PARTS if peers >= MANY else 1, self.rng)
        self._pool = ThreadPoolExecutor(len(self._parts))
        self._run: Run = map
        if len(self._parts) > 1:
            self._run = self._pool.map
        self._turn = 0
        self.began = np.array(scenario.arrivals.times(peers, random.Random(scenario.seed + 2)))
        self.lanes = Lanes.idle(
            np.append(self.rates, scenario.link), self.began + MESSAGES_BEFORE * scenario.latency
        )
        self.lanes.load[:peers] = CLOSED
        self.count = np.zeros(peers, dtype=np.int32)
        self._latest = np.zeros(peers)
        self.finished = np.full(peers, np.inf)
        self.gone = np.zeros(peers, dtype=bool)
        gap = scenario.piece_length / scenario.link
        self._listeners = np.maximum(1, self.overlay.listeners)
        # (listeners, pieces): seconds between two events.
        self._paces = np.array(
            [
                [pause(streams, gap, have) for have in range(scenario.pieces + 1)]
                for streams in range(int(self._listeners.max()) + 1)
            ],
            dtype=np.float32,
        )
        self._next_word = np.zeros(peers, dtype=np.float32)
        # (peer) when it may tell of rare pieces.
        self._soonest = np.zeros(peers, dtype=np.float32)
        self._news = np.zeros(peers, dtype=bool)
        # (peer) what it said in this step: nothing, 1 that it has more, 3 and a slot.
        self._said = np.zeros(peers + 1, dtype=np.uint8)
        # After a refusal: as long as a slot takes to fall free.
        self._back_off = max(BUSY_BACKOFF, gap)
        self.now = 0.0
        self.wasted = 0.0
        self.seed = CrowdSeed(self)

    @property
    def trip(self) -> float:
        """Seconds from a request to the first byte of its answer."""
        return 2 * self.scenario.latency

    @property
    def over(self) -> bool:
        """Everybody who stays has everything."""
        return bool((np.isfinite(self.finished) | self.gone).all())

    @property
    def refused(self) -> int:
        """Requests that found no slot."""
        return sum(int(part.refused[0]) for part in self._parts)

    def close(self) -> None:
        """Leave no thread behind."""
        self._pool.shutdown()

    # ------------------------------------------------------------------ one step

    def step(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        lanes, wishes, parts, run = self.lanes, self.wishes, self._parts, self._run
        ended = flow(lanes, parts, seconds, run)
        land = functools.partial(
            _land,
            lanes,
            wishes,
            self.have,
            self.count,
            self._news,
            self._latest,
            self.finished,
            self._next_word,
            self._soonest,
            self.scenario.pieces,
            self.now,
            self.trip,
        )
        served = list(run(lambda part: land(*ended[part.number], part), parts))
        self._settle()
        if any(map(len, served)):
            self.seed.served(np.concatenate(served))
        now = np.float32(self.now)
        tell = functools.partial(
            _tell,
            lanes,
            wishes,
            self.have,
            self.count,
            self._news,
            self._said,
            self._next_word,
            self._soonest,
            self._listeners,
            self._paces,
            now,
            self.slots,
        )
        list(run(tell, parts))
        list(run(functools.partial(_hear, wishes, self._said), parts))
        self.seed.step()
        self.seed.offer(seconds)
        self._turn += 1
        asking = functools.partial(
            ask,
            lanes,
            wishes,
            now,
            np.float32(seconds),
            np.float32(self.trip),
            self.slots,
            float(self.scenario.piece_length),
            max(0, self.seed.read - 1) >> SHIFT,
            min(1.0, seconds / self._back_off),
            self._turn,
        )
        list(run(asking, parts))
        self._settle()

    def _settle(self) -> None:
        for part in self._parts:
            settle(self.lanes, part)

    def begin(self, lane: int, child: int, piece: int, seconds: float) -> None:
        """A child of the seed gets a piece from it."""
        lanes = self.lanes
        lanes.load[lanes.seed] += 1
        came = start_request(
            lanes,
            self.wishes,
            lane,
            child,
            lanes.seed,
            -1,
            piece,
            int(lanes.load[lanes.seed]),
            np.float32(self.now),
            np.float32(seconds),
            float(self.scenario.piece_length),
        )
        lanes.spare_up[lanes.seed] -= came

    # ------------------------------------------------------------------ faults

    def strike(self) -> None:
        """Some die, some stand still; what was on its way from them is lost."""
        scenario, lanes = self.scenario, self.lanes
        staying = np.flatnonzero(np.isinf(self.finished))
        leaving = min(len(staying), round(scenario.churn * scenario.peers))
        freezing = min(len(staying) - leaving, round(scenario.freeze * scenario.peers))
        struck = self.rng.choice(staying, leaving + freezing, replace=False)
        self.gone[struck] = True
        # Seconds until whoever asked them notices.
        wait = np.full(scenario.peers + 2, np.nan)
        wait[struck[:leaving]] = 0.0
        wait[struck[leaving:]] = STALL
        self.wasted += _break(
            lanes,
            self.wishes,
            self.gone,
            wait,
            scenario.piece_length,
            self.now + self.trip,
            self._parts[0],
        )
        self._settle()
        lanes.ready[:, struck] = np.inf
        # Their neighbours have found out by the time their own fetches are over.
        lanes.load[struck] |= CLOSED
        self._news[struck] = False
        self.seed.lost(struck)


@compiled
def _land(
    lanes: Lanes,
    wishes: Wishes,
    have: Words,
    count: Ints,
    news: NDArray[np.bool_],
    latest: NDArray[np.float64],
    finished: NDArray[np.float64],
    next_word: Floats,
    soonest: Floats,
    pieces: int,
    now: float,
    trip: float,
    lane_of: NDArray[np.int8],
    children: Ints,
    early: Floats,
    part: Part,
) -> Ints:
    """Pieces arrived, some seconds ago; the lanes are free from then on. Returns those that came
    from the seed."""
    served = np.empty(lanes.load[lanes.seed], dtype=np.int32)
    taken = 0
    for number in range(len(children)):
        lane, child = lane_of[number], children[number]
        piece, place = lanes.piece[lane, child], lanes.place[lane, child]
        have[child, piece >> SHIFT] |= bit_of(piece & _LAST)
        news[child] = True
        if place >= 0:
            wishes.free[child] |= bit_of(place)
        else:
            served[taken] = piece
            taken += 1
        if next_word[child] > soonest[child] and _is_rare(wishes, child, place, piece):
            next_word[child] = soonest[child]
        when = now - early[number]
        latest[child] = max(latest[child], when)
        count[child] += 1
        if count[child] == pieces:
            finished[child] = latest[child]
        release(lanes, part, lane, child, when + trip)
    return served[:taken]


@compiled
def _is_rare(wishes: Wishes, child: int, place: int, piece: int) -> bool:
    """One source alone, the one at this place or the seed, said that it has the piece."""
    word, bit, start = piece >> SHIFT, bit_of(piece & _LAST), wishes.starts[child]
    for other in range(wishes.degree[child]):
        if other != place and wishes.told[word, wishes.sources[start + other]] & bit != NONE:
            return False
    return True


@compiled
def _tell(
    lanes: Lanes,
    wishes: Wishes,
    have: Words,
    count: Ints,
    news: NDArray[np.bool_],
    said: NDArray[np.uint8],
    next_word: Floats,
    soonest: Floats,
    listeners: Ints,
    paces: Floats,
    now: np.float32,
    slots: int,
    part: Part,
) -> None:
    """Hosts with news tell them, at once where they have been silent for long enough, and whether
    they have a slot."""
    words = wishes.lack.shape[1]
    for peer in range(part.begin, part.end):
        said[peer] = 0
        if news[peer] and next_word[peer] <= now:
            news[peer] = False
            next_word[peer] = now + paces[listeners[peer], count[peer]]
            soonest[peer] = now + np.float32(EVENT_COST) * listeners[peer]
            for word in range(words):
                wishes.told[word, peer] = have[peer, word]
            lanes.load[peer] &= CLOSED - 1
            said[peer] = 3 if lanes.load[peer] < slots else 1


@compiled
def _hear(wishes: Wishes, said: NDArray[np.uint8], part: Part) -> None:
    """Peers notice which of their sources told something; those that lack nothing do not care."""
    words = wishes.lack.shape[1]
    for peer in range(part.begin, part.end):
        low = wishes.low[peer]
        while low < words and wishes.lack[peer, low] == NONE:
            low += 1
        wishes.low[peer] = low
        if low == words:
            continue
        start = wishes.starts[peer]
        new, free = NONE, NONE
        for place in range(wishes.degree[peer]):
            heard = np.uint64(said[wishes.sources[start + place]])
            new |= (heard & np.uint64(1)) << np.uint64(place)
            free |= (heard >> np.uint64(1)) << np.uint64(place)
        wishes.worth[peer] |= new
        wishes.busy[peer] &= ~free


@compiled
def _break(
    lanes: Lanes,
    wishes: Wishes,
    gone: NDArray[np.bool_],
    wait: NDArray[np.float64],
    size: float,
    later: float,
    part: Part,
) -> float:
    """Requests of hosts that are gone, and those to them, fail; who stays asks again as many
    seconds after `later` as its host has in `wait`. Returns the bytes that came in vain."""
    wasted = 0.0
    for peer in range(lanes.peers):
        for lane in range(PARALLEL):
            source = lanes.source[lane, peer]
            if source == lanes.nobody or not (gone[peer] or wait[source] >= 0.0):
                continue
            wasted += size - min(lanes.left[lane, peer], size)
            piece, place = lanes.piece[lane, peer], lanes.place[lane, peer]
            wishes.lack[peer, piece >> SHIFT] |= bit_of(piece & _LAST)
            wishes.low[peer] = min(wishes.low[peer], piece >> SHIFT)
            if place >= 0:
                wishes.free[peer] |= bit_of(place)
            wishes.worth[peer] = bit_of(wishes.degree[peer]) - np.uint64(1)
            release(lanes, part, lane, peer, later + max(wait[source], 0.0))
    return wasted
