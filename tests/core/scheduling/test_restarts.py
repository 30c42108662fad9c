"""What a scheduler makes of what was read before it was started again, or while it was away."""

from __future__ import annotations

from hawker.core.digests import Reader
from hawker.core.messages import (
    Have,
    LeaseProgress,
    Left,
    Parents,
    Read,
    Register,
    WhoHas,
)
from hawker.core.pieces import MIB, Layout
from hawker.core.ranges import ByteRange
from tests.core.scheduling.conftest import (
    ALL,
    GENERATION,
    LAYOUT,
    World,
    make,
    reads,
    restarted,
    spec,
)

OPEN_END = Layout(None, MIB)


def begun_without_end(world: World) -> Read:
    """A seed's lease on content whose length nobody knows, which it has begun to read."""
    [(_, read)] = reads(world.ask("one", spec("x")))
    begun = LeaseProgress(
        task=read.task, lease=read.lease, generation=GENERATION, layout=OPEN_END, validator=""
    )
    world.report("seed", begun)
    return read


def test_after_a_restart_a_reader_at_work_keeps_its_lease() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, size=1)
    again = restarted(world, "seed", "one")
    again.join("seed", seed=True)
    again.join("one")
    assert not reads(again.ask("one", spec("x")))
    again.report("seed", Register(task=read.task, spec=spec("x"), want=[]))
    again.progress("seed", read, size=2)
    assert not reads(again.tick(1.0))
    view = again.scheduler.outline(read.task, again.now)
    assert view is not None
    assert [lease.id for lease in view.leases] == [read.lease]


def test_a_lease_granted_too_early_gives_way_to_the_one_its_reader_has() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, size=1)
    again = restarted(world)
    again.join("seed", seed=True)
    again.join("one")
    [(_, early)] = reads(again.ask("one", spec("x")))
    out = again.progress("seed", read, size=2)
    over = [d.lease for d in again.of(out, "seed") if isinstance(d, Read) and d.ranges == []]
    assert over == [early.lease]
    assert not reads(out)


def test_after_a_restart_remembered_hosts_are_waited_for_and_asked() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, size=1, done=True)
    again = restarted(world, "seed", "one", "two")
    again.join("two")
    assert not reads(again.ask("two", spec("x"))), "somebody may have it"
    assert not reads(again.tick(0.5))
    again.announce("seed", seed=True)
    out = again.scheduler.connected(again.host("seed"), again.now)
    assert [d.task for d in again.of(out, "seed") if isinstance(d, WhoHas)] == [read.task]
    seed = again.key("seed")
    out = again.offer("seed", spec("x"), GENERATION, [Reader(seed.host, seed.public, read.lease)])
    records = [d for d in again.of(out, "two") if isinstance(d, Parents)]
    assert records and records[-1].generation == GENERATION
    assert not reads(again.tick(10.0))


def test_what_was_read_while_the_scheduler_was_away_counts() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    # Its reader said nothing yet: the record names no generation.
    again = restarted(world, "seed", "one")
    again.join("seed", seed=True)
    seed = again.key("seed")
    again.offer("seed", spec("x"), GENERATION, [Reader(seed.host, seed.public, read.lease)])
    again.join("one")
    out = again.ask("one", spec("x"))
    assert not reads(out)
    [record] = [d for d in again.of(out, "one") if isinstance(d, Parents)]
    assert record.generation == GENERATION
    assert [reader.lease for reader in record.readers] == [read.lease]


def test_nobody_else_says_what_was_read_under_such_a_lease() -> None:
    world = make(None, "one", "two")
    [(_, read)] = reads(world.ask("one", spec("x")))
    again = restarted(world)
    for name in ("one", "two"):
        again.join(name)
    seed, two = again.key("seed"), again.key("two")
    for claimed in (
        Reader(seed.host, seed.public, read.lease),
        Reader(two.host, two.public, read.lease),
    ):
        again.offer("two", spec("x"), GENERATION, [claimed])
        assert len(reads(again.ask("one", spec("x")))) <= 1
        view = again.scheduler.outline(read.task, again.now)
        assert view is not None and view.generation in (None, "")


def test_the_end_of_content_of_unknown_length_is_learnt_from_its_reader_after_a_restart() -> None:
    world = make()
    read = begun_without_end(world)
    again = restarted(world, "seed", "one")
    for name in ("seed", "one"):
        again.join(name, seed=name == "seed")
    seed = again.key("seed")
    readers = [Reader(seed.host, seed.public, read.lease)]
    # A child has the beginning and knows no end; the reader saw it while nobody listened.
    part = Register(
        task=read.task, spec=spec("x"), generation=GENERATION, layout=OPEN_END, have=[(0, 3)],
        readers=readers,
    )  # fmt: skip
    assert not reads(again.report("one", part))
    out = again.offer("seed", spec("x"), GENERATION, readers)
    assert not reads(out) and not reads(again.tick(10.0))
    [record] = [d for d in again.of(out, "one") if isinstance(d, Parents)]
    assert record.layout is not None and record.layout.total == LAYOUT.total


def test_a_part_that_nobody_can_finish_is_not_taken_while_all_is_read_again() -> None:
    """Whoever offers it would deliver its beginning, and be cut off once the reader is heard."""
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, validator="", size=1)
    seed = world.key("seed")
    readers = [Reader(seed.host, seed.public, read.lease)]
    again = restarted(world, "seed", "one", "two")
    for name in ("seed", "one", "two"):
        again.join(name, seed=name == "seed")
    part = Register(
        task=read.task, spec=spec("x"), generation=GENERATION, layout=LAYOUT, have=[(0, 3)],
        readers=readers,
    )  # fmt: skip
    out = again.report("one", part) + again.tick(10.0)
    [(_, fresh)] = reads(out)
    assert fresh.generation == "", "all of it is read again"
    out = again.report("two", part)
    records = [d for d in again.of(out, "two") if isinstance(d, Parents)]
    assert not [record for record in records if record.generation == GENERATION]
    out = again.progress("seed", fresh, generation="h" * 16, validator="", size=1)
    for name in ("one", "two"):
        [record] = [d for d in again.of(out, name) if isinstance(d, Parents)]
        assert record.generation == "h" * 16


def test_who_took_the_holders_of_a_part_for_enough_gets_the_rest_once_the_end_is_known() -> None:
    world = make()
    read = begun_without_end(world)
    again = restarted(world, "seed", "one", "two")
    for name in ("one", "two"):
        again.join(name)
    seed = again.key("seed")
    readers = [Reader(seed.host, seed.public, read.lease)]
    part = Register(
        task=read.task, spec=spec("x"), want=[], generation=GENERATION, layout=OPEN_END,
        have=[(0, 3)], readers=readers,
    )  # fmt: skip
    again.report("one", part)
    again.ask("two", spec("x"), readable=False)
    again.join("seed", seed=True)
    out = again.offer("seed", spec("x"), GENERATION, readers)
    record = [d for d in again.of(out, "two") if isinstance(d, Parents)][-1]
    assert again.host("seed") in {parent.host for parent in record.parents if parent.spine}


def test_what_its_reader_knows_of_content_counts_though_its_part_was_heard_of_first() -> None:
    """The scheduler ended before it heard what is read: without a validator all would be again."""
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    again = restarted(world, "seed", "one")
    again.join("seed", seed=True)
    seed = again.key("seed")
    readers = [Reader(seed.host, seed.public, read.lease)]
    again.report("seed", Register(
        task=read.task, spec=spec("x"), want=[], generation=GENERATION, layout=LAYOUT,
        have=[(0, 3)], readers=readers,
    ))  # fmt: skip
    again.progress("seed", read, size=5)
    again.join("one")
    again.ask("one", spec("x"))
    again.progress("seed", read, size=6)
    view = again.scheduler.outline(read.task, again.now)
    assert view is not None and view.generation == GENERATION
    task = again.scheduler._board.tasks[read.task]
    assert task.current is not None and task.current.validator == '"v"'


def test_what_its_reader_knows_of_content_outlives_the_next_restart_too() -> None:
    """Validator, digest and date of content whose part was heard of before its reader."""
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    again = restarted(world, "seed", "one")
    again.join("seed", seed=True)
    seed = again.key("seed")
    offer = Register(
        task=read.task, spec=spec("x"), want=[], generation=GENERATION, layout=LAYOUT,
        have=[(0, 3)], readers=[Reader(seed.host, seed.public, read.lease)],
    )  # fmt: skip
    again.report("seed", offer)
    digest = "sha256:" + "0" * 64
    told = LeaseProgress(
        task=read.task, lease=read.lease, generation=GENERATION, layout=LAYOUT, validator='"v"',
        ranged=True, read_bytes=5, digest=digest, modified=1_700_000_000,
    )  # fmt: skip
    again.report("seed", told)
    third = restarted(again, "seed", "one")
    third.join("seed", seed=True)
    third.report("seed", offer)
    current = third.scheduler._board.tasks[read.task].current
    assert current is not None
    assert (current.validator, current.ranged) == ('"v"', True)
    assert (current.digest, current.modified) == (digest, 1_700_000_000)


def test_after_five_seconds_nobody_is_waited_for_any_more() -> None:
    world = make()
    world.ask("one", spec("x"))
    again = restarted(world, "seed", "one")
    again.join("one")
    assert not reads(again.ask("one", spec("x")))
    assert not reads(again.tick(4.9))
    assert len(reads(again.tick(0.2))) == 1


def test_a_first_start_waits_for_nobody() -> None:
    world = World()
    world.scheduler.expect([], world.now)
    world.join("one")
    assert len(reads(world.ask("one", spec("x")))) == 1


def test_hosts_that_have_nothing_say_so_and_the_read_begins_at_once() -> None:
    world = make(None, "one", "two")
    failover = Register(task=spec("x").task_id, spec=spec("x"), failover=True)
    out = world.report("one", failover)
    asked = {host for host, d in out if isinstance(d, WhoHas)}
    assert asked == {world.host("seed"), world.host("two")}
    assert not reads(out)
    assert not reads(world.report("two", Left(task=failover.task)))
    assert len(reads(world.report("seed", Left(task=failover.task)))) == 1


def test_what_a_reader_said_before_it_heard_of_the_restart_upsets_no_new_lease() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x"), want=[ByteRange(0, MIB)]))
    world.progress("seed", read, size=1)
    again = restarted(world)
    again.join("seed", seed=True)
    again.join("two")
    [(_, early)] = reads(again.ask("two", spec("x")))
    again.progress("seed", read, size=2)
    again.report("seed", Have(task=read.task, generation=GENERATION, pieces=[(0, 0)]))
    [(_, rest)] = reads(again.progress("seed", read, size=2, done=True))
    out = again.progress("seed", early)
    over = [d.lease for d in again.of(out, "seed") if isinstance(d, Read) and d.ranges == []]
    assert over == [early.lease], "it began with the early one before it heard that it is over"
    again.progress("seed", rest, size=1)
    assert not reads(again.tick(1.9))
    view = again.scheduler.outline(read.task, again.now)
    assert view is not None
    assert [lease.id for lease in view.leases] == [rest.lease]


def test_a_layout_that_no_reader_reported_is_refused() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, size=1, done=True)
    again = restarted(world)
    again.join("one")
    seed = again.key("seed")
    lie = Register(
        task=read.task,
        spec=spec("x"),
        want=[],
        generation=GENERATION,
        layout=Layout((LAYOUT.total or 0) - 1, MIB),
        have=ALL,
        readers=[Reader(seed.host, seed.public, read.lease)],
    )
    try:
        again.report("one", lie)
    except Exception as exc:
        assert "other content" in str(exc)
    else:
        raise AssertionError("a false layout was taken")


def test_everybody_who_waited_takes_pieces_from_a_holder_itself() -> None:
    world = make()
    [(_, read)] = reads(world.ask("one", spec("x")))
    world.progress("seed", read, size=1, done=True)
    again = restarted(world, "seed")
    names = [f"peer-{number}" for number in range(6)]
    for name in names:
        again.join(name)
        again.ask(name, spec("x"))
    again.join("seed", seed=True)
    seed = again.key("seed")
    out = again.offer("seed", spec("x"), GENERATION, [Reader(seed.host, seed.public, read.lease)])
    records = {h: d for h, d in out if isinstance(d, Parents)}
    for name in names:
        spine = [ref.host for ref in records[again.host(name)].parents if ref.spine]
        assert seed.host in spine
