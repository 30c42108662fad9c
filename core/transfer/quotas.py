"""Keeping to tenants' quotas on this host: places for downloads, room, origins, bandwidth."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

from hawker.core.errors import OverQuota
from hawker.core.pieces import MIB
from hawker.core.signal import Signal
from hawker.core.storage import Store
from hawker.core.transfer.accounting import Accounting, Claimed, Tenant
from hawker.core.transfer.pace import Pace

# Whoever decides answers within milliseconds; but other hosts may have to evict for it, or a
# scheduler to come back.
ANSWER_WAIT = 10.0
# Content of unknown length is claimed in such parts.
AHEAD = 8 * MIB
# So much of an answer an origin may have sent before anybody reads it: what the buffers of both
# ends grow to at most, as Linux comes.
ON_ITS_WAY = 10 * MIB
LOOK_AGAIN = 1.0


class Quotas:
    """See the module; `accounting` tells whoever decides."""

    def __init__(
        self, store: Store, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self.accounting = Accounting(store, clock, wall)
        self._clock = clock
        store.rooms = self

    # ------------------------------------------------------------------ places

    @contextlib.asynccontextmanager
    async def place(self, name: str, seconds: float) -> AsyncIterator[None]:
        """A place for a download of the tenant, waited for in turn, at least for a moment: whoever
        decides about it has to answer.

        Raises:
            OverQuota: there was none within so many seconds.
        """
        await self.accounting.contact()
        tenant = self.accounting.tenant(name)
        limit = None if tenant.limits is None else tenant.limits.concurrent_downloads
        if limit is None:
            with self.delivering(name):
                yield
            return
        seconds = max(seconds, LOOK_AGAIN)
        claim = self.accounting.claim(tenant, "place", 1)
        try:
            try:
                async with asyncio.timeout(seconds):
                    await claim.answer
            except TimeoutError as exc:
                raise OverQuota(
                    f"the tenant {name!r} has as many downloads at work as it may have ({limit}),"
                    f" and there was no place for another one within {seconds:g} s",
                    hint="ask again later, or raise its concurrent_downloads",
                    retry_after=LOOK_AGAIN,
                ) from exc
            with self.delivering(name):
                yield
        finally:
            claim.release()

    @contextlib.contextmanager
    def delivering(self, name: str) -> Iterator[None]:
        """Something is downloaded for the tenant, which needs a part of its bandwidth."""
        tenant = self.accounting.tenant(name)
        tenant.downloads += 1
        tenant.news()
        try:
            yield
        finally:
            tenant.downloads -= 1
            tenant.ended_at = self._clock()
            tenant.news()

    # ------------------------------------------------------------------ origins

    @contextlib.asynccontextmanager
    async def reading(
        self, name: str, size: int | None, *, begun: bool = False
    ) -> AsyncIterator[Claimed | None]:
        """So many bytes (None: nobody knows how many) are about to be read from an origin; what of
        them is not read is given back. Where its answer has `begun`, what may be on its way counts
        as read also when it is refused.

        Raises:
            OverQuota: they would be more than the tenant may read in this period.
        """
        tenant = self.accounting.tenant(name)
        if tenant.limits is None or tenant.limits.origin_bytes is None or size == 0:
            yield None
            return
        try:
            claim = await self._may_read(tenant, AHEAD if size is None else size)
        except OverQuota:
            if begun:
                self._count_unread(tenant, size)
            raise
        try:
            yield claim
        finally:
            claim.release()

    async def read(self, name: str, size: int, claim: Claimed | None) -> None:
        """So many bytes came from an origin, under a claim.

        Raises:
            OverQuota: the length was unknown, and the tenant may read no more in this period.
        """
        tenant = self.accounting.tenant(name)
        tenant.count_read(size, self.accounting.wall())
        if claim is None:
            return
        beyond, claim.size = size - claim.size, max(0, claim.size - size)
        if beyond > 0:
            try:
                more = await self._may_read(tenant, AHEAD + beyond)
            except OverQuota:
                self._count_unread(tenant, None)
                raise
            # One of them stands for both.
            claim.size = AHEAD
            more.release()

    def _count_unread(self, tenant: Tenant, size: int | None) -> None:
        """An answer that has begun is refused: nobody knows how much of it was sent already."""
        unread = ON_ITS_WAY if size is None else min(ON_ITS_WAY, size)
        tenant.count_read(unread, self.accounting.wall())
        tenant.news()

    async def _may_read(self, tenant: Tenant, size: int) -> Claimed:
        claim = self.accounting.claim(tenant, "read", size)
        try:
            async with asyncio.timeout(ANSWER_WAIT):
                await claim.answer
        except BaseException as exc:
            claim.release()
            if not isinstance(exc, TimeoutError):
                raise
            raise OverQuota(
                f"no scheduler says whether more may be read for the tenant {tenant.name!r}",
                retry_after=ANSWER_WAIT,
            ) from exc
        return claim

    # ------------------------------------------------------------------ room

    def claim_room(self, name: str, size: int) -> Claimed | None:
        """Room for content that is about to be stored; None where the tenant has no such quota."""
        tenant = self.accounting.tenant(name)
        if tenant.limits is None or tenant.limits.stored_bytes is None:
            return None
        claim = self.accounting.claim(tenant, "room", size)
        late = OverQuota(
            f"the tenant {name!r} got no room for {size} bytes within {ANSWER_WAIT:g} s",
            retry_after=ANSWER_WAIT,
        )
        timer = asyncio.get_running_loop().call_later(ANSWER_WAIT, claim.refuse, late)
        claim.answer.add_done_callback(lambda _: timer.cancel())
        return claim

    # ------------------------------------------------------------------ bandwidth

    def receive_wait(self, name: str) -> float:
        """Seconds until pieces may be asked for; inf until `changed` fires."""
        tenant = self.accounting.tenant(name)
        return tenant.inward.wait(tenant.inward.charged, self._clock())

    def receive_part(self, name: str) -> int | None:
        """Most bytes to ask for at once; None for any."""
        return self.accounting.tenant(name).inward.part

    def receiving(self, name: str, size: int) -> None:
        """So many bytes are asked for."""
        tenant = self.accounting.tenant(name)
        tenant.inward.charge(size, self._clock())

    def arrived(self, name: str, size: int, asked: int) -> None:
        """So many bytes came of those that were asked for."""
        tenant = self.accounting.tenant(name)
        tenant.received += size
        tenant.inward.refund(asked - size)

    async def take(self, name: str, size: int) -> None:
        """Bytes came from an origin: wait until they were due."""
        tenant = self.accounting.tenant(name)
        tenant.received += size
        ticket = tenant.inward.charge(size, self._clock())
        await self._paid(tenant, tenant.inward, ticket)

    async def received(self, name: str) -> None:
        """Wait until all that came was due."""
        tenant = self.accounting.tenant(name)
        await self._paid(tenant, tenant.inward, tenant.inward.charged)

    def deliver_part(self, name: str) -> int | None:
        """Most bytes to give a client at once; None for any."""
        return self.accounting.tenant(name).outward.part

    async def deliver(self, name: str, size: int) -> None:
        """Wait until so many bytes may go to a client."""
        tenant = self.accounting.tenant(name)
        ticket = tenant.outward.charge(size, self._clock())
        await self._paid(tenant, tenant.outward, ticket)
        tenant.delivered += size

    def changed(self, name: str) -> Signal:
        """Fires when what the tenant may use here is another."""
        return self.accounting.tenant(name).changed

    async def _paid(self, tenant: Tenant, pace: Pace, ticket: float) -> None:
        while True:
            seen = tenant.changed.seen
            wait = pace.wait(ticket, self._clock())
            if wait <= 0 or not tenant.downloads:
                return
            await tenant.changed.wait(min(wait, LOOK_AGAIN), seen)
