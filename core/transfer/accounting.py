"""What this host uses of tenants' quotas and claims of them, told to whoever decides about each.

A scheduler decides about a tenant, the same one for all hosts as long as it is there; a host
without schedulers decides for itself, by its own settings. A tenant without quotas costs nothing
but a few counters.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

import msgspec

from hawker.core.errors import HawkerError, OverQuota
from hawker.core.limits import Limits, TenantUsage
from hawker.core.messages import Allowance, Claim, ClaimKind, Idle, Usage
from hawker.core.quotas import Accounts
from hawker.core.signal import Signal
from hawker.core.storage import Store
from hawker.core.transfer.pace import Pace
from hawker.core.transfer.schedulers import Link, Schedulers

TELL_EVERY = 0.5
# A host whose downloads follow each other keeps its part of the bandwidth for so long.
LINGER = 1.0
# So many tenants are looked at in one go.
LOOKED_AT = 128
# What an origin gives slowly comes in bursts.
RATE_OVER = 3.0


class Claimed:
    """A claim of this host; `answer` is over once it was granted, or raises why it cannot be.

    `size` is what of it is not used yet.
    """

    def __init__(self, tenant: Tenant, number: int, kind: ClaimKind, size: int) -> None:
        self.tenant = tenant
        self.number, self.kind, self.size = number, kind, size
        self.granted = False
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def grant(self) -> None:
        self.granted = True
        if not self.answer.done():
            self.answer.set_result(None)

    def refuse(self, error: HawkerError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def release(self) -> None:
        """It is used up, or not needed any more."""
        if self.tenant.claims.pop(self.number, None) is not None:
            self.tenant.news()


@dataclass(eq=False)
class Tenant:
    """What this host uses of one tenant's quotas, and may.

    `received` and `delivered` are bytes of its downloads since the start; `read_bytes` came from
    origins within `period`, of `length` seconds; `kept` is an allowance's `keep` that was kept to,
    to be told. `home` is who decides (None: this host), which told the allowance with `revision`
    last; `changed` fires when what it may use is another.
    """

    name: str
    inward: Pace
    outward: Pace
    touched: Callable[[Tenant], None]
    limits: Limits | None = None
    claims: dict[int, Claimed] = field(default_factory=dict)
    downloads: int = 0
    ended_at: float = -inf
    received: int = 0
    delivered: int = 0
    period: int = 0
    length: int = 0
    read_bytes: int = 0
    kept: int | None = None
    home: Link | None = None
    moved: bool = False
    revision: int = 0
    told: Usage | None = None
    refused: int = 0
    evicting: int | None = None
    changed: Signal = field(default_factory=Signal)
    _samples: deque[tuple[float, int, int]] = field(default_factory=deque)

    def news(self) -> None:
        """Whoever decides is to be told."""
        if self.limits is not None:
            self.touched(self)

    def limit(self, limits: Limits | None, now: float) -> None:
        """Keep to these limits from now on."""
        if limits == self.limits:
            return
        self.limits = limits
        free = limits is None or limits.bandwidth is None
        for pace in (self.inward, self.outward):
            if free:
                pace.change(None, now)
            elif pace.limit is None:
                # Until it was told what this host's part is.
                pace.change(0, now)
        if limits is None:
            # Whoever decides forgets what it was told.
            self.told = None
            for claim in list(self.claims.values()):
                claim.grant()
        self.changed.fire()
        self.news()

    def count_read(self, size: int, wall: float) -> None:
        """Bytes came from an origin."""
        if self.limits is None:
            return
        self.turn(wall)
        if (period := self.limits.period(wall)) != self.period:
            self.period, self.read_bytes = period, 0
        self.read_bytes += size

    def turn(self, wall: float) -> None:
        """Where periods are of another length than before, what was read in this one before
        counts on."""
        if self.limits is None or self.limits.origin_period == self.length:
            return
        if self.length and int(wall // self.length) == self.period:
            self.period = self.limits.period(wall)
        self.length = self.limits.origin_period

    def rate(self, now: float) -> int:
        """Bytes per second that its downloads got lately."""
        samples = self._samples
        samples.append((now, self.received, self.delivered))
        while len(samples) > 2 and now - samples[1][0] >= RATE_OVER:
            samples.popleft()
        then, received, delivered = samples[0]
        moved = max(self.received - received, self.delivered - delivered)
        return max(0, int(moved / (now - then))) if now > then else 0

    def refusal(self, claim: Claimed, retry_after: float | None) -> HawkerError:
        """Why a claim cannot be had."""
        limits = self.limits or Limits()
        if claim.kind == "room":
            return OverQuota(
                f"no room for {claim.size} bytes within the {limits.stored_bytes} that the tenant"
                f" {self.name!r} may store: all it has is in use",
                hint="raise its stored_bytes, or remove what is not needed",
            )
        return OverQuota(
            f"the tenant {self.name!r} may read {limits.origin_bytes} bytes from origins within"
            f" {limits.origin_period} s, and has not {claim.size} of them left",
            hint="wait for the next period, or raise its origin_bytes",
            retry_after=retry_after,
        )


class Accounting:
    """The tenants of this host; everything here runs on one loop.

    Args:
        wall: seconds since 1970.
    """

    def __init__(self, store: Store, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.clock, self.wall = clock, wall
        self._store = store
        self._schedulers: Schedulers | None = None
        self._life = secrets.token_hex(8)
        self._number = 0
        self._tenants: dict[str, Tenant] = {}
        self._own = Accounts({})
        self._limits: dict[str, Limits] = {}
        self._touched: dict[str, None] = {}
        self._touch = Signal()
        self._heard = asyncio.Event()
        self._patient_until = 0.0
        self._group: asyncio.TaskGroup | None = None

    def tenant(self, name: str) -> Tenant:
        """A tenant as this host knows it."""
        known = self._tenants.get(name)
        if known is None:
            now = self.clock()
            known = self._tenants[name] = Tenant(name, Pace(now), Pace(now), self._note)
            known.limit(self._limits.get(name), now)
        return known

    def claim(self, tenant: Tenant, kind: ClaimKind, size: int) -> Claimed:
        """Claim something of a tenant's quotas; it must be released."""
        self._number += 1
        claim = tenant.claims[self._number] = Claimed(tenant, self._number, kind, size)
        tenant.news()
        return claim

    def usage(self) -> list[TenantUsage]:
        """This host's part in the tenants that have quotas."""
        wall, now = self.wall(), self.clock()
        found = []
        for tenant in self._tenants.values():
            limits = tenant.limits
            if limits is None:
                continue
            places = [claim for claim in tenant.claims.values() if claim.kind == "place"]
            granted = sum(claim.granted for claim in places)
            found.append(
                TenantUsage(
                    tenant=tenant.name,
                    limits=limits,
                    decides=tenant.home is None,
                    stored_bytes=self._store.used_by(tenant.name),
                    bandwidth=tenant.rate(now),
                    concurrent_downloads=granted,
                    waiting=len(places) - granted,
                    origin_bytes=tenant.read_bytes * (tenant.period == limits.period(wall)),
                    period_ends=wall + limits.until_next(wall),
                    refused=tenant.refused,
                )
            )
        return found

    # ------------------------------------------------------------------ limits

    def keep_to(self, limits: Mapping[str, Limits]) -> None:
        """The quotas of this host's own settings, which hold while it has no schedulers."""
        self._own.limit(limits)
        if self._alone:
            self._settle(self._own.limits)

    def told(self, limits: Mapping[str, Limits]) -> None:
        """A scheduler says which tenants have quotas."""
        self._heard.set()
        if not self._alone:
            self._settle(limits)

    def _settle(self, limits: Mapping[str, Limits]) -> None:
        self._limits = dict(limits)
        # Of tenants that nobody uses here there is nothing to tell: there may be many.
        stored = [name for name in limits if self._store.used_by(name)]
        for name in self._tenants.keys() | {*stored}:
            self.tenant(name).limit(limits.get(name), self.clock())

    @property
    def _alone(self) -> bool:
        return self._schedulers is None or not self._schedulers.links

    async def contact(self) -> None:
        """Return once it is known which tenants have quotas: a scheduler was heard of. One that is
        away is waited for once."""
        wait = self._patient_until - self.clock()
        if self._alone or self._heard.is_set() or wait <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._heard.wait()

    # ------------------------------------------------------------------ what may be used

    def apply(self, link: Link | None, told: Allowance) -> None:
        """Whoever decides about a tenant says what this host may use."""
        name, now = told.tenant, self.clock()
        if link is not None:
            if told.limits.unlimited:
                self._limits.pop(name, None)
            else:
                self._limits[name] = told.limits
            if name not in self._tenants and not self._store.used_by(name):
                return
        tenant = self.tenant(name)
        if link is not None:
            tenant.limit(self._limits.get(name), now)
        if link is not tenant.home or told.revision <= tenant.revision:
            return
        tenant.revision = told.revision
        for number in told.granted:
            if (claim := tenant.claims.get(number)) is not None:
                claim.grant()
        for refused in told.refused:
            claim = tenant.claims.get(refused.number)
            if claim is not None and not claim.answer.done():
                tenant.refused += 1
                claim.refuse(tenant.refusal(claim, refused.retry_after))
        if tenant.limits is not None and tenant.limits.bandwidth is not None:
            for pace in (tenant.inward, tenant.outward):
                pace.change(told.bandwidth, now)
        if told.keep is not None and self._group is not None and tenant.evicting != told.keep:
            tenant.evicting = told.keep
            self._group.create_task(self._evict(tenant, told.keep))
        tenant.changed.fire()

    async def _evict(self, tenant: Tenant, keep: int) -> None:
        await self._store.evict_of(tenant.name, keep)
        tenant.kept, tenant.evicting = keep, None
        tenant.news()

    # ------------------------------------------------------------------ telling

    @contextlib.asynccontextmanager
    async def running(self, schedulers: Schedulers, patience: float) -> AsyncIterator[None]:
        """Tell what is used while inside; a scheduler that was never heard of is waited for at
        most `patience` seconds."""
        self._schedulers = schedulers
        self._patient_until = self.clock() + patience
        async with asyncio.TaskGroup() as group:
            self._group = group
            telling = group.create_task(self._tell_for_ever())
            try:
                yield
            finally:
                self._group = None
                telling.cancel()

    def introduce(self, link: Link) -> None:
        """A scheduler knows nothing of this host: tell it all that it decides about."""
        for tenant in self._tenants.values():
            if tenant.home is link:
                tenant.told, tenant.revision = None, 0
                tenant.news()

    def _note(self, tenant: Tenant) -> None:
        self._touched[tenant.name] = None
        self._touch.fire()

    async def _tell_for_ever(self) -> None:
        looked_at = -inf
        while True:
            seen, now = self._touch.seen, self.clock()
            names: Iterable[str] = self._touched
            self._touched = {}
            if now - looked_at >= TELL_EVERY:
                looked_at, names = now, list(self._tenants)
                if self._alone:
                    self._settle(self._own.limits)
                    self._own.tick(now, self.wall())
                    self._hear_own()
            await self._look_at(names)
            await self._touch.wait(TELL_EVERY, seen)

    async def _look_at(self, names: Iterable[str]) -> None:
        """Tell of these tenants, of many in parts, between which others have their turn, those
        first that were touched meanwhile."""
        queue = deque(names)
        while True:
            for _ in range(min(LOOKED_AT, len(queue))):
                self._look(self._tenants[queue.popleft()], self.clock())
            if not queue:
                return
            await asyncio.sleep(0)
            touched, self._touched = self._touched, {}
            queue.extendleft(reversed(touched))

    def _look(self, tenant: Tenant, now: float) -> None:
        """Tell whoever decides what is used, where that is news."""
        if tenant.limits is None:
            return
        link = None if self._schedulers is None else self._schedulers.of(f"tenant {tenant.name}")
        usage = self._usage(tenant, now)
        if link is not tenant.home:
            former, tenant.home = tenant.home, link
            tenant.moved = former is not None
            tenant.told, tenant.revision = None, 0
            if former is not None:
                former.report(msgspec.structs.replace(usage, left=True))
        if usage != tenant.told:
            # Nor is what was kept to news again; it may be asked for once more.
            tenant.told = msgspec.structs.replace(usage, kept=None)
            self._tell(link, msgspec.structs.replace(usage, moved=tenant.moved))
            tenant.moved, tenant.kept = False, None

    def _tell(self, link: Link | None, usage: Usage) -> None:
        if link is not None:
            link.report(usage, urgent=True)
            return
        self._own.take("", usage, self.clock(), self.wall())
        self._hear_own()

    def _hear_own(self) -> None:
        for _, allowance in self._own.take_changed():
            self.apply(None, allowance)

    def _usage(self, tenant: Tenant, now: float) -> Usage:
        stores = tenant.limits is not None and tenant.limits.stored_bytes is not None
        idle, idle_bytes = self._store.idle_of(tenant.name) if stores else ([], 0)
        tenant.turn(self.wall())
        lingers = now - tenant.ended_at < LINGER
        return Usage(
            task="",
            tenant=tenant.name,
            life=self._life,
            claims=[Claim(c.number, c.kind, c.size, c.granted) for c in tenant.claims.values()],
            downloads=tenant.downloads or int(lingers),
            rate=tenant.rate(now),
            bandwidth=int(tenant.inward.limit or 0),
            period=tenant.period,
            read_bytes=tenant.read_bytes,
            stored_bytes=self._store.used_by(tenant.name),
            idle=[Idle(entry.used, entry.size) for entry in idle],
            idle_bytes=idle_bytes,
            kept=tenant.kept,
        )
