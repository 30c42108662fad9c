"""Jobs as a resource of the API: made, listed, watched, cancelled, tried again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any, ClassVar, cast, get_args

import msgspec
from tortoise.functions import Count, Sum
from tortoise.queryset import QuerySet

from hawker.apps.manager import changes, models
from hawker.apps.manager.call import Call
from hawker.apps.manager.collection import Collection
from hawker.apps.manager.database import Database
from hawker.apps.manager.jobs import wire
from hawker.apps.manager.jobs.contents import args_of, seal, take_apart
from hawker.apps.manager.jobs.engine import LOOK, Engine
from hawker.apps.manager.jobs.planning import Planner
from hawker.apps.manager.jobs.tables import Job, JobPart
from hawker.apps.manager.operation import PREFIX, Operation
from hawker.apps.manager.secret import Seal
from hawker.apps.web.events import PING, Frame, event_stream
from hawker.core.errors import Busy, Conflict, Forbidden, NotFound, TooMany
from hawker.core.messages import encode

KEPT_SECONDS = 30 * 86400.0
"""After its end a job is known for so long."""
MINUTE = 60.0
WATCHERS = 64
PING_SECONDS = 10.0
OVERLAP = 5.0
"""Changes are looked for from so much earlier on: managers' clocks differ."""
PAGE = 500
MAX_ID = 2**63 - 1


class Jobs(Collection[Job]):
    """Each is within its cluster, and outside of any where it is for several."""

    name = "jobs"
    model = Job
    view_type = wire.Job
    tenant_field = "tenant_id"
    cluster_field = "cluster_id"
    filters: ClassVar = {
        "kind": "kind", "state": "state", "cluster": "cluster_id", "tenant": "tenant_id"
    }  # fmt: skip
    choices: ClassVar = {"kind": get_args(wire.Kind), "state": get_args(wire.State)}
    order: ClassVar = ("-id",)
    deletable = False

    def __init__(
        self, database: Database, engine: Engine, planner: Planner, seal: Seal, per_minute: int
    ) -> None:
        self._database = database
        self._engine = engine
        self._planner = planner
        self._seal = seal
        self._per_minute = per_minute
        self._watchers = 0
        self._closed = False

    def operations(self) -> list[Operation]:
        return [
            *super().operations(),
            Operation(
                "POST", "/jobs", "Have something done on hosts", ("jobs", "create"), self.create,
                body=wire.NewJob, answer=wire.Job, status=201, repeatable=True,
            ),
            Operation(
                "GET", "/jobs/{id}/parts", "A job's parts: each content on each host",
                ("jobs", "read"), self.parts, answer=wire.Part, listing=True,
                filters=("state", "host"), choices={"state": get_args(wire.State)},
            ),
            Operation(
                "GET", "/jobs/{id}/events",
                "Server-sent events with how a job is now, and its parts that changed; to its end",
                ("jobs", "read"), self.watch, answer=wire.News, events=True,
            ),
            Operation(
                "POST", "/jobs/{id}/cancel", "Stop a job; what is stored stays",
                ("jobs", "update"), self.cancel, answer=wire.Job,
            ),
            Operation(
                "POST", "/jobs/{id}/retry", "Do what has failed or was cancelled again",
                ("jobs", "update"), self.retry, answer=wire.Job,
            ),
        ]  # fmt: skip

    # ------------------------------------------------------------------ as clients see it

    async def view(self, row: Job) -> wire.Job:
        counted = JobPart.filter(job_id=row.id).annotate(
            many=Count("id"), there=Sum("bytes"), all=Sum("total")
        )
        states = await counted.group_by("state").values("state", "many", "there", "all")
        return wire.Job(
            id=row.id,
            kind=cast(wire.Kind, row.kind),
            clusters=row.clusters,
            tenant=row.tenant_id,
            state=cast(wire.State, row.state),
            problem=row.problem,
            actor=row.actor,
            created=row.created,
            begun=row.begun,
            ended=row.ended,
            parts=wire.Parts(**{state["state"]: state["many"] for state in states}),
            bytes=sum(int(state["there"] or 0) for state in states),
            total=sum(int(state["all"] or 0) for state in states),
            args=row.args,
        )

    async def find(self, call: Call, *, lock: bool = False) -> Job:
        id_ = call.param("id")
        if not (id_.isascii() and id_.isdigit() and int(id_) <= MAX_ID):
            raise self.missing()
        return await super().find(call, lock=lock)

    # ------------------------------------------------------------------ made

    async def create(self, call: Call) -> None:
        row = await self.make(call, call.body)
        call.headers["location"] = f"{call.mount}{PREFIX}/jobs/{row.id}"

    async def make(self, call: Call, wanted: wire.NewJob) -> Job:
        """A new job; `call.answer` is what its maker sees of it.

        Raises:
            BadRequest, NotFound, Forbidden: it cannot be, or not for this caller.
            TooMany: one of its clusters has had as many jobs of this tenant within the last minute
                as it may.
        """
        self._planner.check(wanted)
        if wanted.tenant is None:
            wanted = msgspec.structs.replace(wanted, tenant=call.own_tenant())
        told, secrets = take_apart(wanted)
        clusters = await self._clusters(call, told)
        told = msgspec.structs.replace(told, clusters=clusters)
        async with call.change():
            await changes.lock(changes.JOBS)
            await self._limit(clusters, told.tenant)
            row = await Job.create(
                kind=told.kind,
                cluster_id=clusters[0] if len(clusters) == 1 else None,
                clusters=clusters,
                tenant_id=told.tenant,
                args=args_of(told),
                sealed=seal(secrets, self._seal),
                state="pending",
                actor=call.who.user.name,
            )
            call.answer = await self.view(row)
            await call.audit("create", str(row.id), None, call.answer)
        self._engine.look()
        return row

    async def _clusters(self, call: Call, wanted: wire.NewJob) -> list[str]:
        """The ids of the clusters that a job is for."""
        found = await models.Cluster.all().order_by("id").values_list("id", flat=True)
        known = cast(list[str], list(found))
        if wanted.clusters:
            chosen = sorted(set(wanted.clusters))
        else:
            assert call.permission is not None
            chosen = [c for c in known if call.may(call.permission, wanted.tenant, c)]
            if not chosen:
                raise Forbidden(
                    f"there is no cluster that {call.who.user.name} may use",
                    hint="a role in one is given with POST /bindings"
                    if known
                    else "make one with POST /clusters, and have hosts join it",
                )
        # Of a job for several clusters know those alone who are bound to none.
        call.require(wanted.tenant, chosen[0] if len(chosen) == 1 else None)
        if missing := set(chosen) - set(known):
            raise NotFound(f"there is no such thing among clusters: {', '.join(sorted(missing))}")
        if wanted.tenant is not None and not await models.Tenant.exists(id=wanted.tenant):
            raise NotFound("there is no such thing among tenants")
        return chosen

    async def _limit(self, clusters: Iterable[str], tenant: str | None) -> None:
        now = time.time()
        # Of others' jobs nobody hears, nor waits for them.
        recent = Job.filter(created__gt=now - MINUTE, tenant_id=tenant).order_by("created")
        rows = await recent.values_list("created", "clusters")
        for cluster in clusters:
            times = [created for created, of in rows if cluster in of]
            if len(times) >= self._per_minute:
                wait = times[-self._per_minute] + MINUTE - now
                raise TooMany(
                    f"the cluster {cluster} has had {len(times)} jobs within a minute",
                    hint="see manager.jobs_per_minute",
                    retry_after=max(1.0, wait),
                )

    # ------------------------------------------------------------------ its parts, as they go on

    async def parts(self, call: Call) -> None:
        filters = dict(call.filters)
        row = await self.find(call)
        query = JobPart.filter(job_id=row.id, **filters).order_by("id")
        rows = await query.offset((call.page - 1) * call.per_page).limit(call.per_page + 1)
        call.more = len(rows) > call.per_page
        call.answer = [_view(part) for part in rows[: call.per_page]]

    async def watch(self, call: Call) -> None:
        row = await self.find(call)
        if self._watchers >= WATCHERS:
            raise Busy(f"{WATCHERS} watch jobs already", retry_after=5)
        call.answer = event_stream(self._news(row.id))

    async def _news(self, id_: int) -> AsyncGenerator[Frame, None]:
        told: dict[int, wire.Part] = {}
        job: wire.Job | None = None
        since, spoke = 0.0, time.monotonic()
        self._watchers += 1
        try:
            while not self._closed:
                looked = time.time()
                with self._database.active():
                    async with self._database.failures():
                        row = await Job.get_or_none(id=id_)
                        if row is None:
                            return
                        now = await self.view(row)
                        rows = await _changed(id_, since)
                since = looked - OVERLAP
                fresh = [part for part in map(_view, rows) if told.get(part.id) != part]
                told.update((part.id, part) for part in fresh)
                if fresh or now != job:
                    job, spoke = now, time.monotonic()
                    for at in range(0, max(1, len(fresh)), PAGE):
                        yield None, encode(wire.News(now, fresh[at : at + PAGE]))
                elif time.monotonic() - spoke > PING_SECONDS:
                    spoke = time.monotonic()
                    yield PING
                if now.state not in wire.OPEN:
                    return
                await asyncio.sleep(LOOK)
        finally:
            self._watchers -= 1

    def close(self) -> None:
        """End what is watched: the process is about to stop."""
        self._closed = True

    # ------------------------------------------------------------------ cancelled, tried again

    async def cancel(self, call: Call) -> None:
        async with call.change():
            row = await self.find(call, lock=True)
            if row.state not in wire.OPEN:
                raise Conflict(f"the job has ended ({row.state})")
            before = await self.view(row)
            now = time.time()
            row.state, row.ended = "cancelled", now
            await row.save(update_fields=["state", "ended"])
            await JobPart.filter(job_id=row.id, state__in=wire.OPEN).update(
                state="cancelled", owner="", leased_until=0.0, updated=now
            )
            await self._changed(call, "cancel", row, before)

    async def retry(self, call: Call) -> None:
        async with call.change():
            row = await self.find(call, lock=True)
            if row.state not in wire.AGAIN:
                raise Conflict(f"the job is {row.state}: there is nothing to be tried again")
            before = await self.view(row)
            again = {"attempts": 0, "after": 0.0, "owner": "", "leased_until": 0.0, "problem": ""}
            parts = JobPart.filter(job_id=row.id)
            await parts.filter(state__in=wire.AGAIN).update(
                state="pending", updated=time.time(), **again
            )
            # One that was never planned is planned now.
            state = "running" if await parts.exists() else "pending"
            await Job.filter(id=row.id).update(state=state, ended=0.0, **again)
            await row.refresh_from_db()
            await self._changed(call, "retry", row, before)

    async def _changed(self, call: Call, action: str, row: Job, before: wire.Job) -> None:
        call.answer = await self.view(row)
        await call.audit(action, str(row.id), before, call.answer)
        self._engine.look()

    async def forget(self, now: float) -> None:
        """Delete what ended long ago, with what was kept sealed of it."""
        await Job.filter(state__not_in=wire.OPEN, ended__lte=now - KEPT_SECONDS).delete()


async def _changed(job: int, since: float) -> list[JobPart]:
    rows: QuerySet[JobPart] = JobPart.filter(job_id=job)
    if since:
        rows = rows.filter(updated__gt=since)
    return await rows.order_by("id")


def _view(part: JobPart) -> wire.Part:
    known: dict[str, Any] = {name: getattr(part, name) for name in wire.Part.__struct_fields__}
    return wire.Part(**known)
