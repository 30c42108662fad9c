"""Limits that change while origins are read, hosts that drain, and schedulers that come and go."""

from __future__ import annotations

import msgspec

from hawker.core.errors import NotFound
from hawker.core.messages import Failed, HostAnnouncement, Left, Parents, Read, WhoHas
from hawker.core.scheduling import OriginLimits, Outgoing
from hawker.core.scheduling.graph import NEIGHBOURS_PICKED
from hawker.core.settings import SchedulerSettings
from tests.core.scheduling.conftest import World, make, reads, spec


def limited(world: World, limits: OriginLimits) -> list[tuple[str, Read]]:
    return reads(world.scheduler.limit(limits, world.now))


def end(world: World, read: Read) -> list[Outgoing]:
    """A reading that ends for good."""
    out = world.report(
        "seed", Failed(task=read.task, problem=NotFound("gone").problem(), lease=read.lease)
    )
    return [*out, *world.tick(0.1)]


def drain(world: World, name: str, *, seed: bool = False, draining: bool = True) -> None:
    announcement = HostAnnouncement(
        url=f"http://{name}/peer", key=world.key(name).public, boot="1", seed=seed
    )
    drained = msgspec.structs.replace(announcement, draining=draining)
    world.scheduler.announce(world.host(name), drained, world.now)


def parents(world: World, name: str) -> set[str]:
    """Whom a host is told to take pieces from now."""
    records = [r for r in world.scheduler.current(world.host(name)) if isinstance(r, Parents)]
    names = {world.host(known): known for known in world.keys}
    return {names[ref.host] for record in records for ref in record.parents}


def test_a_new_rate_is_told_to_who_reads_already() -> None:
    world = make(OriginLimits(rate=1000))
    [(_, one)] = reads(world.ask("one", spec("a")))
    [(_, two)] = [r for r in reads(world.ask("two", spec("b"))) if r[1].task == spec("b").task_id]
    assert (one.rate, two.rate) == (1000, 500)
    told = limited(world, OriginLimits(rate=200))
    assert {(read.lease, read.rate) for _, read in told} == {(one.lease, 100), (two.lease, 100)}
    told = limited(world, OriginLimits(rate=0))
    assert {read.rate for _, read in told} == {0}, "no limit any more"
    assert not limited(world, OriginLimits(rate=0)), "nothing is said twice"


def test_more_readings_begin_as_soon_as_there_may_be_more() -> None:
    world = make(OriginLimits(reads=1))
    assert reads(world.ask("one", spec("a")))
    assert not reads(world.ask("one", spec("b")))
    assert [read.task for _, read in limited(world, OriginLimits(reads=2))] == [
        spec("a").task_id,
        spec("b").task_id,
    ]


def test_fewer_readings_end_none_and_begin_none() -> None:
    world = make(OriginLimits(reads=2))
    [(_, one)] = reads(world.ask("one", spec("a")))
    [(_, two)] = reads(world.ask("one", spec("b")))
    limited(world, OriginLimits(reads=1))
    assert not reads(world.ask("one", spec("c")))
    assert not reads(end(world, one)), "the other is at work still"
    assert [read.task for _, read in reads(end(world, two))] == [spec("c").task_id]


def test_what_a_scheduler_grants_is_its_part_of_the_settings() -> None:
    settings = SchedulerSettings(
        origin_reads=8, origin_rate=900, readers=2, others=["http://b:1", "http://c:1"]
    )
    assert OriginLimits.of(settings) == OriginLimits(reads=2, rate=300, readers=2)


def test_who_drains_gets_no_new_children_and_keeps_those_it_has() -> None:
    world = make(None, "one", "two", "three", "four")
    [(_, read)] = reads(world.ask("one", spec("a")))
    world.progress("seed", read, size=1)
    world.ask("two", spec("a"))
    assert "one" in parents(world, "two")
    drain(world, "one")
    world.ask("three", spec("a"))
    world.ask("four", spec("a"))
    assert "one" in parents(world, "two"), "what runs goes on"
    assert "one" not in parents(world, "three") | parents(world, "four")
    assert parents(world, "one"), "its own users get what they wait for"
    drain(world, "one", draining=False)
    world.join("five")
    world.ask("five", spec("a"))
    assert "one" in parents(world, "five")


def test_who_drains_gets_no_neighbours() -> None:
    world = make(None, *[f"host{number}" for number in range(NEIGHBOURS_PICKED)])
    [(_, read)] = reads(world.ask("host0", spec("a")))
    world.progress("seed", read, size=1)
    for number in range(1, NEIGHBOURS_PICKED):
        world.ask(f"host{number}", spec("a"))
    drain(world, "late")
    world.scheduler.connected(world.host("late"), world.now)
    world.ask("late", spec("a"))
    others = set().union(*(parents(world, f"host{n}") for n in range(NEIGHBOURS_PICKED)))
    assert parents(world, "late") and "late" not in others


def test_what_only_who_drains_has_is_taken_from_it_and_not_from_the_origin() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("a")))
    world.progress("seed", read, size=1, done=True)
    world.scheduler.take_unsaved()
    drain(world, "seed", seed=True)
    assert not reads(world.ask("two", spec("a")))
    assert parents(world, "two"), "there is a way to what it wants"


def test_a_seed_that_drains_is_not_given_an_origin_to_read() -> None:
    world = make()
    drain(world, "seed", seed=True)
    [(reader, _)] = reads(world.ask("one", spec("a")))
    assert reader == world.host("one")
    world.join("spare", seed=True)
    [(reader, _)] = reads(world.ask("one", spec("b")))
    assert reader == world.host("spare")


def test_a_peer_that_drains_reads_only_where_nobody_else_would() -> None:
    world = World()
    for name in ("one", "two"):
        world.join(name)
    drain(world, "one")
    drain(world, "two", draining=False)
    [(reader, read)] = reads(world.ask("one", spec("a")))
    assert reader == world.host("one"), "it is the only one who wants it"
    assert read.spec == spec("a")


def test_a_scheduler_that_others_share_with_from_now_on_waits_for_those_who_know_its_tasks() -> (
    None
):
    world = World()
    world.scheduler.regroup(world.now)
    world.join("seed", seed=True)
    world.join("one")
    out = world.ask("one", spec("a"))
    assert not reads(out)
    assert [d for h, d in out if isinstance(d, WhoHas)], "the others are asked"
    assert not reads(world.tick(2.0)), "hosts are still to come"
    assert reads(world.tick(4.0))


def test_a_scheduler_at_work_asks_its_hosts_before_it_has_read_what_another_decided_for() -> None:
    world = make()
    world.scheduler.regroup(world.now)
    out = world.ask("one", spec("a"))
    asked = {host for host, decision in out if isinstance(decision, WhoHas)}
    assert asked == {world.host("seed"), world.host("two")} and not reads(out)


def test_a_reader_that_goes_to_another_scheduler_is_not_replaced_at_once() -> None:
    """Those who want the same here are about to go, too."""
    world = make()
    world.join("spare", seed=True)
    [(reader, read)] = reads(world.ask("one", spec("a")))
    name = next(name for name in ("seed", "spare") if world.host(name) == reader)
    world.progress(name, read, size=1)
    world.scheduler.regroup(world.now)
    assert not reads(world.report(name, Left(task=read.task)))
    assert not reads(world.tick(1.0))
    assert reads(world.tick(1.5)), "somebody stays"
