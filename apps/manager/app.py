"""The manager role as an ASGI app: opens its database beside everything else, then answers.

The database's library takes half a second to import. In a process with other roles nobody waits
for it but those who ask the manager; one that serves nothing else fails to start where its
database cannot be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from hawker.apps.web.endpoints import Endpoint
from hawker.apps.web.metrics import Metric, counters, gauge, gauges
from hawker.apps.web.role import Role
from hawker.core.contracts import RoleContext
from hawker.core.errors import HawkerError, Unavailable

if TYPE_CHECKING:
    from hawker.apps.manager.service import Service

log = logging.getLogger(__name__)

OPENING_SECONDS = 30.0
AGAIN_AFTER = 5.0
CLEAN_EVERY = 600.0


class ManagerRole(Role):
    """Clusters, members, tenants, applications, users, roles, tokens and the audit."""

    name = "manager"
    # As in jobs.harbor, which takes the database's library to import.
    at_root = (
        "/oapi/v1/jobs", "/oapi/v1/jobs/{id}", "/preheats", "/preheats/{id}", "/_ping", "/health",
        "/registry/notifications",
    )  # fmt: skip
    """Paths that registries know of a preheat provider, at the root of its process, too."""

    def __init__(self, context: RoleContext) -> None:
        super().__init__()
        self._context = context
        self._alone = set(context.beside) <= {self.name}
        self._service: Service | None = None
        self._failure: HawkerError | None = None
        self._opened: asyncio.Event | None = None

    def routes(self) -> Sequence[BaseRoute]:
        return [Route("/{path:path}", Endpoint(self._serve))]

    def app(self) -> Any:
        routed = super().app()

        async def answer(scope: Any, receive: Any, send: Any) -> None:
            if self._service is not None and scope["type"] == "http":
                response = await self._service.keepalives.answer(scope, receive)
                if response is not None:
                    await response(scope, receive, send)
                    return
            await routed(scope, receive, send)

        return answer

    @property
    def ready(self) -> bool:
        """Whether it answers, be it after its database was opened."""
        return super().ready and self._failure is None

    @property
    def notes(self) -> Sequence[str]:
        queue = None if self._service is None else self._service.engine.queue
        return [queue.note] if queue is not None and queue.note else []

    def metrics(self) -> Iterable[Metric]:
        yield from super().metrics()
        service = self._service
        ended = {} if service is None else service.own.checked
        text = "Passwords that were shown, by how that ended."
        yield counters("hawker_manager_passwords", text, "outcome", ended)
        members, waiting = ({}, 0) if service is None else service.roster.figures()
        text = "Members of all clusters, by kind, the silent ones among them."
        yield gauges("hawker_manager_members", text, "kind", members)
        text = "Members whose keepalive waits for news here."
        yield gauge("hawker_manager_waiting", text, waiting)
        ended = {} if service is None else service.signing_in.ended
        text = "Browsers that came back from a provider with a code, by how that ended."
        yield counters("hawker_manager_sign_ins", text, "outcome", ended)
        watched = 0 if service is None else service.window.watchers
        yield gauge("hawker_manager_observers", "Streams of tasks' events that are open.", watched)
        parts = {} if service is None else service.engine.parts_ended
        text = "Contents of jobs on a host, by how that ended."
        yield counters("hawker_manager_job_parts", text, "outcome", parts)
        queue = None if service is None else service.engine.queue
        if queue is not None:
            text = "1 while the job broker is there."
            yield gauge("hawker_manager_job_broker_connected", text, int(queue.connected))
            text = "Messages of the job broker, by what became of them."
            yield counters("hawker_manager_job_messages", text, "outcome", queue.messages)

    @contextlib.asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:
        self._failure, self._opened = None, asyncio.Event()
        try:
            if self._alone:
                await self._open()
            async with asyncio.TaskGroup() as group:
                running = group.create_task(self._run())
                try:
                    yield
                finally:
                    running.cancel()
        finally:
            service, self._service = self._service, None
            if service is not None:
                await service.stop()

    def drain(self) -> None:
        """Nobody waits for news any more."""
        super().drain()
        if self._service is not None:
            self._service.drain()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            await self._upkeep(group)

    async def _upkeep(self, group: asyncio.TaskGroup) -> None:
        path = self._context.path
        base = await self._context.advertise() + (f"/{self.name}" if path is None else path)
        as_json = self._context.settings.telemetry.log_format == "json"
        invited, following = False, None
        while True:
            wait = CLEAN_EVERY
            try:
                service = self._service or await self._open()
                following = following or group.create_task(service.work())
                if not invited:
                    await service.invite(base, as_json=as_json)
                    invited = True
                await service.clean()
            except Unavailable as exc:
                self._fail(exc)
                wait = exc.retry_after or AGAIN_AFTER
            except HawkerError as exc:
                self._fail(exc)
                return
            except Exception as exc:
                log.exception("the manager stopped working")
                self._fail(Unavailable(f"{type(exc).__name__}: {exc}"))
                return
            else:
                self._failure = None
            await asyncio.sleep(wait)

    async def _open(self) -> Service:
        service = await asyncio.to_thread(_load)
        self._service = await service.start(self._context.settings, self._context.plugins)
        self._failure = None
        assert self._opened is not None
        self._opened.set()
        return self._service

    def _fail(self, failure: HawkerError) -> None:
        if str(failure) != str(self._failure):
            log.error("the manager does not work: %s", failure)
        self._failure = failure
        assert self._opened is not None
        self._opened.set()

    async def _serve(self, request: Request, receive: Any, send: Any) -> None:
        await (await self._working()).app(request.scope, receive, send)

    async def _working(self) -> Service:
        """Raises Unavailable where the database cannot be used, or is not open in time."""
        assert self._opened is not None
        if not self._opened.is_set():
            try:
                async with asyncio.timeout(OPENING_SECONDS):
                    await self._opened.wait()
            except TimeoutError as exc:
                raise Unavailable("the manager's database is not open yet", retry_after=1) from exc
        if self._service is None:
            raise Unavailable(
                f"the manager does not work: {self._failure}", retry_after=AGAIN_AFTER
            )
        return self._service


def _load() -> type[Service]:
    from hawker.apps.manager.service import Service

    return Service
