"""The eviction decision, apart from any disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hawker.core.storage.eviction import Stored, choose

OLDEST = 50.0
sizes = st.integers(0, 100)
stores = st.lists(st.tuples(sizes, st.floats(0, 100), st.booleans()), max_size=12).map(
    lambda rows: [Stored(number, *row) for number, row in enumerate(rows)]
)


@given(stores, st.integers(-50, 500))
def test_a_choice_is_enough_minimal_ordered_and_spares_what_is_in_use(
    stored: list[Stored], excess: int
) -> None:
    by_number = {s.number: s for s in stored}
    choice = choose(stored, excess, OLDEST)
    victims = [by_number[number] for number in choice.victims]
    idle = [s for s in stored if not s.in_use]
    old = [s for s in idle if s.used < OLDEST]

    assert len(set(choice.victims)) == len(victims)
    assert not any(s.in_use for s in victims)
    assert all(s.number in choice.victims for s in old)
    assert victims == sorted(victims, key=lambda s: (s.used, s.number))
    assert choice.enough == (sum(s.size for s in idle) >= excess)
    if not choice.enough:
        assert len(victims) == len(old)
    elif len(victims) > len(old):
        # Without its last victim it would not have been enough.
        assert sum(s.size for s in victims[:-1]) < excess
        spared = [s for s in idle if s.number not in choice.victims]
        assert all(s.used >= victims[-1].used for s in spared)


def test_with_room_only_the_old_goes() -> None:
    stored = [Stored(1, 10, 10.0, False), Stored(2, 10, 60.0, False), Stored(3, 10, 5.0, True)]
    assert choose(stored, 0, OLDEST).victims == [1]
