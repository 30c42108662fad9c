"""Which child of a reader may take which piece."""

from __future__ import annotations

import pytest

from hawker.core.pieces import PieceSet
from hawker.core.transfer.turns import (
    ALONE,
    ALONE_AT_MOST,
    EVENT_COST,
    FEW,
    FIRST_TURN,
    HELD_BEAT,
    LONGEST_PAUSE,
    PIECES_AN_EVENT,
    ROUNDS,
    Lateness,
    Turns,
    pause,
)

CHILDREN = (1, 2, 3, 4)


def reading(pieces: int, now: float = 0.0) -> tuple[Turns, PieceSet]:
    """A reader with four children that has just read so many pieces."""
    turns = Turns()
    for child in CHILDREN:
        turns.join(child, now)
    valid = PieceSet.first(pieces)
    turns.deal(valid, now, reading=True, idle=False)
    return turns, valid


def test_each_new_piece_is_offered_to_one_child() -> None:
    turns, valid = reading(8)
    shares = [turns.visible(child, valid) for child in CHILDREN]
    assert [len(share) for share in shares] == [2, 2, 2, 2]
    assert PieceSet.of(piece for share in shares for piece in share) == valid


def test_what_a_child_took_is_not_offered_to_others_while_there_is_more_to_take() -> None:
    turns, valid = reading(8)
    mine = turns.visible(1, valid)
    turns.served(mine, 0.1)
    turns.deal(valid, 0.2 + ALONE, reading=True, idle=False)
    assert not turns.visible(2, valid) & mine
    assert turns.visible(1, valid) == mine
    turns.deal(valid, 0.2 + ALONE_AT_MOST, reading=True, idle=False)
    assert mine <= turns.visible(2, valid)


def test_everything_is_offered_to_all_once_all_of_it_was_read_and_left() -> None:
    turns, valid = reading(8)
    turns.served(valid, 0.1)
    turns.deal(valid, 0.2, reading=True, idle=True)
    assert len(turns.visible(1, valid)) == 2
    turns.deal(valid, 0.2, reading=False, idle=True)
    assert turns.visible(1, valid) == valid
    assert not turns.held


def test_a_child_that_takes_nothing_loses_its_turn_when_others_had_theirs() -> None:
    turns, valid = reading(80)
    theirs = [piece for child in (2, 3, 4) for piece in turns.visible(child, valid)]
    mine = turns.visible(1, valid)
    for number, piece in enumerate(theirs[: ROUNDS * len(CHILDREN)]):
        turns.deal(valid, number * 0.01, reading=True, idle=False)
        turns.served(PieceSet.of([piece]), number * 0.01)
    # Not before its time, however fast the others are.
    turns.deal(valid, FIRST_TURN / 2, reading=True, idle=False)
    assert not turns.visible(2, valid) & mine
    turns.deal(valid, FIRST_TURN, reading=True, idle=False)
    others = [turns.visible(child, valid) & mine for child in (2, 3, 4)]
    assert PieceSet.of(piece for other in others for piece in other) == mine


def test_a_child_that_asks_and_finds_no_slot_keeps_its_turn() -> None:
    turns, valid = reading(80)
    theirs = [piece for child in (2, 3, 4) for piece in turns.visible(child, valid)]
    mine = turns.visible(1, valid)
    for number, piece in enumerate(theirs[: ROUNDS * len(CHILDREN)]):
        turns.served(PieceSet.of([piece]), number * 0.01)
    turns.asked(PieceSet.of([next(iter(mine))]), FIRST_TURN / 2)
    turns.deal(valid, FIRST_TURN, reading=True, idle=False)
    assert turns.alone(1, valid) == mine
    assert not turns.visible(2, valid) & mine


def test_what_is_dealt_to_a_child_is_for_it_alone_until_it_is_passed_on() -> None:
    turns, valid = reading(8)
    for child in CHILDREN:
        assert turns.alone(child, valid) == turns.visible(child, valid)
    mine = turns.alone(1, valid)
    turns.served(valid, 0.1)
    turns.deal(valid, 0.2, reading=False, idle=True)
    assert mine and not turns.alone(1, valid)


def test_who_takes_quickly_is_offered_more() -> None:
    turns, _ = reading(8)
    for count in range(9, 40):
        valid = PieceSet.first(count)
        turns.deal(valid, count * 0.01, reading=True, idle=False)
        turns.served(turns.visible(1, valid), count * 0.01)
    shares = [len(turns.visible(child, valid)) for child in CHILDREN]
    assert shares[0] > 20
    assert max(shares[1:]) < 6


def test_nobody_loses_a_turn_for_a_slow_upload() -> None:
    turns, valid = reading(8)
    turns.deal(valid, 100 * FIRST_TURN, reading=True, idle=False)
    assert [len(turns.visible(child, valid)) for child in CHILDREN] == [2, 2, 2, 2]
    # With slots free it is the children who do not come.
    turns.deal(valid, 100 * FIRST_TURN, reading=True, idle=True)
    assert sum(len(turns.visible(child, valid)) for child in CHILDREN) == 16


def test_what_a_child_was_to_take_or_had_alone_is_not_lost_with_it() -> None:
    turns, valid = reading(8)
    mine = turns.visible(1, valid)
    first = PieceSet.of([next(iter(mine))])
    turns.served(first, 0.1)
    turns.leave(1, 0.2)
    shares = [turns.visible(child, valid) for child in (2, 3, 4)]
    assert all(first <= share for share in shares)
    assert PieceSet.of(piece for share in shares for piece in share) == valid


def test_what_was_read_before_the_second_child_came_is_offered_to_one_each() -> None:
    turns = Turns()
    valid = PieceSet.first(4)
    turns.deal(valid, 0.0, reading=True, idle=True)
    turns.join(1, 0.0)
    turns.deal(valid, 0.0, reading=True, idle=True)
    assert turns.visible(1, valid) == valid
    turns.served(PieceSet.of([2]), 0.1)
    turns.join(2, 0.1)
    turns.deal(valid, 0.1, reading=True, idle=True)
    one, two = (turns.visible(child, valid) for child in (1, 2))
    assert one & two == PieceSet.of([2]), "it left already"
    assert one | two == valid


def test_a_child_alone_may_have_everything() -> None:
    turns, valid = reading(8)
    for child in (1, 2, 3):
        turns.leave(child, 0.1)
    assert turns.visible(4, valid) == valid
    more = PieceSet.first(9)
    turns.deal(more, 0.2, reading=True, idle=True)
    assert turns.visible(4, more) == more


def test_events_are_as_rare_as_pieces_are_slow_and_as_many_streams_allow() -> None:
    turns = Turns()
    assert turns.pause(8, 100.0) == pytest.approx(8 * EVENT_COST)
    for number in range(1, 101):
        # A piece each 50 ms.
        turns.deal(PieceSet.first(number), 100.0 + number / 20, reading=False, idle=True)
        wait = turns.pause(8, 100.0 + number / 20)
    assert wait == pytest.approx(PIECES_AN_EVENT * 0.05, rel=0.1)
    # Many streams cost time, however fast pieces come.
    assert turns.pause(200, 105.0) == pytest.approx(200 * EVENT_COST)
    turns.deal(PieceSet.first(101), 165.0, reading=False, idle=True)
    assert turns.pause(8, 165.0) == LONGEST_PAUSE


def test_who_has_little_tells_each_piece_at_once() -> None:
    assert pause(8, 0.05, 1) < 0.02 < pause(8, 0.05, 16) < pause(8, 0.05, 64) < LONGEST_PAUSE


def test_the_few_pieces_that_readers_of_small_parts_wait_for_are_told_at_once() -> None:
    turns = Turns()
    for number in range(101):
        turns.deal(PieceSet.first(number), 100.0 + number / 20, reading=True, idle=True)
        turns.pause(2, 100.0 + number / 20)
    assert turns.pause(2, 105.0, 0.01, coming=FEW + 1) > PIECES_AN_EVENT * 0.05
    assert turns.pause(2, 105.0, 0.01, coming=FEW) == pytest.approx(2 * EVENT_COST)


def test_with_nothing_newer_an_idle_reader_offers_what_was_taken_again_one_by_one() -> None:
    turns, valid = reading(8)
    turns.served(valid, 0.1)
    mine = turns.visible(1, valid)
    hidden = valid - mine
    turns.deal(valid, 0.2 + ALONE, reading=True, idle=False)
    assert turns.visible(1, valid) == mine, "its uplink is for what is new"
    for number in range(1, 4):
        turns.deal(valid, 0.2 + ALONE + number * 1.01 * HELD_BEAT, reading=True, idle=True)
    again = turns.visible(1, valid) & hidden
    others = [turns.visible(child, valid) for child in CHILDREN]
    assert sum(map(len, others)) == len(valid) + 3 * (len(CHILDREN) - 1)
    assert len(again) <= 3


def test_the_first_pause_is_short_however_long_the_clock_runs() -> None:
    turns = Turns(seen=PieceSet.first(5))
    assert turns.pause(4, 1e6) == pytest.approx(4 * EVENT_COST)


def test_a_host_that_wakes_late_tells_others_less_often() -> None:
    assert pause(8, 0.01, 100) < pause(8, 0.01, 100, 0.02) < LONGEST_PAUSE
    assert pause(8, 0.01, 100, 1.0) == LONGEST_PAUSE, "its heart still beats"
    late = Lateness()
    for _ in range(100):
        late.woke(0.05)
    assert late.seconds == pytest.approx(0.05, rel=0.01)
    late.woke(-0.01)
    assert 0.0 < late.seconds < 0.05
