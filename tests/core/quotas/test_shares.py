"""Bandwidth is divided fairly, all of it, and never more than there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hawker.core.quotas import divide
from hawker.core.quotas.shares import GROWTH, SHRINK, Demand

demands = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.builds(
        Demand,
        downloads=st.integers(0, 50),
        rate=st.floats(0, 1e9),
        share=st.one_of(st.just(0.0), st.floats(1, 1e9)),
    ),
    min_size=1,
    max_size=20,
)


@given(st.integers(1, 10**10), demands)
def test_the_parts_are_all_there_is_and_no_more(total: int, wanted: dict[str, Demand]) -> None:
    shares = divide(total, wanted)
    assert shares.keys() == wanted.keys()
    assert all(share >= 1 for share in shares.values())
    assert total - len(wanted) - total * 1e-6 <= sum(shares.values()) <= total + len(wanted)


@given(st.integers(1000, 10**10), st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_who_showed_nothing_yet_has_its_part_by_downloads(total: int, counts: list[int]) -> None:
    shares = divide(total, {str(n): Demand(count) for n, count in enumerate(counts)})
    for number, count in enumerate(counts):
        assert abs(shares[str(number)] - total * count / sum(counts)) <= 1


def test_what_a_slow_host_cannot_use_is_the_others() -> None:
    shares = {"slow": 500_000, "hungry": 500_000}
    for _ in range(10):
        demands = {
            "slow": Demand(1, rate=min(100_000, shares["slow"]), share=shares["slow"]),
            "hungry": Demand(1, rate=shares["hungry"], share=shares["hungry"]),
        }
        before, shares = shares["slow"], divide(1_000_000, demands)
        assert shares["slow"] >= int(SHRINK * before), "it comes in bursts"
    # It keeps room to become faster.
    assert shares == {"slow": GROWTH * 100_000, "hungry": 1_000_000 - GROWTH * 100_000}


def test_who_becomes_quick_has_its_fair_part_soon() -> None:
    shares = {"was slow": 50_000, "hungry": 950_000}
    for _ in range(4):
        shares = divide(
            1_000_000,
            {name: Demand(1, rate=share, share=share) for name, share in shares.items()},
        )
    assert shares == {"was slow": 500_000, "hungry": 500_000}


def test_where_nobody_uses_its_part_nothing_is_taken_away() -> None:
    slow = Demand(1, rate=10_000, share=500_000)
    assert divide(1_000_000, {"a": slow, "b": slow}) == {"a": 500_000, "b": 500_000}
