"""Links are shared about as max-min fairness would, and never carry more than they can."""

from __future__ import annotations

import numpy as np
import pytest

from hawker.core.simulation.asking import ask as ask_all
from hawker.core.simulation.bits import below, bit_of, draw, lowest_bits, nth_below, place_of
from hawker.core.simulation.crowd import Crowd
from hawker.core.simulation.lanes import Lanes, Part, begin, flow, parts_of, release, settle
from hawker.core.simulation.scenario import Scenario
from hawker.core.transfer.machine import PARALLEL

PIECE = 1000.0


def lanes(*rates: float) -> Lanes:
    """Peers with these links, all ready, and a seed with a link of 1."""
    return Lanes.idle(np.array([*rates, 1.0]), np.zeros(len(rates)))


def ask(lanes: Lanes, lane: int, child: int, source: int) -> None:
    lanes.load[source] += 1
    begin(lanes, lane, child, source, 0, 0, int(lanes.load[source]), PIECE)


def whole(lanes: Lanes, count: int = 1) -> list[Part]:
    """All peers, in so many parts."""
    return parts_of(lanes.peers + 2, lanes.peers, count, np.random.default_rng(1))


def passed(lanes: Lanes, seconds: float) -> list[tuple[int, int, float]]:
    """The lane, the peer and how early of each request that ended in so many seconds."""
    parts = whole(lanes)
    ((lane, child, early),) = flow(lanes, parts, seconds)
    settle(lanes, parts[0])
    return list(zip(lane.tolist(), child.tolist(), early.tolist(), strict=True))


def test_what_one_flow_cannot_take_another_one_does() -> None:
    some = lanes(100.0, 100.0, 20.0)
    ask(some, 0, 1, 0)
    ask(some, 0, 2, 0)
    assert passed(some, 1.0) == []
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
    assert passed(some, 0.1) == []
    moved = (before - some.left) / 0.1
    assert (moved.sum(axis=0) <= some.capacity[:40] * 1.001).all()
    sent = np.bincount(some.source.ravel(), moved.ravel(), 42)
    assert (sent <= some.capacity * 1.001).all()


def test_what_flows_is_the_same_in_one_part_and_in_three() -> None:
    moved = []
    for count in (1, 3):
        rng = np.random.default_rng(2)
        some = lanes(*rng.choice([10.0, 20.0, 50.0], 40))
        for lane in range(PARALLEL):
            for child in range(40):
                ask(some, lane, child, (child + 1 + int(rng.integers(39))) % 40)
        parts = whole(some, count)
        ended = flow(some, parts, 250.0)
        for part in parts:
            settle(some, part)
        assert sum(len(early) for _, _, early in ended) > 20
        moved.append((some.left[np.isfinite(some.left)], some.spare_up, some.spare_down))
    for one, three in zip(*moved, strict=True):
        assert one == pytest.approx(three, rel=1e-3, abs=0.5)


def test_a_request_ends_when_its_bytes_are_there_and_its_lane_is_free() -> None:
    some = lanes(100.0, 100.0)
    ask(some, 3, 1, 0)
    ended = []
    for _ in range(11):
        for lane, child, early in passed(some, 0.95):
            ended.append((lane, child))
            assert early == pytest.approx(0.45, rel=0.01)
            (part,) = whole(some)
            release(some, part, lane, child, 0.0)
            settle(some, part)
    assert ended == [(3, 1)]
    assert some.load[0] == some.active[1] == 0 and some.source[3, 1] == some.nobody


def test_a_host_gives_no_more_than_its_slots_whatever_parts_ask() -> None:
    crowd = Crowd(Scenario(300, 64))
    lanes, wishes = crowd.lanes, crowd.wishes
    lanes.load[:] = 0
    # Ten hosts have everything, and everybody else may ask them alone.
    wishes.told[:, :10] = wishes.lack[:10].T
    wishes.sources[:] = np.arange(len(wishes.sources)) % 10
    wishes.worth[:] = wishes.free
    now = np.float32(1.0)
    parts = parts_of(302, 300, 3, crowd.rng)
    for part in parts:
        ask_all(lanes, wishes, now, now, np.float32(0.0), 8, PIECE, 0, 1.0, 1, part)
    asked = np.bincount(lanes.source[lanes.source != lanes.nobody], minlength=302)
    for part in parts:
        settle(lanes, part)
    assert (lanes.load == asked).all()
    assert (asked[:10] == 8).all() and asked[10:].sum() == 0
    assert sum(int(part.refused[0]) for part in parts) > 0
    crowd.close()


def test_place_of_is_that_of_a_set_bit_from_a_place_on() -> None:
    words = [(0b1010, 0), (0b1010, 2), (0b1010, 4), (1 << 63, 5)]
    assert [place_of(np.uint64(word), turn) for word, turn in words] == [1, 3, 1, 63]
    assert [place_of(np.uint64(1 << place), 0) for place in range(64)] == list(range(64))
    assert [int(bit_of(place)) for place in (0, 63)] == [1, 1 << 63]


def test_numbers_drawn_are_below_their_limits_and_all_of_them_come() -> None:
    state = np.array([1], dtype=np.uint64)
    for limit in (1, 5, 64):
        assert {below(limit, state) for _ in range(4000)} == set(range(limit))


def test_six_numbers_of_one_word_are_below_their_limits_and_all_of_them_come() -> None:
    state = np.array([1], dtype=np.uint64)
    for limit in (1, 5, 56):
        words = [draw(state) for _ in range(2000)]
        for number in range(6):
            assert {nth_below(np.uint64(word), number, limit) for word in words} == set(
                range(limit)
            )


def test_lowest_bits() -> None:
    assert lowest_bits(np.array([0, 3, 63], dtype=np.uint64)).tolist() == [0, 7, (1 << 63) - 1]
