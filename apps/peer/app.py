"""The peer role as an ASGI app: its resources, its links to schedulers, its routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from starlette.routing import BaseRoute

from hawker.apps.peer.api import Api
from hawker.apps.peer.availability import Announcer
from hawker.apps.peer.figures import peer_metrics
from hawker.apps.peer.pieces import PieceServer
from hawker.apps.peer.policy import offered
from hawker.apps.web.access import Access
from hawker.apps.web.metrics import Metric
from hawker.apps.web.role import Role
from hawker.core.clients.scheduler import SchedulerLink
from hawker.core.contracts import Caller, Codec, Directions, RoleContext
from hawker.core.digests import HostKey
from hawker.core.errors import UnknownPlugin
from hawker.core.messages import HostAnnouncement, Load
from hawker.core.priorities import Levels
from hawker.core.storage import Entry, Store
from hawker.core.storage.identity import load_host_key
from hawker.core.tls import ClientTls
from hawker.core.tokens import ClusterKey, read_key_file
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.slots import UploadSlots

log = logging.getLogger(__name__)


class PeerRole(Role):
    """One host's daemon. What it holds exists while the role's lifespan is entered."""

    name = "peer"

    def __init__(self, context: RoleContext) -> None:
        super().__init__()
        self.access = Access(context.settings, context.plugins, context.open, context.revoked)
        self.slots = UploadSlots(context.settings.peer.upload_slots)
        self.codecs = _codecs(context)
        self.settings = context.settings
        self.links: list[SchedulerLink] = []
        self._made: list[SchedulerLink] = []
        self._relieved = False
        self._context = context
        self._conductor: Conductor | None = None

    @property
    def conductor(self) -> Conductor:
        """The tasks of this host; only while the role is started."""
        assert self._conductor is not None
        return self._conductor

    @property
    def ready(self) -> bool:
        """Every scheduler knows this host."""
        return self._conductor is not None and all(link.connected for link in self.links)

    async def oversees(self, scope: Mapping[str, Any]) -> bool:
        return await self.access.oversees(scope)

    def metrics(self) -> Iterable[Metric]:
        """What this host counts since it was started."""
        yield from super().metrics()
        if self._conductor is not None:
            yield from peer_metrics(self._conductor, self.slots, self.links)

    def drain(self) -> None:
        super().drain()
        if self._conductor is not None:
            self._conductor.drain()

    async def follow(self, directions: Directions) -> None:
        self.access.refuse(directions.revoked)
        self.settings = directions.settings
        self.slots.limit = self.settings.peer.upload_slots
        altered = self._relieved != directions.draining
        self._relieved = directions.draining
        if self._conductor is None:
            return
        conductor = self._conductor
        conductor.ground.levels = Levels(self.settings.scheduler.priorities)
        conductor.ground.quotas.accounting.keep_to(self.settings.tenants)
        # One that it was about to leave goes on as it is.
        running = {
            link.base_url: link for link in self._made if link in conductor.schedulers.linked
        }
        made = self._make_links(conductor, conductor.ground)
        self.links = [running.get(link.base_url, link) for link in made]
        self._made = [*{*running.values(), *self.links}]
        conductor.follow(self.links)
        # Anything else may wait for the next announcement: all hosts would make one now.
        for link in self.links if altered else ():
            link.altered()

    async def url(self) -> str:
        """The base URL of this role as others reach it."""
        return f"{await self._context.advertise()}/{self.name}"

    def routes(self) -> Sequence[BaseRoute]:
        announcer = Announcer(lambda: self.conductor, self.slots, lambda: self.draining)
        pieces = PieceServer(_StoreView(self), self.slots, self.access, self.codecs, announcer)
        return Api(self, pieces, announcer).routes()

    @contextlib.asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:
        settings, plugins = self.settings, self._context.plugins
        storage = settings.storage
        store = await asyncio.to_thread(
            lambda: Store.open(settings.data, quota=storage.quota, max_age=storage.max_age)
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            await store.start()
            key = await asyncio.to_thread(load_host_key, settings.data)
            tls = ClientTls(settings.tls)
            await asyncio.to_thread(tls.check)
            for name in settings.peer.transports:
                # A name that no plugin has is a mistake to be told now, not by failing downloads.
                plugins.get("hawker.transports", name)
            ground = Ground(
                store=store,
                plugins=plugins,
                key=key,
                tokens=self._tokens(key),
                transports=settings.peer.transports,
                tls=tls,
                codecs=self.codecs if settings.peer.compression else {},
                roots=settings.sources.file.roots,
                levels=Levels(settings.scheduler.priorities),
            )
            conductor = Conductor(ground, scheduler_wait=settings.peer.scheduler_wait)
            ground.quotas.accounting.keep_to(settings.tenants)
            self.links = self._made = self._make_links(conductor, ground)
            await stack.enter_async_context(conductor.running(self.links))
            self._conductor = conductor
            try:
                yield
            finally:
                self._conductor = None

    # ------------------------------------------------------------------ schedulers

    def _tokens(self, own: HostKey) -> ClusterKey | None:
        """The cluster's key; a peer without schedulers needs none."""
        file = self.settings.cluster_key_file
        if not self._has_scheduler and not file.exists():
            return None
        return ClusterKey(read_key_file(file), own=own)

    @property
    def _has_scheduler(self) -> bool:
        beside = "scheduler" in self._context.beside
        return bool(self.settings.peer.schedulers) or beside or self._context.member

    def _make_links(self, conductor: Conductor, ground: Ground) -> list[SchedulerLink]:
        if ground.tokens is None:
            return []
        urls = self.settings.peer.schedulers
        links: list[SchedulerLink] = []
        # A member is told its schedulers: until then there is one that is away.
        locate = _never if self._context.member else self._context.advertise
        for url in urls or ([""] if self._has_scheduler else []):
            link = SchedulerLink(
                url,
                locate,
                ground.host,
                ground.tokens,
                lambda boot: self._announcement(ground, boot),
                conductor.decide,
                conductor.introduce,
                conductor.answer,
                conductor.limited,
                tls=ground.tls,
            )
            links.append(link)
        return links

    async def _announcement(self, ground: Ground, boot: str) -> HostAnnouncement:
        peer = self.settings.peer
        free = await asyncio.to_thread(shutil.disk_usage, self.settings.data)
        return HostAnnouncement(
            url=await self.url(),
            key=ground.key.public,
            boot=boot,
            seed=peer.seed,
            hostname=peer.hostname or socket.gethostname(),
            idc=peer.idc,
            location=peer.location,
            upload_slots=self.slots.limit,
            transports=list(self._context.transports),
            codings=sorted(self.codecs),
            load=Load(uploads=self.slots.used, free_bytes=free.free),
            draining=self._relieved,
        )


async def _never() -> str:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class _StoreView:
    """The store as the piece server sees it; the role may be restarted with another one."""

    def __init__(self, role: PeerRole) -> None:
        self._role = role

    def get(self, task: str, generation: str, caller: Caller) -> Entry | None:
        ground = self._role.conductor.ground
        entry = ground.store.get(task, generation)
        return entry if entry and offered(ground, entry, caller) else None


def _codecs(context: RoleContext) -> dict[str, Codec]:
    """Every coding whose plugin loads; one that does not is left out, and said."""
    codecs: dict[str, Codec] = {}
    for name in context.plugins.names("hawker.compression"):
        try:
            codecs[name] = context.plugins.get("hawker.compression", name)
        except UnknownPlugin as exc:
            log.warning("%s", exc)
    return codecs
