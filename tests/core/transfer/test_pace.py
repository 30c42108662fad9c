"""A pace holds over time for all who share it, whenever its limit changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.transfer.pace import BURST_SECONDS, Pace


@given(
    st.lists(st.tuples(st.integers(1, 100_000), st.floats(0, 0.5)), min_size=1, max_size=50),
    st.integers(1_000, 1_000_000),
)
def test_nobody_is_faster_than_the_limit(moves: list[tuple[int, float]], limit: int) -> None:
    pace, now, moved = Pace(0.0), 0.0, 0
    pace.change(limit, 0.0)
    for size, pause in moves:
        now += pause
        ticket = pace.charge(size, now)
        now += pace.wait(ticket, now)
        moved += size
        assert pace.wait(ticket, now) < 1e-6
        assert moved <= limit * (now + BURST_SECONDS) + 1


def test_a_user_that_is_always_there_gets_all_of_it() -> None:
    pace, now = Pace(0.0), 0.0
    pace.change(1_000_000, 0.0)
    for _ in range(100):
        now += pace.wait(pace.charge(50_000, now), now)
    assert now == pytest.approx(5.0)


def test_no_limit_means_no_wait_and_no_debt() -> None:
    pace = Pace(0.0)
    assert pace.wait(pace.charge(10**12, 0.0), 0.0) == 0.0
    pace.change(1_000, 1.0)
    assert pace.wait(pace.charge(1_000, 1.0), 1.0) == pytest.approx(1.0)


def test_nothing_moves_until_there_is_a_part() -> None:
    pace = Pace(0.0)
    pace.change(0, 0.0)
    ticket = pace.charge(1_000, 0.0)
    assert pace.wait(ticket, 100.0) == float("inf")
    pace.change(1_000, 100.0)
    assert pace.wait(ticket, 100.0) == pytest.approx(1.0)
    pace.change(10_000, 100.5)
    assert pace.wait(ticket, 100.5) == pytest.approx(0.05)


def test_what_did_not_come_is_not_waited_for() -> None:
    pace = Pace(0.0)
    pace.change(1_000, 0.0)
    ticket = pace.charge(1_000, 0.0)
    pace.refund(1_000)
    assert pace.wait(ticket, 0.0) == 0.0
