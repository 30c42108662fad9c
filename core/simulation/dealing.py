"""The seed of an approximate simulation: reads the origin, and deals by the real `Turns`."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hawker.core.pieces import PieceSet
from hawker.core.simulation.asking import CLOSED
from hawker.core.transfer.machine import PARALLEL, PER_PARENT
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
        self._gap = scenario.piece_length / self._rate
        self._next = dict.fromkeys(self._known, 0.0)
        self._asking = np.array(sorted(self._children), dtype=np.intp)
        self._rng = random.Random(scenario.seed + 3)
        self.read = 0

    @property
    def reading(self) -> bool:
        return self.read < self._crowd.scenario.pieces

    def step(self) -> None:
        """What was read is dealt, and told to those whose turn it is."""
        crowd, scenario = self._crowd, self._crowd.scenario
        passed = max(0.0, crowd.now - self._begins)
        self.read = min(scenario.pieces, int(passed * self._rate / scenario.piece_length))
        valid = PieceSet.first(self.read)
        idle = is_idle(int(crowd.lanes.load[crowd.lanes.seed]), crowd.slots)
        self._turns.deal(valid, crowd.now, reading=self.reading, idle=idle)
        for number, when in self._next.items():
            if when <= crowd.now:
                visible = self._turns.visible(number, valid).bits
                if visible & ~self._known[number]:
                    self._known[number] |= visible
                    pace = pause(len(self._children), self._gap, self.read)
                    self._next[number] = crowd.now + pace

    def served(self, pieces: NDArray[Any]) -> None:
        self._turns.served(PieceSet.of(int(piece) for piece in pieces), self._crowd.now)

    def lost(self, peers: NDArray[Any]) -> None:
        for peer in peers:
            number = self._children.pop(int(peer), None)
            if number is not None:
                self._turns.leave(number, self._crowd.now)
                del self._next[number]
        self._asking = np.array(sorted(self._children), dtype=np.intp)

    def offer(self, seconds: float) -> None:
        """Let children with an idle lane ask the seed: first for what it offers to them alone, for
        the rest as often as they ask any source."""
        crowd, lanes = self._crowd, self._crowd.lanes
        children = self._asking[crowd.wishes.low[self._asking] < crowd.words]
        for lane in range(PARALLEL):
            asking = children[lanes.ready[lane, children] <= np.float32(crowd.now)].tolist()
            self._rng.shuffle(asking)
            for child in asking:
                piece = self._wanted(child)
                if piece is None:
                    continue
                self._turns.asked(PieceSet.of_run(piece, piece), crowd.now)
                if lanes.load[lanes.seed] < crowd.slots:
                    crowd.begin(lane, child, piece, seconds)

    def _wanted(self, child: int) -> int | None:
        """What a child asks the seed for, if it asks it."""
        crowd, lanes = self._crowd, self._crowd.lanes
        number, lack = self._children[child], crowd.wishes.lack[child]
        useful = PieceSet(self._known[number] & int.from_bytes(lack.tobytes(), "little"))
        if not useful:
            return None
        most, alone = PER_PARENT, self._turns.alone(number, useful)
        if not alone:
            sources = crowd.overlay.sources_of(child)
            others = int((lanes.load[sources] < CLOSED).sum())
            most = min(most, max(1, PARALLEL // (others + 1)))
            if self._rng.random() * (others + 1) >= 1:
                return None
        if (lanes.source[:, child] == lanes.seed).sum() >= most:
            return None
        return (alone or useful).pick(self._rng)
