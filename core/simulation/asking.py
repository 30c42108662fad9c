"""What the idle lanes of an approximate simulation ask, and of whom.

A lane looks at a few sources of its peer that are asked nothing yet, at random, and takes the one
that sends least, as the machine takes the one that was fastest. Of what that one told it takes a
piece from the newest word in which something is missing, one that two others lack if it can: new
pieces are rare. Where nothing is missing it tries again, a few times, and so does the next step; a
source with nothing is not looked into until it tells something. One whose slots are taken refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hawker.core.simulation.bits import WORD, Indices, Words, any_bit, below, take
from hawker.core.transfer.machine import PARALLEL

if TYPE_CHECKING:
    from hawker.core.simulation.crowd import Crowd

# How often a lane asks within a step, until a source has something for it.
ASKS = 4
# Of so many sources the one that sends least is asked, as the one that was fastest is.
CHOICES = 3
# How many other sources a piece's rarity is judged by.
COMPARED = 2
# Words of lanes worked on at once, so that what they need stays in the caches.
CHUNK = 1 << 18
FEWEST = 1 << 8
# What is added to the load of hosts that have told nothing, or are gone.
CLOSED = 1 << 16


class Asking:
    """Starts requests for the idle lanes of a crowd."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._chunk = max(FEWEST, CHUNK // crowd.words)
        # Peers that found nothing to ask in this step.
        self._dry = np.zeros(crowd.scenario.peers, dtype=bool)
        self.refused = self.asked = 0

    def step(self, seconds: float) -> None:
        """Every idle lane asks that can; one that finds nothing speaks for its peer's others."""
        crowd, lanes = self._crowd, self._crowd.lanes
        np.greater_equal(crowd.low, crowd.words, out=self._dry)
        now = np.float32(crowd.now)
        for lane in range(PARALLEL):
            crowd.seed.offer(lane, seconds)
            who = np.flatnonzero((lanes.ready[lane] <= now) & ~self._dry)
            for begin in range(0, len(who), self._chunk):
                some = who[begin : begin + self._chunk]
                for _ in range(ASKS):
                    some = self._ask(some, lane, seconds)
                    if not len(some):
                        break
                self._dry[some] = True

    def _ask(self, who: Indices, lane: int, seconds: float) -> Indices:
        """Each of these asks one source; those who found nothing there."""
        crowd, slots = self._crowd, self._crowd.slots
        free, worth = take(crowd.free, who), take(crowd.worth, who)
        some = (free & worth) != 0
        if not some.all():
            self._dry[who[~some]] = True
            who, free, worth = who[some], free[some], worth[some]
        first, degree = take(crowd.overlay.starts, who), take(crowd.degree, who)
        source, place, load = self._choose(first, degree, free)
        self.asked += int((load < CLOSED).sum())
        over = (load >= slots) & (load < CLOSED)
        self._refuse(lane, who[over])
        # Where nothing new was told since nothing was found there is nothing.
        worthy = np.flatnonzero((load < slots) & ((worth & place) != 0))
        column, bits = self._newest(who[worthy], source[worthy])
        found = bits != 0
        vain, good = worthy[~found], worthy[found]
        crowd.worth[who[vain]] &= ~place[vain]
        over[good] = True
        again = who[~over]
        if len(good):
            column, bits = column[found], bits[found]
            at = self._rare(first[good], degree[good], column, bits)
            child, source, place = who[good], source[good], place[good]
            taken = self._admit(source)
            if not taken.all():
                self._refuse(lane, child[~taken])
                child, source, place = child[taken], source[taken], place[taken]
                column, at = column[taken], at[taken]
            crowd.begin(lane, child, source, place, column, at, seconds)
        return again

    def _choose(
        self, first: Indices, degree: Words, free: Words
    ) -> tuple[Indices, Words, NDArray[np.int32]]:
        """For each of some free sources the one with the least load, its bit, and its load."""
        sources, load = self._crowd.overlay.sources, self._crowd.lanes.load
        draw = self._crowd.draw(len(first))
        for choice in range(CHOICES):
            bit, at = any_bit(free, below(degree, draw))
            other = take(sources, first + at.astype(np.intp)).astype(np.intp)
            its = take(load, other)
            if not choice:
                source, place, least = other, bit, its
                continue
            less = its < least
            source = np.where(less, other, source)
            place = np.where(less, bit, place)
            least = np.minimum(least, its)
        return source, place, least

    def _rare(self, first: Indices, degree: Words, column: Indices, bits: Words) -> Words:
        """Of each of these words the place of a set bit, of a piece that other sources lack if
        there is one."""
        crowd = self._crowd
        draw, told = crowd.draw(len(bits)), crowd.told.reshape(-1)
        for _ in range(COMPARED):
            other = take(crowd.overlay.sources, first + below(degree, draw).astype(np.intp))
            rarer = bits & ~take(told, other * crowd.words + column)
            bits = np.where(rarer != 0, rarer, bits)
        return any_bit(bits, below(np.uint64(WORD), draw))[1]

    def _refuse(self, lane: int, who: Indices) -> None:
        """They ask somebody else as soon as they hear of it."""
        self.refused += len(who)
        self._crowd.lanes.ready[lane, who] += np.float32(self._crowd.trip)

    def _newest(self, who: Indices, source: Indices) -> tuple[Indices, Words]:
        """For each the newest word in which the source told of something missing, and its bits; 0
        where there is none."""
        crowd = self._crowd
        useful = take(crowd.told, source, axis=0)
        useful &= take(crowd.lack, who, axis=0)
        column = crowd.words - 1 - (useful[:, ::-1] != 0).argmax(axis=1)
        return column, take(useful.ravel(), np.arange(len(who)) * crowd.words + column)

    def _admit(self, source: Indices) -> NDArray[np.bool_]:
        """Count these requests at their sources, but for those that find no slot left; at random
        which."""
        load, slots = self._crowd.lanes.load, self._crowd.slots
        np.add.at(load, source, np.ones(len(source), dtype=np.int32))
        taken = np.ones(len(source), dtype=bool)
        over = np.flatnonzero(take(load, source) > slots)
        if len(over):
            over = self._crowd.rng.permutation(over)
            over = over[np.argsort(source[over], kind="stable")]
            its = source[over]
            rank = np.arange(len(over)) - np.searchsorted(its, its)
            late = over[rank < take(load, its) - slots]
            np.subtract.at(load, source[late], np.ones(len(late), dtype=np.int32))
            taken[late] = False
        return taken
