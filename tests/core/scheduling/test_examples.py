"""What the scheduler decides, case by case."""

from __future__ import annotations

import pytest

from hawker.core.digests import Reader
from hawker.core.errors import NotFound, Unavailable
from hawker.core.ids import TaskSpec
from hawker.core.messages import (
    AnyDecision,
    Changed,
    Failed,
    Finished,
    Have,
    ParentFailed,
    Parents,
    Read,
    Register,
    Stop,
    Withdrawn,
)
from hawker.core.pieces import MIB
from hawker.core.ranges import ByteRange
from hawker.core.scheduling import Outgoing
from tests.core.scheduling.conftest import ALL, World, check

SPEC = TaskSpec(url="http://origin.test/file")
GENERATION = "g" * 16


def only(decisions: list[AnyDecision], kind: type) -> AnyDecision:
    found = [decision for decision in decisions if isinstance(decision, kind)]
    assert len(found) == 1, decisions
    return found[0]


def read_of(world: World, out: list[Outgoing], name: str) -> Read:
    read = only(world.of(out, name), Read)
    assert isinstance(read, Read)
    return read


@pytest.fixture
def world() -> World:
    made = World()
    made.join("seed", seed=True)
    for name in ("one", "two", "three"):
        made.join(name)
    return made


def live(world: World, *askers: str) -> Read:
    """A task that the seed reads and these hosts take."""
    read: Read | None = None
    for name in askers:
        out = world.ask(name, SPEC)
        read = read or read_of(world, out, "seed")
    assert read is not None
    world.progress("seed", read)
    return read


def test_the_first_asker_waits_and_the_seed_reads_in_the_same_answer(world: World) -> None:
    out = world.ask("one", SPEC)
    record = only(world.of(out, "one"), Parents)
    assert isinstance(record, Parents) and record.generation == ""
    read = read_of(world, out, "seed")
    assert read.ranges is None and read.spec == SPEC
    assert [r.lease for r in world.scheduler.take_unsaved()] == [read.lease]
    record = only(world.of(world.progress("seed", read), "one"), Parents)
    assert isinstance(record, Parents)
    assert record.generation == GENERATION
    assert [ref.host for ref in record.parents if ref.spine] == [world.host("seed")]
    assert [(r.host, r.lease) for r in record.readers] == [(world.host("seed"), read.lease)]


def test_without_a_seed_the_asker_reads() -> None:
    world = World()
    world.join("one")
    assert read_of(world, world.ask("one", SPEC), "one").task == SPEC.task_id


def test_what_only_the_asker_can_read_no_seed_is_asked_for(world: World) -> None:
    out = world.ask("one", SPEC, private=True)
    assert read_of(world, out, "one") and not world.of(out, "seed")


def test_content_that_nobody_has_and_may_read_is_not_found(world: World) -> None:
    stop = only(world.of(world.ask("one", SPEC, readable=False), "one"), Stop)
    assert isinstance(stop, Stop) and stop.problem.code == "not-found"


def test_a_reader_that_stops_is_replaced_after_two_seconds(world: World) -> None:
    world.join("other", seed=True)
    out = world.ask("one", SPEC)
    first = next(name for name in ("seed", "other") if world.of(out, name))
    second = "other" if first == "seed" else "seed"
    read = read_of(world, out, first)
    for _ in range(25):
        world.progress(first, read, generation="")
        assert world.tick(1) == [], "an origin may take its time to answer at all"
    world.progress(first, read, size=1)
    assert not world.of(world.tick(1.9), second)
    out = world.tick(0.3)
    assert read_of(world, out, first).ranges == [], "the old reader is told to stop"
    again = read_of(world, out, second)
    assert (again.generation, again.validator) == (GENERATION, '"v"')


def test_a_dead_reader_without_strong_validator_means_a_new_generation(world: World) -> None:
    out = world.ask("one", SPEC)
    read = read_of(world, out, "seed")
    world.progress("seed", read, validator="", size=1)
    out = world.scheduler.leave(world.host("seed"), world.now)
    check(world.scheduler, world.now)
    withdrawn = only(world.of(out, "one"), Withdrawn)
    assert isinstance(withdrawn, Withdrawn) and withdrawn.generation == GENERATION
    assert read_of(world, out, "one").generation == ""


def test_a_wider_wish_extends_the_lease(world: World) -> None:
    first = read_of(world, world.ask("one", SPEC, want=[ByteRange(0, MIB)]), "seed")
    assert first.ranges == [ByteRange(0, MIB)]
    wider = read_of(world, world.ask("two", SPEC, want=[ByteRange(MIB, 2 * MIB)]), "seed")
    assert (wider.lease, wider.ranges) == (first.lease, [ByteRange(0, 2 * MIB)])
    assert wider.revision > first.revision
    assert read_of(world, world.ask("three", SPEC), "seed").ranges is None


def test_an_import_counts_only_where_nothing_else_is_known(world: World) -> None:
    key = world.key("one")
    imported = [Reader(key.host, key.public, "import-1")]
    world.offer("one", SPEC, GENERATION, imported)
    record = only(world.of(world.ask("two", SPEC), "two"), Parents)
    assert isinstance(record, Parents) and record.generation == GENERATION
    other = world.key("three")
    world.offer("three", SPEC, "h" * 16, [Reader(other.host, other.public, "import-2")])
    record = only(world.of(world.ask("two", SPEC, want=[ByteRange(0, 1)]), "two"), Parents)
    assert isinstance(record, Parents) and record.generation == GENERATION


def test_stored_pieces_count_only_with_a_lease_of_the_ledger(world: World) -> None:
    seed = world.key("seed")
    read = live(world, "one")
    records = world.scheduler.take_unsaved()
    readers = [Reader(seed.host, seed.public, read.lease)]
    stranger = World()
    stranger.join("one")
    stranger.join("two")
    stranger.offer("one", SPEC, GENERATION, readers)
    assert read_of(stranger, stranger.ask("two", SPEC), "two"), "its pieces do not count"
    restarted = World()
    restarted.scheduler.restore(records)
    restarted.join("one")
    restarted.join("two")
    restarted.offer("one", SPEC, GENERATION, readers)
    out = restarted.ask("two", SPEC)
    record = only(restarted.of(out, "two"), Parents)
    assert isinstance(record, Parents)
    assert [ref.host for ref in record.parents] == [restarted.host("one")]


def test_a_permanent_failure_ends_every_wait_with_its_reason(world: World) -> None:
    read = read_of(world, world.ask("one", SPEC), "seed")
    world.ask("two", SPEC)
    problem = NotFound("the origin has no such object").problem()
    out = world.report("seed", Failed(task=SPEC.task_id, problem=problem, lease=read.lease))
    for name in ("one", "two"):
        stop = only(world.of(out, name), Stop)
        assert isinstance(stop, Stop) and stop.problem == problem


def test_a_passing_failure_is_tried_three_times_by_different_readers(world: World) -> None:
    out = world.ask("one", SPEC)
    problem = Unavailable("broken").problem()
    readers = []
    for _ in range(3):
        reader = next(
            name
            for name in ("seed", "one")
            if any(isinstance(d, Read) for d in world.of(out, name))
        )
        readers.append(reader)
        lease = read_of(world, out, reader).lease
        out = world.report(reader, Failed(task=SPEC.task_id, problem=problem, lease=lease))
    assert readers[:2] == ["seed", "one"]
    stop = only(world.of(out, "one"), Stop)
    assert isinstance(stop, Stop) and stop.problem == problem


def test_a_failed_parent_is_replaced_at_once(world: World) -> None:
    live(world, "one", "two", "three")
    report = ParentFailed(task=SPEC.task_id, parent=world.host("two"), reason="unavailable")
    record = only(world.of(world.report("one", report), "one"), Parents)
    assert isinstance(record, Parents)
    assert world.host("two") not in [ref.host for ref in record.parents]
    assert any(ref.spine for ref in record.parents)


def test_two_accusers_make_a_host_suspect_for_a_while(world: World) -> None:
    live(world, "one", "two", "three")
    for accuser in ("one", "three"):
        accused = ParentFailed(task=SPEC.task_id, parent=world.host("two"), reason="stalled")
        world.report(accuser, accused)
    world.join("four")
    record = only(world.of(world.ask("four", SPEC), "four"), Parents)
    assert isinstance(record, Parents)
    assert world.host("two") not in [ref.host for ref in record.parents]


def test_that_a_parent_gave_up_an_older_generation_is_nothing_against_it(world: World) -> None:
    live(world, "one", "two")
    parent = world.host("two")
    for generation, failures in (("e" * 16, 0), (GENERATION, 1)):
        report = ParentFailed(
            task=SPEC.task_id, parent=parent, reason="not-found", generation=generation
        )
        world.report("one", report)
        assert world.scheduler._board.hosts[parent].failed == failures


def test_who_has_a_part_of_an_older_generation_and_asks_for_the_rest_starts_over(
    world: World,
) -> None:
    read = read_of(world, world.ask("one", SPEC, want=[ByteRange(0, MIB)]), "seed")
    world.progress("seed", read)
    part = Have(task=SPEC.task_id, generation=GENERATION, pieces=[(0, 0)])
    for name in ("seed", "one"):
        world.report(name, part)
    world.ask("one", SPEC, want=[])
    world.ask("two", SPEC)
    out = world.report("seed", Changed(task=SPEC.task_id, generation=GENERATION, lease=read.lease))
    again = read_of(world, [*out, *world.ask("two", SPEC)], "seed")
    world.progress("seed", again, generation="h" * 16)
    out = world.ask("one", SPEC)
    assert any(isinstance(decision, Withdrawn) for decision in world.of(out, "one"))
    record = [d for d in world.of(out, "one") if isinstance(d, Parents)][-1]
    assert record.generation == "h" * 16


def test_when_the_origin_changes_only_those_who_can_finish_keep_their_generation(
    world: World,
) -> None:
    read = live(world, "one", "two")
    world.report("one", Have(task=SPEC.task_id, generation=GENERATION, pieces=ALL))
    world.report("one", Finished(task=SPEC.task_id, generation=GENERATION))
    world.ask("three", SPEC)
    changed = Changed(task=SPEC.task_id, generation=GENERATION, lease=read.lease)
    out = world.report("seed", changed)
    assert not any(isinstance(d, Withdrawn) for name in ("one", "two") for d in world.of(out, name))
    world.join("four")
    out = world.ask("four", SPEC)
    assert any(isinstance(d, Read) and d.generation == "" for _, d in out)


@pytest.mark.parametrize("how", ["reads the new one", "leaves"])
def test_who_waits_for_the_last_holder_of_an_old_generation_starts_over_when_that_goes(
    world: World, how: str
) -> None:
    part = [ByteRange(0, MIB)]
    read = read_of(world, world.ask("one", SPEC, want=part), "seed")
    world.progress("seed", read)
    world.report("seed", Have(task=SPEC.task_id, generation=GENERATION, pieces=[(0, 0)]))
    world.ask("two", SPEC)
    out = world.report("seed", Changed(task=SPEC.task_id, generation=GENERATION, lease=read.lease))
    assert any(isinstance(decision, Withdrawn) for decision in world.of(out, "two"))
    assert not any(isinstance(decision, Withdrawn) for decision in world.of(out, "one"))
    again = read_of(world, [*out, *world.ask("two", SPEC)], "seed")
    if how == "leaves":
        out = world.scheduler.leave(world.host("seed"), world.now)
    else:
        out = world.progress("seed", again, generation="h" * 16)
        # What it wants of the new one is under a lease, or will be.
        record = only(world.of(out, "one"), Parents)
        assert isinstance(record, Parents) and record.generation == "h" * 16
    assert any(isinstance(decision, Withdrawn) for decision in world.of(out, "one"))
    check(world.scheduler, world.now)


def test_a_holder_that_asks_again_and_finishes_is_complete(world: World) -> None:
    live(world, "one")
    world.ask("one", SPEC, want=[])
    world.ask("one", SPEC)
    world.report("one", Finished(task=SPEC.task_id, generation=GENERATION))
    state = world.scheduler._board.tasks[SPEC.task_id].peers[world.host("one")].machine.state
    assert state == "complete"


def test_a_host_that_lost_its_stream_is_dropped_after_five_seconds(world: World) -> None:
    live(world, "one", "two")
    world.scheduler.disconnected(world.host("two"), world.now)
    world.tick(4.9)
    assert world.host("two") in world.scheduler._board.hosts
    world.tick(0.2)
    assert world.host("two") not in world.scheduler._board.hosts


def test_the_same_events_give_the_same_decisions() -> None:
    def play() -> list[Outgoing]:
        world = World(seed=3)
        world.join("seed", seed=True)
        out: list[Outgoing] = []
        for number in range(20):
            world.join(f"peer-{number}")
            out += world.ask(f"peer-{number}", SPEC)
        read = next(d for _, d in out if isinstance(d, Read))
        return out + world.progress("seed", read)

    assert play() == play()


def test_many_peers_join_one_task() -> None:
    world = World()
    world.join("seed", seed=True)
    task = SPEC.task_id
    world.join("peer-0")
    read = read_of(world, world.ask("peer-0", SPEC), "seed")
    world.progress("seed", read)
    for number in range(1, 300):
        world.announce(f"peer-{number}")
        world.scheduler.connected(world.host(f"peer-{number}"), world.now)
        register = Register(task=task, spec=SPEC)
        world.scheduler.report(world.host(f"peer-{number}"), register, world.now)
    check(world.scheduler, world.now)
    peers = world.scheduler._board.tasks[task].peers
    assert max(len(peer.neighbours) for peer in peers.values()) <= 32
    assert max(len(p.children) for p in peers.values() if p.host != world.host("seed")) <= 16
