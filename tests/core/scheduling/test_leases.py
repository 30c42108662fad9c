"""Who reads an origin, how many at once, and what the scheduler does when it fails."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from hawker.core.digests import Reader
from hawker.core.errors import HawkerError, OriginFailed, QuotaExceeded, StorageFailed
from hawker.core.messages import (
    Failed,
    Have,
    LeaseProgress,
    Left,
    Length,
    ParentFailed,
    Parents,
    Read,
    Register,
    Stop,
    Withdrawn,
)
from hawker.core.pieces import MIB, Layout, PieceSet
from hawker.core.ranges import ByteRange
from hawker.core.scheduling import OriginLimits, Outgoing
from tests.core.scheduling.conftest import (
    ALL,
    GENERATION,
    LAYOUT,
    World,
    check,
    make,
    reads,
    spec,
)

PART = 64 * MIB
BIG = Layout(1024 * MIB, 2 * MIB)


def stops(out: Iterable[Outgoing]) -> list[Stop]:
    return [d for _, d in out if isinstance(d, Stop)]


def fail(world: World, name: str, read: Read, retry_after: float | None = None) -> list[Outgoing]:
    problem = OriginFailed("the origin is ill", retry_after=retry_after).problem()
    return world.report(name, Failed(task=read.task, problem=problem, lease=read.lease))


def test_a_reader_that_never_says_a_word_loses_its_lease() -> None:
    world = make()
    world.join("other", seed=True)
    [(first, _)] = reads(world.ask("one", spec("x")))
    assert not reads(world.tick(4.9))
    [(second, _)] = reads(world.tick(0.2))
    assert second != first


def test_what_nobody_waits_for_is_not_read_on() -> None:
    world = make()
    [(seed, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, size=1)
    world.ask("two", spec("x"))
    nothing = Register(task=read.task, spec=read.spec, want=[])
    world.report("one", nothing)
    for _ in range(8):
        world.progress("seed", read, size=1)
        assert not world.tick(1.0), "two still waits"
    world.report("two", nothing)
    for _ in range(4):
        world.progress("seed", read, size=1)
        assert not world.tick(1.0), "it may be asked for again at once"
    world.progress("seed", read, size=1)
    out = [*world.tick(1.5), *world.tick(1.0)]
    [over] = [d for host, d in out if isinstance(d, Read) and host == seed]
    assert (over.lease, over.ranges) == (read.lease, [])
    # Somebody who asks later has the rest read.
    [(_, again)] = reads(world.ask("one", spec("x")))
    assert again.lease != read.lease
    check(world.scheduler, world.now)


def test_what_cannot_be_continued_is_read_to_its_end() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, validator="")
    world.report("one", Register(task=read.task, spec=read.spec, want=[]))
    for _ in range(10):
        world.progress("seed", read, validator="")
        assert not world.tick(1.0)


@pytest.mark.parametrize("error", [StorageFailed, QuotaExceeded])
def test_a_reader_that_cannot_store_is_told_alone_and_others_read(
    error: type[HawkerError],
) -> None:
    """Its disk is full: neither the origin is to blame nor do others wait for the same end."""
    world = make()
    full = error("the store cannot be written: File too large").problem()
    [(first, read)] = reads(world.ask("one", spec("x"), private=True))
    assert first == world.host("one")
    for name in ("two", "three", "four", "five"):
        world.join(name)
        world.ask(name, spec("x"), private=True)
    failing = ["one"]
    while len(failing) < 5:
        out = world.report(failing[-1], Failed(task=read.task, problem=full, lease=read.lease))
        assert [host for host, d in out if isinstance(d, Stop)] == [world.host(failing[-1])]
        assert [stop.problem for stop in stops(out)] == [full]
        [(host, read)] = reads(out)
        failing += [name for name in ("two", "three", "four", "five") if world.host(name) == host]
    assert len(set(failing)) == 5
    [stop] = stops(
        world.report(failing[-1], Failed(task=read.task, problem=full, lease=read.lease))
    )
    assert stop.problem == full


@pytest.mark.parametrize("error", [StorageFailed, QuotaExceeded])
def test_a_seed_that_cannot_store_is_said_to_be_why_nobody_reads(
    error: type[HawkerError],
) -> None:
    world = make()
    full = error("the store cannot be written: No space left on device").problem()
    [(seed, read)] = reads(world.ask("two", spec("x")))
    world.ask("one", spec("x"), readable=False)
    out = world.report("seed", Failed(task=read.task, problem=full, lease=read.lease))
    assert seed == world.host("seed")
    [(host, read)] = reads(out)
    assert (host, stops(out)) == (world.host("two"), [])
    out = world.report("two", Failed(task=read.task, problem=full, lease=read.lease))
    assert sorted(host for host, _ in out) == sorted([world.host("one"), world.host("two")])
    assert [stop.problem for stop in stops(out)] == [full, full]


def test_a_living_reader_whose_origin_is_stuck_is_replaced() -> None:
    world = make()
    world.join("other", seed=True)
    [(first, read)] = reads(world.ask("one", spec("x")))
    name = "seed" if first == world.host("seed") else "other"
    world.progress(name, read, size=1)
    for _ in range(40):
        assert not reads(world.tick(1.0))
        world.progress(name, read, size=1)
    [(second, _)] = reads(world.tick(1.0))
    assert second != first


def test_a_reader_that_comes_back_from_a_long_sleep_is_told_to_stop() -> None:
    world = make()
    world.join("other", seed=True)
    [(first, read)] = reads(world.ask("one", spec("x")))
    names = ("seed", "other") if first == world.host("seed") else ("other", "seed")
    world.progress(names[0], read, size=1)
    [(_, again)] = reads(world.tick(2.1))
    out = world.progress(names[0], read, size=2)
    over = [d for d in world.of(out, names[0]) if isinstance(d, Read)]
    assert [(d.lease, d.ranges) for d in over] == [(read.lease, [])]
    assert not reads(world.progress(names[1], again, size=1))


def test_an_origin_has_no_more_leases_than_its_budget() -> None:
    world = make(OriginLimits(reads=2))
    granted = [reads(world.ask("one", spec(name))) for name in ("a", "b", "c")]
    assert [len(each) for each in granted] == [1, 1, 0]
    assert len(reads(world.ask("one", spec("a", "elsewhere.test")))) == 1, "another origin"
    assert not reads(world.tick(1))
    first = granted[0][0][1]
    world.progress("seed", first, size=8)
    world.report("seed", Have(task=first.task, generation=GENERATION, pieces=ALL))
    world.progress("seed", first, size=9, done=True)
    [(_, read)] = reads(world.tick(0.25))
    assert read.spec == spec("c")


def test_leases_of_an_origin_share_its_rate() -> None:
    world = make(OriginLimits(rate=1_000_000))
    [(_, alone)] = reads(world.ask("one", spec("a")))
    assert alone.rate == 1_000_000
    both = {read.task: read.rate for _, read in reads(world.ask("one", spec("b")))}
    assert both == {spec("a").task_id: 500_000, spec("b").task_id: 500_000}


def test_everybody_who_waited_takes_pieces_from_the_reader_itself() -> None:
    names = [f"peer-{number}" for number in range(12)]
    world = make(None, *names)
    read: Read | None = None
    for name in names:
        out = world.ask(name, spec("x"))
        read = read or reads(out)[0][1]
    assert read is not None
    seed = world.host("seed")
    records = {h: d for h, d in world.progress("seed", read) if isinstance(d, Parents)}
    for name in names:
        spine = [ref.host for ref in records[world.host(name)].parents if ref.spine]
        assert seed in spine, f"{name} gets everything at second hand"


def test_what_the_origin_says_holds_for_every_task() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("a")))
    assert not reads(fail(world, "seed", read, retry_after=2.0))
    assert not reads(world.ask("one", spec("b")))
    assert not reads(world.tick(1.9))
    out = world.tick(0.5)
    assert {read.task for _, read in reads(out)} == {spec("a").task_id, spec("b").task_id}
    assert {host for host, _ in reads(out)} == {world.host("seed")}, "it is not the reader's fault"


def test_an_origin_that_asks_for_too_long_a_pause_ends_the_wait_with_the_time() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("a")))
    [stop] = stops(fail(world, "seed", read, retry_after=120.0))
    assert stop.problem.code == "origin-failed"
    assert 119 < (stop.problem.retry_after or 0) < 122
    [stop] = stops(world.ask("two", spec("b")))
    assert 119 < (stop.problem.retry_after or 0) < 122


def test_three_failing_tasks_break_the_circuit_for_a_while() -> None:
    world = make()
    granted = [reads(world.ask("one", spec(name)))[0][1] for name in ("a", "b", "c")]
    for read in granted:
        fail(world, "seed", read)
    assert not reads(world.ask("one", spec("d")))
    # Then one may try, and its success opens the way for all.
    out = world.tick(0.3)
    [(holder, read)] = reads(out)
    name = next(n for n in ("seed", "one") if world.host(n) == holder)
    world.progress(name, read, size=1)
    assert reads(world.tick(1.0))


def test_one_broken_object_does_not_break_the_circuit() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("a")))
    fail(world, "seed", read)
    assert len(reads(world.ask("one", spec("b")))) == 1


def test_several_readers_take_disjoint_parts_once_the_content_allows_it() -> None:
    world = make(OriginLimits(readers=3))
    world.join("other", seed=True)
    [(first, read)] = reads(world.ask("one", spec("x")))
    assert read.ranges == [ByteRange(0, PART)]
    names = {world.host(name): name for name in ("seed", "other", "one")}
    out = world.report(names[first], _begun(read, '"v"'))
    shares = {host: share.ranges or [] for host, share in reads(out)}
    assert len(shares) == 3
    covered = PieceSet()
    for ranges in shares.values():
        for span in ranges:
            pieces = BIG.touching(span)
            assert not covered & pieces, "no byte is read twice"
            covered |= pieces
    assert covered == BIG.everything()


def test_content_without_validator_has_one_reader() -> None:
    world = make(OriginLimits(readers=3))
    world.join("other", seed=True)
    [(first, read)] = reads(world.ask("one", spec("x")))
    name = "seed" if first == world.host("seed") else "other"
    out = world.report(name, _begun(read, ""))
    assert not [host for host, _ in reads(out) if host != first]


def test_the_part_of_a_dead_reader_goes_to_another() -> None:
    world = make(OriginLimits(readers=2))
    world.join("other", seed=True)
    [(first, read)] = reads(world.ask("one", spec("x")))
    names = {world.host(name): name for name in ("seed", "other")}
    out = world.report(names[first], _begun(read, '"v"'))
    parts = {host: share.ranges or [] for host, share in reads(out)}
    dead = next(host for host in parts if host != first)
    out = world.scheduler.leave(dead, world.now)
    check(world.scheduler, world.now)
    pieces = PieceSet()
    for host, share in reads(out):
        assert host != dead
        for span in share.ranges or [ByteRange(0, BIG.total)]:
            pieces |= BIG.touching(span)
    assert BIG.touching(parts[dead][0]) <= pieces


def test_who_comes_later_does_not_make_the_next_reader_read_what_others_hold() -> None:
    world = make()
    world.join("other", seed=True)
    [(first, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed" if first == world.host("seed") else "other", read, size=1)
    world.report("one", Have(task=read.task, generation=GENERATION, pieces=[(0, 3)]))
    [(second, rest)] = reads(world.scheduler.leave(first, world.now))
    assert rest.ranges == [ByteRange(4 * MIB, LAYOUT.total)]
    world.progress("seed" if second == world.host("seed") else "other", rest, size=1)
    assert not reads(world.ask("two", spec("x")))


def test_without_ranges_the_next_reader_continues_the_same_generation() -> None:
    world = make()
    world.join("other", seed=True)
    [(first, read)] = reads(world.ask("one", spec("x")))
    begun = msgspec.structs.replace(_begun(read, '"v"'), ranged=False, read_bytes=1)
    name, other = ("seed", "other") if first == world.host("seed") else ("other", "seed")
    world.report(name, begun)
    out = world.tick(2.1)
    [(second, again)] = reads(out)
    assert second == world.host(other) and (again.ranged, again.generation) == (False, GENERATION)
    assert not any(isinstance(d, Withdrawn) for _, d in out)


def _begun(read: Read, validator: str) -> LeaseProgress:
    return LeaseProgress(
        task=read.task,
        lease=read.lease,
        generation=GENERATION,
        layout=BIG,
        validator=validator,
        ranged=bool(validator),
    )


def test_pieces_that_a_damaged_disk_lost_are_read_again() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read)
    world.report("seed", Have(task=read.task, generation=GENERATION, pieces=ALL))
    world.progress("seed", read, size=1, done=True)
    seed = world.key("seed")
    world.scheduler.leave(world.host("one"), world.now)
    again = Register(
        task=read.task,
        spec=spec("x"),
        generation=GENERATION,
        layout=LAYOUT,
        have=[(0, 2), (4, 7)],
        readers=[Reader(seed.host, seed.public, read.lease)],
    )
    [(_, rest)] = reads(world.report("seed", again))
    assert rest.ranges == [LAYOUT.span((3, 3))]


def test_who_only_offers_gets_no_record_that_could_pass_for_an_answer() -> None:
    """It takes nothing, and what it asks next may be about another generation."""
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, size=1)
    seed = world.key("seed")
    readers = [Reader(seed.host, seed.public, read.lease)]
    world.join("two")
    out = world.offer("two", spec("x"), GENERATION, readers)
    world.join("three")
    out += world.ask("three", spec("x"))
    assert not world.of(out, "two")
    assert not world.scheduler.current(world.host("two"))
    out = world.ask("two", spec("x"), want=[ByteRange(0, MIB)])
    [record] = [d for d in world.of(out, "two") if isinstance(d, Parents)]
    assert record.generation == GENERATION


# ---------------------------------------------------------------------------- lost and away


def test_who_could_read_but_is_away_for_a_moment_is_waited_for() -> None:
    world = World()
    world.join("one")
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("one", read, size=1)
    world.scheduler.disconnected(world.host("one"), world.now)
    assert not stops(world.tick(2.5)), "its lease is over, and nobody else is there"
    assert len(reads(world.scheduler.connected(world.host("one"), world.now))) == 1


def test_a_scheduler_that_stood_still_blames_no_reader_for_it() -> None:
    world = make()
    world.join("other", seed=True)
    [(first, read)] = reads(world.ask("one", spec("x")))
    name = "seed" if first == world.host("seed") else "other"
    world.progress(name, read, size=1)
    world.now += 60
    world.scheduler.excuse(60, world.now)
    assert not reads(world.tick(0.25))
    assert len(reads(world.tick(2.0))) == 1, "it is silent now, too"


def test_after_three_lost_readers_the_wait_ends_and_the_next_who_asks_is_served() -> None:
    world = make(None, "one")
    for name in ("second", "third"):
        world.join(name, seed=True)
    out = world.ask("one", spec("x"))
    for _ in range(3):
        [(reader, _)] = reads(out)
        out = world.scheduler.leave(reader, world.now)
    [stop] = stops(out)
    assert stop.problem.code == "unavailable" and "3 hosts were lost" in stop.problem.detail
    assert len(reads(world.ask("one", spec("x")))) == 1


def test_a_task_that_is_partly_held_is_read_again_after_its_origin_failed() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x"), want=[ByteRange(0, MIB)]))
    world.progress("seed", read, size=1)
    world.report("seed", Have(task=read.task, generation=GENERATION, pieces=[(0, 0)]))
    world.progress("seed", read, size=2, done=True)
    out = world.ask("two", spec("x"))
    while not stops(out):
        out = [*out, *world.tick(5.0)]
        for host, lease in reads(out):
            name = next(name for name in world.keys if world.host(name) == host)
            out = fail(world, name, lease)
    assert stops(out)[0].problem.code == "origin-failed"
    world.tick(60.0)
    assert len(reads(world.ask("two", spec("x")))) == 1, "there is nothing to give up for yet"


# ---------------------------------------------------------------------------- who is believed


def test_only_the_reader_knows_the_length() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    unknown = LeaseProgress(
        task=read.task, lease=read.lease, generation=GENERATION, layout=Layout(None, MIB)
    )
    world.report("seed", unknown)
    lie = Length(task=read.task, generation=GENERATION, total=3)
    assert world.report("one", lie) == []
    out = world.report("seed", Length(task=read.task, generation=GENERATION, total=7 * MIB))
    [record] = [d for d in world.of(out, "one") if isinstance(d, Parents)]
    assert record.layout == Layout(7 * MIB, MIB)


def test_an_accuser_that_was_never_told_to_ask_has_no_evidence() -> None:
    world = make(None, "one", "two", "three")
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read)
    world.report("one", Have(task=read.task, generation=GENERATION, pieces=ALL))
    for accuser in ("two", "three"):
        world.report(accuser, Register(task=read.task, spec=spec("x"), want=[]))
        accusation = ParentFailed(task=read.task, parent=world.host("one"), reason="unavailable")
        world.report(accuser, accusation)
    [view] = [h for h in world.scheduler.hosts() if h["host"] == world.host("one")]
    assert view["failures"] == 0


def test_a_suspect_is_back_after_its_time_and_one_accuser_is_then_enough() -> None:
    world = make(None, "one", "two", "three", "four")
    read: Read | None = None
    for name in ("one", "two", "three"):
        out = world.ask(name, spec("x"))
        read = read or reads(out)[0][1]
    assert read is not None
    world.progress("seed", read)
    bad = world.host("one")
    for accuser in ("two", "three"):
        world.report(accuser, ParentFailed(task=read.task, parent=bad, reason="unavailable"))
    assert bad not in _parents(world, "four")
    world.tick(11)
    world.progress("seed", read, size=10)
    world.report("four", Left(task=read.task))
    assert bad in _parents(world, "four")
    world.report("four", ParentFailed(task=read.task, parent=bad, reason="unavailable"))
    world.join("five")
    assert bad not in _parents(world, "five")


def _parents(world: World, name: str) -> list[str]:
    out = world.ask(name, spec("x"))
    record = [d for d in world.of(out, name) if isinstance(d, Parents)][-1]
    return [ref.host for ref in record.parents]
