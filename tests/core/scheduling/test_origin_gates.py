"""An origin that asks to be left alone is, whatever else is read of it; and its budgets hold."""

from __future__ import annotations

import pytest

from hawker.core.messages import LeaseProgress, Read
from hawker.core.pieces import MIB, Layout
from hawker.core.ranges import ByteRange
from hawker.core.scheduling import OriginLimits
from tests.core.scheduling.conftest import GENERATION, World, make, reads, spec
from tests.core.scheduling.test_leases import BIG, fail, stops


def begun(read: Read, *, size: int = 0, pieces: int = 0, layout: Layout = BIG) -> LeaseProgress:
    return LeaseProgress(
        task=read.task,
        lease=read.lease,
        generation=GENERATION,
        layout=layout,
        validator='"v"',
        ranged=True,
        read_bytes=size,
        read_pieces=pieces,
    )


def two_at_work(limits: OriginLimits | None = None) -> tuple[World, Read, Read]:
    """A world whose seed reads two contents of one origin."""
    world = make(limits)
    [(_, one)] = reads(world.ask("one", spec("a")))
    [(_, two)] = reads(world.ask("one", spec("b")))
    return world, one, two


def test_progress_of_another_reading_ends_no_pause_that_the_origin_asked_for() -> None:
    world, one, two = two_at_work()
    world.progress("seed", two, size=1)
    assert not reads(fail(world, "seed", one, retry_after=20.0))
    for size in range(2, 41):
        world.progress("seed", two, size=size)
        assert not reads(world.tick(0.5))
    world.progress("seed", two, size=100)
    assert {read.task for _, read in reads(world.tick(1.0))} == {one.task}


def test_of_two_pauses_the_longer_counts() -> None:
    world, one, two = two_at_work()
    fail(world, "seed", one, retry_after=20.0)
    assert not reads(fail(world, "seed", two, retry_after=2.0))
    assert not reads(world.tick(19.0))
    assert {read.task for _, read in reads(world.tick(1.5))} == {one.task, two.task}


def test_a_success_closes_the_circuit_and_leaves_the_pause() -> None:
    world = make()
    granted = [reads(world.ask("one", spec(name)))[0][1] for name in ("a", "b", "c", "d", "e")]
    world.progress("seed", granted[4], size=1)
    for read in granted[:3]:
        fail(world, "seed", read)
    fail(world, "seed", granted[3], retry_after=5.0)
    for size in range(2, 11):
        world.progress("seed", granted[4], size=size)
        assert not reads(world.tick(0.5))
    world.progress("seed", granted[4], size=20)
    out = reads(world.tick(0.9))
    assert {read.task for _, read in out} == {read.task for read in granted[:4]}, "no open circuit"


def test_what_is_read_in_a_pause_is_read_to_its_end_and_no_further() -> None:
    world = make()
    part = [ByteRange(0, 4 * MIB)]
    [(_, one)] = reads(world.ask("one", spec("a"), want=part))
    [(_, two)] = reads(world.ask("one", spec("b")))
    world.report("seed", begun(one, layout=Layout(64 * MIB, MIB)))
    fail(world, "seed", two, retry_after=10.0)
    assert not reads(world.ask("two", spec("a"))), "more of it would be another request"
    world.now += 10.3
    world.report("seed", begun(one, size=1, layout=Layout(64 * MIB, MIB)))
    wider = {read.task: read.ranges for _, read in reads(world.tick(0.1))}
    assert wider[one.task] == [ByteRange(0, 64 * MIB)] or wider[one.task] is None


def test_bytes_that_never_become_a_piece_are_no_progress() -> None:
    world = make(None, "one")
    out = world.ask("one", spec("x"))
    for attempt in range(3):
        granted = reads(out)
        assert granted, f"attempt {attempt}"
        holder, read = granted[0]
        name = next(name for name in ("seed", "one") if world.host(name) == holder)
        world.report(name, begun(read, size=1000))
        out = fail(world, name, read)
        if not stops(out):
            out = world.tick(2.0)
    [stop] = stops(out)
    assert stop.problem.code == "origin-failed"


def test_a_reader_that_gains_a_piece_each_time_may_go_on() -> None:
    world = make(None, "one")
    out = world.ask("one", spec("x"))
    for _ in range(9):
        [(holder, read)] = reads(out)
        name = next(name for name in ("seed", "one") if world.host(name) == holder)
        world.report(name, begun(read, size=1000, pieces=1))
        assert not stops(fail(world, name, read))
        out = world.tick(2.0)


def test_one_of_several_readers_may_fail() -> None:
    world = make(OriginLimits(readers=4), "one")
    for name in ("second", "third", "fourth"):
        world.join(name, seed=True)
    [(holder, read)] = reads(world.ask("one", spec("x")))
    names = {world.host(name): name for name in ("seed", "second", "third", "fourth")}
    shares = dict(reads(world.report(names[holder], begun(read))))
    assert len(shares) == 4
    other = next(host for host in shares if host != holder)
    assert not stops(fail(world, names[other], shares[other]))


def test_several_readers_of_one_content_keep_to_the_budget_of_leases() -> None:
    world = make(OriginLimits(reads=2, readers=4), "one")
    for name in ("second", "third", "fourth"):
        world.join(name, seed=True)
    [(holder, read)] = reads(world.ask("one", spec("x")))
    names = {world.host(name): name for name in ("seed", "second", "third", "fourth")}
    out = world.report(names[holder], begun(read))
    assert len({host for host, _ in reads(out)}) == 2


@pytest.mark.parametrize(
    ("schedulers", "limits", "own"),
    [
        (1, OriginLimits(reads=16, rate=900), OriginLimits(reads=16, rate=900)),
        (3, OriginLimits(reads=16, rate=900), OriginLimits(reads=5, rate=300)),
        (3, OriginLimits(reads=2, rate=2), OriginLimits(reads=1, rate=1)),
        (3, OriginLimits(reads=16, rate=0), OriginLimits(reads=5, rate=0)),
    ],
)
def test_schedulers_share_the_budget(
    schedulers: int, limits: OriginLimits, own: OriginLimits
) -> None:
    assert limits.divided(schedulers) == own
