"""What a scheduler counts, for `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hawker.apps.web.metrics import Metric, counter, counters, gauge, gauges
from hawker.apps.web.tenants import tenant_metrics
from hawker.core.scheduling import Scheduler

HOST_STATES = ("known", "connected", "away")
TASK_STATES = ("empty", "reading", "live", "failed")


def scheduler_metrics(core: Scheduler, now: float) -> Iterable[Metric]:
    """The counters since the start, and how things stand."""
    count = core.figures
    yield counter("hawker_scheduler_leases_granted", "Leases on origins.", count.leases_granted)
    yield counters(
        "hawker_scheduler_leases_ended",
        "Leases that ended: done, failed, changed (the origin), overdue (a silent reader), lost"
        " (a reader that left), replaced or withdrawn.",
        "outcome",
        count.leases_ended,
    )
    yield counters(
        "hawker_scheduler_generations_ended",
        "Contents that were superseded by another or withdrawn.",
        "outcome",
        count.generations_ended,
    )
    yield counters(
        "hawker_scheduler_waits_ended",
        "Hosts that were told that they cannot have what they wait for, by the problem.",
        "reason",
        count.given_up,
    )
    yield counters("hawker_scheduler_reports", "Reports of hosts, by kind.", "kind", count.reports)
    yield counters(
        "hawker_scheduler_decisions", "Decisions for hosts, by kind.", "kind", count.decisions
    )
    yield counter(
        "hawker_scheduler_hosts_suspected",
        "Times that several hosts accused another.",
        count.hosts_suspected,
    )
    standing = core.standing(now)
    yield gauges(
        "hawker_scheduler_hosts",
        "Hosts: known (announced), connected or away for a moment.",
        "state",
        {state: standing.hosts[state] for state in HOST_STATES},
    )
    yield gauges(
        "hawker_scheduler_tasks",
        "Tasks: nothing known (empty), reading, live or failed.",
        "state",
        {state: standing.tasks[state] for state in TASK_STATES},
    )
    yield gauge("hawker_scheduler_peers", "Hosts in tasks.", standing.peers)
    yield gauge("hawker_scheduler_leases", "Leases on origins now.", standing.leases)
    limits = core.limits
    yield gauge(
        "hawker_scheduler_origin_reads_limit",
        "Leases on one origin that this scheduler grants at a time.",
        limits.reads,
    )
    yield gauge(
        "hawker_scheduler_origin_rate_limit_bytes",
        "Bytes per second that it grants on one origin; 0: no limit.",
        limits.rate,
    )
    yield gauge(
        "hawker_scheduler_origins_paused", "Origins that are left alone.", standing.origins_paused
    )
    yield gauge(
        "hawker_scheduler_lease_records", "Leases that are remembered.", standing.lease_records
    )
    usages = core.tenants.accounts.usage(core.tenants.wall(now))
    yield from tenant_metrics("scheduler", (usage for usage in usages if usage.decides))
    yield gauge(
        "hawker_scheduler_remembering",
        "1 while hosts of before the start may still come back.",
        int(core.expecting(now)),
    )


def window_metrics(core: Scheduler, observers: int) -> Iterator[Metric]:
    """What observers cost."""
    recorder = core.recorder
    yield gauge("hawker_scheduler_observers", "Streams of tasks' events that are open.", observers)
    size = 0 if recorder is None else recorder.size
    yield gauge("hawker_scheduler_records_bytes", "What records of tasks take.", size)
