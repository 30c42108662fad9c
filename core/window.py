"""What observers of a task are told: frames, and how they fold into the task as it was at a moment.

A scheduler records each task as such frames, sends them to whoever observes it, and sends the
record again as a replay: it is the same bytes, so that a replay shows what was seen live. Peers
have numbers within their task, in the order in which they were seen first; a number is never
another host's.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from hawker.core.messages import Decoder
from hawker.core.pieces import PieceSet, Run

ORIGIN = -1
"""The number that stands for the origin among senders."""
OBSERVE = "observe"
"""The verb of who sees tasks of all tenants; others see those of their own."""
RATE_SECONDS = 2.0
"""What rates are averages over."""
MAX_EVENTS = 256


class PeerFrame(msgspec.Struct, frozen=True, omit_defaults=True):
    """What changed of a peer; what is missing is as it was.

    `host`, `hostname`, `idc` and `seed` come with its first frame and with `whole` ones, which
    replace all that was known of it; the latter have a `map` of its pieces: piece n as bit n % 8 of
    byte n // 8. As runs those of a swarm at work would be many times longer. `state` is one of the
    scheduler's for peers, or `left`. `have` are pieces that it has besides, `lost` those that it
    has no more. `parents` and `neighbours` are all it has. `received` are bytes by their sender
    since the frame before.
    """

    peer: int
    host: str = ""
    hostname: str = ""
    idc: str = ""
    seed: bool = False
    whole: bool = False
    state: str = ""
    generation: str = ""
    map: bytes = b""
    have: list[Run] = []
    lost: list[Run] = []
    parents: list[int] | None = None
    neighbours: list[int] | None = None
    received: list[tuple[int, int]] = []


class TaskFrame(msgspec.Struct, frozen=True, omit_defaults=True):
    """The task itself, as far as it may change; the content's `total` is None while unknown."""

    task: str
    url: str = ""
    tenant: str = ""
    state: str = ""
    generation: str = ""
    total: int | None = None
    piece_length: int = 0


class LeaseFrame(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who reads the origin: a peer's number, and the bytes it got under this lease."""

    lease: str
    peer: int
    read_bytes: int = 0


class Happening(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened, to a peer, with `other` (a parent that failed it, say).

    `kind` is one of `register`, `left`, `failed`, `parent-failed`, `piece-corrupt`, `finished`,
    `lease-granted`, `lease-ended`, `superseded`, `withdrawn`, `stopped`; `detail` the problem's
    code, or how a lease ended.
    """

    at: float
    kind: str
    peer: int = ORIGIN
    other: int = ORIGIN
    detail: str = ""


class Totals(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sums since the record began, in bytes, and rates of the last seconds, in bytes per second.

    `delivered` became valid at peers that want the content, `origin` was read from the origin,
    `saved` is by how much the former is more. `peers` are those in the task now, more than are
    shown where they are very many.
    """

    peers: int = 0
    complete: int = 0
    origin_bytes: int = 0
    delivered_bytes: int = 0
    saved_bytes: int = 0
    origin_rate: int = 0
    rate: int = 0


class Frame(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of a task's stream; `at` is in seconds since 1970.

    Frames of the same `at` belong together. A `snapshot` replaces all that came before it, a
    `delta` changes it, an `end` is the last one: the task is at rest. `leases`, where given, are
    all there are. `rates` come with a snapshot that is made for an observer: (receiver, sender,
    bytes per second) of the last seconds.
    """

    kind: Literal["snapshot", "delta", "end"]
    at: float
    task: TaskFrame | None = None
    peers: list[PeerFrame] = []
    leases: list[LeaseFrame] | None = None
    totals: Totals | None = None
    events: list[Happening] = []
    rates: list[tuple[int, int, int]] = []


class Overview(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a scheduler, or all of a cluster's, have to do; sums are since `since`, and times are in
    seconds since 1970.

    `hosts` and `tasks` are counted by their states, `peers` are hosts in tasks, `complete` those of
    them that have all of it.
    """

    since: float
    at: float
    hosts: dict[str, int] = {}
    tasks: dict[str, int] = {}
    peers: int = 0
    complete: int = 0
    leases: int = 0
    origin_bytes: int = 0
    delivered_bytes: int = 0
    saved_bytes: int = 0
    origin_rate: int = 0
    rate: int = 0


class TaskLine(msgspec.Struct, frozen=True):
    """A task in a list. `state` is `forgotten` where nothing but its record is left; `at` is when
    something happened last, in seconds since 1970."""

    task: str
    url: str
    tenant: str
    state: str
    generation: str = ""
    total: int | None = None
    piece_length: int = 0
    peers: int = 0
    complete: int = 0
    wanting: bool = False
    origin_bytes: int = 0
    delivered_bytes: int = 0
    saved_bytes: int = 0
    origin_rate: int = 0
    rate: int = 0
    at: float = 0.0


class LeaseView(msgspec.Struct, frozen=True):
    """A lease on the origin: its id, its host, the bytes that were read under it."""

    id: str
    host: str
    read_bytes: int


class MemberView(msgspec.Struct, frozen=True):
    """A peer, with hosts by their ids."""

    host: str
    state: str
    generation: str
    have: list[Run]
    parents: list[str]
    neighbours: list[str]


class TaskDetail(TaskLine, frozen=True):
    """A task with its leases, and each peer with its edges."""

    leases: list[LeaseView] = []
    members: list[MemberView] = []


class ClusterOverview(Overview, frozen=True, omit_defaults=True):
    """The sum of a cluster's `schedulers` that answered; `away` are the URLs of those that did not.

    Hosts are at all of them, and counted once; `since` is when the last of them began to count.
    """

    schedulers: int = 0
    away: list[str] = []


class Point(msgspec.Struct, frozen=True):
    """A cluster over one step, which begins at `at`, seconds since 1970: averages of what there
    was, and bytes that were moved meanwhile."""

    at: int
    hosts: float
    tasks: float
    peers: float
    origin_bytes: int
    delivered_bytes: int


class Series(msgspec.Struct, frozen=True):
    """Points of a cluster, the oldest first, `step` seconds apart where none is missing."""

    step: int
    points: list[Point]


decode_frame: Decoder[Frame] = Decoder(Frame)
decode_overview: Decoder[ClusterOverview] = Decoder(ClusterOverview)
decode_detail: Decoder[TaskDetail] = Decoder(TaskDetail)
decode_lines: Decoder[list[TaskLine]] = Decoder(list[TaskLine])


@dataclass(slots=True)
class SeenPeer:
    """A peer as frames have told of it."""

    number: int
    host: str = ""
    hostname: str = ""
    idc: str = ""
    seed: bool = False
    state: str = ""
    generation: str = ""
    have: PieceSet = field(default_factory=PieceSet)
    parents: list[int] = field(default_factory=list)
    neighbours: list[int] = field(default_factory=list)

    def take(self, frame: PeerFrame) -> None:
        if frame.whole:
            self.have, self.parents, self.neighbours = PieceSet(), [], []
            self.generation = ""
        self.have |= PieceSet(int.from_bytes(frame.map, "little"))
        if frame.host:
            self.host, self.hostname = frame.host, frame.hostname
            self.idc, self.seed = frame.idc, frame.seed
        self.state = frame.state or self.state
        self.generation = frame.generation or self.generation
        self.have = (self.have | PieceSet.from_runs(frame.have)) - PieceSet.from_runs(frame.lost)
        if frame.parents is not None:
            self.parents = frame.parents
        if frame.neighbours is not None:
            self.neighbours = frame.neighbours


class SeenTask:
    """A task as its frames tell it, one after the other. `received` are all bytes that frames told
    of, by the numbers of receiver and sender; `events` the last ones that happened."""

    def __init__(self) -> None:
        self.at = 0.0
        self.ended = False
        self.task = TaskFrame("")
        self.totals = Totals()
        self.peers: dict[int, SeenPeer] = {}
        self.leases: list[LeaseFrame] = []
        self.received: Counter[tuple[int, int]] = Counter()
        self.events: deque[Happening] = deque(maxlen=MAX_EVENTS)
        self._recent: deque[tuple[float, tuple[int, int], int]] = deque()

    def take(self, frame: Frame) -> None:
        """The next frame."""
        self.at = frame.at
        if frame.kind == "end":
            self.ended = True
            return
        if frame.kind == "snapshot":
            self.peers, self.leases = {}, []
            for child, sender, rate in frame.rates:
                # As if it had come at once: what follows is told by itself.
                self._recent.append((frame.at, (child, sender), int(rate * RATE_SECONDS)))
        self.task = frame.task or self.task
        self.totals = frame.totals or self.totals
        self.leases = self.leases if frame.leases is None else frame.leases
        for change in frame.peers:
            if change.state == "left":
                self.peers.pop(change.peer, None)
                continue
            peer = self.peers.get(change.peer)
            if peer is None:
                peer = self.peers[change.peer] = SeenPeer(change.peer)
            peer.take(change)
            for sender, size in change.received:
                self.received[change.peer, sender] += size
                self._recent.append((frame.at, (change.peer, sender), size))
        self.events.extend(frame.events)
        while self._recent and self._recent[0][0] <= self.at - RATE_SECONDS:
            self._recent.popleft()

    def rates(self, at: float) -> Counter[tuple[int, int]]:
        """Bytes per second by receiver and sender, over the seconds before `at`."""
        found: Counter[tuple[int, int]] = Counter()
        for moment, edge, size in self._recent:
            if moment > at - RATE_SECONDS:
                found[edge] += size
        return Counter({edge: int(size / RATE_SECONDS) for edge, size in found.items()})

    def maps(self) -> dict[str, PieceSet]:
        """What each host has now."""
        return {peer.host: peer.have for peer in self.peers.values() if peer.host}


def fold(frames: Iterable[Frame]) -> SeenTask:
    """The task after all these frames."""
    seen = SeenTask()
    for frame in frames:
        seen.take(frame)
    return seen
