"""What a peer counts, for `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hawker.apps.web.metrics import Metric, counter, counters, gauge, gauges
from hawker.apps.web.tenants import tenant_metrics
from hawker.core.clients.scheduler import SchedulerLink
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.slots import UploadSlots

COUNTERS = {
    "origin_bytes": "Bytes read from origins.",
    "seed_bytes": "Valid bytes received from seed peers.",
    "peer_bytes": "Valid bytes received from other peers.",
    "duplicate_bytes": "Bytes received that were valid already.",
    "client_bytes": "Bytes of content delivered to clients over HTTP.",
    "corrupt_pieces": "Pieces received with a wrong digest.",
    "refused_requests": "Requests for pieces that a parent had no slot for.",
    "failed_requests": "Requests for pieces that failed.",
    "unscheduled_reads": "Tasks read from the origin because no scheduler was there.",
}


def peer_metrics(
    conductor: Conductor, slots: UploadSlots, links: Sequence[SchedulerLink]
) -> Iterable[Metric]:
    """The counters since the start, and how things stand."""
    count, store = conductor.ground.counters, conductor.ground.store
    for name, text in COUNTERS.items():
        yield counter(f"hawker_peer_{name}", text, getattr(count, name))
    yield counter("hawker_peer_uploaded_bytes", "Bytes of pieces sent to peers.", slots.sent_bytes)
    yield counter("hawker_peer_uploads_refused", "Requests without a free slot.", slots.refused)
    yield counters(
        "hawker_peer_downloads",
        "Downloads that ended, by done, abandoned or the problem that ended them.",
        "outcome",
        count.downloads,
    )
    yield counters(
        "hawker_peer_parents_left", "Parents left, by the problem.", "reason", count.parents_left
    )
    yield counters(
        "hawker_peer_origin_reads",
        "Leases on origins that ended here, by done or the problem.",
        "outcome",
        count.reads,
    )
    runs = list(conductor.runs.values())
    yield gauge("hawker_peer_tasks_active", "Tasks at work.", len(runs))
    reading = sum(run.reading for run in runs)
    yield gauge("hawker_peer_tasks_reading", "Tasks whose origin is being read here.", reading)
    users = sum(len(run.users) for run in runs)
    yield gauge("hawker_peer_downloads_active", "Downloads that are waited for.", users)
    yield gauge("hawker_peer_stored_tasks", "Generations in the store.", len(store.entries()))
    yield gauge("hawker_peer_stored_bytes", "Bytes taken or promised.", store.used_bytes)
    yield gauge("hawker_peer_quota_bytes", "Most bytes of content kept.", store.quota)
    yield gauges(
        "hawker_peer_upload_slots",
        "Requests for pieces that can be answered at once.",
        "state",
        {"used": slots.used, "free": slots.free},
    )
    yield from tenant_metrics("peer", conductor.ground.quotas.accounting.usage())
    connected = sum(link.connected for link in links)
    yield gauges(
        "hawker_peer_schedulers",
        "Schedulers this host is configured with.",
        "state",
        {"connected": connected, "away": len(links) - connected},
    )
