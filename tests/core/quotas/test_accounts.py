"""Whatever hosts say in whatever order, together they get no more of a quota than there is; and
what there is they get."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hawker.core.limits import Limits
from hawker.core.messages import Allowance, Claim, ClaimKind, Idle, Usage
from hawker.core.quotas import Accounts, Spent
from hawker.core.quotas.accounts import FEW

PERIOD = 1000
WALL = 5_000_000.0
STORED, PLACES, BUDGET = 1000, 3, 500
LIMITS = Limits(
    stored_bytes=STORED,
    bandwidth=1_000_000,
    concurrent_downloads=PLACES,
    origin_bytes=BUDGET,
    origin_period=PERIOD,
)


@dataclass
class FakeHost:
    """A host as accounts see it: says all that it uses, takes what it is told."""

    life: str = "life"
    claims: dict[int, Claim] = field(default_factory=dict)
    read: int = 0
    stored: list[tuple[float, int]] = field(default_factory=list)
    kept: int | None = None
    told: Allowance | None = None
    moved: bool = False
    told_idle: int = 64

    def usage(self) -> Usage:
        return Usage(
            task="",
            tenant="acme",
            life=self.life,
            claims=list(self.claims.values()),
            period=int(WALL // PERIOD),
            read_bytes=self.read,
            stored_bytes=sum(size for _, size in self.stored),
            idle=[Idle(used, size) for used, size in sorted(self.stored)[: self.told_idle]],
            idle_bytes=sum(size for _, size in self.stored),
            kept=self.kept,
            moved=self.moved,
        )

    def hear(self, told: Allowance) -> None:
        self.told = told
        for number in told.granted:
            if number in self.claims:
                claim = self.claims[number]
                self.claims[number] = msgspec.structs.replace(claim, granted=True)
        for refused in told.refused:
            self.claims.pop(refused.number, None)
        self.kept = told.keep
        if told.keep is not None:
            self.stored.sort()
            while self.stored and sum(size for _, size in self.stored) > told.keep:
                self.stored.pop(0)

    def granted(self, kind: ClaimKind) -> list[Claim]:
        return [c for c in self.claims.values() if c.kind == kind and c.granted]


class Play:
    """Hosts and the accounts of a scheduler, which may be started anew."""

    def __init__(self, hosts: int = 3) -> None:
        self.accounts = Accounts({"acme": LIMITS})
        self.hosts = {f"h{n}": FakeHost() for n in range(hosts)}
        self.ledger: list[Spent] = []
        self.now, self.number = 0.0, 0

    def say(self, name: str) -> None:
        self.accounts.take(name, self.hosts[name].usage(), self.now, WALL)
        self.hosts[name].moved = False
        self.ledger += self.accounts.take_unsaved()

    def pass_on(self) -> None:
        """Hosts hear what was decided, and say what they made of it, until nothing is new."""
        for _ in range(20):
            changed = self.accounts.take_changed()
            if not changed:
                return
            for name, told in changed:
                self.hosts[name].hear(told)
            for name in {name for name, _ in changed}:
                self.say(name)
        raise AssertionError("accounts and hosts never settle")

    def claim(self, name: str, kind: ClaimKind, size: int) -> int:
        self.number += 1
        self.hosts[name].claims[self.number] = Claim(self.number, kind, size)
        self.say(name)
        return self.number

    def use(self, name: str, number: int) -> None:
        """A claim that was granted is used up."""
        host, claim = self.hosts[name], self.hosts[name].claims[number]
        del host.claims[number]
        if claim.granted and claim.kind == "read":
            host.read += claim.size
        elif claim.granted and claim.kind == "room":
            host.stored.append((self.now + self.number, claim.size))
        self.say(name)

    def restart(self) -> None:
        """The scheduler forgets all but what it wrote down; hosts tell it anew."""
        self.accounts = Accounts({"acme": LIMITS})
        self.accounts.restore(self.ledger)
        self.accounts.waiting = True
        for name in self.hosts:
            self.say(name)
        self.accounts.waiting = False
        self.accounts.tick(self.now, WALL)

    def check(self) -> None:
        hosts = self.hosts.values()
        assert sum(len(h.granted("place")) for h in hosts) <= PLACES
        read = sum(h.read + sum(c.size for c in h.granted("read")) for h in hosts)
        assert read <= BUDGET
        stored = sum(size for h in hosts for _, size in h.stored)
        room = sum(c.size for h in hosts for c in h.granted("room"))
        assert stored + room <= STORED


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("claim"),
            st.integers(0, 2),
            st.sampled_from(["place", "read", "room"]),
            st.integers(1, 400),
        ),
        st.tuples(st.just("use"), st.integers(0, 2), st.integers(0, 20)),
        st.tuples(st.just("hear")),
        st.tuples(st.just("restart")),
        st.tuples(st.just("reboot"), st.integers(0, 2)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_no_quota_is_ever_passed(told: list[tuple[object, ...]]) -> None:
    play = Play()
    read_before = 0
    for step in told:
        match step:
            case ("claim", int(host), str(kind), int(size)):
                kind_: ClaimKind = msgspec.convert(kind, ClaimKind)
                play.claim(f"h{host}", kind_, 1 if kind == "place" else size)
            case ("use", int(host), int(which)):
                known = list(play.hosts[f"h{host}"].claims)
                if known:
                    play.use(f"h{host}", known[which % len(known)])
            case ("hear",):
                play.pass_on()
            case ("restart",):
                play.restart()
            case ("reboot", int(host)):
                name = f"h{host}"
                old = play.hosts[name]
                read_before += old.read
                play.accounts.gone(name, play.now, WALL)
                play.hosts[name] = FakeHost(old.life + "'", stored=old.stored)
                play.say(name)
        play.check()
        now_read = sum(host.read for host in play.hosts.values())
        assert read_before + now_read <= BUDGET, "also by lives that are over"
    play.pass_on()
    play.check()


def test_places_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    play = Play()
    first = [play.claim(f"h{n % 3}", "place", 1) for n in range(6)]
    play.pass_on()

    def having() -> set[int]:
        return {c.number for h in play.hosts.values() for c in h.granted("place")}

    assert having() == set(first[:3])
    play.use("h1", first[1])
    play.pass_on()
    assert having() == {first[0], first[2], first[3]}


def test_a_host_that_is_gone_gives_its_places_back() -> None:
    play = Play()
    for _ in range(3):
        play.claim("h0", "place", 1)
    waiting = play.claim("h1", "place", 1)
    play.pass_on()
    assert not play.hosts["h1"].granted("place")
    play.accounts.gone("h0", play.now, WALL)
    del play.hosts["h0"]
    play.pass_on()
    assert [c.number for c in play.hosts["h1"].granted("place")] == [waiting]


def test_the_budget_is_used_to_its_end_and_then_refused_until_the_next_period() -> None:
    play = Play()
    for size in (300, 200):
        play.use("h0", _granted(play, "h0", "read", size))
    number = play.claim("h1", "read", 1)
    play.hosts["h1"].hear(dict(play.accounts.take_changed())["h1"])
    told = play.hosts["h1"].told
    assert told is not None
    assert [(r.number, r.retry_after) for r in told.refused] == [(number, PERIOD)]
    play.say("h1")
    play.accounts.take("h1", play.hosts["h1"].usage(), 0.0, WALL + PERIOD)
    play.hosts["h1"].claims[99] = Claim(99, "read", 500)
    play.accounts.take("h1", play.hosts["h1"].usage(), 0.0, WALL + PERIOD)
    assert dict(play.accounts.take_changed())["h1"].granted == [99]


def test_what_was_claimed_and_not_read_is_others_to_read() -> None:
    play = Play()
    number = _granted(play, "h0", "read", 500)
    del play.hosts["h0"].claims[number]
    play.hosts["h0"].read = 100
    play.say("h0")
    _granted(play, "h1", "read", 400)


def test_the_longest_unused_content_of_all_hosts_is_evicted_first() -> None:
    play = Play()
    play.hosts["h0"].stored = [(10, 300), (40, 200)]
    play.hosts["h1"].stored = [(20, 300), (30, 200)]
    for name in play.hosts:
        play.say(name)
    play.claim("h2", "room", 400)
    play.pass_on()
    assert play.hosts["h0"].stored == [(40, 200)]
    assert play.hosts["h1"].stored == [(30, 200)]
    assert [c.size for c in play.hosts["h2"].granted("room")] == [400]
    usage = play.accounts.usage(WALL)[0]
    assert usage.stored_bytes == 400


def test_what_is_in_use_is_not_evicted_and_what_does_not_fit_is_refused_at_once() -> None:
    play = Play()
    play.hosts["h0"].stored = [(10, 900)]
    busy = msgspec.structs.replace(play.hosts["h0"].usage(), idle=[], idle_bytes=0)
    play.accounts.take("h0", busy, 0.0, WALL)
    number = play.claim("h1", "room", 200)
    told = dict(play.accounts.take_changed())["h1"]
    assert [r.number for r in told.refused] == [number]
    assert told.keep is None


def test_who_takes_a_tenant_over_waits_for_what_the_hosts_have_already() -> None:
    play = Play()
    for n in range(3):
        _granted(play, f"h{n}", "place", 1)
    play.accounts = Accounts({"acme": LIMITS})
    play.hosts["h0"].moved = True
    extra = play.claim("h0", "place", 1)
    assert not play.accounts.take_changed()
    play.say("h1")
    play.say("h2")
    play.now = 3.0
    play.accounts.tick(play.now, WALL)
    play.pass_on()
    assert extra not in {c.number for c in play.hosts["h0"].granted("place")}
    play.check()


def test_bandwidth_is_divided_among_those_that_download() -> None:
    play = Play()

    def downloading(name: str, count: int, rate: int = 0) -> None:
        usage = msgspec.structs.replace(play.hosts[name].usage(), downloads=count, rate=rate)
        play.accounts.take(name, usage, play.now, WALL)
        for host, told in play.accounts.take_changed():
            play.hosts[host].hear(told)

    def shares() -> list[int]:
        return [h.told.bandwidth if h.told else 0 for h in play.hosts.values()]

    downloading("h0", 1)
    assert shares() == [1_000_000, 0, 0]
    downloading("h1", 1)
    assert shares() == [500_000, 500_000, 0]
    # One of them cannot use its part, as is seen after a while.
    play.now = 5.0
    downloading("h0", 1, rate=500_000)
    downloading("h1", 1, rate=100_000)
    play.accounts.tick(play.now, WALL)
    downloading("h1", 1, rate=100_000)
    assert shares() == [750_000, 250_000, 0]
    downloading("h1", 0)
    assert shares() == [1_000_000, 0, 0]


def test_parts_of_the_bandwidth_outlive_who_gave_them() -> None:
    play = Play()
    for name, part in (("h0", 900_000), ("h1", 100_000)):
        usage = msgspec.structs.replace(
            play.hosts[name].usage(), downloads=1, bandwidth=part, rate=part
        )
        play.accounts.take(name, usage, play.now, WALL)
    assert not play.accounts.take_changed(), "nothing is divided before they showed what they use"
    play.now = 5.0
    play.accounts.tick(play.now, WALL)
    assert {host: told.bandwidth for host, told in play.accounts.take_changed()} == {
        "h0": 800_000,
        "h1": 200_000,
    }


def test_limits_that_change_hold_from_then_on() -> None:
    play = Play()
    for _ in range(3):
        _granted(play, "h0", "place", 1)
    fewer = msgspec.structs.replace(LIMITS, concurrent_downloads=1)
    assert play.accounts.limit({"acme": fewer}) == {"acme"}
    assert play.accounts.limit({"acme": fewer}) == set()
    assert len(play.hosts["h0"].granted("place")) == 3, "what runs goes on"
    waiting = play.claim("h1", "place", 1)
    for number in list(play.hosts["h0"].claims)[:2]:
        play.use("h0", number)
    play.pass_on()
    assert not play.hosts["h1"].granted("place")
    assert play.accounts.limit({}) == {"acme"}
    assert play.accounts.record("h1", "acme").limits.unlimited
    assert waiting in play.hosts["h1"].claims


def _granted(play: Play, name: str, kind: ClaimKind, size: int) -> int:
    number = play.claim(name, kind, size)
    play.pass_on()
    assert number in {c.number for c in play.hosts[name].granted(kind)}
    return number


def test_a_longer_period_does_not_leave_what_is_read_uncounted() -> None:
    """The numbers of its periods are smaller than those of before."""
    play = Play()
    play.say("h0")
    first = play.claim("h0", "read", 400)
    play.pass_on()
    play.use("h0", first)
    longer = msgspec.structs.replace(LIMITS, origin_period=10 * PERIOD)
    play.accounts.limit({"acme": longer})
    usage = msgspec.structs.replace(
        play.hosts["h0"].usage(), period=int(WALL // (10 * PERIOD)), read_bytes=BUDGET
    )
    play.accounts.take("h0", usage, play.now, WALL)
    [standing] = play.accounts.usage(WALL)
    assert standing.origin_bytes >= BUDGET


def test_quotas_that_are_taken_away_and_set_again_are_not_new_ones() -> None:
    play = Play()
    number = play.claim("h0", "read", 400)
    play.pass_on()
    play.use("h0", number)
    play.accounts.limit({})
    play.accounts.limit({"acme": LIMITS})
    [standing] = play.accounts.usage(WALL)
    assert standing.origin_bytes == 400


def test_many_small_entries_make_room_for_a_large_one() -> None:
    """A host tells some of what it could evict, and how much it is in all."""
    play = Play(1)
    host = play.hosts["h0"]
    host.stored = [(float(n), 10) for n in range(100)]
    host.told_idle = 5
    number = play.claim("h0", "room", 800)
    play.pass_on()
    assert number in {claim.number for claim in host.granted("room")}
    assert [used for used, _ in host.stored] == [float(n) for n in range(80, 100)]
    play.claim("h0", "room", 1001)
    play.pass_on()
    assert len(host.stored) == 20 and len(host.claims) == 1, "nothing is evicted in vain"


def work(call: Callable[[], object]) -> int:
    """Lines of the accounts that it runs."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if "quotas" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("kind", ["place", "room"])
def test_what_one_host_says_costs_no_look_at_all_others(kind: ClaimKind) -> None:
    """Also where claims of many wait."""

    def of(hosts: int) -> int:
        play = Play(hosts)
        for name, host in play.hosts.items():
            host.stored = [(1.0, STORED // hosts)]
            play.say(name)
            play.claim(name, kind, 1)
        play.accounts.take_changed()
        play.hosts["h1"].read = 1
        return work(lambda: play.say("h1"))

    assert of(500) < of(5) * 2


def test_many_hosts_are_told_of_their_parts_bit_by_bit() -> None:
    count, now = FEW * 3 + 7, 10.0
    accounts = Accounts({"acme": Limits(bandwidth=10**9)})
    told: dict[str, Allowance] = {}

    def pass_time(seconds: float) -> int:
        nonlocal now
        most, end = 0, now + seconds
        while now < end:
            now += 0.25
            accounts.tick(now, WALL)
            changed = accounts.take_changed()
            most = max(most, len(changed))
            told.update(changed)
        return most

    for number in range(count):
        usage = Usage(task="", tenant="acme", life="life", downloads=1)
        accounts.take(f"h{number}", usage, now, WALL)
        told.update(accounts.take_changed())
    assert pass_time(5.0) <= FEW
    assert len(told) == count and min(t.bandwidth for t in told.values()) > 0
    assert sum(t.bandwidth for t in told.values()) <= 10**9
    # One more: who is to be slower hears it first.
    accounts.take("new", Usage(task="", tenant="acme", life="life", downloads=1), now, WALL)
    while "new" not in told:
        assert pass_time(0.25) <= FEW
        assert sum(t.bandwidth for t in told.values()) <= 10**9
    assert now < 20.0 and told["new"].bandwidth > 0


def test_another_bandwidth_holds_from_the_next_tick() -> None:
    play = Play(1)
    usage = msgspec.structs.replace(play.hosts["h0"].usage(), downloads=1)
    play.accounts.take("h0", usage, 10.0, WALL)
    play.accounts.take_changed()
    play.accounts.limit({"acme": msgspec.structs.replace(LIMITS, bandwidth=1000)})
    play.accounts.tick(10.1, WALL)
    [(_, told)] = play.accounts.take_changed()
    assert told.bandwidth == 1000
