"""All peers of an approximate simulation at once, as arrays; pieces are bits of 64-bit words.

Each peer has the machine's parallel fetches as lanes. Sources are known by what they told last, at
the pace of their streams. A peer's sources are known by their places among them, as bits of a word.
"""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from hawker.core.errors import BadRequest
from hawker.core.settings import PeerSettings
from hawker.core.simulation.asking import CLOSED, Asking
from hawker.core.simulation.bits import ONE, SHIFT, WORD, Indices, Words, lowest_bits, take
from hawker.core.simulation.dealing import CrowdSeed
from hawker.core.simulation.lanes import Floats, Lanes
from hawker.core.simulation.overlay import build
from hawker.core.simulation.scenario import Scenario
from hawker.core.transfer.machine import PARALLEL
from hawker.core.transfer.swarm import STALL
from hawker.core.transfer.turns import pause

# Messages before the first byte flows: asked, leased, opened, told, named, listened, heard.
MESSAGES_BEFORE = 9
# No peer asks more hosts than that.
MOST_SOURCES = 56
_LAST = WORD - 1


class Crowd:
    """All peers of one scenario and their seed.

    Attributes:
        words: how many words a set of pieces has.
        have, told, lack: (peer, word) what it has, told others of, and neither has nor asks for.
        low: (peer) the first word in which it lacks anything, `words` where it lacks nothing.
        degree: (peer) how many sources it has.
        free: (peer) bits of the sources that it asks nothing of.
        worth: (peer) bits of those that told something since nothing of use was found there.
        count: (peer) pieces that it has.
        began, finished: (peer) seconds at which it asked for the content, and had all of it.
        gone: (peer) it died or stands still.
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
        self.degree = np.minimum(np.diff(self.overlay.starts), MOST_SOURCES).astype(np.uint64)
        self.free = lowest_bits(self.degree)
        self._everyone = self.free.copy()
        self.worth = np.zeros(peers, dtype=np.uint64)
        self.have = np.zeros((peers, self.words), dtype=np.uint64)
        self.told = np.zeros((peers, self.words), dtype=np.uint64)
        self.lack = np.full((peers, self.words), np.iinfo(np.uint64).max)
        if scenario.pieces % WORD:
            self.lack[:, -1] = np.uint64((1 << scenario.pieces % WORD) - 1)
        # The same in one row.
        self._have, self._lack = self.have.reshape(-1), self.lack.reshape(-1)
        self.low = np.zeros(peers, dtype=np.intp)
        self.began = np.array(scenario.arrivals.times(peers, random.Random(scenario.seed + 2)))
        self.lanes = Lanes(
            np.append(self.rates, scenario.link), self.began + MESSAGES_BEFORE * scenario.latency
        )
        self.lanes.load[:peers] = CLOSED
        self.count = np.zeros(peers, dtype=np.int32)
        self._latest = np.zeros(peers)
        self.finished = np.full(peers, np.inf)
        self.gone = np.zeros(peers, dtype=bool)
        gap = scenario.piece_length / scenario.link
        listeners = np.maximum(1, self.overlay.listeners)
        # (listeners, pieces): seconds between two events.
        self._paces = np.array(
            [
                [pause(streams, gap, have) for have in range(scenario.pieces + 1)]
                for streams in range(int(listeners.max()) + 1)
            ]
        )
        self._listeners = listeners
        self._next_word = np.zeros(peers)
        self._news = np.zeros(peers, dtype=bool)
        self.now = 0.0
        self.wasted = 0.0
        self.asking = Asking(self)
        self.seed = CrowdSeed(self)

    @property
    def trip(self) -> float:
        """Seconds from a request to the first byte of its answer."""
        return 2 * self.scenario.latency

    @property
    def over(self) -> bool:
        """Everybody who stays has everything."""
        return bool((np.isfinite(self.finished) | self.gone).all())

    def draw(self, count: int) -> Words:
        """Random words."""
        words: Words = self.rng.bit_generator.random_raw(count)
        return words

    # ------------------------------------------------------------------ one step

    def step(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        for lane, child, early in self.lanes.flow(seconds):
            self._land(lane, child, early)
        self._tell()
        self.seed.step()
        self._raise_low()
        self.asking.step(seconds)

    def begin(
        self,
        lane: int,
        child: Indices,
        source: Indices,
        place: Words,
        column: Indices,
        at: Words,
        seconds: float,
    ) -> None:
        """Peers get a piece each, the one at the place `at` of the word `column`."""
        self._lack[child * self.words + column] &= ~(ONE << at)
        self.free[child] &= ~place
        # Whoever was ready within the last step began in it.
        since = np.maximum(self.lanes.ready[lane, child], np.float32(self.now - seconds))
        since -= np.float32(self.now)
        rate = self.lanes.begin(lane, child, source, (column << SHIFT) + at.astype(np.intp), place)
        since *= rate
        self.lanes.left[lane, child] = np.float32(self.scenario.piece_length) + since
        self.lanes.spare(lane, child, since)

    def _land(self, lane: int, child: Indices, early: Floats) -> None:
        """Pieces arrived, some seconds ago; the lanes are free from then on."""
        lanes = self.lanes
        piece = lanes.piece[lane, child]
        word, bit = _split(piece)
        self._have[child * self.words + word] |= bit
        self._news[child] = True
        self.free[child] |= lanes.place[lane, child]
        from_seed = lanes.source[lane, child] == lanes.seed
        if from_seed.any():
            self.seed.served(piece[from_seed])
        when = self.now - early
        self._latest[child] = np.maximum(take(self._latest, child), when)
        count = take(self.count, child) + np.int32(1)
        self.count[child] = count
        full = child[count == self.scenario.pieces]
        self.finished[full] = self._latest[full]
        lanes.release(lane, child, (when + self.trip).astype(np.float32))

    def _tell(self) -> None:
        """Hosts with news tell them, at once where they have been silent for long enough."""
        due = np.flatnonzero((self._next_word <= self.now) & self._news)
        if not len(due):
            return
        self.told[due] = take(self.have, due, axis=0)
        self._news[due] = False
        self._next_word[due] = self.now + self._paces[take(self._listeners, due), self.count[due]]
        load = self.lanes.load
        load[due] &= CLOSED - 1
        self._hear(due)

    def _hear(self, hosts: Indices) -> None:
        """Whoever may ask these hosts hears that they told something."""
        told = np.zeros(self.scenario.peers, dtype=bool)
        told[hosts] = True
        # A bit for each edge of the overlay; a peer's are those from `starts` on.
        edges = np.packbits(take(told, self.overlay.sources), bitorder="little")
        edges = np.append(edges, np.zeros(8, dtype=np.uint8))
        windows = np.ndarray(len(edges) - 7, dtype="<u8", buffer=edges, strides=(1,))
        starts = self.overlay.starts[:-1]
        heard = windows[starts >> 3] >> (starts & 7).astype(np.uint64)
        heard &= self._everyone
        self.worth |= heard

    def _raise_low(self) -> None:
        """Go on to the next word where nothing is lacking in the first one any more."""
        at = np.arange(self.scenario.peers) * self.words + np.minimum(self.low, self.words - 1)
        self.low += (take(self._lack, at) == 0) & (self.low < self.words)

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
        wait = np.full(scenario.peers + 2, np.nan, dtype=np.float32)
        wait[struck[:leaving]] = 0.0
        wait[struck[leaving:]] = STALL
        for lane in range(PARALLEL):
            lost = wait[lanes.source[lane]]
            self._break(lane, np.flatnonzero(np.isfinite(lost)), lost)
            own = self.gone & (lanes.source[lane] != lanes.nobody)
            self._break(lane, np.flatnonzero(own), np.zeros_like(lost))
        lanes.ready[:, struck] = np.inf
        # Their neighbours have found out by the time their own fetches are over.
        lanes.load[struck] |= CLOSED
        self._news[struck] = False
        self.seed.lost(struck)

    def _break(self, lane: int, child: Indices, wait: Floats) -> None:
        """These requests failed; the peers ask again after `wait` seconds."""
        lanes = self.lanes
        left = np.minimum(lanes.left[lane, child], self.scenario.piece_length)
        self.wasted += float((self.scenario.piece_length - left).sum())
        word, bit = _split(lanes.piece[lane, child])
        self._lack[child * self.words + word] |= bit
        self.low[child] = np.minimum(take(self.low, child), word)
        self.free[child] |= lanes.place[lane, child]
        self.worth[child] = take(self._everyone, child)
        lanes.release(lane, child, np.float32(self.now + self.trip) + take(wait, child))


def _split(piece: NDArray[np.int32]) -> tuple[Indices, Words]:
    """The words that pieces are in, and their bits."""
    return (piece >> SHIFT).astype(np.intp), ONE << (piece & _LAST).astype(np.uint64)
