"""What members are told, and when their waits end."""

from __future__ import annotations

from collections import Counter

import msgspec

from hawker.apps.manager.told import Slots, Told
from hawker.core.membership import Kept

MEMBERS, WAIT = 10_000, 20.0


def test_a_revision_is_of_all_that_is_told() -> None:
    told = [
        Told(drain, schedulers, configuration, removed, ())
        for drain in (False, True)
        for schedulers in ([], ["http://b:1", "http://a:1"])
        for configuration in ({}, {"readers": 2})
        for removed in ([], ["0" * 32])
    ]
    assert len({one.revision for one in told}) == 16
    same = Told(True, ["http://a:1", "http://b:1", "http://b:1"], {"readers": 2}, ["0" * 32], ())
    assert same.revision == told[-1].revision
    kept = msgspec.json.decode(same.answer.body, type=Kept)
    assert kept.revision == same.revision and kept.schedulers == ["http://a:1", "http://b:1"]


def test_few_polls_have_all_of_their_wait() -> None:
    slots = Slots()
    assert [slots.take(100.0, WAIT, 3)[0] for _ in range(3)] == [120.0] * 3


def test_polls_that_come_together_do_not_end_together() -> None:
    slots = Slots()
    polls = [slots.take(100.0, WAIT, MEMBERS) for _ in range(MEMBERS)]
    assert all(100.0 < until <= 120.0 for until, _ in polls)
    crowds = Counter(int(until / Slots.WIDTH) for until, _ in polls)
    # Half as many again as an even spread has.
    assert max(crowds.values()) <= 1.5 * MEMBERS / (WAIT / Slots.WIDTH) + 1
    # They come back as they ended, and most have all of their wait from then on.
    again = []
    for until, slot in sorted(polls):
        slots.give(slot)
        again.append(slots.take(until, WAIT, MEMBERS)[0] - until)
    assert sum(wait > WAIT - 0.001 for wait in again) > 0.8 * MEMBERS


def test_a_place_that_is_given_back_is_had_again() -> None:
    slots = Slots()
    for _ in range(50 * MEMBERS):
        until, slot = slots.take(100.0, WAIT, 1)
        assert until == 120.0
        slots.give(slot)
