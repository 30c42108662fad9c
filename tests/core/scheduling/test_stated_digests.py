"""Content that is not what its origin says it is: taken from everybody, believed of nobody."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from hawker.core.digests import Reader
from hawker.core.errors import BadRequest, DigestMismatch
from hawker.core.ids import TaskSpec
from hawker.core.messages import (
    AnyDecision,
    Failed,
    Finished,
    Have,
    LeaseProgress,
    Parents,
    Read,
    Stop,
    Withdrawn,
)
from hawker.core.scheduling import Outgoing
from tests.core.scheduling.conftest import ALL, LAYOUT, World

SPEC = TaskSpec(url="http://origin.test/x")
GENERATION = "g" * 16
STATED = "sha256:" + "5" * 64
WRONG = DigestMismatch("it has another digest").problem()


def begun(world: World, *, checks: bool = True) -> Read:
    """`one` and `two` wait for what `seed` is reading."""
    world.join("seed", seed=True)
    world.join("one")
    world.join("two")
    [read] = [d for _, d in world.ask("one", SPEC) if isinstance(d, Read)]
    world.ask("two", SPEC)
    at_work(world, read, checks=checks)
    return read


def at_work(world: World, read: Read, *, checks: bool, done: bool = False) -> list[Outgoing]:
    report = LeaseProgress(
        task=read.task,
        lease=read.lease,
        generation=GENERATION,
        layout=LAYOUT,
        validator='"v"',
        ranged=True,
        read_bytes=1,
        done=done,
        digest=STATED,
        checks=checks,
    )
    return world.report("seed", report)


def told(world: World, out: Iterable[Outgoing], name: str, kind: type) -> list[AnyDecision]:
    return [decision for decision in world.of(out, name) if isinstance(decision, kind)]


def record(world: World, name: str) -> Parents:
    """What a host is told when it opens its stream again."""
    [parents] = [d for d in world.scheduler.current(world.host(name)) if isinstance(d, Parents)]
    return parents


def test_a_reader_that_found_the_content_wrong_ends_it_for_everybody() -> None:
    world = World()
    read = begun(world)
    world.report("one", Have(task=read.task, generation=GENERATION, pieces=[(0, 3)]))
    out = world.report("seed", Failed(task=read.task, lease=read.lease, problem=WRONG))
    for name in ("one", "two"):
        assert len(told(world, out, name, Withdrawn)) == 1
        [stop] = told(world, out, name, Stop)
        assert isinstance(stop, Stop) and stop.problem.code == "digest-mismatch"
    assert not [d for _, d in out if isinstance(d, Read)], "it would only be read again"


def test_who_still_has_wrong_content_is_not_believed() -> None:
    world = World()
    read = begun(world)
    world.report("seed", Failed(task=read.task, lease=read.lease, problem=WRONG))
    world.join("late")
    seed = world.key("seed")
    readers = [Reader(seed.host, seed.public, read.lease)]
    world.offer("late", SPEC, GENERATION, readers)
    assert [d for _, d in world.ask("one", SPEC) if isinstance(d, Read)], "nobody has it"
    again = World(seed=8)
    again.keys = world.keys
    again.scheduler.restore(world.scheduler.take_unsaved())
    again.join("late")
    again.offer("late", SPEC, GENERATION, readers)
    again.join("one")
    assert [d for _, d in again.ask("one", SPEC) if isinstance(d, Read)], "nor after a restart"


def test_peers_check_what_no_reader_checks_for_them() -> None:
    world = World()
    read = begun(world)
    assert record(world, "one").digest == "", "its reader does"
    out = world.scheduler.leave(world.host("seed"), world.now)
    assert told(world, out, "two", Parents)
    assert record(world, "one").digest == STATED
    assert read.ranges is None


def test_a_peer_that_found_the_content_wrong_ends_it_for_everybody() -> None:
    world = World()
    read = begun(world, checks=False)
    world.report("seed", Have(task=read.task, generation=GENERATION, pieces=ALL))
    at_work(world, read, checks=False, done=True)
    out = world.report("one", Failed(task=read.task, problem=WRONG))
    assert told(world, out, "two", Withdrawn) and told(world, out, "two", Stop)
    assert told(world, out, "seed", Withdrawn)


def test_nobody_can_talk_away_what_a_reader_has_checked() -> None:
    world = World()
    read = begun(world)
    world.report("seed", Have(task=read.task, generation=GENERATION, pieces=ALL))
    at_work(world, read, checks=True, done=True)
    world.report("seed", Finished(task=read.task, generation=GENERATION))
    out = world.report("one", Failed(task=read.task, problem=WRONG))
    assert not told(world, out, "two", Withdrawn)
    assert record(world, "two").generation == GENERATION
    assert record(world, "two").digest == ""


def test_a_digest_that_is_none_is_refused() -> None:
    world = World()
    read = begun(world)
    report = LeaseProgress(
        task=read.task,
        lease=read.lease,
        generation=GENERATION,
        layout=LAYOUT,
        digest="sha256:" + "x" * 100_000,
    )
    with pytest.raises(BadRequest, match="hex digits"):
        world.report("seed", report)
    assert record(world, "one").digest == ""
