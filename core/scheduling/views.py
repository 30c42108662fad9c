"""What the scheduler knows, as plain data for people and tools."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from hawker.core.scheduling.entities import Host, Peer, Task
from hawker.core.window import LeaseView, MemberView, TaskDetail, TaskLine


def line_of(
    task: Task,
    origin: int = 0,
    delivered: int = 0,
    origin_rate: int = 0,
    rate: int = 0,
    at: float = 0.0,
) -> TaskLine:
    """A task in a line, with the sums and rates of its record."""
    current = task.current
    return TaskLine(
        task=task.id,
        url=task.spec.url,
        tenant=task.spec.tenant,
        state=task.machine.state,
        generation="" if current is None else current.id,
        total=None if current is None else current.layout.total,
        piece_length=0 if current is None else current.layout.piece_length,
        peers=len(task.peers),
        complete=0 if current is None else len(current.complete),
        wanting=any(peer.wants for peer in task.peers.values()),
        origin_bytes=origin,
        delivered_bytes=delivered,
        saved_bytes=max(0, delivered - origin),
        origin_rate=origin_rate,
        rate=rate,
        at=at,
    )


def outline_of(task: Task, line: TaskLine) -> TaskDetail:
    """A task with its leases, and without its peers."""
    return TaskDetail(
        **msgspec.structs.asdict(line),
        leases=[
            LeaseView(lease.id, lease.host, lease.read_bytes) for lease in task.leases.values()
        ],
        members=[],
    )


def members_of(peers: Iterable[Peer]) -> list[MemberView]:
    """Each peer with its edges."""
    return [
        MemberView(
            peer.host, peer.machine.state, generation_of(peer), peer.have.runs(),
            sorted(peer.parents), sorted(peer.neighbours),
        )
        for peer in peers
    ]  # fmt: skip


def generation_of(peer: Peer) -> str:
    """The id of the generation that a peer is in; empty for none."""
    return "" if peer.generation is None else peer.generation.id


def summarize_host(host: Host) -> dict[str, object]:
    """A host in a line."""
    return {
        "host": host.id,
        "hostname": host.announcement.hostname,
        "url": host.announcement.url,
        "seed": host.announcement.seed,
        "state": host.machine.state,
        "draining": host.announcement.draining,
        "tasks": len(host.tasks),
        "served_pieces": host.served,
        "failures": host.failed,
    }
