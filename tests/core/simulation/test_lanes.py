"""Links are shared about as max-min fairness would, and never carry more than they can."""

from __future__ import annotations

import numpy as np
import pytest

from hawker.core.simulation.bits import any_bit, below, lowest_bits
from hawker.core.simulation.lanes import Lanes
from hawker.core.transfer.machine import PARALLEL

PIECE = 1000.0


def lanes(*rates: float) -> Lanes:
    """Peers with these links, all ready, and a seed with a link of 1."""
    return Lanes(np.array([*rates, 1.0]), np.zeros(len(rates)))


def ask(lanes: Lanes, lane: int, child: int, source: int) -> None:
    who, host = np.array([child]), np.array([source])
    lanes.load[source] += 1
    lanes.begin(lane, who, host, np.array([0]), np.array([1], dtype=np.uint64))
    lanes.left[lane, who] = PIECE


def test_what_one_flow_cannot_take_another_one_does() -> None:
    some = lanes(100.0, 100.0, 20.0)
    ask(some, 0, 1, 0)
    ask(some, 0, 2, 0)
    assert list(some.flow(1.0)) == []
    # The child with the narrow link takes 20 of the parent's 100, the other one the rest.
    assert PIECE - some.left[0, 2] == pytest.approx(20.0, rel=0.01)
    assert PIECE - some.left[0, 1] == pytest.approx(80.0, rel=0.05)


def test_no_link_carries_more_than_it_can() -> None:
    rng = np.random.default_rng(1)
    some = lanes(*rng.choice([10.0, 20.0, 50.0], 40))
    for lane in range(PARALLEL):
        for child in range(40):
            ask(some, lane, child, (child + 1 + int(rng.integers(39))) % 40)
    before = some.left.copy()
    assert list(some.flow(0.1)) == []
    moved = (before - some.left) / 0.1
    assert (moved.sum(axis=0) <= some.capacity[:40] * 1.001).all()
    sent = np.bincount(some.source.ravel(), moved.ravel(), 42)
    assert (sent <= some.capacity * 1.001).all()


def test_a_request_ends_when_its_bytes_are_there_and_its_lane_is_free() -> None:
    some = lanes(100.0, 100.0)
    ask(some, 3, 1, 0)
    ended = []
    for _ in range(11):
        for lane, child, early in some.flow(0.95):
            ended.append((lane, child.tolist()))
            assert early[0] == pytest.approx(0.45, rel=0.01)
            some.release(lane, child, 0.0)
    assert ended == [(3, [1])]
    assert some.load[0] == some.active[1] == 0 and some.source[3, 1] == some.nobody


def test_any_bit_is_a_set_one_from_a_place_on() -> None:
    words = np.array([0b1010, 0b1010, 0b1010, 1 << 63], dtype=np.uint64)
    bit, place = any_bit(words, np.array([0, 2, 4, 5], dtype=np.uint64))
    assert place.tolist() == [1, 3, 1, 63]
    assert bit.tolist() == [2, 8, 2, 1 << 63]


def test_numbers_drawn_are_below_their_limits_and_all_of_them_come() -> None:
    limits = np.repeat(np.array([1, 5, 64], dtype=np.uint64), 4000)
    draw: np.ndarray[tuple[int], np.dtype[np.uint64]]
    draw = np.random.default_rng(1).integers(0, 1 << 63, len(limits), dtype=np.uint64)
    for drawn, limit in zip(np.split(below(limits, draw), 3), (1, 5, 64), strict=True):
        assert set(drawn.tolist()) == set(range(limit))


def test_lowest_bits() -> None:
    assert lowest_bits(np.array([0, 3, 63], dtype=np.uint64)).tolist() == [0, 7, (1 << 63) - 1]
