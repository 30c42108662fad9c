"""What tenants use of their quotas, for `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable

from hawker.apps.web.metrics import Metric, Timings, counters, gauges
from hawker.core.limits import TenantUsage

QUOTAS = ("stored_bytes", "bandwidth", "concurrent_downloads", "origin_bytes")


def tenant_metrics(role: str, usages: Iterable[TenantUsage]) -> Iterable[Metric]:
    """Of tenants that have quotas; what has none is not counted."""
    known = list(usages)
    limits: dict[tuple[str, ...], float | Timings] = {}
    used: dict[tuple[str, ...], float | Timings] = {}
    for usage in known:
        for quota in QUOTAS:
            limit = getattr(usage.limits, quota)
            if limit is not None:
                limits[usage.tenant, quota] = float(limit)
                used[usage.tenant, quota] = float(getattr(usage, quota))
    labels = ("tenant", "quota")
    yield Metric("gauge", f"hawker_{role}_tenant_limit", "Quotas of tenants.", limits, labels)
    yield Metric("gauge", f"hawker_{role}_tenant_used", "What is used of them.", used, labels)
    yield gauges(
        f"hawker_{role}_tenant_waiting",
        "Downloads that wait for a place.",
        "tenant",
        {usage.tenant: usage.waiting for usage in known},
    )
    yield counters(
        f"hawker_{role}_tenant_refused",
        "What was refused for want of quota.",
        "tenant",
        {usage.tenant: usage.refused for usage in known},
    )
