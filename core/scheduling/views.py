"""What the scheduler knows, as plain data for people and tools."""

from __future__ import annotations

from hawker.core.scheduling.entities import Host, Peer, Task


def summarize_task(task: Task) -> dict[str, object]:
    """A task in a line."""
    current = task.current
    return {
        "task": task.id,
        "url": task.spec.url,
        "tenant": task.spec.tenant,
        "state": task.machine.state,
        "generation": "" if current is None else current.id,
        "total": None if current is None else current.layout.total,
        "peers": len(task.peers),
        "complete": 0 if current is None else len(current.complete),
    }


def describe_task(task: Task) -> dict[str, object]:
    """A task with its leases, and each peer with its edges."""
    return {
        **summarize_task(task),
        "leases": [
            {"id": lease.id, "host": lease.host, "read_bytes": lease.read_bytes}
            for lease in task.leases.values()
        ],
        "members": [_describe_peer(peer) for peer in task.peers.values()],
    }


def _describe_peer(peer: Peer) -> dict[str, object]:
    return {
        "host": peer.host,
        "state": peer.machine.state,
        "generation": "" if peer.generation is None else peer.generation.id,
        "have": peer.have.runs(),
        "parents": sorted(peer.parents),
        "neighbours": sorted(peer.neighbours),
    }


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
