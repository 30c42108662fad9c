"""What a tenant may use of a cluster: its quotas, as settings and messages have them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

DAY = 86_400
# Also what a manager's database takes for a whole number.
MOST = 2**53

Amount = Annotated[int, Meta(ge=1, le=MOST)]


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A tenant's quotas in one cluster; what is None has no limit."""

    stored_bytes: Amount | None = None
    """Bytes that its content takes on the disks of all hosts, each copy of it counted."""
    bandwidth: Amount | None = None
    """Bytes per second that all its downloads together get."""
    concurrent_downloads: Amount | None = None
    """Downloads of its clients at the same time; more wait for their turn."""
    origin_bytes: Amount | None = None
    """Bytes read from origins within each period."""
    origin_period: Annotated[int, Meta(ge=1, le=366 * DAY)] = DAY
    """Seconds of a period; periods are counted from 1970 (UTC), so that days begin at midnight."""

    @property
    def unlimited(self) -> bool:
        """There is nothing to keep to."""
        quotas = (self.stored_bytes, self.bandwidth, self.concurrent_downloads, self.origin_bytes)
        return quotas == (None, None, None, None)

    def period(self, wall: float) -> int:
        """The number of the period that this time, in seconds since 1970, is in."""
        return int(wall // self.origin_period)

    def until_next(self, wall: float) -> float:
        """Seconds until the next period begins."""
        return self.origin_period - wall % self.origin_period


class TenantUsage(msgspec.Struct, frozen=True):
    """How a tenant stands, as one scheduler knows it; `decides`: it is the one that hosts tell.

    `bandwidth` are the bytes per second that its downloads got lately, `origin_bytes` those of the
    period that ends at `period_ends` (seconds since 1970). `waiting` are downloads that wait for
    their turn; `refused` counts what was refused since that scheduler was started.
    """

    tenant: str
    limits: Limits
    decides: bool
    stored_bytes: int
    bandwidth: int
    concurrent_downloads: int
    waiting: int
    origin_bytes: int
    period_ends: float
    refused: int
