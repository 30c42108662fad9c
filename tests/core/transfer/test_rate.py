"""A rate holds over any ten seconds, however the bytes come, and no wait is long."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hawker.core.pieces import KIB, MIB
from hawker.core.transfer.rate import Rate

WINDOW = 10.0


def consume(rate: Rate, chunks: list[bytes], rng: random.Random) -> list[tuple[float, int]]:
    """(time, bytes) of each portion of an endless supply, with hiccups of the consumer's own."""
    now, taken = 0.0, []
    for chunk in chunks:
        for part in rate.portions([chunk]):
            size = sum(map(len, part))
            taken.append((now, size))
            wait = rate.took(size, now)
            assert wait < 2.0, "a reader must be seen to be alive"
            now += wait + (rng.random() if rng.random() < 0.02 else 0.0)
    return taken


def busiest(taken: list[tuple[float, int]]) -> int:
    """Most bytes in any window."""
    most = total = first = 0
    for at, size in taken:
        total += size
        while taken[first][0] <= at - WINDOW:
            total -= taken[first][1]
            first += 1
        most = max(most, total)
    return most


@pytest.mark.parametrize("limit", [1, 1_000, 62_500, 5_000_000, 300_000_000])
@pytest.mark.parametrize("size", [1, 1_000, 64 * KIB, MIB])
def test_no_window_has_much_more_than_the_rate(limit: int, size: int) -> None:
    budget = 40 * limit
    count = max(1, min(5_000, budget // size))
    taken = consume(Rate(limit, 0.0), [bytes(min(size, budget))] * count, random.Random(limit))
    assert busiest(taken) <= max(1.1 * limit * WINDOW, 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 300_000), max_size=20), st.integers(0, 10_000_000))
def test_portions_are_the_same_bytes(sizes: list[int], limit: int) -> None:
    rng = random.Random(1)
    chunks = [rng.randbytes(size) for size in sizes]
    rate = Rate(limit, 0.0)
    parts = [b"".join(part) for part in rate.portions(chunks)]
    assert b"".join(parts) == b"".join(chunks)
    assert all(parts)


def test_many_short_leases_are_no_faster_than_a_long_one() -> None:
    now = 0.0
    for _ in range(100):
        now += Rate(1_000_000, now).took(100_000, now)
    assert now == pytest.approx(10.0)


def test_a_rate_that_changes_holds_from_then_on() -> None:
    rate = Rate(1_000, 0.0)
    rate.took(100, 0.0)
    rate.limit = 10_000_000
    assert rate.took(1_000, 0.1) < 0.01
    rate.limit = 0
    assert rate.took(10**9, 0.1) == 0.0
    assert rate.portion == MIB


def test_a_piece_that_came_slowly_is_not_kept_waiting_for_more() -> None:
    rate = Rate(0, 0.0)
    assert not rate.enough(100 * KIB, 0.2, 256 * KIB)
    assert rate.enough(256 * KIB, 0.2, 256 * KIB)
    assert not rate.enough(256 * KIB, 0.001, 256 * KIB), "a call for each would cost too much"
    assert rate.enough(MIB, 0.001, 256 * KIB)
