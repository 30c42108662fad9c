"""What the scheduler knows: hosts, tasks, generations, peers, leases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from hawker.core.ids import TaskSpec
from hawker.core.messages import AnyDecision, HostAnnouncement, LeaseProgress
from hawker.core.pieces import Layout, PieceSet
from hawker.core.priorities import LAST
from hawker.core.ranges import ByteRange
from hawker.core.scheduling.members import Members
from hawker.core.scheduling.states import GENERATION, HOST, PEER, TASK, Machine
from hawker.core.scheduling.track import Track, Watched
from hawker.core.scheduling.zones import Zones


class Outgoing(NamedTuple):
    """A decision and the host it is for."""

    host: str
    decision: AnyDecision


class LeaseRecord(msgspec.Struct, frozen=True):
    """A lease that was granted: whose signed runs count for which generation.

    Written to disk before the decision leaves. An empty `generation`: its reader has not said yet.
    `void`: what was read under it proved wrong.
    """

    lease: str
    task: str
    generation: str
    host: str
    key: bytes
    spec: TaskSpec
    layout: Layout | None = None
    validator: str = ""
    ranged: bool = False
    digest: str = ""
    modified: int | None = None
    void: bool = False


@dataclass(slots=True, eq=False)
class Host:
    """A daemon, `met` when so many others had gone. `evidence` holds (accuser, time) of failures as
    a parent."""

    id: str
    announcement: HostAnnouncement
    met: int = 0
    machine: Machine = field(default_factory=lambda: Machine("host", HOST, "new"))
    away_since: float = 0.0
    tasks: set[str] = field(default_factory=set)
    evidence: list[tuple[str, float]] = field(default_factory=list)
    suspect_until: float = 0.0
    suspicions: int = 0
    served: int = 0
    failed: int = 0
    children: int = 0

    @property
    def connected(self) -> bool:
        return self.machine.state == "connected"


@dataclass(slots=True, eq=False)
class Lease:
    """A right to read the origin, as long as it makes progress."""

    id: str
    host: str
    ranges: list[ByteRange] | None
    generation: str
    granted_at: float
    progress_at: float
    heard_at: float = 0.0
    started: bool = False
    read_bytes: int = 0
    read_pieces: int = 0
    checks: bool = False


class Avoided(NamedTuple):
    """Until when a peer keeps off another: `at_least` so long, where there is nobody else."""

    at_least: float
    until: float


@dataclass(slots=True, eq=False)
class Peer:
    """A host in a task. Edges hold host ids; `order` makes the spine acyclic (see graph). `zone` is
    its data centre's name as it joined, `watched` what its task's record has of it."""

    host: str
    machine: Machine = field(default_factory=lambda: Machine("peer", PEER, "new"))
    want: list[ByteRange] | None = None
    private: bool = False
    readable: bool = True
    level: int = LAST
    have: PieceSet = field(default_factory=PieceSet)
    generation: Generation | None = None
    order: int = 0
    zone: str = ""
    parents: set[str] = field(default_factory=set)
    children: set[str] = field(default_factory=set)
    neighbours: set[str] = field(default_factory=set)
    avoid: dict[str, Avoided] = field(default_factory=dict)
    revision: int = 0
    watched: Watched | None = None

    @property
    def wants(self) -> bool:
        return self.machine.state in ("waiting", "running")

    @property
    def gateway(self) -> bool:
        """It brings pieces from other zones into its own (see zones)."""
        return self.generation is not None and self.generation.zones[self.zone].gateway == self.host

    @property
    def only_offers(self) -> bool:
        return self.machine.state == "holding"

    def avoids(self, now: float) -> frozenset[str]:
        """Hosts that failed this peer lately."""
        if not self.avoid:
            return frozenset()
        return frozenset(host for host in self.avoid if self.keeps_off(host, now))

    def keeps_off(self, host: str, now: float, *, suspects: bool = False) -> bool:
        """It is not to be given this one; `suspects`: not even where there is nobody else."""
        avoided = self.avoid.get(host)
        return avoided is not None and now < (avoided.at_least if suspects else avoided.until)

    def wanted(self, layout: Layout) -> PieceSet | None:
        """The pieces it wants; None for all of content of unknown length."""
        if self.machine.state == "holding":
            return PieceSet()
        open_end = self.want is None or any(span.stop is None for span in self.want)
        if open_end and layout.total is None:
            return None
        return layout.covering(self.want)


@dataclass(slots=True, eq=False)
class Generation:
    """One content of a task; `roots` are members whose pieces come from no other peer. `digest` is
    what the origin says it has, `checked` that a reader has seen it has, `modified` when the origin
    changed it last."""

    id: str
    layout: Layout
    validator: str
    ranged: bool
    digest: str = ""
    modified: int | None = None
    checked: bool = False
    machine: Machine = field(default_factory=lambda: Machine("generation", GENERATION, "live"))
    members: Members = field(default_factory=Members)
    roots: Members = field(default_factory=Members)
    zones: Zones = field(default_factory=Zones)
    complete: set[str] = field(default_factory=set)
    last_order: int = 0
    first_order: int = 0

    def supplement(self, report: LeaseProgress) -> bool:
        """Take what its reader knows of it and nobody said before; whether there was anything."""
        before = self.validator, self.ranged, self.digest, self.modified
        self.validator = self.validator or report.validator
        self.ranged = self.ranged or report.ranged
        self.digest = self.digest or report.digest
        self.modified = report.modified if self.modified is None else self.modified
        return before != (self.validator, self.ranged, self.digest, self.modified)


@dataclass(slots=True, eq=False)
class Task:
    """A task with its peers; `current` is the generation that new peers join, `older` those that
    some still finish, `over` are leases that ended in this scheduler's life, `request` is the last
    that asked for it, after `avoided_until` no peer avoids another; `unwanted_since` is when the
    last who wanted it went away while it is read, `track` its record."""

    id: str
    spec: TaskSpec
    machine: Machine = field(default_factory=lambda: Machine("task", TASK, "empty"))
    peers: dict[str, Peer] = field(default_factory=dict)
    current: Generation | None = None
    older: list[Generation] = field(default_factory=list)
    leases: dict[str, Lease] = field(default_factory=dict)
    attempts: int = 0
    not_before: float = 0.0
    failed_readers: dict[str, float] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    request: str = ""
    avoided_until: float = 0.0
    unwanted_since: float | None = None
    track: Track | None = None

    @property
    def written(self) -> float:
        """When something of it was recorded last."""
        return 0.0 if self.track is None else self.track.written
