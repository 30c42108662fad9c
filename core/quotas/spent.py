"""What is remembered of what was read from origins."""

from __future__ import annotations

import msgspec


class Spent(msgspec.Struct, frozen=True):
    """Bytes that a host read from origins for a tenant, in one life and one period, which `ends`
    then (seconds since 1970)."""

    tenant: str
    host: str
    life: str
    period: int
    bytes: int
    ends: float
