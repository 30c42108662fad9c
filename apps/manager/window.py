"""What a cluster does, as resources of the API: tasks, their events, an overview, a series."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from hawker.apps.manager import models
from hawker.apps.manager.call import Call
from hawker.apps.manager.jobs.members import Members
from hawker.apps.manager.observing import observed_by, urls_of
from hawker.apps.manager.operation import LATEST, Operation
from hawker.apps.manager.series import DEFAULT_SPAN, STEPS, read_series
from hawker.apps.web.events import PING, Frame, event_stream
from hawker.core.clients.http import control_client
from hawker.core.clients.observed import Observed
from hawker.core.clients.window import WindowClient
from hawker.core.errors import BadRequest, Busy, HawkerError, NotFound
from hawker.core.ids import TASK_ID
from hawker.core.window import ClusterOverview, Series, TaskDetail, TaskLine
from hawker.core.window import Frame as TaskFrame

WATCHERS = 64
MOST_TASKS = 1000
BOOLEANS = ("true", "false")


class Window:
    """Asks a cluster's schedulers, with tokens of the cluster; who is bound to tenants sees
    theirs."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._limits: set[asyncio.Timeout] = set()
        self.watchers = 0
        self._closed = False

    def operations(self) -> list[Operation]:
        who, base = ("tasks", "read"), "/clusters/{cluster}"
        return [
            Operation(
                "GET", f"{base}/tasks",
                "Tasks of the cluster's schedulers, those first in which something happened last",
                who, self.tasks, answer=TaskLine, listing=True, filters=("tenant",),
            ),
            Operation(
                "GET", f"{base}/tasks/{{task}}", "A task with its peers and leases", who,
                self.task, answer=TaskDetail,
            ),
            Operation(
                "GET", f"{base}/tasks/{{task}}/events",
                "Server-sent events of a task: what happens until it is at rest, or its record",
                who, self.events, answer=TaskFrame, events=True, filters=("replay",),
                choices={"replay": BOOLEANS},
            ),
            Operation(
                "GET", f"{base}/overview", "What the cluster does now", who, self.overview,
                answer=ClusterOverview,
            ),
            Operation(
                "GET", f"{base}/series", "What the cluster did, in steps", who, self.series,
                answer=Series, times=("from", "to"), filters=("step",),
                choices={"step": [str(step) for step in STEPS]},
            ),
        ]  # fmt: skip

    # ------------------------------------------------------------------ requests

    async def tasks(self, call: Call) -> None:
        wanted = call.page * call.per_page
        async with self._observed(call, call.filters.get("tenant")) as observed:
            lines = await observed.tasks(min(MOST_TASKS, wanted + 1))
        call.more = wanted < len(lines)
        call.answer = lines[wanted - call.per_page : wanted]

    async def task(self, call: Call) -> None:
        async with self._observed(call) as observed:
            task = _task(call)
            call.answer = await (await observed.who_knows(task)).task(task)

    async def overview(self, call: Call) -> None:
        async with self._observed(call) as observed:
            call.answer = await observed.overview()

    async def series(self, call: Call) -> None:
        cluster = call.param("cluster")
        # What is kept is of the cluster as a whole.
        call.require(None, cluster)
        await _exists(cluster)
        now = int(time.time())
        to = _seconds(call, "to", now)
        since = _seconds(call, "from", max(0, to - DEFAULT_SPAN))
        step = call.filters.get("step")
        chosen = None if step is None else int(step)
        call.answer = await read_series(cluster, since, to, chosen, now)

    async def events(self, call: Call) -> None:
        if self.watchers >= WATCHERS:
            raise Busy(f"{WATCHERS} watch tasks already", retry_after=5)
        task = _task(call)
        async with self._observed(call) as observed:
            window = await observed.who_knows(task)
        trust = await self._members.trust(call.param("cluster"))
        replay = call.filters.get("replay") == "true"
        call.answer = event_stream(self._relay(window, trust.tls, task, replay=replay))

    async def _relay(
        self, window: WindowClient, tls: ssl.SSLContext, task: str, *, replay: bool
    ) -> AsyncGenerator[Frame, None]:
        """What a scheduler tells; a client that takes little of it holds that back."""
        self.watchers += 1
        try:
            async with control_client(tls=tls) as client:
                events = window.by(client).events(task, replay=replay)
                async with contextlib.aclosing(events):
                    while not self._closed:
                        async with asyncio.timeout(None) as limit:
                            self._limits.add(limit)
                            try:
                                data = await anext(events)
                            finally:
                                self._limits.discard(limit)
                        yield (None, data) if data else PING
        except (StopAsyncIteration, TimeoutError, HawkerError):
            # Without the frame that says that it is the end, where the scheduler went.
            return
        finally:
            self.watchers -= 1

    def close(self) -> None:
        """End what is watched: the process is about to stop."""
        self._closed = True
        for limit in self._limits:
            limit.reschedule(0.0)

    # ------------------------------------------------------------------ whose

    @contextlib.asynccontextmanager
    async def _observed(self, call: Call, tenant: str | None = None) -> AsyncIterator[Observed]:
        """The cluster's schedulers, as the caller may see them, of one tenant where it is named.

        Raises:
            NotFound: there is no such cluster, or not for the caller.
        """
        cluster = call.param("cluster")
        tenants = await _tenants(call, cluster)
        await _exists(cluster)
        if tenant is not None:
            tenants = [tenant] if tenants is None or tenant in tenants else []
        urls = await urls_of(cluster)
        if not urls:
            yield Observed([])
            return
        trust = await self._members.trust(cluster)
        async with control_client(tls=trust.tls) as client:
            yield observed_by(urls, client, trust.key, tenants)


async def _exists(cluster: str) -> None:
    if not await models.Cluster.exists(id=cluster):
        raise NotFound("there is no such thing among clusters")


async def _tenants(call: Call, cluster: str) -> Sequence[str] | None:
    """The names of the tenants whose tasks the caller may see there; None: of all."""
    within = {tenant for tenant, of in call.reach() if of in ("", cluster)}
    if "" in within:
        return None
    if not within:
        raise NotFound("there is no such thing among clusters")
    rows = await models.Tenant.filter(id__in=sorted(within)).order_by("name")
    return [row.name for row in rows]


def _task(call: Call) -> str:
    task = call.param("task")
    if not TASK_ID.match(task):
        raise NotFound("there is no such thing among tasks")
    return task


def _seconds(call: Call, name: str, otherwise: int) -> int:
    """A parameter in seconds since 1970; raises BadRequest where it is none."""
    text = call.request.query_params.get(name)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= LATEST):
        raise BadRequest(f"{name}={text!r} is not a number of seconds since 1970")
    return int(text)
