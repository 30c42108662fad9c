"""The pure machine of a download: what it asks of whom, in whatever order things happen."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hawker.core.pieces import KIB, MIB, Layout, PieceSet
from hawker.core.transfer.machine import (
    BUSY_AGAIN,
    BUSY_BACKOFF,
    FAILURES_TO_REPORT,
    HEDGE_AFTER,
    MAX_HEDGES,
    MEASURED_FOR,
    PARALLEL,
    PER_PARENT,
    DownloadMachine,
    Fetch,
    Rarity,
)

COUNT = 24
LAYOUT = Layout(COUNT * 256 * KIB, 256 * KIB)
PARENTS = ["a", "b", "c", "d"]

parents = st.sampled_from(PARENTS)
pieces = st.sets(st.integers(0, COUNT - 1), max_size=COUNT).map(PieceSet.of)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.machine = DownloadMachine(LAYOUT, PieceSet(), random.Random(5))
        self.machine.want = LAYOUT.everything()
        self.now = 0.0
        self.flights: dict[int, Fetch] = {}
        self.banned: set[str] = set()
        self.announced: dict[str, PieceSet] = {}

    @rule(parent=parents)
    def parent_comes(self, parent: str) -> None:
        self.machine.add_parent(parent)
        if parent not in self.banned:
            self.announced.setdefault(parent, PieceSet())

    @rule(parent=parents, have=pieces)
    def parent_has(self, parent: str, have: PieceSet) -> None:
        self.machine.announced(parent, have)
        if parent in self.announced:
            self.announced[parent] |= have

    @rule(parent=parents, ban=st.booleans())
    def parent_goes(self, parent: str, ban: bool) -> None:
        fetches = self.machine.ban(parent) if ban else self.machine.remove_parent(parent)
        for fetch in fetches:
            self.machine.drop(fetch)
            del self.flights[fetch.number]
        if ban:
            self.banned.add(parent)
        self.announced.pop(parent, None)

    @rule(seconds=st.sampled_from([0.0, 0.03, 0.4, 1.2]))
    def plan(self, seconds: float) -> None:
        self.now += seconds
        before = PieceSet()
        for fetch in self.flights.values():
            before |= fetch.pieces
        for fetch in self.machine.plan(self.now):
            assert fetch.pieces <= self.announced[fetch.parent], "only what was announced"
            assert not fetch.pieces & self.machine.valid
            assert not fetch.pieces & self.machine.claimed
            if not fetch.hedge:
                assert not fetch.pieces & before, "no piece twice"
            before |= fetch.pieces
            self.flights[fetch.number] = fetch

    @rule(
        pick=st.integers(0, 100), end=st.sampled_from(["right", "wrong", "busy", "failed", "held"])
    )
    def flight_ends(self, pick: int, end: str) -> None:
        if not self.flights:
            return
        fetch = self.flights.pop(sorted(self.flights)[pick % len(self.flights)])
        if end == "busy":
            self.machine.busy(fetch, 0.02, self.now)
        elif end == "failed":
            self.machine.failed(fetch, self.now)
        else:
            self.machine.received(fetch, len(fetch.pieces) * 256 * KIB, self.now)
            new = fetch.pieces - self.machine.valid
            self.machine.held(new)
            if end == "right":
                self.machine.proven(new)
            elif end == "wrong":
                self.machine.refused(new)

    @rule()
    def held_pieces_prove_right(self) -> None:
        self.machine.proven(self.machine.unproven)

    @invariant()
    def bounded(self) -> None:
        hedges = sum(fetch.hedge for fetch in self.flights.values())
        assert len(self.flights) <= PARALLEL
        assert hedges <= MAX_HEDGES
        for parent, offer in self.machine.offers.items():
            assert offer.have == self.announced[parent]
            assert offer.in_flight == sum(f.parent == parent for f in self.flights.values())

    def teardown(self) -> None:
        """Whatever happened: with one parent that has everything the download completes."""
        self.parent_goes("d", False)
        machine = self.machine
        machine.add_parent("e")
        machine.announced("e", LAYOUT.everything())
        machine.proven(machine.unproven)
        for _ in range(4 * COUNT):
            self.now += 5.0
            self.flights.update({fetch.number: fetch for fetch in machine.plan(self.now)})
            for fetch in self.flights.values():
                machine.received(fetch, 1, self.now)
                machine.proven(fetch.pieces)
            self.flights.clear()
        assert machine.complete


TestMachineInAnyOrder = AnyOrder.TestCase
TestMachineInAnyOrder.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)


def machine_with(offers: dict[str, PieceSet], *, layout: Layout = LAYOUT) -> DownloadMachine:
    machine = DownloadMachine(layout, PieceSet(), random.Random(1))
    machine.want = layout.everything()
    for parent, have in offers.items():
        machine.add_parent(parent)
        machine.announced(parent, have)
    return machine


def test_the_rarest_piece_comes_first() -> None:
    common = PieceSet.first(COUNT) - PieceSet.of([17])
    machine = machine_with({"a": common, "b": common, "c": PieceSet.first(COUNT)})
    first = next(fetch for fetch in machine.plan(0.0) if fetch.parent == "c")
    assert 17 in first.pieces


def test_rare_is_what_one_parent_alone_has() -> None:
    machine = machine_with({"a": PieceSet.of([1, 2]), "b": PieceSet.of([2])})
    assert machine.is_rare(PieceSet.of([1])) and machine.is_rare(PieceSet.of([1, 2]))
    assert not machine.is_rare(PieceSet.of([2]))
    assert not machine.is_rare(PieceSet.of([3])), "nobody has it: it came from the origin"
    machine.remove_parent("b")
    assert machine.is_rare(PieceSet.of([2]))


def test_what_a_parent_offers_to_nobody_else_is_asked_for_first() -> None:
    machine = machine_with({parent: LAYOUT.everything() for parent in PARENTS})
    alone = PieceSet.of([3, 9, 15, 18, 21, 23])
    machine.announced("c", LAYOUT.everything(), alone)
    fetches = machine.plan(0.0)
    first = [fetch for fetch in fetches if fetch.pieces <= alone]
    assert fetches[:PER_PARENT] == first
    assert {fetch.parent for fetch in first} == {"c"}
    # Others are not left out for it.
    assert {fetch.parent for fetch in fetches} == set(PARENTS)


def test_one_parent_gets_a_few_requests_and_many_get_as_many_each() -> None:
    everything = PieceSet.first(COUNT)
    alone = machine_with({"a": everything}).plan(0.0)
    assert [fetch.parent for fetch in alone] == ["a"] * PER_PARENT
    spread = machine_with(dict.fromkeys(PARENTS, everything)).plan(0.0)
    each = PARALLEL // len(PARENTS)
    assert sorted(fetch.parent for fetch in spread) == sorted(PARENTS * each)


def test_a_request_asks_for_a_run_of_pieces() -> None:
    layout = Layout(1024 * MIB, 2 * MIB)
    for fetch in machine_with({"a": layout.everything()}, layout=layout).plan(0.0):
        assert len(fetch.pieces) == 2, "four mebibytes"


def test_what_a_stream_delivers_next_comes_first_and_in_order() -> None:
    machine = machine_with({"a": PieceSet.first(COUNT)})
    machine.urgent = PieceSet.of_run(9, 14)
    asked = [piece for fetch in machine.plan(0.0) for piece in fetch.pieces]
    assert asked[:6] == list(range(9, 15))


def test_a_busy_parent_is_left_alone_for_a_moment() -> None:
    machine = machine_with({"a": PieceSet.first(COUNT)})
    for fetch in machine.plan(0.0):
        machine.busy(fetch, 1.0, 0.0)
    assert machine.plan(0.4) == []
    wake = machine.wake_at(0.4)
    assert wake is not None and 0.4 < wake <= 1.5
    assert machine.plan(1.6)


def test_a_parent_that_stays_busy_is_asked_less_often_until_it_gives_or_says_it_can() -> None:
    machine = machine_with({"a": PieceSet.first(COUNT)})
    now, waits = 0.0, []
    for _ in range(8):
        fetches = machine.plan(now)
        machine.busy(fetches[0], 0.0, now)
        for fetch in fetches[1:]:
            machine.drop(fetch)
        wake = machine.wake_at(now)
        assert wake is not None
        waits.append(wake - now)
        now = wake
    assert waits[0] <= 1.5 * BUSY_BACKOFF
    assert min(waits[1:]) >= 0.5 * BUSY_AGAIN * BUSY_BACKOFF
    assert max(waits) <= 1.5 * BUSY_AGAIN * BUSY_BACKOFF
    machine.received(machine.plan(now)[0], 1, now)
    machine.busy(machine.plan(now)[0], 0.0, now)
    wake = machine.wake_at(now)
    assert wake is not None and wake - now <= 1.5 * BUSY_BACKOFF


def test_a_refusal_costs_what_a_slot_takes_to_fall_free() -> None:
    machine = machine_with({"a": PieceSet.first(COUNT)})
    # A piece takes seven seconds, as seven share a link.
    machine.received(machine.plan(0.0)[0], LAYOUT.piece_length, 7.0)
    fetch = machine.plan(7.0)[0]
    machine.busy(fetch, 0.02, 7.0)
    assert not [again for again in machine.plan(7.4) if again.parent == "a"]
    assert machine.plan(8.6)


def test_a_free_slot_ends_the_wait() -> None:
    machine = machine_with({"a": PieceSet.first(COUNT)})
    for fetch in machine.plan(0.0):
        machine.busy(fetch, 1.0, 0.0)
    assert machine.has_slot("a") and not machine.has_slot("a")
    assert machine.plan(0.1)


def test_only_what_is_not_here_is_news() -> None:
    machine = machine_with({"a": PieceSet.first(COUNT)})
    machine.add_parent("b")
    machine.held(PieceSet.of([0]))
    machine.proven(PieceSet.of([1]))
    assert not machine.announced("b", PieceSet.first(2))
    assert machine.plan(0.0)
    # What is on its way may be late, and this parent the one to repeat the request at.
    assert machine.announced("b", machine.in_flight)
    assert not machine.announced("b", machine.in_flight), "it said so before"
    assert not machine.announced("stranger", PieceSet.first(COUNT))


def test_the_faster_parent_is_asked_first_and_the_others_again_after_a_while() -> None:
    machine = DownloadMachine(LAYOUT, PieceSet(), random.Random(1), parallel=1)
    machine.want = LAYOUT.everything()
    for parent in ("slow", "fast"):
        machine.add_parent(parent)
        machine.announced(parent, PieceSet.first(COUNT))
    asked = []
    for number in range(4 * MEASURED_FOR):
        [fetch] = machine.plan(float(number))
        asked.append(fetch.parent)
        machine.received(fetch, MIB, number + (0.9 if fetch.parent == "slow" else 0.1))
    assert 3 <= asked.count("slow") <= 6


def test_requests_that_fail_together_count_once() -> None:
    machine = machine_with({"a": PieceSet.first(COUNT)})
    now = 0.0
    for time in range(1, FAILURES_TO_REPORT + 1):
        fetches = machine.plan(now)
        assert len(fetches) > 1
        now += 1.0
        told = [machine.failed(fetch, now) for fetch in fetches]
        assert any(told) == (time == FAILURES_TO_REPORT)
        now += 10.0


def test_slow_requests_are_repeated_elsewhere_after_a_second_and_only_some() -> None:
    machine = machine_with({"a": PieceSet.first(COUNT)})
    machine.want = PieceSet.first(3)
    slow = machine.plan(0.0)
    machine.add_parent("b")
    machine.announced("b", PieceSet.first(COUNT))
    assert machine.plan(HEDGE_AFTER * 0.9) == []
    again = machine.plan(HEDGE_AFTER * 1.1)
    assert again and all(fetch.hedge and fetch.parent == "b" for fetch in again)
    assert len(again) <= MAX_HEDGES
    assert all(any(fetch.pieces <= other.pieces for other in slow) for fetch in again)


def test_where_every_request_takes_seconds_none_is_slow_for_that() -> None:
    layout = Layout(100 * MIB, MIB)
    machine = DownloadMachine(layout, PieceSet(), random.Random(1))
    machine.want = layout.everything()
    for number in range(PARALLEL):
        machine.add_parent(f"p{number}")
        machine.announced(f"p{number}", layout.everything())
    usual = 2.5 * HEDGE_AFTER
    begun, now = machine.plan(0.0), 0.0
    full = len(begun)
    for _ in range(3):
        now += usual
        for fetch in begun:
            machine.received(fetch, len(fetch.pieces) * MIB, now)
            machine.proven(fetch.pieces)
        begun = machine.plan(now)
        assert len(begun) == full
    assert not machine.has_room(now + 1.1 * usual)
    assert machine.has_room(now + 3.1 * usual)


def test_rarity_counts_as_a_plain_table_does() -> None:
    rng = random.Random(3)
    rarity, plain = Rarity(), [0] * COUNT
    sets: list[PieceSet] = []
    for _ in range(200):
        if sets and rng.random() < 0.4:
            gone = sets.pop(rng.randrange(len(sets)))
            rarity.remove(gone)
            for piece in gone:
                plain[piece] -= 1
        else:
            new = PieceSet.of(piece for piece in range(COUNT) if rng.random() < 0.5)
            sets.append(new)
            rarity.add(new)
            for piece in new:
                plain[piece] += 1
        assert [rarity.count(piece) for piece in range(COUNT)] == plain
        some = PieceSet.of(rng.sample(range(COUNT), 6))
        least = min(plain[piece] for piece in some)
        assert set(rarity.rarest(some)) == {piece for piece in some if plain[piece] == least}
