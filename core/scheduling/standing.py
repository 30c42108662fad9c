"""How much there is of what, for metrics and overviews; each takes time with the number of hosts
and tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hawker.core.scheduling.board import Board
from hawker.core.scheduling.figures import Standing
from hawker.core.scheduling.gate import Gate
from hawker.core.window import Overview


def standing_of(board: Board, gates: Iterable[Gate], now: float) -> Standing:
    """Hosts and tasks by state, and sizes."""
    hosts, tasks = board.hosts.values(), board.tasks.values()
    return Standing(
        hosts=Counter(host.machine.state for host in hosts),
        tasks=Counter(task.machine.state for task in tasks),
        peers=sum(len(task.peers) for task in tasks),
        leases=sum(len(task.leases) for task in tasks),
        origins_paused=sum(gate.not_before > now for gate in gates),
        lease_records=len(board.ledger),
    )


def overview_of(board: Board, now: float, tenant: str | None) -> Overview:
    """What there is to do, of one tenant or of all, as far as it is recorded."""
    tasks = [t for t in board.tasks.values() if tenant is None or t.spec.tenant == tenant]
    recorder = board.recorder
    if recorder is None:
        return Overview(since=0.0, at=now)
    origin, delivered, origin_rate, rate = recorder.moved(tenant, now)
    return Overview(
        since=recorder.since,
        at=recorder.clock + now,
        hosts=dict(Counter(host.machine.state for host in board.hosts.values())),
        tasks=dict(Counter(task.machine.state for task in tasks)),
        peers=sum(len(task.peers) for task in tasks),
        complete=sum(len(task.current.complete) for task in tasks if task.current is not None),
        leases=sum(len(task.leases) for task in tasks),
        origin_bytes=origin,
        delivered_bytes=delivered,
        saved_bytes=max(0, delivered - origin),
        origin_rate=origin_rate,
        rate=rate,
    )
