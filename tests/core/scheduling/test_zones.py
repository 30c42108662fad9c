"""A zone takes one copy of a task over its links to the others, and shares it inside."""

from __future__ import annotations

from hawker.core.ids import TaskSpec
from hawker.core.messages import Finished, Have, Left, ParentFailed, Parents
from hawker.core.scheduling.entities import Peer
from tests.core.scheduling.conftest import ALL, GENERATION, World, check, reads

SPEC = TaskSpec(url="http://origin.test/file")
HERE = ("here-1", "here-2", "here-3", "here-4")
THERE = ("there-1", "there-2", "there-3", "there-4")


def swarm(*names: str, named: bool = True) -> World:
    """A seed in one zone, and hosts that ask for the same, each in the zone of its name, if zones
    are `named`."""
    world = World()
    if named:
        world.zones = {name: name.partition("-")[0] for name in ("here-seed", *names)}
    world.join("here-seed", seed=True)
    for name in names:
        world.join(name)
    lease = None
    for name in names:
        found = reads(world.ask(name, SPEC))
        lease = lease or found[0][1]
    assert lease is not None
    world.progress("here-seed", lease)
    return world


def peer(world: World, name: str) -> Peer:
    return world.scheduler._board.tasks[SPEC.task_id].peers[world.host(name)]


def sources(world: World, name: str) -> set[str]:
    """Whom a host was told to take pieces from, by name."""
    names = {world.host(known): known for known in world.keys}
    records = [d for d in world.scheduler.current(world.host(name)) if isinstance(d, Parents)]
    assert len(records) == 1
    return {names[ref.host] for ref in records[0].parents}


def crossing(world: World, *names: str) -> list[str]:
    """Those that take pieces from another zone."""
    zone = world.zones
    return [n for n in names if any(zone[s] != zone[n] for s in sources(world, n))]


def test_only_the_first_of_a_zone_takes_pieces_from_elsewhere() -> None:
    world = swarm(*HERE, *THERE)
    assert crossing(world, *HERE, *THERE) == ["there-1"]
    assert "here-seed" in sources(world, "there-1")
    assert len(sources(world, "there-1") & {*HERE}) >= 3, "a seed alone would be its bottleneck"
    for name in THERE[1:]:
        assert "there-1" in sources(world, name)
    records = world.scheduler.current(world.host("there-1"))
    assert [d.gateway for d in records if isinstance(d, Parents)] == [True]


def test_hosts_that_ask_first_do_not_keep_a_later_gateway_hungry() -> None:
    world = swarm("there-1", "there-2", *HERE)
    assert crossing(world, *HERE, "there-1", "there-2") == ["there-1"]
    assert len(sources(world, "there-1") & {*HERE}) >= 3


def test_a_gateway_that_goes_is_replaced_at_once() -> None:
    world = swarm(*HERE, *THERE)
    world.report("there-1", Left(task=SPEC.task_id))
    assert crossing(world, *HERE, *THERE[1:]) == ["there-2"]
    world.scheduler.leave(world.host("there-2"), world.now)
    check(world.scheduler, world.now)
    assert crossing(world, *HERE, *THERE[2:]) == ["there-3"]


def test_a_gateway_that_lost_all_others_gets_some_again_soon() -> None:
    world = swarm(*HERE, *THERE)
    while found := sources(world, "there-1"):
        for name in found:
            failed = ParentFailed(task=SPEC.task_id, parent=world.host(name), reason="stalled")
            world.report("there-1", failed)
    world.tick(0.25)
    assert not sources(world, "there-1"), "not at once"
    world.tick(1.0)
    assert sources(world, "there-1") & {"here-seed", *HERE}


def test_a_zone_with_all_of_it_takes_nothing_more_from_elsewhere() -> None:
    world = swarm(*HERE, *THERE)
    task = SPEC.task_id
    world.report("there-1", Have(task=task, generation=GENERATION, pieces=ALL))
    world.report("there-1", Finished(task=task, generation=GENERATION))
    assert crossing(world, *HERE, *THERE[1:]) == []
    assert not peer(world, "there-1").gateway
    assert all("there-1" in sources(world, name) for name in THERE[1:])


def test_who_comes_from_a_third_zone_does_not_take_from_a_gateway() -> None:
    world = swarm(*HERE, *THERE, "far-1", "far-2")
    assert crossing(world, *HERE, *THERE, "far-1", "far-2") == ["there-1", "far-1"]
    assert not sources(world, "far-1") & {*THERE}


def test_without_names_of_zones_all_are_together() -> None:
    world = swarm(*HERE, *THERE, named=False)
    assert all("here-seed" in sources(world, name) for name in (*HERE, *THERE))
    assert not any(peer(world, name).gateway for name in (*HERE, *THERE))
