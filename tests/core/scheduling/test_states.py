"""State machines: what a table does not name is an error that names both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.errors import IllegalTransition
from hawker.core.scheduling.states import GENERATION, HOST, PEER, TASK, Machine, Table

TABLES = {"host": HOST, "task": TASK, "generation": GENERATION, "peer": PEER}


def words(table: Table) -> tuple[list[str], list[str]]:
    states = {state for state, _ in table} | set(table.values())
    return sorted(states), sorted({event for _, event in table})


@pytest.mark.parametrize("name", TABLES)
def test_every_pair_is_a_transition_or_an_error_that_names_both(name: str) -> None:
    table = TABLES[name]
    states, events = words(table)
    for state in states:
        for event in events:
            machine = Machine(name, table, state)
            if (state, event) in table:
                assert machine.allows(event)
                assert machine.fire(event) == table[state, event] == machine.state
            else:
                assert not machine.allows(event)
                with pytest.raises(IllegalTransition) as caught:
                    machine.fire(event)
                assert name in str(caught.value)
                assert repr(state) in str(caught.value) and repr(event) in str(caught.value)
                assert machine.state == state


@given(st.sampled_from(sorted(TABLES)), st.lists(st.integers(0, 20), max_size=40))
def test_any_order_of_events_ends_in_a_state_of_the_table(name: str, picks: list[int]) -> None:
    table = TABLES[name]
    states, events = words(table)
    machine = Machine(name, table, next(iter(table))[0])
    for pick in picks:
        event = events[pick % len(events)]
        try:
            machine.fire(event)
        except IllegalTransition as exc:
            assert (exc.state, exc.event) == (machine.state, event)
    assert machine.state in states
