"""A host's link to one scheduler: announce, one decision stream, batched reports.

Reports are numbered within the boot and sent again until the scheduler has them, so that a lost
answer does no harm. Decisions come on the stream and in the answers to reports.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

import httpx
import msgspec

from hawker.core.clients.events import sse
from hawker.core.clients.http import control_client, raise_for_problem
from hawker.core.errors import BadRequest, HawkerError, NotFound, Unavailable
from hawker.core.limits import Limits
from hawker.core.messages import (
    Announced,
    AnyDecision,
    AnyReport,
    Goaway,
    HostAnnouncement,
    ReportBatch,
    Reset,
    WhoHas,
    decision_decoder,
    decode_announced,
    decode_answer,
    encode,
)
from hawker.core.tls import ClientTls
from hawker.core.tokens import ClusterKey

log = logging.getLogger(__name__)

REQUEST_TIMEOUT = 10.0
STREAM_SILENCE = 30.0
MAX_BATCH = 256
FIRST_BACKOFF = 0.1
LAST_BACKOFF = 2.0
MAX_QUEUED = 65536


class SchedulerLink:
    """Talks to the scheduler at `base_url` for `host`; runs until cancelled.

    An empty `base_url` means the scheduler in this process, which `locate` waits for.

    `on_decision` is called on the loop for each decision; `on_epoch` when the scheduler is one
    that does not know this host's tasks yet (also at the first contact), `on_who_has` when the
    scheduler asks what this host stores of a task, `on_tenants` with an answer to an
    announcement that has others than before: the tenants that have quotas.
    """

    def __init__(
        self,
        base_url: str,
        locate: Callable[[], Awaitable[str]],
        host: str,
        key: ClusterKey,
        announcement: Callable[[str], Awaitable[HostAnnouncement]],
        on_decision: Callable[[SchedulerLink, AnyDecision], None],
        on_epoch: Callable[[SchedulerLink], None],
        on_who_has: Callable[[SchedulerLink, str], None],
        on_tenants: Callable[[Mapping[str, Limits]], None],
        *,
        tls: ClientTls | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.boot = secrets.token_hex(8)
        self.failures = 0
        self._base = ""
        self._locate = locate
        self._host = host
        self._key = key
        self._announcement = announcement
        self._on_decision = on_decision
        self._on_epoch = on_epoch
        self._on_who_has = on_who_has
        self._on_tenants = on_tenants
        self._tls = tls
        self._away_since = time.monotonic()
        self._decode = decision_decoder()
        self._epoch = ""
        self._quotas = ""
        self._seq = 0
        self._queue: list[tuple[int, bytes]] = []
        self._report_after = 0.02
        self._urgent = asyncio.Event()
        self._pending = asyncio.Event()
        self._announced = asyncio.Event()
        self._streaming = asyncio.Event()
        self._altered = asyncio.Event()

    @property
    def connected(self) -> bool:
        """The scheduler knows this host and its decision stream is open."""
        return self._announced.is_set() and self._streaming.is_set()

    @property
    def away_seconds(self) -> float:
        """How long the link has been down, 0 while it is up."""
        return 0.0 if self.connected else time.monotonic() - self._away_since

    async def wait_connected(self, timeout: float) -> bool:
        """Whether the link is up, waiting at most `timeout` seconds for it."""
        try:
            async with asyncio.timeout(timeout):
                await self._announced.wait()
                await self._streaming.wait()
        except TimeoutError:
            return False
        return True

    def report(self, report: AnyReport, *, urgent: bool = False) -> None:
        """Queue a report; urgent ones go at once, others at the scheduler's pace."""
        if len(self._queue) >= MAX_QUEUED:
            # Away for so long: everything is told anew when it is back, and this is not needed.
            self._queue.clear()
            self._epoch = ""
        self._seq += 1
        self._queue.append((self._seq, encode(msgspec.structs.replace(report, seq=self._seq))))
        self._pending.set()
        if urgent:
            self._urgent.set()

    def altered(self) -> None:
        """The host would announce itself otherwise than before: it does so now."""
        self._altered.set()

    async def run(self) -> None:
        """Keep the link up until cancelled, then say goodbye."""
        self._base = self.base_url or await self._locate()
        tls = None if self._tls is None else await self._tls.towards(self._base)
        async with control_client(tls=tls) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._announce_for_ever(client))
                    group.create_task(self._listen_for_ever(client))
                    group.create_task(self._send_for_ever(client))
            finally:
                await self._leave(client)

    async def _announce_for_ever(self, client: httpx.AsyncClient) -> None:
        backoff = FIRST_BACKOFF
        while True:
            try:
                wait = await self._announce(client)
                backoff = FIRST_BACKOFF
            except (httpx.HTTPError, HawkerError) as exc:
                self._lost("announce", exc)
                self._announced.clear()
                # A scheduler that comes back is not met by all its hosts in the same moment.
                wait = backoff * random.uniform(0.5, 1.0)
                backoff = min(LAST_BACKOFF, backoff * 2)
            try:
                async with asyncio.timeout(wait):
                    await self._altered.wait()
            except TimeoutError:
                pass
            self._altered.clear()

    async def _announce(self, client: httpx.AsyncClient) -> float:
        announcement = await self._announcement(self.boot)
        response = await client.put(
            self._url(""),
            params={"quotas": self._quotas},
            content=encode(announcement),
            headers=self._headers("announce"),
        )
        await raise_for_problem(response)
        answer: Announced = decode_announced(response.content)
        self._report_after = answer.report_after_ms / 1000
        self._announced.set()
        self.failures = 0
        if answer.tenants is not None:
            self._on_tenants(answer.tenants)
        self._quotas = answer.quotas
        if answer.epoch != self._epoch:
            self._epoch = answer.epoch
            self._on_epoch(self)
        return answer.announce_after

    async def _listen_for_ever(self, client: httpx.AsyncClient) -> None:
        backoff = FIRST_BACKOFF
        while True:
            await self._announced.wait()
            try:
                async with client.stream(
                    "GET",
                    self._url("/decisions"),
                    headers=self._headers("decisions"),
                    timeout=httpx.Timeout(REQUEST_TIMEOUT, read=STREAM_SILENCE),
                ) as response:
                    await raise_for_problem(response)
                    self._streaming.set()
                    backoff = FIRST_BACKOFF
                    async for event in sse(response):
                        self._take(event.data)
                raise Unavailable(f"the scheduler {self._base} closed the decision stream")
            except (httpx.HTTPError, HawkerError) as exc:
                self._lost("decisions", exc)
            finally:
                if self._streaming.is_set():
                    self._away_since = time.monotonic()
                self._streaming.clear()
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(LAST_BACKOFF, backoff * 2)
            # Whoever answers next may be a scheduler that was started anew.
            await self._announce_again(client)

    async def _send_for_ever(self, client: httpx.AsyncClient) -> None:
        backoff = FIRST_BACKOFF
        while True:
            await self._pending.wait()
            if not self._urgent.is_set():
                try:
                    async with asyncio.timeout(self._report_after):
                        await self._urgent.wait()
                except TimeoutError:
                    pass
            self._urgent.clear()
            await self._announced.wait()
            try:
                await self._send(client)
                backoff = FIRST_BACKOFF
            except (httpx.HTTPError, HawkerError) as exc:
                self._lost("reports", exc)
                if isinstance(exc, NotFound):
                    await self._announce_again(client)
                await asyncio.sleep(backoff)
                backoff = min(LAST_BACKOFF, backoff * 2)

    async def _send(self, client: httpx.AsyncClient) -> None:
        batch = self._queue[:MAX_BATCH]
        if not batch:
            self._pending.clear()
            return
        body = encode(ReportBatch(self.boot, [msgspec.Raw(raw) for _, raw in batch]))
        response = await client.post(
            self._url("/reports"), content=body, headers=self._headers("report")
        )
        try:
            await raise_for_problem(response)
        except BadRequest:
            # It will not become better by being sent again.
            del self._queue[: len(batch)]
            raise
        answer = decode_answer(response.content)
        self._report_after = answer.report_after_ms / 1000
        self._queue = [entry for entry in self._queue if entry[0] > answer.accepted]
        if not self._queue:
            self._pending.clear()
        for raw in answer.decisions:
            self._take(bytes(raw))

    async def _announce_again(self, client: httpx.AsyncClient) -> None:
        try:
            await self._announce(client)
        except (httpx.HTTPError, HawkerError) as exc:
            self._lost("announce", exc)

    def _take(self, raw: bytes) -> None:
        try:
            decision = self._decode(raw)
        except BadRequest as exc:
            log.warning("scheduler %s: a decision is passed over: %s", self._base, exc)
            return
        if isinstance(decision, Reset):
            self._epoch = ""
            self._on_epoch(self)
        elif isinstance(decision, WhoHas):
            self._on_who_has(self, decision.task)
        elif isinstance(decision, Goaway):
            log.info("scheduler %s is stopping", self._base)
        elif decision is not None:
            self._on_decision(self, decision)

    async def _leave(self, client: httpx.AsyncClient) -> None:
        if not self._announced.is_set():
            return
        try:
            async with asyncio.timeout(1.0):
                await client.delete(self._url(""), headers=self._headers("announce"))
        except (httpx.HTTPError, TimeoutError) as exc:
            log.debug("could not leave %s: %s", self._base, exc)

    def _lost(self, what: str, exc: Exception) -> None:
        self.failures += 1
        level = logging.WARNING if self.failures in (1, 10) else logging.DEBUG
        log.log(level, "scheduler %s: %s failed: %s", self._base, what, exc or type(exc))

    def _url(self, suffix: str) -> str:
        return f"{self._base}/scheduler/v1/hosts/{self._host}{suffix}"

    def _headers(self, verb: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self._key.mint(self._host, [verb])}"}
