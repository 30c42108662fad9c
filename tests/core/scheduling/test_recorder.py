"""What is recorded of tasks is what happened: observers and replays see the scheduler's state."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant

from hawker.core.messages import Have, Left, ParentFailed, Register
from hawker.core.scheduling import Scheduler, frames_of, recorder, track
from hawker.core.scheduling.entities import Task
from hawker.core.scheduling.recorder import Recorder
from hawker.core.window import ORIGIN, Frame, SeenTask, decode_frame, fold
from tests.core.scheduling.conftest import GENERATION, LAYOUT, World, make, reads, spec
from tests.core.scheduling.test_any_order import Swarm

X = spec("x")


def recorder_of(world: World) -> Recorder:
    found = world.scheduler.recorder
    assert found is not None
    return found


def replayed(world: World, task: str = X.task_id) -> list[Frame]:
    parts = recorder_of(world).history(task, world.now)
    assert parts is not None
    return [decode_frame(frame) for part in parts for frame in frames_of(part)]


def check_seen(scheduler: Scheduler, seen: SeenTask, task: Task) -> None:
    """An observer's view is the state; raises AssertionError."""
    numbers = {peer.host: number for number, peer in seen.peers.items()}
    assert set(numbers) == set(task.peers)
    for host, peer in task.peers.items():
        shown = seen.peers[numbers[host]]
        assert shown.have == peer.have
        assert shown.state == peer.machine.state
        assert shown.generation == ("" if peer.generation is None else peer.generation.id)
        assert {seen.peers[n].host for n in shown.parents} == peer.parents
        assert {seen.peers[n].host for n in shown.neighbours} == peer.neighbours
    assert {(lease.lease, seen.peers[lease.peer].host) for lease in seen.leases} == {
        (lease.id, lease.host) for lease in task.leases.values()
    }
    assert seen.task.state == task.machine.state
    assert seen.totals.peers == len(task.peers)


class Observed(Swarm):
    """Whatever happens, in whatever order: who folds the frames sees the state at every moment."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[str, SeenTask] = defaultdict(SeenTask)
        self.told: dict[str, list[Frame]] = defaultdict(list)

    @invariant()
    def observers_see_the_state(self) -> None:
        world, kept = self.world, recorder_of(self.world)
        kept.tick(world.now)
        for name, raw in kept.take():
            frame = decode_frame(raw)
            self.live[name].take(frame)
            self.told[name].append(frame)
        for name, task in world.scheduler._board.tasks.items():
            if task.track is not None:
                check_seen(world.scheduler, self.live[name], task)
                newcomer = fold(map(decode_frame, kept.snapshot(task, world.now)))
                check_seen(world.scheduler, newcomer, task)
                assert not kept.take(), "a snapshot of what is written writes nothing"

    def teardown(self) -> None:
        for name, frames in self.told.items():
            parts = recorder_of(self.world).history(name, self.world.now)
            if parts is not None:
                kept = [decode_frame(frame) for part in parts for frame in frames_of(part)]
                assert kept == frames[-len(kept) :], "the record is what observers were told"


TestObserved = Observed.TestCase
TestObserved.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, derandomize=True
)


def swarm(world: World, names: list[str]) -> None:
    """The seed reads X, and these want it."""
    for name in names:
        if world.host(name) not in world.scheduler.host_ids():
            world.join(name)
        out = world.ask(name, X)
        for _, read in reads(out):
            world.progress("seed", read, size=1)
            world.report("seed", Have(task=X.task_id, generation=GENERATION, pieces=[(0, 7)]))
            world.progress("seed", read, size=LAYOUT.total or 0, done=True)


def have(world: World, name: str, *pieces: int, **senders: int) -> None:
    by_host = {world.host(sender): size for sender, size in senders.items()}
    runs = [(piece, piece) for piece in pieces]
    report = Have(task=X.task_id, generation=GENERATION, pieces=runs, senders=by_host)
    world.report(name, report)


def test_a_replay_has_every_moment_that_was_seen_live() -> None:
    world, rng = make(), random.Random(3)
    names = [f"peer-{n}" for n in range(12)]
    moments: dict[float, Any] = {}
    live = SeenTask()

    def look() -> None:
        world.tick(0.25)
        for _, raw in recorder_of(world).take():
            live.take(decode_frame(raw))
        moments[live.at] = live.maps()

    swarm(world, names[:6])
    look()
    for step in range(40):
        have(world, rng.choice(names[:6]), rng.randrange(8))
        if step == 20:
            swarm(world, names[6:])
            world.report(names[0], Left(task=X.task_id))
        look()
    again = SeenTask()
    at: dict[float, Any] = {}
    for frame in replayed(world):
        again.take(frame)
        at[again.at] = again.maps()
    assert at == {moment: maps for moment, maps in moments.items() if moment in at}
    assert set(moments) - set(at) == set() and len(at) > 20


def test_what_was_moved_is_told_by_who_sent_it() -> None:
    world = make(None, "one", "two")
    swarm(world, ["one", "two"])
    world.tick(0.25)
    piece = LAYOUT.piece_length
    have(world, "one", 0, 1, seed=2 * piece)
    have(world, "two", 0, 7, one=piece, seed=LAYOUT.length(7))
    world.tick(0.25)
    seen = fold(replayed(world))
    number = {peer.host: n for n, peer in seen.peers.items()}
    seed, one, two = (number[world.host(name)] for name in ("seed", "one", "two"))
    assert seen.received == {
        (seed, ORIGIN): LAYOUT.total,
        (one, seed): 2 * piece,
        (two, one): piece,
        (two, seed): LAYOUT.length(7),
    }
    delivered = 3 * piece + LAYOUT.length(7)
    assert seen.totals.delivered_bytes == delivered, "what a seed reads is delivered to nobody"
    assert seen.totals.origin_bytes == LAYOUT.total
    assert seen.totals.saved_bytes == 0
    have(world, "two", 1, 2, 3, 4, 5, 6, one=6 * piece)
    world.tick(0.25)
    assert fold(replayed(world)).totals.saved_bytes == delivered + 6 * piece - (LAYOUT.total or 0)
    line = world.scheduler.tasks(world.now)[0]
    overview = world.scheduler.overview(world.now)
    assert line.rate == overview.rate == (delivered + 6 * piece) // 2
    assert overview.delivered_bytes == delivered + 6 * piece
    assert world.scheduler.overview(world.now, "other").delivered_bytes == 0
    world.tick(3.0)
    assert world.scheduler.overview(world.now).rate == 0


def test_senders_of_more_than_came_are_not_believed() -> None:
    world = make(None, "one")
    swarm(world, ["one"])
    world.tick(0.25)
    have(world, "one", 0, seed=2**62)
    have(world, "one", 1, nobody=100)
    have(world, "one", 1, seed=100)
    world.tick(0.25)
    seen = fold(replayed(world))
    seed = next(n for n, peer in seen.peers.items() if peer.seed)
    assert {edge for edge in seen.received} == {(seed, ORIGIN)}
    assert [len(peer.have) for peer in seen.peers.values() if not peer.seed] == [2]


def test_what_happens_is_told_with_its_time_and_who_it_was() -> None:
    world = make(None, "one", "two")
    recorder_of(world).begin(1_000_000.0, world.now)
    swarm(world, ["one", "two"])
    world.tick(0.25)
    failed = ParentFailed(task=X.task_id, parent=world.host("seed"), reason="unavailable")
    world.now += 0.1
    world.report("one", failed)
    world.report("two", Left(task=X.task_id))
    world.tick(0.25)
    seen = fold(replayed(world))
    events = [(event.kind, event.detail) for event in seen.events]
    assert events == [
        ("register", ""),
        ("lease-granted", ""),
        ("finished", ""),
        ("lease-ended", "done"),
        ("register", ""),
        ("parent-failed", "unavailable"),
        ("lease-granted", ""),
        ("left", ""),
    ]
    told = seen.events[5]
    hosts = seen.peers[told.peer].host, seen.peers[told.other].host
    assert hosts == (world.host("one"), world.host("seed"))
    assert told.at == round(1_000_000.0 + world.now - 0.25, 3)


def test_a_long_record_begins_later_and_still_shows_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(track, "BLOCK", 512)
    monkeypatch.setattr(track, "SEGMENT", 1024)
    world, rng = make(), random.Random(5)
    names = [f"peer-{n}" for n in range(10)]
    swarm(world, names)
    live = SeenTask()
    moments: dict[float, Any] = {}
    for step in range(300):
        name = names[rng.randrange(10)]
        have(world, name, rng.randrange(8))
        if step % 7 == 0:
            world.report(name, Left(task=X.task_id))
            swarm(world, [name])
        world.tick(0.25)
        for _, raw in recorder_of(world).take():
            live.take(decode_frame(raw))
        moments[live.at] = live.maps()
    kept = replayed(world)
    assert kept[0].kind == "snapshot" and kept[0].at > min(moments)
    again = SeenTask()
    for frame, after in zip(kept, [*kept[1:], None], strict=True):
        again.take(frame)
        if after is None or after.at != frame.at:
            assert again.maps() == moments[frame.at]
    assert recorder_of(world).size < 4 * 1024 + track.OVERHEAD


def test_records_of_forgotten_tasks_stay_until_there_is_no_room() -> None:
    world = make(None, "one")
    specs = [spec(f"{n}") for n in range(20)]
    for one in specs:
        world.ask("one", one)
        world.tick(0.25)
        world.report("one", Left(task=one.task_id))
        world.report("seed", Left(task=one.task_id))
        world.tick(0.25)
    kept = recorder_of(world)
    assert not world.scheduler.tasks(world.now)
    assert [line.task for line in kept.all_forgotten()] == [one.task_id for one in specs]
    assert {line.state for line in kept.all_forgotten()} == {"forgotten"}
    kinds = [event.kind for event in fold(replayed(world, specs[0].task_id)).events]
    assert kinds[0] == "register" and kinds[-2:] == ["left", "lease-ended"]
    kept.limit = kept.size // 2
    world.tick(0.25)
    left = [line.task for line in kept.all_forgotten()]
    assert left == [one.task_id for one in specs[-len(left) :]] and 5 < len(left) < 11
    assert kept.size <= kept.limit and kept.forgotten(specs[0].task_id) is None


def test_what_is_idle_the_longest_gives_way_and_is_recorded_anew() -> None:
    world = make(None, "one", "two")
    other = spec("y")
    swarm(world, ["one", "two"])
    world.ask("one", other)
    world.tick(0.25)
    kept = recorder_of(world)
    live = SeenTask()
    have(world, "one", 0)
    world.tick(0.25)
    before = kept.size
    kept.limit = before - 1
    world.tick(0.25)
    assert kept.size < before
    assert kept.history(other.task_id, world.now) is None
    kept.limit = recorder.MAX_BYTES
    kept.take()
    world.ask("two", other)
    world.tick(0.25)
    for name, raw in kept.take():
        if name == other.task_id:
            live.take(decode_frame(raw))
    task = world.scheduler.task(other.task_id)
    assert task is not None
    check_seen(world.scheduler, live, task)


def test_a_tick_writes_so_much_and_the_next_one_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "TICK_PEERS", 4)
    monkeypatch.setattr(recorder, "FRAME_PEERS", 3)
    world = make()
    names = [f"peer-{n}" for n in range(10)]
    swarm(world, names)
    world.tick(0.25)
    kept = recorder_of(world)
    first = [decode_frame(raw) for _, raw in kept.take()]
    assert first[0].kind == "snapshot"
    assert [len(frame.peers) for frame in first] == [3, 1] and len({f.at for f in first}) == 1
    for _ in range(2):
        world.tick(0.25)
    first += [decode_frame(raw) for _, raw in kept.take()]
    assert sum(len(frame.peers) for frame in first) == 11 == len(fold(first).peers)
    for name in names:
        have(world, name, 0)
    world.tick(0.25)
    assert sum(len(decode_frame(raw).peers) for _, raw in kept.take()) == 4
    have(world, names[9], 1)
    world.tick(0.25)
    world.tick(0.25)
    rest = [change for _, raw in kept.take() for change in decode_frame(raw).peers]
    assert len(rest) == 6 and rest[-1].have == [(0, 1)], "what waited is told together"
    assert not kept.take()


def scattered(world: World, names: list[str], rng: random.Random) -> None:
    """Some pieces for each of them, in as many runs as there may be."""
    for name in names:
        have(world, name, *rng.sample(range(8), 4))


def test_many_pieces_are_told_in_many_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "TICK_RUNS", 40)
    world, rng = make(), random.Random(4)
    names = [f"peer-{n}" for n in range(60)]
    swarm(world, names)
    live, most = SeenTask(), 0
    task = world.scheduler.task(X.task_id)
    assert task is not None
    kept = recorder_of(world)
    for _ in range(3):
        scattered(world, names, rng)
        while kept._waiting:
            world.tick(0.25)
            frames = [decode_frame(raw) for _, raw in kept.take()]
            runs = sum(len(peer.have) for frame in frames for peer in frame.peers)
            most = max(most, runs)
            for frame in frames:
                live.take(frame)
        check_seen(world.scheduler, live, task)
    assert most <= 40 + 4, "no tick takes long"
    # As an observer is told, which comes while things go on.
    newcomer = SeenTask()
    for number, raw in enumerate(kept.snapshot(task, world.now)):
        frame = decode_frame(raw)
        assert sum(len(peer.have) for peer in frame.peers) <= 40 + 4
        newcomer.take(frame)
        have(world, names[number], *range(8))
    world.report(names[-1], Left(task=X.task_id))
    while kept._waiting:
        world.tick(0.25)
    for _, raw in kept.take():
        newcomer.take(decode_frame(raw))
    check_seen(world.scheduler, newcomer, task)


def test_a_large_swarm_s_record_begins_anew_without_a_gap_and_in_many_ticks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(track, "BLOCK", 512)
    monkeypatch.setattr(track, "SEGMENT", 4096)
    monkeypatch.setattr(recorder, "TICK_RUNS", 100)
    world, rng = make(), random.Random(6)
    names = [f"peer-{n}" for n in range(60)]
    swarm(world, names)
    kept, live = recorder_of(world), SeenTask()
    for step in range(400):
        name = rng.choice(names)
        have(world, name, *rng.sample(range(8), 3))
        if step % 5 == 0:
            world.report(name, Left(task=X.task_id))
            swarm(world, [name])
        world.tick(0.25)
        for _, raw in kept.take():
            frame = decode_frame(raw)
            assert sum(len(peer.have) for peer in frame.peers) <= 100 + 8
            live.take(frame)
        if step > 50:
            # But for those that have just come back, and wait for their turn.
            assert len(live.peers) > 50, "nobody is shown less while it is written anew"
    while kept._waiting:
        world.tick(0.25)
    for _, raw in kept.take():
        live.take(decode_frame(raw))
    task = world.scheduler.task(X.task_id)
    assert task is not None
    check_seen(world.scheduler, live, task)
    frames = replayed(world)
    assert frames[0].task is not None and frames[0].leases is not None
    assert frames[0].kind == "delta", "it was begun anew, and not at once"
    check_seen(world.scheduler, fold(frames), task)


def test_what_is_moved_by_who_is_not_shown_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_PEERS", 3)
    world = make()
    names = [f"peer-{n}" for n in range(6)]
    swarm(world, names)
    world.tick(0.25)
    kept = recorder_of(world)
    kept.take()
    assert sum(peer.watched is not None for peer in kept._tasks[X.task_id].peers.values()) == 3
    have(world, names[-1], 0, 1)
    world.tick(0.25)
    assert world.scheduler.overview(world.now).delivered_bytes == 2 * LAYOUT.piece_length
    told = [decode_frame(raw).totals for _, raw in kept.take()]
    assert [one.delivered_bytes for one in told if one] == [2 * LAYOUT.piece_length]
    # A record that gives way takes along nothing that was moved.
    have(world, names[-1], 2)
    task = kept._tasks[X.task_id]
    assert task.track is not None
    kept._forget(task, task.track)
    assert world.scheduler.overview(world.now).delivered_bytes == 3 * LAYOUT.piece_length


def test_of_a_crowd_some_are_shown_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_PEERS", 8)
    world = make()
    names = [f"peer-{n}" for n in range(20)]
    swarm(world, names)
    world.tick(0.25)
    seen = fold(replayed(world))
    assert len(seen.peers) == 8 and seen.totals.peers == 21
    for name in names[:16]:
        world.report(name, Left(task=X.task_id))
    have(world, names[-1], 3)
    world.tick(0.25)
    seen = fold(replayed(world))
    assert len(seen.peers) == 5 == seen.totals.peers, "there is room for all again"
    task = world.scheduler.task(X.task_id)
    assert task is not None
    check_seen(world.scheduler, seen, task)


def test_a_scheduler_that_records_nothing_decides_the_same() -> None:
    worlds = [make(), make()]
    worlds[1].scheduler = Scheduler(
        worlds[0].scheduler._board.graph._evaluator, random.Random(7), record=False
    )
    for name in ("seed", "one", "two"):
        worlds[1].join(name, seed=name == "seed")
    told = []
    for world in worlds:
        out = [*world.ask("one", X), *world.ask("two", X)]
        out += world.report("one", Register(task=X.task_id, spec=X, want=[]))
        told.append(out + world.tick(1.0))
    assert told[0] == told[1]
    assert worlds[1].scheduler.recorder is None
