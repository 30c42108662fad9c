"""Asking origins which version of a URL's content they have, no oftener than RFC 9111 wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from weakref import WeakValueDictionary

from hawker.apps.proxy.freshness import Version, Versions, Wish, usable, version_of
from hawker.apps.proxy.messages import as_mapping
from hawker.core.errors import HawkerError
from hawker.core.outgoing import OriginClient

# What is asked only to learn whether anything changed must not take long.
PATIENCE = 10.0


class Origins:
    """What each tenant knows of URLs; an origin that knows no HEAD is left to its clients."""

    def __init__(self, client: OriginClient, clock: Callable[[], float] = time.time) -> None:
        self.asked = 0
        self._client = client
        self._clock = clock
        self._versions = Versions()
        # When it was asked about what is not shared, and how often anything was forgotten.
        self._unshared: dict[tuple[str, str], float] = {}
        self._forgotten = 0
        self._asking: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._tenants: set[str] = set()

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    def fresh(self, tenant: str, url: str, wish: Wish) -> Version | None:
        """The version that may be given without asking, None where there is none."""
        version = self._versions.get(tenant, url)
        return version if version is not None and usable(version, wish, self._clock()) else None

    async def version(
        self, tenant: str, url: str, wish: Wish, fixed: float | None
    ) -> Version | None:
        """The version that its origin has, asked where that is not known; None for what is not
        shared, or where the origin does not say."""
        began = self._clock()
        self._tenants.add(tenant)
        lock = self._asking.setdefault((tenant, url), asyncio.Lock())
        async with lock:
            version = self._versions.get(tenant, url)
            # Many who want to know at once are answered by one question.
            if version is not None and version.asked_at >= began:
                return version
            if self._unshared.get((tenant, url), 0.0) >= began:
                return None
            version = self.fresh(tenant, url, wish)
            if version is None:
                version = await self._ask(tenant, url, fixed)
            return version

    def forget(self, url: str) -> None:
        """It was written to, or is not what was thought."""
        self._forgotten += 1
        for tenant in self._tenants:
            self._versions.forget(tenant, url)

    async def _ask(self, tenant: str, url: str, fixed: float | None) -> Version | None:
        self.asked += 1
        now, forgotten = self._clock(), self._forgotten
        version = await self._asked(url, now, fixed)
        if version is None:
            if len(self._unshared) >= self._versions.limit:
                self._unshared.clear()
            self._unshared[tenant, url] = self._clock()
            self._versions.forget(tenant, url)
        elif forgotten == self._forgotten:
            # What was written to meanwhile may be another version already.
            self._versions.put(tenant, url, version)
        return version

    async def _asked(self, url: str, now: float, fixed: float | None) -> Version | None:
        try:
            async with asyncio.timeout(PATIENCE):
                asked = {"accept-encoding": "identity"}
                answer = await self._client.hand_on("HEAD", url, asked, None)
                await answer.aclose()
        except (HawkerError, TimeoutError):
            return None
        fields = as_mapping(answer.headers.raw)
        return version_of(answer.status_code, fields, now, fixed)
