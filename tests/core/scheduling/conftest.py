"""A scheduler under test: hosts by short names, and the invariants that always hold."""

from __future__ import annotations

import random
from collections.abc import Iterable

import networkx as nx

from hawker.core.contracts import Candidate, Child
from hawker.core.digests import HostKey, Reader
from hawker.core.ids import TaskSpec
from hawker.core.messages import (
    AnyDecision,
    AnyReport,
    HostAnnouncement,
    LeaseProgress,
    Read,
    Register,
)
from hawker.core.pieces import MIB, Layout, PieceSet
from hawker.core.ranges import ByteRange
from hawker.core.scheduling import OriginLimits, Outgoing, Scheduler
from hawker.core.scheduling.entities import Task

LAYOUT = Layout(8 * MIB - 5, MIB)
ALL = [(0, 7)]
GENERATION = "g" * 16


class Flat:
    """Every parent is as good as any other."""

    def score(self, child: Child, candidate: Candidate) -> float:
        return 0.5


class World:
    """A scheduler, its hosts, and the time."""

    def __init__(self, seed: int = 7, limits: OriginLimits | None = None) -> None:
        self.scheduler = Scheduler(Flat(), random.Random(seed), limits, record=True)
        self.now = 100.0
        self.keys: dict[str, HostKey] = {}
        self.zones: dict[str, str] = {}

    def key(self, name: str) -> HostKey:
        if name not in self.keys:
            self.keys[name] = HostKey.from_bytes(name.encode().ljust(32, b"."))
        return self.keys[name]

    def host(self, name: str) -> str:
        return self.key(name).host

    def announce(self, name: str, *, seed: bool = False, boot: str = "1") -> list[Outgoing]:
        announcement = HostAnnouncement(
            url=f"http://{name}/peer",
            key=self.key(name).public,
            boot=boot,
            seed=seed,
            idc=self.zones.get(name, ""),
        )
        return self.scheduler.announce(self.host(name), announcement, self.now)

    def join(self, name: str, *, seed: bool = False) -> None:
        """Announce a host and open its stream."""
        self.announce(name, seed=seed)
        self.scheduler.connected(self.host(name), self.now)

    def report(self, name: str, report: AnyReport) -> list[Outgoing]:
        out = self.scheduler.report(self.host(name), report, self.now)
        check(self.scheduler, self.now)
        return out

    def ask(
        self,
        name: str,
        spec: TaskSpec,
        *,
        want: list[ByteRange] | None = None,
        private: bool = False,
        readable: bool = True,
    ) -> list[Outgoing]:
        return self.report(
            name,
            Register(task=spec.task_id, spec=spec, want=want, private=private, readable=readable),
        )

    def offer(
        self, name: str, spec: TaskSpec, generation: str, readers: list[Reader]
    ) -> list[Outgoing]:
        return self.report(
            name,
            Register(
                task=spec.task_id,
                spec=spec,
                want=[],
                generation=generation,
                layout=LAYOUT,
                have=ALL,
                readers=readers,
            ),
        )

    def progress(
        self,
        name: str,
        read: Read,
        *,
        generation: str = "g" * 16,
        validator: str = '"v"',
        size: int = 0,
        done: bool = False,
    ) -> list[Outgoing]:
        return self.report(
            name,
            LeaseProgress(
                task=read.task,
                lease=read.lease,
                generation=generation,
                layout=LAYOUT,
                validator=validator,
                ranged=bool(validator),
                read_bytes=size,
                done=done,
            ),
        )

    def tick(self, seconds: float) -> list[Outgoing]:
        self.now += seconds
        out = self.scheduler.tick(self.now)
        check(self.scheduler, self.now)
        return out

    def of(self, out: Iterable[Outgoing], name: str) -> list[AnyDecision]:
        """What was decided for one host."""
        return [decision for host, decision in out if host == self.host(name)]


def spec(name: str, host: str = "origin.test") -> TaskSpec:
    return TaskSpec(url=f"http://{host}/{name}")


def reads(out: Iterable[Outgoing]) -> list[tuple[str, Read]]:
    """Leases that were granted or changed, with their holder."""
    return [(h, d) for h, d in out if isinstance(d, Read) and d.ranges != []]


def make(limits: OriginLimits | None = None, *peers: str) -> World:
    world = World(limits=limits)
    world.join("seed", seed=True)
    for name in peers or ("one", "two"):
        world.join(name)
    return world


def restarted(world: World, *hosts: str, others: bool = False) -> World:
    """The scheduler in another life, with what was on its disk."""
    again = World(seed=8)
    again.now = world.now
    again.keys = world.keys
    again.scheduler.restore(world.scheduler.take_unsaved())
    again.scheduler.expect([world.host(name) for name in hosts], again.now, others=others)
    return again


def check(scheduler: Scheduler, now: float) -> None:
    """Every invariant of the scheduler's state; raises AssertionError."""
    hosts = scheduler._board.hosts
    children = dict.fromkeys(hosts, 0)
    for task in scheduler._board.tasks.values():
        assert task.peers, "a task without peers is forgotten"
        check_task(scheduler, task, now)
        check_zones(scheduler, task, now)
        for peer in task.peers.values():
            assert task.id in hosts[peer.host].tasks
            children[peer.host] += len(peer.children)
    for name, host in hosts.items():
        assert host.children == children[name]
        assert all(task in scheduler._board.tasks for task in host.tasks)
    assert scheduler._leases.book.leased == {
        t.id for t in scheduler._board.tasks.values() if t.leases
    }
    live = {lease for gate in scheduler._leases.book.gates for lease in gate.live}
    assert live == {name for t in scheduler._board.tasks.values() for name in t.leases}
    for name in hosts:
        for decision in scheduler.current(name):
            assert decision.task in scheduler._board.tasks


def check_task(scheduler: Scheduler, task: Task, now: float) -> None:
    spine: nx.DiGraph[str] = nx.DiGraph()
    for name, peer in task.peers.items():
        spine.add_node(name)
        for parent in peer.parents:
            spine.add_edge(parent, name)
            assert name in task.peers[parent].children
            assert task.peers[parent].generation is peer.generation is not None
        for child in peer.children:
            assert name in task.peers[child].parents
        for neighbour in peer.neighbours:
            assert name in task.peers[neighbour].neighbours and neighbour != name
            assert task.peers[neighbour].generation is peer.generation
        generation = peer.generation
        if generation is None:
            assert not peer.have and not peer.parents and not peer.neighbours
            continue
        assert name in set(generation.members)
        if peer.wants and generation is not task.current:
            finishes = scheduler._generations.can_finish(task, peer)
            assert finishes, "nobody waits in an older generation for what nobody there has"
        layout = generation.layout
        assert layout.total is None or peer.have <= layout.everything()
        if name in set(generation.roots):
            assert not peer.parents
        elif peer.wants and not peer.parents:
            usable = [
                root
                for root in generation.roots
                if root != name
                and scheduler._board.hosts[root].connected
                and scheduler._board.hosts[root].suspect_until <= now
                and not peer.keeps_off(root, now)
                and not task.peers[root].keeps_off(name, now)
            ]
            assert not usable, "a peer that wants pieces has a path from a root"
        graph = scheduler._board.graph
        if name not in set(generation.roots) and peer.wants:
            missed = graph._missed(task, peer, generation)
            for root in generation.roots:
                free = graph._usable(task, peer, root, now) and root not in peer.parents
                gain = graph._will_have(task, task.peers[root], layout) & missed
                assert not (free and gain), "whoever wants a piece is linked to who has it"
    assert nx.is_directed_acyclic_graph(spine)
    for lease in task.leases.values():
        assert lease.host in task.peers
        assert any(lease.id in gate.live for gate in scheduler._leases.book.gates)
    if task.current is not None:
        assert task.machine.state == "live"
        assert task.current.complete <= set(task.current.members)
        for name in task.current.complete:
            have = task.peers[name].have
            assert task.current.layout.total is None or have == PieceSet.first(8)


def check_zones(scheduler: Scheduler, task: Task, now: float) -> None:
    """Zones agree with their members, and each has one gateway at most."""
    generations = {id(p.generation): p.generation for p in task.peers.values() if p.generation}
    for generation in generations.values():
        gateways: dict[str, str] = {}
        for name in generation.members:
            peer = task.peers[name]
            zone = generation.zones[peer.zone]
            assert name in set(zone.members)
            assert (name in zone.roots) == (name in set(generation.roots))
            assert set(zone.heads) == {*zone.roots} | {zone.gateway} - {None}
            if peer.gateway:
                assert peer.zone not in gateways
                gateways[peer.zone] = name
                assert peer.wants or not peer.parents
        assert generation.zones.hungry <= set(gateways.values())
