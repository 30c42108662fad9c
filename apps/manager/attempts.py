"""How often somebody may try to sign in: counted in the database, by all managers together, so that
a guesser who asks one after the other has no more tries."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping

from hawker.apps.manager import models
from hawker.apps.manager.secret import KeyedHash
from hawker.core.errors import TooMany

LIMITS: Mapping[str, int] = {"name": 10, "address": 50}
WINDOW = 300.0


class Attempts:
    """Attempts that failed, or are under way, within `WINDOW` seconds; of what was typed as a name
    there is a keyed hash, as it may be a password."""

    def __init__(self, hashed: KeyedHash) -> None:
        self._hashed = hashed

    async def begin(self, **tried: str) -> list[int]:
        """Count an attempt by what it has in common with others: its `name`, its `address`.

        It counts as failed until `succeeded` is told what this returns. Raises TooMany.
        """
        digests = {self._digest(kind, value): LIMITS[kind] for kind, value in tried.items()}
        for digest, limit in digests.items():
            await self._check(digest, limit)
        begun: list[int] = []
        try:
            for digest, limit in digests.items():
                row = await models.Attempt.create(digest=digest, at=time.time())
                begun.append(row.id)
                # Of many at once, each looks at those that the database put before it.
                await self._check(digest, limit, before=row.id)
        except TooMany:
            await models.Attempt.filter(id__in=begun).delete()
            raise
        return begun

    async def succeeded(self, begun: list[int], *, name: str = "") -> None:
        """Take an attempt back; with a name, the failed ones of that name, too."""
        await models.Attempt.filter(id__in=begun).delete()
        if name:
            await models.Attempt.filter(digest=self._digest("name", name)).delete()

    async def clean(self) -> None:
        """Forget those that count no more."""
        await models.Attempt.filter(at__lte=time.time() - WINDOW).delete()

    def _digest(self, kind: str, value: str) -> str:
        return self._hashed.digest(f"attempt {kind}", value)

    async def _check(self, digest: str, limit: int, before: int | None = None) -> None:
        now = time.time()
        recent = models.Attempt.filter(digest=digest, at__gt=now - WINDOW)
        if before is not None:
            recent = recent.filter(id__lt=before)
        times = await recent.order_by("-id").limit(limit).values_list("at", flat=True)
        if len(times) == limit:
            wait = max(1.0, float(str(times[-1])) + WINDOW - now)
            raise TooMany("too many attempts to sign in", retry_after=wait)


def place_of(client: str) -> str:
    """What addresses are counted by: an IPv6 network of 64 bits is one host's to choose from."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
