"""A task and its peers as frames tell of them, and what is new of a peer since it was told last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from hawker.core.messages import encode
from hawker.core.pieces import PieceSet
from hawker.core.scheduling.entities import Host, Peer, Task
from hawker.core.scheduling.track import TOUCHED, WHOLE, Track, Watched
from hawker.core.scheduling.views import generation_of
from hawker.core.window import ORIGIN, Frame, Happening, LeaseFrame, PeerFrame, TaskFrame

# Hosts may call themselves what they like, but not make frames that nobody takes.
MAX_NAME = 253
# What all that is told of a peer takes besides its pieces, as so many runs of them.
WHOLE_RUNS = 16


class Teller:
    """`show` gives a peer its number, where there is room: who it is will then be told."""

    def __init__(self, hosts: Mapping[str, Host], show: Callable[[Task, Peer], None]) -> None:
        self._hosts = hosts
        self._show = show

    def change(self, task: Task, peer: Peer, watched: Watched) -> list[PeerFrame]:
        """What is new of a peer, if anything is; it counts as told."""
        edges = bool(watched.due & TOUCHED) and watched.edges != _edges(peer)
        generation, state = generation_of(peer), peer.machine.state
        have, had = peer.have.bits, watched.bits
        received = self.received(task, watched) if watched.received else []
        whole = watched.due & WHOLE or watched.generation != generation
        watched.due = 0
        if not whole and not edges and have == had and not received and state == watched.state:
            return []
        if whole:
            frame = self.whole(task, peer, watched, received)
        else:
            gained, lost = have & ~had, had & ~have
            frame = PeerFrame(
                watched.number,
                state="" if watched.state == state else state,
                have=PieceSet(gained).runs() if gained else [],
                lost=PieceSet(lost).runs() if lost else [],
                parents=self._numbers(task, peer.parents) if edges else None,
                neighbours=self._numbers(task, peer.neighbours) if edges else None,
                received=received,
            )
        if whole or edges:
            watched.edges = _edges(peer)
        watched.bits, watched.state, watched.generation = have, state, generation
        return [frame]

    def whole(
        self,
        task: Task,
        peer: Peer,
        watched: Watched,
        received: Sequence[tuple[int, int]] = (),
    ) -> PeerFrame:
        """All there is to be told of a peer."""
        host = self._hosts.get(peer.host)
        said = None if host is None else host.announcement
        bits = peer.have.bits
        return PeerFrame(
            watched.number,
            host=peer.host,
            hostname="" if said is None else said.hostname[:MAX_NAME],
            idc="" if said is None else said.idc[:MAX_NAME],
            seed=said is not None and said.seed,
            whole=True,
            state=peer.machine.state,
            generation=generation_of(peer),
            map=bits.to_bytes((bits.bit_length() + 7) // 8, "little"),
            parents=self._numbers(task, peer.parents),
            neighbours=self._numbers(task, peer.neighbours),
            received=list(received),
        )

    def shown(self, task: Task, peers: Iterable[Peer]) -> list[PeerFrame]:
        """All there is to be told of these, as far as they are in the task and are shown."""
        return [
            self.whole(task, peer, peer.watched)
            for peer in peers
            if peer.watched is not None and task.peers.get(peer.host) is peer
        ]

    def head(
        self,
        kind: Literal["snapshot", "delta"],
        task: Task,
        track: Track,
        at: float,
        now: float,
        *,
        peers: list[PeerFrame],
        events: Sequence[Happening] = (),
        rates: Sequence[tuple[int, int, int]] = (),
    ) -> bytes:
        """A frame, encoded, with what there is besides peers as far as it was not told already."""
        head, current = head_of(task), task.current
        whole = kind == "snapshot" or track.head is None
        frame = Frame(
            kind,
            at,
            task=head if whole or head != track.head else None,
            peers=peers,
            leases=self.leases(task) if whole or track.leases_changed else None,
            totals=track.totals(
                len(task.peers), 0 if current is None else len(current.complete), now
            ),
            events=list(events),
            rates=list(rates),
        )
        return encode(frame)

    def received(self, task: Task, watched: Watched) -> list[tuple[int, int]]:
        """What came since it was asked last, by the numbers of those who sent it."""
        received, watched.received = watched.received, None
        return [
            (self.number(task, host) if host else ORIGIN, size)
            for host, size in (received or {}).items()
            if not host or host in task.peers
        ]

    def leases(self, task: Task) -> list[LeaseFrame]:
        return [
            LeaseFrame(lease.id, self.number(task, lease.host), lease.read_bytes)
            for lease in task.leases.values()
        ]

    def number(self, task: Task, host: str) -> int:
        """A peer's number; the origin's for who is none, or is not shown."""
        peer = task.peers.get(host)
        if peer is None:
            return ORIGIN
        if peer.watched is None:
            self._show(task, peer)
        return ORIGIN if peer.watched is None else peer.watched.number

    def _numbers(self, task: Task, hosts: set[str]) -> list[int]:
        return sorted({self.number(task, host) for host in hosts} - {ORIGIN})


def slices_of(peers: Iterable[Peer], runs: int) -> Iterator[list[Peer]]:
    """Peers, so many at a time that all that is told of them has about so many runs of pieces."""
    some: list[Peer] = []
    cost = 0
    for peer in peers:
        some.append(peer)
        cost += WHOLE_RUNS + _runs(peer.have.bits)
        if cost >= runs:
            yield some
            some, cost = [], 0
    yield some


def cost_of(peer: Peer, watched: Watched) -> int:
    """About how many runs a peer's next frame has, and what it takes besides, as such."""
    have = peer.have.bits
    return WHOLE_RUNS + _runs(have) if watched.due & WHOLE else 1 + _runs(have ^ watched.bits)


def _runs(bits: int) -> int:
    """How many runs a set of pieces has."""
    return (bits ^ bits << 1).bit_count() // 2


def head_of(task: Task) -> TaskFrame:
    """The task itself."""
    current = task.current
    return TaskFrame(
        task.id,
        task.spec.url,
        task.spec.tenant,
        task.machine.state,
        "" if current is None else current.id,
        None if current is None else current.layout.total,
        0 if current is None else current.layout.piece_length,
    )


def _edges(peer: Peer) -> int:
    return hash((frozenset(peer.parents), frozenset(peer.neighbours)))
