"""The scheduler role as an ASGI app: HTTP in front of the pure scheduler core."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from math import inf
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hawker.apps.scheduler.addresses import AddressPolicy
from hawker.apps.scheduler.exchange import LeaseExchange
from hawker.apps.scheduler.figures import scheduler_metrics, window_metrics
from hawker.apps.scheduler.ledger import Ledger
from hawker.apps.scheduler.mailbox import Mailbox
from hawker.apps.scheduler.telling import log_decision
from hawker.apps.scheduler.window import Window
from hawker.apps.web.access import Access
from hawker.apps.web.events import Frame, event_stream
from hawker.apps.web.metrics import Metric
from hawker.apps.web.requests import json_response, read_body, task_of
from hawker.apps.web.role import Role
from hawker.core.contracts import Directions, Evaluator, RoleContext
from hawker.core.errors import (
    BadRequest,
    Forbidden,
    HawkerError,
    NotFound,
    StorageFailed,
    Unavailable,
)
from hawker.core.ids import HOST_ID, host_id
from hawker.core.messages import (
    Announced,
    AnyDecision,
    Goaway,
    ReportAnswer,
    ReportBatch,
    decode_announcement,
    decode_batch,
    encode,
    report_decoder,
)
from hawker.core.priorities import Levels
from hawker.core.quotas import Spent
from hawker.core.scheduling import (
    GRACE,
    MAX_RECORDS,
    TICK,
    LeaseRecord,
    OriginLimits,
    Outgoing,
    Scheduler,
)

log = logging.getLogger(__name__)

ANNOUNCE_AFTER = 15.0
# A process that was frozen, or a machine that slept, has heard nobody meanwhile.
LATE = 0.5
MAX_BODY = 4 * 1024 * 1024
MAX_ANNOUNCEMENT = 64 * 1024
MAX_POLL = 30.0


class _Sequence(msgspec.Struct):
    """How far a host's reports of one boot were taken."""

    boot: str = ""
    accepted: int = 0


class SchedulerRole(Role):
    """Decides for the hosts that announce themselves; state is soft except for the leases."""

    name = "scheduler"

    def __init__(self, context: RoleContext) -> None:
        super().__init__()
        settings = context.settings
        self.epoch = secrets.token_hex(8)
        self._access = Access(settings, context.plugins, context.open, context.revoked)
        evaluator: Evaluator = context.plugins.get(
            "hawker.evaluators", settings.scheduler.evaluator
        )
        limits = OriginLimits.of(settings.scheduler)
        self.core = Scheduler(evaluator, random.Random(), limits, settings.tenants, record=True)
        self.core.prioritise(Levels(settings.scheduler.priorities))
        self.window = Window(self.core, self._access, self._now)
        self._path = settings.data / "scheduler.sqlite"
        self._ledger: Ledger | None = None
        self._saved_hosts: set[str] = set()
        self._unkept: dict[str, LeaseRecord] = {}
        self._writable = True
        self._exchange = LeaseExchange(settings, self.core, self._keep, self._keep_spent)
        self._settings = settings
        self._addresses = AddressPolicy(settings.cluster.networks)
        self._saving = asyncio.Lock()
        self._mailboxes: dict[str, Mailbox] = {}
        self._sequences: dict[str, _Sequence] = {}
        self._relieved = False
        # It has no part in the cluster: it drains, or was told nothing yet.
        self._aside = context.member and not settings.peer.schedulers
        self._removed: frozenset[str] = frozenset()
        self._decode_report = report_decoder()

    @contextlib.asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:
        ledger = await asyncio.to_thread(Ledger, self._path)
        self._ledger = ledger
        try:
            assert self.core.recorder is not None
            self.core.recorder.begin(time.time() - self._now(), self._now())
            self.window.open()
            self.core.restore(await asyncio.to_thread(ledger.load))
            self._saved_hosts = await asyncio.to_thread(ledger.hosts)
            self.core.tenants.accounts.restore(await asyncio.to_thread(ledger.spent))
            self.core.tenants.clock_offset = time.time() - self._now()
            others = bool(self._settings.scheduler.others)
            self.core.expect(self._saved_hosts, self._now(), others=others)
            if self._aside:
                self.core.regroup(self._now(), seconds=inf)
            async with asyncio.TaskGroup() as group:
                ticking = group.create_task(self._tick_for_ever())
                following = group.create_task(self._exchange.run())
                try:
                    yield
                finally:
                    ticking.cancel()
                    following.cancel()
        finally:
            self._ledger = None
            await asyncio.to_thread(ledger.close)

    def drain(self) -> None:
        super().drain()
        for mailbox in self._mailboxes.values():
            mailbox.put([Goaway(task="")])
            mailbox.close()
        self._exchange.end()
        self.window.close()

    async def follow(self, directions: Directions) -> None:
        self._access.refuse(directions.revoked)
        scheduler = directions.settings.scheduler
        before = self._aside
        # Without another one hosts would read origins without any.
        self._relieved = self._aside = directions.draining and bool(scheduler.others)
        changed = self._exchange.follow(scheduler.others)
        if self._aside:
            # Hosts may hear before this scheduler does that it is back.
            self.core.regroup(self._now(), seconds=inf)
        elif before or changed:
            seconds = GRACE if scheduler.others else 0.0
            self.core.regroup(self._now(), seconds=seconds)
        self._removed = directions.removed
        self.core.prioritise(Levels(scheduler.priorities))
        limits = OriginLimits.of(scheduler)
        await self._act(lambda now: self.core.limit(limits, now))
        tenants = directions.settings.tenants
        await self._act(lambda now: self.core.limit_tenants(tenants, now))
        for host in self._removed & self.core.host_ids():
            log.warning("host %s was removed from the cluster", host[:12])
            await self._drop(host)

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/hosts", self._list_hosts, methods=["GET"]),
            Route("/v1/hosts/{host}", self._announce, methods=["PUT"]),
            Route("/v1/hosts/{host}", self._leave, methods=["DELETE"]),
            Route("/v1/hosts/{host}/decisions", self._decisions, methods=["GET"]),
            Route("/v1/hosts/{host}/reports", self._reports, methods=["POST"]),
            Route("/v1/leases", self._leases, methods=["GET"]),
            Route("/v1/tenants", self._list_tenants, methods=["GET"]),
            Route("/v1/tasks/{task}", self._delete, methods=["DELETE"]),
            *self.window.routes(),
        ]

    async def oversees(self, scope: Mapping[str, Any]) -> bool:
        return await self._access.oversees(scope)

    def metrics(self) -> Iterable[Metric]:
        """What this scheduler counts since it was started."""
        yield from super().metrics()
        if self._ledger is not None:
            yield from scheduler_metrics(self.core, self._now())
            yield from window_metrics(self.core, self.window.observers)

    # ------------------------------------------------------------------ hosts

    async def _announce(self, request: Request) -> Response:
        host = await self._host(request, "announce")
        announcement = decode_announcement(await read_body(request, MAX_ANNOUNCEMENT))
        if host_id(announcement.key) != host:
            raise Forbidden("the host's id is not that of the key it announces")
        if self._relieved and host not in self.core.host_ids():
            raise Unavailable(
                "this scheduler takes no new hosts: it drains", hint="use another one"
            )
        url = await self._addresses.pinned(announcement.url, request)
        announcement = msgspec.structs.replace(announcement, url=url)
        await self._act(lambda now: self.core.announce(host, announcement, now))
        # Not again and again: there may be many, and hosts announce themselves every few seconds.
        quotas = f"{self.epoch}-{self.core.tenants.version}"
        known = request.query_params.get("quotas") == quotas
        answer = Announced(
            self._epoch_of(host),
            ANNOUNCE_AFTER,
            self.core.report_after_ms(host),
            None if known else self.core.tenants.accounts.limits,
            quotas,
        )
        return json_response(answer)

    def _epoch_of(self, host: str) -> str:
        """One that was away for so long that it was forgotten is to tell all it has again."""
        return f"{self.epoch}-{self.core.met(host)}"

    async def _leave(self, request: Request) -> Response:
        await self._drop(await self._host(request, "announce"))
        return Response(status_code=204)

    async def _drop(self, host: str) -> None:
        await self._act(lambda now: self.core.leave(host, now))
        mailbox = self._mailboxes.pop(host, None)
        if mailbox is not None:
            mailbox.close()
        self._sequences.pop(host, None)

    async def _decisions(self, request: Request) -> Response:
        host = await self._host(request, "decisions")
        self.core.check_announced(host)
        if self.draining:
            raise Unavailable("this scheduler is stopping", hint="use another one, or come back")
        if "wait" in request.query_params:
            return await self._poll(host, request.query_params["wait"])
        return event_stream(self._follow(host))

    async def _follow(self, host: str) -> AsyncGenerator[Frame, None]:
        """The host's decision stream; a newer one of the same host ends this one."""
        async with self._listening(host) as mailbox:
            async with contextlib.aclosing(mailbox.frames()) as frames:
                async for frame in frames:
                    yield frame

    async def _poll(self, host: str, wait: str) -> Response:
        """The long poll: what is decided now, or as soon as something is."""
        try:
            seconds = min(MAX_POLL, max(0.0, float(wait)))
        except ValueError as exc:
            raise BadRequest(f"wait={wait!r} is not a number of seconds") from exc
        async with self._listening(host) as mailbox:
            await mailbox.wait(seconds)
            return json_response(mailbox.take())

    @contextlib.asynccontextmanager
    async def _listening(self, host: str) -> AsyncIterator[Mailbox]:
        mailbox = Mailbox()
        older = self._mailboxes.get(host)
        if older is not None:
            older.close()
        self._mailboxes[host] = mailbox
        await self._act(lambda now: self.core.connected(host, now))
        mailbox.put(self.core.current(host))
        try:
            yield mailbox
        finally:
            if self._mailboxes.get(host) is mailbox:
                del self._mailboxes[host]
                self._send(self.core.disconnected(host, self._now()))

    # ------------------------------------------------------------------ reports

    async def _reports(self, request: Request) -> Response:
        host = await self._host(request, "report")
        batch = decode_batch(await read_body(request, MAX_BODY))
        own = await self._act(lambda now: self._take(host, batch, now), answer_to=host)
        answer = ReportAnswer(
            epoch=self._epoch_of(host),
            accepted=self._sequences[host].accepted,
            report_after_ms=self.core.report_after_ms(host),
            decisions=[msgspec.Raw(encode(decision)) for decision in own],
        )
        return json_response(answer)

    def _take(self, host: str, batch: ReportBatch, now: float) -> list[Outgoing]:
        """Every event once, in order; one that makes no sense harms none of the others."""
        self.core.check_announced(host)
        sequence = self._sequences.get(host)
        if sequence is None or sequence.boot != batch.boot:
            sequence = self._sequences[host] = _Sequence(batch.boot)
        out: list[Outgoing] = []
        for raw in batch.events:
            try:
                report = self._decode_report(raw)
                if report is None or report.seq <= sequence.accepted:
                    continue
                sequence.accepted = report.seq
                out.extend(self.core.report(host, report, now))
            except NotFound:
                raise
            except HawkerError as exc:
                log.warning("host %s: report refused: %s", host[:12], exc)
        return out

    # ------------------------------------------------------------------ tasks

    async def _list_tenants(self, request: Request) -> Response:
        """What the caller's tenant uses of its quotas."""
        caller = await self._access.require(request.scope, "tasks")
        tenants = self.core.tenants
        usage = tenants.accounts.usage(tenants.wall(self._now()))
        return json_response([u for u in usage if u.tenant == caller.tenant])

    async def _list_hosts(self, request: Request) -> Response:
        # How busy hosts are tells of all tenants' tasks.
        await self._access.require(request.scope, "hosts")
        return json_response(self.core.hosts())

    async def _delete(self, request: Request) -> Response:
        task = task_of(request)
        caller = await self._access.require(request.scope, "tasks:delete", task)
        known = self.core.task(task)
        # Of another tenant's task is said what is said of one that nobody knows.
        if known is not None and known.spec.tenant == caller.tenant:
            await self._act(lambda now: self.core.delete(task, now))
        return Response(status_code=204)

    async def _leases(self, request: Request) -> Response:
        """Every lease record and each new one: for the other schedulers of the cluster."""
        await self._access.require_token(request.scope, "leases")
        return event_stream(self._exchange.frames())

    # ------------------------------------------------------------------ own

    async def _act(
        self, call: Callable[[float], list[Outgoing]], *, answer_to: str = ""
    ) -> list[AnyDecision]:
        """Run the core, keep new leases, then hand out decisions; those of `answer_to` return."""
        async with self._saving:
            outgoing = call(self._now())
            unsaved = self.core.take_unsaved()
            if unsaved or self._unkept:
                await self._keep(unsaved)
                self._exchange.tell(unsaved)
        for host, decision in outgoing:
            log_decision(host, decision)
        own = [out.decision for out in outgoing if out.host == answer_to]
        self._send([out for out in outgoing if out.host != answer_to])
        return own

    async def _keep(self, records: Sequence[LeaseRecord]) -> None:
        """Write lease records, and those that could not be written before.

        On a disk that takes none the scheduler decides on from memory and tries again with each
        tick: what it forgets by a restart then costs a second reading, not the cluster's work.
        """
        self._unkept.update((record.lease, record) for record in records)
        while len(self._unkept) > MAX_RECORDS:
            del self._unkept[next(iter(self._unkept))]
        trying = list(self._unkept.values())
        if self._ledger is None or not await self._written(self._ledger.save, trying):
            return
        for record in trying:
            if self._unkept.get(record.lease) is record:
                del self._unkept[record.lease]

    async def _written(self, write: Callable[..., None], *values: object) -> bool:
        """Whether the ledger could be written; the log says when that changes."""
        try:
            await asyncio.to_thread(write, *values)
        except StorageFailed as exc:
            if self._writable:
                log.error("%s; deciding from memory until it can", exc)
            self._writable = False
            return False
        if not self._writable:
            log.warning("the scheduler's ledger can be written again")
        self._writable = True
        return True

    async def _keep_hosts(self) -> None:
        """Write which hosts there are now, where that changed."""
        hosts = self.core.host_ids()
        if len(self._sequences) > len(hosts):
            for host in self._sequences.keys() - hosts:
                del self._sequences[host]
        # A scheduler that was just started still expects those it knew.
        went = set() if self.core.expecting(self._now()) else self._saved_hosts - hosts
        came = hosts - self._saved_hosts
        if (came or went) and self._ledger is not None:
            if await self._written(self._ledger.save_hosts, came, went):
                self._saved_hosts = (self._saved_hosts | came) - went

    async def _keep_spent(self, spent: Sequence[Spent]) -> None:
        """Write what was read from origins for tenants with quotas."""
        tenants = self.core.tenants
        if spent and self._ledger is not None:
            wall = tenants.wall(self._now())
            if not await self._written(self._ledger.save_spent, spent, wall):
                tenants.accounts.unsaved(spent)

    def _send(self, outgoing: Sequence[Outgoing]) -> None:
        for host, decision in outgoing:
            mailbox = self._mailboxes.get(host)
            # A host without a stream gets its current records when it opens one.
            if mailbox is not None:
                mailbox.put([decision])

    async def _tick_for_ever(self) -> None:
        while True:
            slept_at = self._now()
            await asyncio.sleep(TICK)
            late = self._now() - slept_at - TICK
            if late > LATE:
                log.warning("this scheduler stood still for %.1f s", late)
                self.core.excuse(late, self._now())
            try:
                self.core.tenants.clock_offset = time.time() - self._now()
                await self._act(self.core.tick)
                self.window.tell()
                await self._keep_hosts()
                spent = self.core.tenants.accounts.take_unsaved()
                self._exchange.tell_spent(spent)
                await self._keep_spent(spent)
            except Exception:
                log.exception("a tick of the scheduler failed")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _host(self, request: Request, verb: str) -> str:
        host: str = request.path_params["host"]
        if not HOST_ID.match(host):
            raise BadRequest(f"{host!r} is not a host id", hint="it is 32 hex digits")
        await self._access.require_token(request.scope, verb, host=host)
        if host in self._removed:
            raise Forbidden("this host was removed from the cluster", hint="have it join again")
        return host
