"""This process as a member of a cluster that a manager looks after.

It keeps itself alive there by long polls, hands on to its roles what it is told, and writes it
down: with the manager away it goes on for any time, and starts with what it was told last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from hawker.apps.membership.certificate import Certificate
from hawker.apps.membership.effective import check, effective, merged
from hawker.apps.web.beside import beside
from hawker.apps.web.metrics import Metric, counters, gauge
from hawker.core.clients.manager import ManagerClient
from hawker.core.contracts import Directions, RoleApp
from hawker.core.errors import ConfigError, HawkerError, Removed, Unauthenticated
from hawker.core.membership import KEEPALIVE, Keepalive, Kept
from hawker.core.settings import Settings
from hawker.core.storage.directory import DirectoryLock
from hawker.core.storage.identity import load_host_key
from hawker.core.storage.membership import (
    HOST,
    MANAGER,
    Membership,
    load_membership,
    save_membership,
)
from hawker.core.version import version

log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.5
LAST_BACKOFF = 10.0
# A manager that answers at once though nothing has changed is not asked more often.
PAUSE = 1.0
# Nor one to whom everything is news each time.
SHORTEST = 0.1
# Tokens between roles bear half of that.
SKEW = 15.0


class Member:
    """See the module. `roles` are those of the process, which follow what it is told while
    `lifespan` is entered.

    Attributes:
        settings: what holds at the start.
        removed: the manager said that this host is a member no more; it should end.
    """

    def __init__(self, settings: Settings, membership: Membership) -> None:
        self.roles: Sequence[RoleApp] = ()
        self.removed = asyncio.Event()
        self._own = settings
        self._membership = membership
        self._folder = settings.membership_folder
        self._advertise: Callable[[], Awaitable[str]] | None = None
        self._connected = False
        self._failures = 0
        self._saved = True
        self._skew = 0.0
        self._skewed = False
        self._outcomes: Counter[str] = Counter()
        manager = self._folder / MANAGER
        self._client = ManagerClient(
            membership.manager, ca=str(manager) if manager.exists() else ""
        )
        shown = settings.tls.certificate == str(self._folder / HOST)
        self._certificate = Certificate(self._folder, membership) if shown else None

    @classmethod
    def of(cls, settings: Settings, roles: Sequence[str]) -> Member | None:
        """The membership in the data directory, None where there is none; blocking.

        Raises:
            ConfigError: these settings and roles are not for a host that joined as this one did.
            StorageFailed: what is kept cannot be used.
        """
        membership = load_membership(settings.membership_folder)
        if membership is None:
            return None
        check(settings, membership, roles)
        if load_host_key(settings.data).host != membership.host:
            raise ConfigError(
                f"the key of this host is not the one that joined {membership.cluster_name}",
                hint="bring the old host.key back, or `hawker leave` and join again",
            )
        return cls(settings, membership)

    @property
    def settings(self) -> Settings:
        return effective(self._own, self._membership.told, self._membership.url)

    @property
    def revoked(self) -> frozenset[str]:
        """The ids of clients' tokens that were revoked, as it was told last."""
        told = self._membership.told
        return frozenset() if told is None else frozenset(told.revoked)

    @property
    def cluster(self) -> str:
        """The name of the cluster."""
        return self._membership.cluster_name

    def serve(self, roles: Sequence[RoleApp], advertise: Callable[[], Awaitable[str]]) -> None:
        """The roles of this process, and how it learns its URL."""
        self.roles, self._advertise = roles, advertise

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Keep the membership alive while inside; to be entered once the roles are started.

        Raises:
            StorageFailed: another process does.
        """
        lock = await asyncio.to_thread(DirectoryLock, self._folder)
        try:
            await self._direct()
            async with self._client, self._at_work():
                yield
        finally:
            lock.release()

    def _at_work(self) -> AbstractAsyncContextManager[None]:
        if self._certificate is None:
            return beside(self._keep_alive())
        return beside(self._keep_alive(), self._certificate.renew_for_ever(self._client))

    def metrics(self) -> Iterable[Metric]:
        """What is counted since the start, and how things stand."""
        told = self._membership.told
        yield gauge(
            "hawker_membership_connected",
            "1 while the manager answers this host's keepalives.",
            int(self._connected),
        )
        yield counters(
            "hawker_membership_keepalives",
            "Keepalives: answered, failed (the manager is away) or refused.",
            "outcome",
            {name: self._outcomes[name] for name in ("answered", "failed", "refused")},
        )
        yield gauge(
            "hawker_membership_draining",
            "1 while the manager has this host take no new work.",
            int(told is not None and told.drain),
        )
        yield gauge(
            "hawker_membership_saved",
            "0 while what was told last could not be written to disk.",
            int(self._saved),
        )
        yield gauge(
            "hawker_membership_clock_skew_seconds",
            "By how much the manager's clock is before this host's.",
            self._skew,
        )
        if self._certificate is not None:
            yield gauge(
                "hawker_membership_certificate_expiry_seconds",
                "When the host's certificate ends, in seconds since 1970.",
                self._certificate.end,
            )

    # ------------------------------------------------------------------ keepalives

    async def _keep_alive(self) -> None:
        assert self._advertise is not None
        url = await self._advertise()
        if url != self._membership.url:
            self._membership = msgspec.structs.replace(self._membership, url=url)
            self._saved = False
        known, backoff = "", FIRST_BACKOFF
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                kept = await self._ask(known)
            except Removed as exc:
                await self._end(exc)
                return
            except HawkerError as exc:
                self._away(exc)
                await asyncio.sleep((exc.retry_after or backoff) * random.uniform(0.5, 1.0))
                backoff = min(LAST_BACKOFF, backoff * 2)
                continue
            backoff = FIRST_BACKOFF
            self._back()
            news = kept.revision != known
            if news:
                known = kept.revision
                await self._take(kept)
            if not self._saved:
                await self._save()
            shortest = SHORTEST if news else min(PAUSE, kept.after)
            await asyncio.sleep(max(0.0, began + shortest - loop.time()))

    async def _ask(self, known: str) -> Kept:
        me = self._membership
        body = Keepalive(
            kind=me.kind,
            url=me.url,
            addresses=me.addresses,
            hostname=self._own.peer.hostname or me.hostname,
            idc=self._own.peer.idc,
            location=self._own.peer.location,
            version=version(),
            known=known,
            # Whether a manager is there (again) is known at once.
            wait=KEEPALIVE if self._connected else 0.0,
        )
        kept, skew = await self._client.keep(me.cluster, me.host, me.token, body)
        self._look_at_clock(skew)
        return kept

    async def _take(self, kept: Kept) -> None:
        told = merged(kept, self._membership.told)
        if told != self._membership.told:
            log.info(
                "the manager tells: %s, schedulers %s%s",
                msgspec.json.encode(told.configuration).decode(),
                ", ".join(told.schedulers) or "none",
                ", drain" if told.drain else "",
            )
            self._membership = msgspec.structs.replace(self._membership, told=told)
            self._saved = False
        await self._direct()

    async def _direct(self) -> None:
        """Have the roles follow what was told last."""
        told = self._membership.told
        if told is None:
            return
        removed = frozenset(told.removed)
        directions = Directions(self.settings, told.drain, removed, self.revoked)
        for role in self.roles:
            follow: Callable[[Directions], Awaitable[Any]] | None = getattr(role, "follow", None)
            if follow is None:
                continue
            try:
                await follow(directions)
            except Exception:
                log.exception("the role %s cannot do what the manager tells", role.name)

    async def _save(self) -> None:
        try:
            await asyncio.to_thread(save_membership, self._folder, self._membership)
        except HawkerError as exc:
            if self._outcomes["unsaved"] == 0:
                log.error("what the manager told is not kept over a restart: %s", exc)
            self._outcomes["unsaved"] += 1
        else:
            self._outcomes["unsaved"] = 0
            self._saved = True

    async def _end(self, why: Removed) -> None:
        """This host is a member no more."""
        self._outcomes["refused"] += 1
        self._connected = False
        log.error("this host was removed from the cluster %s, and ends: %s", self.cluster, why)
        self._membership = msgspec.structs.replace(self._membership, removed=True)
        await self._save()
        self.removed.set()

    # ------------------------------------------------------------------ what became of them

    def _away(self, exc: HawkerError) -> None:
        refused = isinstance(exc, Unauthenticated)
        self._outcomes["refused" if refused else "failed"] += 1
        self._connected = False
        self._failures += 1
        level = logging.WARNING if self._failures in (1, 10) else logging.DEBUG
        if refused and self._failures == 1:
            level = logging.ERROR
        text = "the manager cannot be asked, this host goes on with what it was told: %s"
        log.log(level, text, exc)

    def _back(self) -> None:
        self._outcomes["answered"] += 1
        if self._failures:
            log.info("the manager answers again")
        self._connected = True
        self._failures = 0

    def _look_at_clock(self, skew: float | None) -> None:
        if skew is None:
            return
        self._skew = skew
        if abs(skew) > SKEW and not self._skewed:
            log.warning(
                "the manager's clock is %+.0f s from this host's: above 30 s hosts refuse each"
                " other's tokens; set the clocks",
                skew,
            )
        self._skewed = abs(skew) > SKEW
