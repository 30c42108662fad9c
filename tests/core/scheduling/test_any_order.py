"""Whatever happens in whatever order, the graph stays acyclic and the state consistent."""

from __future__ import annotations

from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hawker.core.digests import Reader
from hawker.core.errors import BadRequest, NotFound, Unavailable
from hawker.core.ids import TaskSpec
from hawker.core.messages import (
    AnyReport,
    Changed,
    Failed,
    Finished,
    Have,
    LeaseProgress,
    Left,
    Length,
    ParentFailed,
    PieceCorrupt,
    Read,
    Register,
)
from hawker.core.pieces import MIB, Layout
from hawker.core.ranges import ByteRange
from hawker.core.scheduling import OriginLimits, Outgoing
from tests.core.scheduling.conftest import ALL, LAYOUT, World, check

HOSTS = ["seed-a", "seed-b", "one", "two", "three", "four", "five"]
SPECS = [TaskSpec(url=f"http://origin.test/{name}") for name in ("x", "y")]
GENERATIONS = ["a" * 16, "b" * 16]

hosts = st.sampled_from(HOSTS)
specs = st.sampled_from(SPECS)
generations = st.sampled_from(GENERATIONS)
wants = st.sampled_from([None, [], [ByteRange(0, MIB)], [ByteRange(3 * MIB, 5 * MIB)]])
runs = st.sampled_from([ALL, [(0, 0)], [(3, 5)], [(7, 7)], [(0, 6)], [(5, 9)]])


class Swarm(RuleBasedStateMachine):
    limits = OriginLimits()
    zones: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.world = World(limits=self.limits)
        self.world.zones = self.zones
        self.leases: dict[str, Read] = {}
        self.size = 1

    def see(self, out: list[Outgoing]) -> None:
        """Decisions go to hosts that exist; reads are remembered for those who report."""
        for host, decision in out:
            assert host in self.world.scheduler._board.hosts
            if isinstance(decision, Read) and decision.ranges != []:
                self.leases[decision.task] = decision

    def tell(self, host: str, report: AnyReport) -> None:
        try:
            self.see(self.world.scheduler.report(self.world.host(host), report, self.world.now))
        except NotFound:
            assert self.world.host(host) not in self.world.scheduler._board.hosts
        except BadRequest:
            # Nonsense is refused; the invariants say that nothing came of it.
            return

    @initialize()
    def most_are_there(self) -> None:
        for host in HOSTS[:-1]:
            self.announce(host, "1")
            self.connect(host)

    @rule(askers=st.lists(hosts, min_size=1, max_size=5), spec=specs, generation=generations)
    def swarm(self, askers: list[str], spec: TaskSpec, generation: str) -> None:
        """What happens most: some ask, and the reader makes progress."""
        for host in askers:
            self.tell(host, Register(task=spec.task_id, spec=spec))
        lease = self.leases.get(spec.task_id)
        if lease is not None:
            report = LeaseProgress(
                task=spec.task_id, lease=lease.lease, generation=lease.generation or generation,
                layout=LAYOUT, validator='"v"', read_bytes=self.size,
            )  # fmt: skip
            self.size += 1
            self.tell(self.holder(spec, askers[0]), report)

    @rule(host=hosts, spec=specs, pieces=runs)
    def have_of_mine(self, host: str, spec: TaskSpec, pieces: list[tuple[int, int]]) -> None:
        """Pieces of the generation that the host is in."""
        task = self.world.scheduler._board.tasks.get(spec.task_id)
        peer = None if task is None else task.peers.get(self.world.host(host))
        if peer is not None and peer.generation is not None:
            generation = peer.generation.id
            self.tell(host, Have(task=spec.task_id, generation=generation, pieces=pieces))

    @rule(host=hosts, boot=st.sampled_from(["1", "1", "2"]))
    def announce(self, host: str, boot: str) -> None:
        self.see(self.world.announce(host, seed=host.startswith("seed"), boot=boot))

    @rule(host=hosts)
    def connect(self, host: str) -> None:
        if self.world.host(host) in self.world.scheduler._board.hosts:
            self.see(self.world.scheduler.connected(self.world.host(host), self.world.now))

    @rule(host=hosts)
    def disconnect(self, host: str) -> None:
        self.see(self.world.scheduler.disconnected(self.world.host(host), self.world.now))

    @rule(host=hosts)
    def leave(self, host: str) -> None:
        self.see(self.world.scheduler.leave(self.world.host(host), self.world.now))

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5, 6.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds
        self.see(self.world.scheduler.tick(self.world.now))

    @rule(
        host=hosts, spec=specs, want=wants, private=st.booleans(), readable=st.booleans(),
        stored=st.sampled_from(["", *GENERATIONS]), have=runs, lease=st.booleans(),
    )  # fmt: skip
    def register(
        self,
        host: str,
        spec: TaskSpec,
        want: list[ByteRange] | None,
        private: bool,
        readable: bool,
        stored: str,
        have: list[tuple[int, int]],
        lease: bool,
    ) -> None:
        key = self.world.key(host)
        known = self.leases.get(spec.task_id)
        name = known.lease if lease and known is not None else f"import-{host}"
        reader = Reader(key.host, key.public, name)
        report = Register(
            task=spec.task_id, spec=spec, want=want, private=private, readable=readable,
            generation=stored, layout=LAYOUT if stored else None,
            have=have if stored else [], readers=[reader] if stored else [],
        )  # fmt: skip
        self.tell(host, report)

    @rule(
        host=hosts, spec=specs, generation=generations, done=st.booleans(),
        size=st.integers(0, 100), validator=st.sampled_from(["", '"v"']), known=st.booleans(),
    )  # fmt: skip
    def progress(
        self,
        host: str,
        spec: TaskSpec,
        generation: str,
        done: bool,
        size: int,
        validator: str,
        known: bool,
    ) -> None:
        lease = self.leases.get(spec.task_id)
        report = LeaseProgress(
            task=spec.task_id, lease=lease.lease if lease else "none", generation=generation,
            layout=LAYOUT if known else Layout(None, MIB), validator=validator, read_bytes=size,
            done=done,
        )  # fmt: skip
        self.tell(self.holder(spec, host), report)

    def holder(self, spec: TaskSpec, otherwise: str) -> str:
        """The host with the task's lease, so that reports of leases often count."""
        task = self.world.scheduler._board.tasks.get(spec.task_id)
        for lease in task.leases.values() if task is not None else ():
            return next(name for name in HOSTS if self.world.host(name) == lease.host)
        return otherwise

    @rule(host=hosts, spec=specs, generation=generations, pieces=runs)
    def have(
        self, host: str, spec: TaskSpec, generation: str, pieces: list[tuple[int, int]]
    ) -> None:
        self.tell(host, Have(task=spec.task_id, generation=generation, pieces=pieces))

    @rule(host=hosts, spec=specs, generation=generations)
    def finished(self, host: str, spec: TaskSpec, generation: str) -> None:
        self.tell(host, Finished(task=spec.task_id, generation=generation))

    @rule(host=hosts, spec=specs, generation=generations)
    def length(self, host: str, spec: TaskSpec, generation: str) -> None:
        total = LAYOUT.total or 0
        self.tell(host, Length(task=spec.task_id, generation=generation, total=total))

    @rule(host=hosts, spec=specs, parent=hosts, reason=st.sampled_from(["busy", "unavailable"]))
    def parent_failed(self, host: str, spec: TaskSpec, parent: str, reason: str) -> None:
        accused = self.world.host(parent)
        self.tell(host, ParentFailed(task=spec.task_id, parent=accused, reason=reason))

    @rule(host=hosts, spec=specs, generation=generations, parent=hosts)
    def corrupt(self, host: str, spec: TaskSpec, generation: str, parent: str) -> None:
        accused = self.world.host(parent)
        report = PieceCorrupt(task=spec.task_id, generation=generation, piece=3, parent=accused)
        self.tell(host, report)

    @rule(host=hosts, spec=specs, generation=generations)
    def changed(self, host: str, spec: TaskSpec, generation: str) -> None:
        lease = self.leases.get(spec.task_id)
        name = lease.lease if lease else ""
        report = Changed(task=spec.task_id, generation=generation, lease=name)
        self.tell(self.holder(spec, host), report)

    @rule(host=hosts, spec=specs, permanent=st.booleans(), reading=st.booleans())
    def failed(self, host: str, spec: TaskSpec, permanent: bool, reading: bool) -> None:
        problem = (NotFound if permanent else Unavailable)("it did not work").problem()
        lease = self.leases.get(spec.task_id)
        name = lease.lease if lease and reading else ""
        teller = self.holder(spec, host) if name else host
        self.tell(teller, Failed(task=spec.task_id, problem=problem, lease=name))

    @rule(host=hosts, spec=specs)
    def left(self, host: str, spec: TaskSpec) -> None:
        self.tell(host, Left(task=spec.task_id))

    @rule(spec=specs, generation=generations)
    def withdraw(self, spec: TaskSpec, generation: str) -> None:
        scheduler = self.world.scheduler
        self.see(scheduler.withdraw(spec.task_id, generation, "wrong", self.world.now))

    @rule(spec=specs)
    def delete(self, spec: TaskSpec) -> None:
        self.see(self.world.scheduler.delete(spec.task_id, self.world.now))

    @invariant()
    def consistent(self) -> None:
        check(self.world.scheduler, self.world.now)


class CrowdedOrigin(Swarm):
    """Several readers of one content, and never more than two leases on the origin."""

    limits = OriginLimits(reads=2, rate=1000, readers=3)


class Zoned(Swarm):
    """Two zones with a seed, and one without."""

    zones: ClassVar[dict[str, str]] = {
        "seed-a": "a", "one": "a", "seed-b": "b", "two": "b",
        "three": "c", "four": "c", "five": "c",
    }  # fmt: skip


TestZoned = Zoned.TestCase
TestZoned.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, derandomize=True
)
TestCrowdedOrigin = CrowdedOrigin.TestCase
TestCrowdedOrigin.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, derandomize=True
)
TestAnyOrder = Swarm.TestCase
TestAnyOrder.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
