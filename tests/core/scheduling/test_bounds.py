"""What holders of the cluster's key can make a scheduler remember is bounded."""

from __future__ import annotations

import pytest

from hawker.core.digests import HostKey, Reader
from hawker.core.errors import BadRequest, Unavailable
from hawker.core.ids import MAX_FIELD_LENGTH, MAX_URL_LENGTH, TaskSpec
from hawker.core.messages import Register, Stop
from hawker.core.ranges import ByteRange
from hawker.core.scheduling import machine, origin, registrations
from hawker.core.scheduling.entities import LeaseRecord
from hawker.core.scheduling.origin import Ledger
from tests.core.scheduling.conftest import LAYOUT, World


def spec(number: int) -> TaskSpec:
    return TaskSpec(url=f"http://origin.test/{number}")


def test_more_hosts_than_the_bound_are_refused_and_room_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "MAX_HOSTS", 5)
    world = World()
    for number in range(5):
        world.join(f"host-{number}")
    with pytest.raises(Unavailable, match="takes no more"):
        world.announce("one-more")
    # Those that are known may announce themselves again.
    world.announce("host-0")
    world.scheduler.leave(world.host("host-1"), world.now)
    world.join("one-more")


def test_a_host_that_only_announces_itself_is_forgotten() -> None:
    world = World()
    world.announce("silent")
    world.announce("again")
    world.join("here")
    world.ask("silent", spec(1))
    world.tick(machine.UNOPENED_TIMEOUT - 1)
    world.announce("again")
    assert len(world.scheduler.host_ids()) == 3
    world.tick(2)
    assert world.scheduler.host_ids() == {world.host("again"), world.host("here")}
    assert world.scheduler.tasks(world.now) == []
    world.tick(machine.UNOPENED_TIMEOUT)
    assert world.scheduler.host_ids() == {world.host("here")}


@pytest.mark.parametrize(("of_host", "of_all"), [(10, 1000), (1000, 10)])
def test_more_tasks_than_the_bound_are_refused_and_who_waits_is_told(
    monkeypatch: pytest.MonkeyPatch, of_host: int, of_all: int
) -> None:
    monkeypatch.setattr(registrations, "MAX_TASKS_OF_HOST", of_host)
    monkeypatch.setattr(registrations, "MAX_TASKS", of_all)
    world = World()
    world.join("host")
    for number in range(10):
        world.ask("host", spec(number))
    [stop] = world.of(world.ask("host", spec(10)), "host")
    assert isinstance(stop, Stop) and stop.problem.status == 503
    assert world.of(world.ask("host", spec(10), want=[]), "host") == []
    assert len(world.scheduler.tasks(world.now)) == 10
    # What is known already may be asked for again.
    assert not any(
        isinstance(d, Stop)
        for d in world.of(world.ask("host", spec(3), want=[ByteRange(0, 1)]), "host")
    )


@pytest.mark.parametrize("field", ["tenant", "tag", "application", "revision", "variant"])
def test_names_as_long_as_a_message_are_refused(field: str) -> None:
    world = World()
    world.join("host")
    long = TaskSpec(url="http://origin.test/x", **{field: "n" * (MAX_FIELD_LENGTH + 1)})
    endless = TaskSpec(url="http://origin.test/" + "u" * MAX_URL_LENGTH)
    for named in (long, endless):
        with pytest.raises(BadRequest, match="a name of more than"):
            world.ask("host", named)
    assert world.scheduler.tasks(world.now) == []


def test_more_readers_than_the_bound_are_refused() -> None:
    world = World()
    world.join("host")
    own = world.key("host")
    readers = [
        Reader(own.host, own.public, f"import-{n}") for n in range(registrations.MAX_READERS + 1)
    ]
    with pytest.raises(BadRequest, match="readers"):
        world.offer("host", spec(1), "0" * 16, readers)
    assert world.scheduler.records() == []


def test_of_lease_records_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "MAX_RECORDS", 3)
    ledger = Ledger()
    key = HostKey.generate()

    def put(lease: str) -> None:
        task = spec(0)
        ledger.put(LeaseRecord(lease, task.task_id, "0" * 16, key.host, key.public, task, LAYOUT))

    for lease in ("a", "b", "c", "a", "d", "e"):
        put(lease)
    kept = {"a", "d", "e"}
    assert {record.lease for record in ledger} == kept
    assert {record.lease for record in ledger.take_unsaved()} == kept
    assert {reader.lease for reader in ledger.readers(spec(0).task_id, "0" * 16)} == kept


def test_many_hosts_of_one_key_holder_cost_no_more_than_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "MAX_HOSTS", 2000)
    monkeypatch.setattr(registrations, "MAX_TASKS", 4000)
    world = World()
    refused = 0
    scheduler = world.scheduler
    for number in range(6000):
        try:
            world.announce(f"h{number}")
        except Unavailable:
            refused += 1
            continue
        for task in range(4):
            named = spec(number * 4 + task)
            register = Register(task=named.task_id, spec=named)
            scheduler.report(world.host(f"h{number}"), register, world.now)
    assert refused == 4000
    assert len(scheduler.host_ids()) == 2000 and len(scheduler.tasks(0.0)) == 4000
    # Nobody opened a stream: a minute later nothing is left of them.
    world.now += machine.UNOPENED_TIMEOUT + 1
    scheduler.tick(world.now)
    assert not scheduler.host_ids() and not scheduler.tasks(0.0)


def test_a_registration_that_makes_no_sense_changes_nothing() -> None:
    """Had it been taken in part, others would rely on a peer that nothing leads to."""
    world = World()
    world.join("seed", seed=True)
    world.join("one")
    world.ask("one", spec(1))

    def told() -> object:
        task = spec(1).task_id
        return world.scheduler.outline(task, world.now), list(world.scheduler.members(task))

    before = told()
    beyond = Register(
        task=spec(1).task_id, spec=spec(1), want=[], generation="a" * 16, layout=LAYOUT,
        have=[(5, 9)],
    )  # fmt: skip
    for name in ("one", "seed"):
        with pytest.raises(BadRequest, match="beyond the end"):
            world.report(name, beyond)
    assert told() == before
