"""Who may take pieces from whom in a large swarm: what `hawker.core.scheduling.graph` does for one
peer after the other, for many that join together.

The same rules and numbers, with two liberties: peers of one batch do not see each other (a batch is
a fiftieth of those before it), and the evaluator is the number of children a parent has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hawker.core.scheduling.graph import (
    NEIGHBOURS_PICKED,
    PARENTS,
    PICK_OF,
    ROOT_CHILDREN,
    SAMPLE,
)

Ints = NDArray[np.int32]
# Those who join first see each of the others.
ALONE_FIRST = 64
BATCH = 50


@dataclass(frozen=True, slots=True)
class Overlay:
    """Edges.

    Attributes:
        sources: those from `starts[peer]` to `starts[peer + 1]` are the hosts a peer may ask.
        listeners: how many may ask each host.
        children: the peers that may ask the seed, which is not among the sources.
    """

    starts: NDArray[np.int64]
    sources: Ints
    listeners: Ints
    children: Ints

    def sources_of(self, peer: int) -> Ints:
        """The hosts that one peer may ask."""
        return self.sources[self.starts[peer] : self.starts[peer + 1]]


def build(peers: int, rng: np.random.Generator) -> Overlay:
    """The graph of peers that all joined one after the other."""
    degree = np.zeros(peers, dtype=np.int32)
    spine = np.zeros(peers, dtype=np.int32)
    edges: list[tuple[Ints, Ints]] = []
    mutual: list[tuple[Ints, Ints]] = []
    begin = 1
    while begin < peers:
        size = 1 if begin < ALONE_FIRST else max(1, begin // BATCH)
        batch = np.arange(begin, min(peers, begin + size), dtype=np.int32)
        # Of few that are drawn some are drawn again: who is a neighbour already comes last.
        again = np.zeros(begin, dtype=np.int32)
        for _ in range(NEIGHBOURS_PICKED):
            sample = rng.integers(0, begin, (len(batch), PICK_OF))
            chosen = _least(sample, degree[:begin] + again, 1)[:, 0]
            if len(batch) == 1:
                again[chosen] = peers
            mutual.append((batch, chosen))
            np.add.at(degree, chosen, 1)
            degree[batch] += 1
        # The first children of the seed have one parent less to find.
        wanted = PARENTS - (1 if begin < ROOT_CHILDREN else 0)
        sample = rng.integers(0, begin, (len(batch), SAMPLE))
        parents = _least(sample, spine, wanted)
        for column in range(parents.shape[1]):
            edges.append((batch, parents[:, column]))
            np.add.at(spine, parents[:, column], 1)
        begin += len(batch)
    return _gather(peers, edges, mutual, rng)


def _least(sample: NDArray[np.int64], load: Ints, count: int) -> Ints:
    """Of each row the `count` with the least load."""
    order = np.argsort(load[sample], axis=1, kind="stable")[:, :count]
    return np.take_along_axis(sample, order, axis=1).astype(np.int32)


def _gather(
    peers: int,
    edges: list[tuple[Ints, Ints]],
    mutual: list[tuple[Ints, Ints]],
    rng: np.random.Generator,
) -> Overlay:
    both = edges + mutual + [(other, one) for one, other in mutual]
    none = np.zeros(0, dtype=np.int32)
    child = np.concatenate([one for one, _ in both]) if both else none
    source = np.concatenate([other for _, other in both]) if both else none
    # Each pair once.
    pairs = np.unique(child.astype(np.int64) * peers + source)
    child, source = (pairs // peers).astype(np.int32), (pairs % peers).astype(np.int32)
    starts = np.zeros(peers + 1, dtype=np.int64)
    np.cumsum(np.bincount(child, minlength=peers), out=starts[1:])
    listeners = np.bincount(source, minlength=peers).astype(np.int32)
    # The seed is picked as a neighbour like any other member.
    extra = min(peers - min(peers, ROOT_CHILDREN), 2 * NEIGHBOURS_PICKED)
    picked = rng.choice(np.arange(peers - extra, peers), extra, replace=False) if extra else none
    first = np.arange(min(peers, ROOT_CHILDREN), dtype=np.int32)
    children = np.concatenate([first, picked]).astype(np.int32)
    return Overlay(starts, source, listeners, children)
