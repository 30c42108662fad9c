"""All peers of an approximate simulation at once, as arrays; pieces are bits of 64-bit words.

Each peer has the machine's parallel fetches as lanes. A lane asks a source with useful pieces at
random, as the machine does with sources of equal rate; it is refused where every upload slot is
taken, and asks another one; what it gets flows at the rate that both links leave it. Sources are
known by what they told last, at the pace of their streams.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hawker.core.errors import BadRequest
from hawker.core.settings import PeerSettings
from hawker.core.simulation.dealing import CrowdSeed
from hawker.core.simulation.overlay import build
from hawker.core.simulation.scenario import Scenario
from hawker.core.transfer.machine import PARALLEL
from hawker.core.transfer.swarm import STALL
from hawker.core.transfer.turns import pause

Words = NDArray[np.uint64]
# How often a lane asks a source at random within a step; then it looks for one that has something.
ASKS = 4
SEARCHES = 1
# How often what one link's flows leave is given to others.
ROUNDS = 2
# Of so many sources the one that sends least is asked, as the one that was fastest is. With three
# the approximation agrees with the exact simulation within 1 % at 100 peers, with two within 2 %.
CHOICES = 3
# How many other sources a piece's rarity is judged by.
COMPARED = 2
# Peers worked on at once, so that what they need stays in the caches.
CHUNK = 1 << 15
# Messages before the first byte flows: asked, leased, opened, told, named, listened, heard.
MESSAGES_BEFORE = 9
NOBODY = -1


class Crowd:
    """All peers of one scenario and their seed."""

    def __init__(self, scenario: Scenario) -> None:
        if scenario.zones > 1 or scenario.seeds != 1:
            raise BadRequest(
                "the approximate simulation has one zone and one seed", hint="use --exact"
            )
        self.scenario = scenario
        self.rng = np.random.default_rng(scenario.seed)
        peers, lanes = scenario.peers, PARALLEL
        self.words = -(-scenario.pieces // 64)
        self.slots = PeerSettings().upload_slots
        self.rate = np.array([scenario.rate(n) for n in range(len(scenario.classes))])
        self.rate = self.rate[np.arange(peers + 1) % len(scenario.classes)]
        self.rate[peers] = scenario.link
        self.overlay = build(peers, self.rng)
        self.have = np.zeros((peers, self.words), dtype=np.uint64)
        self.mine = np.zeros((peers, self.words), dtype=np.uint64)
        if scenario.pieces % 64:
            # There are no pieces beyond the last one to look for.
            self.mine[:, -1] = ~np.uint64((1 << scenario.pieces % 64) - 1)
        self.told = np.zeros((peers, self.words), dtype=np.uint64)
        self.count = np.zeros(peers, dtype=np.int32)
        self.source = np.full((peers, lanes), NOBODY, dtype=np.int32)
        self.piece = np.zeros((peers, lanes), dtype=np.int32)
        self.left = np.zeros((peers, lanes), dtype=np.float32)
        self.ready = np.zeros((peers, lanes), dtype=np.float64)
        self.fresh = np.zeros((peers, lanes), dtype=bool)
        self.spare_up, self.spare_down = np.zeros(peers + 1), np.zeros(peers)
        self.used = np.zeros(peers + 1, dtype=np.int32)
        self.finished = np.full(peers, np.inf)
        arrivals = scenario.arrivals.times(peers, random.Random(scenario.seed + 2))
        self.began = np.array(arrivals)
        self.ready[:] = self.began[:, None] + MESSAGES_BEFORE * scenario.latency
        self.gone = np.zeros(peers, dtype=bool)
        self.frozen = np.zeros(peers, dtype=bool)
        gap = scenario.piece_length / scenario.link
        listeners = np.maximum(1, self.overlay.listeners)
        pace = np.array([pause(count, gap) for count in listeners.tolist()])
        self.next_word = np.zeros(peers)
        self.news = np.zeros(peers, dtype=bool)
        self.has_told = np.zeros(peers, dtype=bool)
        self.pace = pace
        self.now = 0.0
        self.wasted = 0.0
        self.refused = self.asked = 0
        self.seed = CrowdSeed(self)

    @property
    def trip(self) -> float:
        """Seconds from a request to the first byte of its answer."""
        return 2 * self.scenario.latency

    # ------------------------------------------------------------------ one step

    def step(self, seconds: float) -> None:
        """Let time pass."""
        self.flow(seconds)
        # Who found nobody to ask in this step asks later, and not in the past.
        self.ready[self.source == NOBODY] = np.maximum(self.ready[self.source == NOBODY], self.now)
        self.now += seconds
        self.tell()
        self.seed.step()
        for ask in (*(self._ask,) * ASKS, *(self._search,) * SEARCHES):
            if not self.ask(ask):
                break

    def flow(self, seconds: float) -> None:
        """Bytes for every lane that has a source, and what becomes of the last ones."""
        active = self.source != NOBODY
        child, lane = np.nonzero(active)
        if not len(child):
            return
        source = self.source[child, lane]
        # Whoever asked within the last step began in it.
        began = np.maximum(self.ready[child, lane], self.now - seconds)
        fresh = self.fresh[child, lane]
        time = self.now + seconds - np.where(fresh, began, np.maximum(began, self.now))
        time = np.maximum(time, 0.0)
        self.fresh[child, lane] = time <= 0.0
        moved = self._moved(child, source, time, seconds)
        left = self.left[child, lane] - moved
        over = left <= 0.0
        self.left[child, lane] = left
        # What a lane that ended in this step did not need goes to those that begin in it.
        unused = np.where(over, -left, 0.0)
        self.spare_up[:] = np.bincount(source, unused, self.scenario.peers + 1)
        self.spare_down[:] = np.bincount(child, unused, self.scenario.peers)
        rate = moved[over] / np.maximum(time[over], 1e-9)
        spent = -left[over] / np.maximum(rate, 1.0)
        self._land(child[over], lane[over], self.now + seconds - spent)

    def _moved(
        self,
        child: NDArray[Any],
        source: NDArray[Any],
        time: NDArray[np.float64],
        seconds: float,
    ) -> NDArray[np.float64]:
        """Bytes for each: an equal share of both links, then what others leave."""
        peers = self.scenario.peers
        up_room = self.rate * seconds + self.spare_up
        down_room = self.rate[:peers] * seconds + self.spare_down
        most = np.minimum(self.rate[source], self.rate[child]) * time
        if self.frozen.any():
            most[self.frozen[np.minimum(source, peers - 1)] & (source < peers)] = 0.0
        ups = np.maximum(np.bincount(source, time, peers + 1), seconds)
        downs = np.maximum(np.bincount(child, time, peers), seconds)
        per_up, per_down = up_room / ups, down_room / downs
        moved: NDArray[np.float64]
        moved = np.minimum(np.minimum(per_up[source], per_down[child]) * time, most)
        for _ in range(ROUNDS):
            up = up_room / np.maximum(np.bincount(source, moved, peers + 1), 1.0)
            down = down_room / np.maximum(np.bincount(child, moved, peers), 1.0)
            moved = np.minimum(moved * np.minimum(up[source], down[child]), most)
        return moved

    def _land(self, child: NDArray[Any], lane: NDArray[Any], when: NDArray[np.float64]) -> None:
        """Pieces arrived; the lanes are free from then on."""
        source, piece = self.source[child, lane], self.piece[child, lane]
        np.subtract.at(self.used, source, 1)
        word, bit = piece >> 6, np.uint64(1) << (piece & 63).astype(np.uint64)
        np.bitwise_or.at(self.have, (child, word), bit)
        np.add.at(self.count, child, 1)
        self.news[child] = True
        self.source[child, lane] = NOBODY
        self.ready[child, lane] = when + self.trip
        from_seed = source == self.scenario.peers
        if from_seed.any():
            self.seed.served(piece[from_seed])
        full = child[self.count[child] == self.scenario.pieces]
        if len(full):
            np.minimum.at(self.finished, full, np.inf)
            ended = np.full(self.scenario.peers, -np.inf)
            np.maximum.at(ended, child, when)
            self.finished[full] = ended[full]

    def tell(self) -> None:
        """Hosts with news tell them, at once where they have been silent for long enough."""
        due = np.nonzero((self.next_word <= self.now) & self.news & ~self.gone & ~self.frozen)[0]
        self.told[due] = self.have[due]
        self.news[due] = False
        self.has_told[due] = True
        self.next_word[due] = self.now + self.pace[due]

    # ------------------------------------------------------------------ asking

    def ask(self, ask: Callable[[NDArray[Any], int], int]) -> int:
        """Every free lane of a peer that lacks something asks once; how many could."""
        waiting = (self.count < self.scenario.pieces) & ~self.gone & ~self.frozen
        asked = 0
        for lane in range(PARALLEL):
            free = waiting & (self.source[:, lane] == NOBODY)
            free &= self.ready[:, lane] <= self.now + self.trip
            who = np.nonzero(free)[0]
            for begin in range(0, len(who), CHUNK):
                asked += ask(who[begin : begin + CHUNK], lane)
        return asked

    def _ask(self, who: NDArray[Any], lane: int) -> int:
        """Ask one of some sources at random, the one that sends least; how many tried."""
        tried = len(who)
        who = self.seed.offer(who, lane)
        starts = self.overlay.starts
        degree = starts[who + 1] - starts[who]
        who, degree = who[degree > 0], degree[degree > 0]
        first = starts[who]
        source = self.overlay.sources[first + self._random(degree)]
        for _ in range(CHOICES - 1):
            other = self.overlay.sources[first + self._random(degree)]
            source = np.where(self.used[other] < self.used[source], other, source)
        # Sources without anything, those that send already, and full ones need no closer look.
        ready = self.has_told[source] & ~(self.source[who] == source[:, None]).any(axis=1)
        who, source, first, degree = who[ready], source[ready], first[ready], degree[ready]
        full = self.used[source] >= self.slots
        self.asked += len(who)
        self.refused += int(full.sum())
        # They ask somebody else as soon as they hear of it.
        self.ready[who[full], lane] += self.trip
        who, source, first, degree = who[~full], source[~full], first[~full], degree[~full]
        column, bits = self._newest(who, source)
        good = bits != 0
        who, source, column, bits = who[good], source[good], column[good], bits[good]
        first, degree = first[good], degree[good]
        for _ in range(COMPARED):
            other = self.overlay.sources[first + self._random(degree)]
            rarer = bits & ~self.told[other, column]
            bits = np.where(rarer != 0, rarer, bits)
        piece = column * 64 + self._any_bit(bits)
        taken = self._admit(source)
        self.refused += len(who) - int(taken.sum())
        self.ready[who[~taken], lane] += self.trip
        self._begin(who[taken], lane, source[taken], piece[taken])
        return tried

    def _newest(self, who: NDArray[Any], source: NDArray[Any]) -> tuple[NDArray[np.int64], Words]:
        """For each the newest word in which the source has what is missing, and its bits; or 0."""
        column = np.zeros(len(who), dtype=np.int64)
        bits = np.zeros(len(who), dtype=np.uint64)
        rest = np.arange(len(who))
        for word in self.seed.order:
            found = self.told[source[rest], word] & ~self.mine[who[rest], word]
            hit = found != 0
            column[rest[hit]] = word
            bits[rest[hit]] = found[hit]
            rest = rest[~hit]
            if not len(rest):
                break
        return column, bits

    def _search(self, who: NDArray[Any], lane: int) -> int:
        """Choose something that is missing, and ask one of the sources that have it."""
        tried = len(who)
        absent = ~self.mine[who]
        column = (self.rng.random(absent.shape, dtype=np.float32) * (absent != 0)).argmax(axis=1)
        absent = absent[np.arange(tried), column]
        starts = self.overlay.starts[who]
        degree = self.overlay.starts[who + 1] - starts
        found, choice = np.zeros(tried, dtype=np.int32), np.full(tried, NOBODY, dtype=np.int32)
        bits = np.zeros(tried, dtype=np.uint64)
        for k in range(int(degree.max(initial=0))):
            source = self.overlay.sources[starts + np.minimum(k, degree - 1)]
            here = self.told[source, column] & absent
            fits = (here != 0) & (k < degree) & (self.used[source] < self.slots)
            fits &= self.has_told[source] & ~(self.source[who] == source[:, None]).any(axis=1)
            found += fits
            # Each of those found is the one with equal chance.
            fits &= self.rng.random(tried, dtype=np.float32) * found < 1
            choice[fits], bits[fits] = source[fits], here[fits]
        hit = choice != NOBODY
        who, source, column, bits = who[hit], choice[hit], column[hit], bits[hit]
        piece = column * 64 + self._any_bit(bits)
        taken = self._admit(source)
        self.ready[who[~taken], lane] += self.trip
        self._begin(who[taken], lane, source[taken], piece[taken])
        return tried

    def _begin(
        self, who: NDArray[Any], lane: int, source: NDArray[Any], piece: NDArray[Any]
    ) -> None:
        self.source[who, lane] = source
        self.piece[who, lane] = piece
        self.left[who, lane] = self.scenario.piece_length
        self.fresh[who, lane] = True
        bit = np.uint64(1) << (piece & 63).astype(np.uint64)
        self.mine[who, piece >> 6] |= bit

    def _admit(self, source: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of these requests find a free slot, in random order."""
        taken = np.zeros(len(source), dtype=bool)
        waiting = self.rng.permutation(len(source))
        winner = np.zeros(self.scenario.peers + 1, dtype=np.int64)
        for _ in range(self.slots):
            waiting = waiting[self.used[source[waiting]] < self.slots]
            if not len(waiting):
                break
            winner[source[waiting]] = waiting
            won = waiting[winner[source[waiting]] == waiting]
            taken[won] = True
            self.used[source[won]] += 1
            waiting = waiting[~taken[waiting]]
        return taken

    def _random(self, below: NDArray[Any]) -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = (self.rng.random(len(below)) * below).astype(np.int64)
        return drawn

    def _any_bit(self, bits: Words) -> NDArray[np.int64]:
        """A set bit of each word, the first from a random place on."""
        turn = self.rng.integers(0, 64, len(bits), dtype=np.uint64)
        back = (np.uint64(64) - turn) & np.uint64(63)
        turned = (bits >> turn) | (bits << back)
        lowest = turned & (~turned + np.uint64(1))
        # A power of two is exact as a double.
        at: NDArray[np.int64] = np.log2(lowest.astype(np.float64)).astype(np.int64)
        return (at + turn.astype(np.int64)) & 63

    # ------------------------------------------------------------------ faults

    def strike(self) -> None:
        """Some die, some stand still; what was on its way from them is lost."""
        scenario, peers = self.scenario, self.scenario.peers
        staying = np.nonzero(np.isinf(self.finished))[0]
        leaving = min(len(staying), round(scenario.churn * peers))
        freezing = min(len(staying) - leaving, round(scenario.freeze * peers))
        struck = self.rng.choice(staying, leaving + freezing, replace=False)
        self.gone[struck[:leaving]] = True
        self.has_told[struck[:leaving]] = False
        self.frozen[struck[leaving:]] = True
        for some, wait in ((self.gone, 0.0), (self.frozen, STALL)):
            if not some.any():
                continue
            hit = (self.source >= 0) & (self.source < peers)
            hit &= some[np.minimum(self.source, peers - 1)]
            self._break(hit, wait)
            own = (self.source != NOBODY) & some[:, None]
            self._break(own, 0.0)
        self.gone |= self.frozen
        # Their neighbours have found out by the time their own fetches are over.
        self.has_told[self.frozen] = False
        self.news[self.gone] = False
        self.seed.lost(struck)

    def _break(self, lanes: NDArray[np.bool_], wait: float) -> None:
        child, lane = np.nonzero(lanes)
        piece = self.piece[child, lane]
        np.subtract.at(self.used, self.source[child, lane], 1)
        self.wasted += float((self.scenario.piece_length - self.left[child, lane]).sum())
        bit = np.uint64(1) << (piece & 63).astype(np.uint64)
        np.bitwise_and.at(self.mine, (child, piece >> 6), ~bit)
        self.source[child, lane] = NOBODY
        self.ready[child, lane] = self.now + wait + self.trip
