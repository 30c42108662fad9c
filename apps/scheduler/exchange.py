"""What schedulers of one cluster tell each other: the leases they granted, and what tenants with
quotas read.

Without it, content that was read under another scheduler's lease would not count here, and had to
be read again when that one is away. Each follows the streams of the ones it is configured with:
records come from a scheduler's own URL, never from whoever sends some.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import httpx
import msgspec

from hawker.apps.web.events import PING, Frame
from hawker.core.clients.events import sse
from hawker.core.clients.http import control_client, raise_for_problem
from hawker.core.errors import BadRequest, HawkerError
from hawker.core.messages import Decoder, encode
from hawker.core.quotas import Spent
from hawker.core.scheduling import LeaseRecord, Scheduler
from hawker.core.settings import Settings
from hawker.core.tls import client_context
from hawker.core.tokens import ClusterKey, read_key_file

log = logging.getLogger(__name__)

PING_EVERY = 10.0
SILENCE = 30.0
PAUSE = 1.0
# A follower that takes so little loses its stream and begins again.
MAX_WAITING = 65536


class TenantRead(msgspec.Struct, frozen=True):
    """A record that is no lease."""

    spent: Spent | None = None


_decode: Decoder[LeaseRecord] = Decoder(LeaseRecord)
_decode_read: Decoder[TenantRead] = Decoder(TenantRead)


class LeaseExchange:
    """Follows the leases of `others`, the URLs of other schedulers, and lets them follow ours."""

    def __init__(
        self,
        settings: Settings,
        core: Scheduler,
        keep: Callable[[Sequence[LeaseRecord]], Awaitable[None]],
        keep_spent: Callable[[Sequence[Spent]], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._core = core
        self._keep = keep
        self._keep_spent = keep_spent
        self.others = _schedulers(settings.scheduler.others)
        self._changed = asyncio.Event()
        self._followers: set[asyncio.Queue[LeaseRecord | TenantRead | None]] = set()

    def follow(self, others: Sequence[str]) -> bool:
        """The schedulers at these URLs are the others, from now on; whether they were not."""
        before, self.others = self.others, _schedulers(others)
        self._changed.set()
        return before != self.others

    def tell_spent(self, spent: Sequence[Spent]) -> None:
        """What tenants read, for those who follow."""
        self.tell([TenantRead(row) for row in spent])

    def tell(self, records: Sequence[LeaseRecord | TenantRead]) -> None:
        """New leases of this scheduler, for those who follow."""
        for queue in list(self._followers):
            for record in records:
                if queue.full():
                    self._followers.discard(queue)
                    break
                queue.put_nowait(record)

    def end(self) -> None:
        """This scheduler is about to stop: those who follow begin again later."""
        for queue in list(self._followers):
            self._followers.discard(queue)
            if not queue.full():
                queue.put_nowait(None)

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """All records, then each new one."""
        queue: asyncio.Queue[LeaseRecord | TenantRead | None] = asyncio.Queue(MAX_WAITING)
        self._followers.add(queue)
        try:
            for record in self._core.records():
                yield None, encode(record)
            for spent in self._core.tenants.accounts.spent():
                yield None, encode(TenantRead(spent))
            while queue in self._followers or not queue.empty():
                try:
                    async with asyncio.timeout(PING_EVERY):
                        new = await queue.get()
                    if new is None:
                        return
                    yield None, encode(new)
                except TimeoutError:
                    yield PING
        finally:
            self._followers.discard(queue)

    async def run(self) -> None:
        """Follow every other scheduler until cancelled."""
        while not self.others:
            await self._changed.wait()
            self._changed.clear()
        key = ClusterKey(await asyncio.to_thread(read_key_file, self._settings.cluster_key_file))
        tls = await asyncio.to_thread(client_context, self._settings.tls)
        following: dict[str, asyncio.Task[None]] = {}
        async with control_client(tls=tls) as client, asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for url in following.keys() - self.others:
                    following.pop(url).cancel()
                for url in self.others - following.keys():
                    following[url] = group.create_task(self._follow(client, url, key))
                await self._changed.wait()

    async def _follow(self, client: httpx.AsyncClient, url: str, key: ClusterKey) -> None:
        failures = 0
        while True:
            try:
                token = key.mint("", ["leases"], subject="scheduler")
                async with client.stream(
                    "GET",
                    f"{url}/scheduler/v1/leases",
                    headers={"authorization": f"Bearer {token}"},
                    timeout=httpx.Timeout(SILENCE, connect=3.0),
                ) as response:
                    await raise_for_problem(response)
                    failures = 0
                    async for event in sse(response):
                        await self._take(bytes(event.data))
            except (httpx.HTTPError, HawkerError) as exc:
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log.log(level, "scheduler %s cannot be followed: %s", url, exc)
            await asyncio.sleep(PAUSE)

    async def _take(self, data: bytes) -> None:
        try:
            read = _decode_read(data)
            if read.spent is not None:
                if self._core.tenants.accounts.restore([read.spent]):
                    await self._keep_spent([read.spent])
                return
            record = _decode(data)
        except BadRequest as exc:
            log.warning("a lease of another scheduler is passed over: %s", exc)
            return
        if self._core.restore([record]):
            await self._keep([record])


def _schedulers(urls: Sequence[str]) -> frozenset[str]:
    return frozenset(url.rstrip("/") for url in urls)
