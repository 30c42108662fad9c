"""The seed of an approximate simulation: reads the origin, and deals by the real `Turns`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hawker.core.pieces import PieceSet
from hawker.core.transfer.slots import is_idle
from hawker.core.transfer.turns import Turns, pause

if TYPE_CHECKING:
    from hawker.core.simulation.crowd import Crowd


class CrowdSeed:
    """The seed: reads the origin in order, and deals what it has read by the real rules."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._turns = Turns()
        self._children = {int(child): n for n, child in enumerate(crowd.overlay.children)}
        for number in self._children.values():
            self._turns.join(number, 0.0)
        scenario = crowd.scenario
        self._rate = min(scenario.link, scenario.origin)
        self._begins = 5 * scenario.latency
        self._known = dict.fromkeys(self._children.values(), 0)
        self._pace = pause(len(self._children), scenario.piece_length / self._rate)
        self._next = dict.fromkeys(self._known, 0.0)
        self._is_child = np.zeros(scenario.peers, dtype=bool)
        self._is_child[crowd.overlay.children] = True
        self._rng = random.Random(scenario.seed + 3)
        self.read = 0
        self.order = np.arange(crowd.words)

    @property
    def reading(self) -> bool:
        return self.read < self._crowd.scenario.pieces

    def step(self) -> None:
        """What was read is dealt, and told to those whose turn it is."""
        crowd, scenario = self._crowd, self._crowd.scenario
        passed = max(0.0, crowd.now - self._begins)
        self.read = min(scenario.pieces, int(passed * self._rate / scenario.piece_length))
        valid = PieceSet.first(self.read)
        idle = is_idle(int(crowd.used[scenario.peers]), crowd.slots)
        self._turns.deal(valid, crowd.now, reading=self.reading, idle=idle)
        for number, when in self._next.items():
            if when <= crowd.now:
                visible = self._turns.visible(number, valid).bits
                if visible & ~self._known[number]:
                    self._known[number] |= visible
                    self._next[number] = crowd.now + self._pace
        # The rarest pieces are the newest ones: their words are looked at first.
        newest = min(crowd.words - 1, self.read >> 6)
        self.order = np.concatenate([np.arange(newest, -1, -1), np.arange(newest + 1, crowd.words)])

    def served(self, pieces: NDArray[Any]) -> None:
        self._turns.served(PieceSet.of(int(piece) for piece in pieces), self._crowd.now)

    def lost(self, peers: NDArray[Any]) -> None:
        for peer in peers:
            number = self._children.pop(int(peer), None)
            if number is not None:
                self._turns.leave(number, self._crowd.now)
                del self._next[number]
                self._is_child[peer] = False

    def offer(self, who: NDArray[Any], lane: int) -> NDArray[Any]:
        """Let children among these ask the seed, as often as they ask any source; the others."""
        crowd, seed = self._crowd, self._crowd.scenario.peers
        children = who[self._is_child[who]]
        asked = []
        for child in children.tolist():
            if crowd.used[seed] >= crowd.slots:
                break
            sources = crowd.overlay.sources_of(child)
            others = int(crowd.has_told[sources].sum())
            if self._rng.random() * (others + 1) >= 1 or seed in crowd.source[child]:
                continue
            mine = int.from_bytes(crowd.mine[child].tobytes(), "little")
            useful = self._known[self._children[child]] & ~mine
            if not useful:
                continue
            asked.append(child)
            crowd.used[seed] += 1
            piece = np.array([self._pick(useful)])
            crowd._begin(np.array([child]), lane, np.array([seed]), piece)
        return who[~np.isin(who, asked)] if asked else who

    def _pick(self, bits: int) -> int:
        offset = self._rng.randrange(bits.bit_length())
        above = bits >> offset
        bits, base = (above, offset) if above else (bits, 0)
        return base + (bits & -bits).bit_length() - 1
