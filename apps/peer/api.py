"""The routes of the peer role, and what stands behind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hawker.apps.peer.availability import Announcer
from hawker.apps.peer.content import send_content, send_stored
from hawker.apps.peer.downloads import progress_lines, receive_import
from hawker.apps.peer.pieces import PieceServer
from hawker.apps.peer.policy import Tickets, check_private, visible
from hawker.apps.web.access import LOCAL_USER, Access, check_allowed, is_local
from hawker.apps.web.content import FOR_ORIGIN
from hawker.apps.web.endpoints import Endpoint
from hawker.apps.web.events import event_stream, ndjson_stream
from hawker.apps.web.requests import json_response, read_body, task_of
from hawker.core.contracts import Caller
from hawker.core.errors import BadRequest, Forbidden, NotFound
from hawker.core.ids import GENERATION_ID
from hawker.core.messages import DownloadRequest, decode_download
from hawker.core.settings import Settings
from hawker.core.storage import Entry
from hawker.core.transfer.access import restricted
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.naming import Named
from hawker.core.transfer.slots import UploadSlots

MAX_BODY = 1024 * 1024
# 0 is the most urgent; nothing stands for the least.
PRIORITIES = ("", *"0123456")


class Daemon(Protocol):
    """The started peer role, as its routes see it."""

    settings: Settings
    access: Access
    slots: UploadSlots

    @property
    def conductor(self) -> Conductor: ...

    @property
    def ready(self) -> bool: ...

    async def url(self) -> str: ...


class Api:
    """Checks who calls and what they name, then hands over."""

    def __init__(self, role: Daemon, pieces: PieceServer, announcer: Announcer) -> None:
        self._role = role
        self._announcer = announcer
        self._pieces = pieces
        self._tickets = Tickets()

    def routes(self) -> Sequence[BaseRoute]:
        generation = "/v1/tasks/{task}/{generation}"
        return [
            # In the order in which they are looked at: first what is asked for most.
            Route(generation + "/pieces/{first}-{last}", self._pieces, methods=["GET"]),
            Route(generation + "/availability", Endpoint(self._availability), methods=["GET"]),
            Route("/v1/host", self._host, methods=["GET"]),
            Route(generation + "/content", Endpoint(self._stored), methods=["GET"]),
            Route("/v1/content", Endpoint(self._content), methods=["GET"]),
            Route("/v1/downloads", self._download, methods=["POST"]),
            Route("/v1/tasks", self._list, methods=["GET"]),
            Route("/v1/tasks/import", self._import, methods=["POST"]),
            Route("/v1/tasks/{task}", self._stat, methods=["GET"]),
            Route("/v1/tasks/{task}", self._remove, methods=["DELETE"]),
        ]

    # ------------------------------------------------------------------ other peers

    async def _availability(self, request: Request, receive: Any, send: Any) -> None:
        task, generation = _ids(request)
        caller = await self._role.access.require_token(request.scope, "pieces", task=task)
        response = event_stream(self._announcer.frames(task, generation, caller))
        await response(request.scope, receive, send)

    # ------------------------------------------------------------------ clients

    async def _host(self, request: Request) -> Response:
        await self._role.access.require(request.scope, "tasks")
        return json_response(
            {
                "host": self._role.conductor.ground.host,
                "seed": self._role.settings.peer.seed,
                "url": await self._role.url(),
                "ready": self._role.ready,
            }
        )

    async def _content(self, request: Request, receive: Any, send: Any) -> None:
        caller = await self._role.access.require(request.scope, "content", None)
        query = request.query_params
        wanted = DownloadRequest(
            url=query.get("url", ""),
            tag=query.get("tag", ""),
            application=query.get("application", ""),
            revision=query.get("revision", ""),
            priority=_priority(query.get("priority", "")),
            filtered_query_params=_listed(query.get("filtered_query_params", "")),
            headers={
                name.removeprefix(FOR_ORIGIN): value
                for name, value in request.headers.items()
                if name.startswith(FOR_ORIGIN)
            },
        )
        named = self._named(request, caller, "content", wanted)
        await send_content(self._role.conductor, request, wanted, named, receive, send)

    async def _stored(self, request: Request, receive: Any, send: Any) -> None:
        task, generation = _ids(request)
        caller = await self._role.access.require(request.scope, "content", task)
        entry = self._role.conductor.ground.store.get(task, generation)
        entry = self._seen(request, caller, entry)
        if entry is None or not entry.complete:
            raise NotFound(f"generation {generation} of task {task} is not stored whole")
        self._tickets.check(entry, request, token=caller is not LOCAL_USER)
        ground = self._role.conductor.ground
        sent = await send_stored(ground.quotas, entry, request, receive, send)
        ground.counters.client_bytes += sent

    async def _download(self, request: Request) -> Response:
        caller = await self._role.access.require(request.scope, "downloads", None)
        wanted = decode_download(await read_body(request, MAX_BODY))
        named = self._named(request, caller, "downloads", wanted)
        tickets = None if is_local(request.scope) else self._tickets
        lines = progress_lines(self._role.conductor, wanted, named, tickets)
        return ndjson_stream(lines)

    async def _list(self, request: Request) -> Response:
        caller = await self._role.access.require(request.scope, "tasks")
        entries = self._role.conductor.ground.store.entries()
        seen = [entry for entry in entries if self._seen(request, caller, entry)]
        return json_response([entry.stat() for entry in seen])

    async def _stat(self, request: Request) -> Response:
        task = task_of(request)
        caller = await self._role.access.require(request.scope, "tasks", task)
        entry = self._role.conductor.ground.store.newest(task)
        entry = self._seen(request, caller, entry)
        if entry is None:
            raise NotFound(f"nothing of task {task} is stored here")
        return json_response(entry.stat())

    async def _remove(self, request: Request) -> Response:
        task = task_of(request)
        caller = await self._role.access.require(request.scope, "tasks:delete", task)
        store = self._role.conductor.ground.store
        entry = self._seen(request, caller, store.newest(task))
        if entry is None or not await store.remove(task):
            raise NotFound(f"nothing of task {task} is stored here")
        return Response(status_code=204)

    async def _import(self, request: Request) -> Response:
        caller = await self._role.access.require(request.scope, "tasks:import", None)
        conductor = self._role.conductor
        query = request.query_params
        wanted = DownloadRequest(
            url=query.get("url", ""),
            tag=query.get("tag", ""),
            application=query.get("application", ""),
        )
        named = self._named(request, caller, "tasks:import", wanted)
        entry = await receive_import(conductor.ground, request, named.spec)
        conductor.offer(entry)
        return json_response(entry.stat())

    def _named(self, request: Request, caller: Caller, verb: str, wanted: DownloadRequest) -> Named:
        """What a request names, where its caller may do `verb` with it."""
        if wanted.tenant not in ("", caller.tenant):
            raise Forbidden(f"{caller.subject} is not of tenant {wanted.tenant!r}")
        wanted = msgspec.structs.replace(wanted, tenant=caller.tenant)
        ground = self._role.conductor.ground
        named = ground.named(wanted, local=is_local(request.scope))
        check_allowed(caller, verb, named.spec.task_id)
        if restricted(named.spec):
            check_private(request)
        return named

    def _seen(self, request: Request, caller: Caller, entry: Entry | None) -> Entry | None:
        """The entry as this caller sees it: None where it may not know of it."""
        ground, local = self._role.conductor.ground, is_local(request.scope)
        return entry if entry and visible(ground, entry, caller, local=local) else None


def _priority(text: str) -> int | None:
    if text not in PRIORITIES:
        raise BadRequest(f"{text[:40]!r} is no priority", hint="it is 0 to 6")
    return int(text) if text else None


def _listed(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _ids(request: Request) -> tuple[str, str]:
    generation: str = request.path_params["generation"]
    if not GENERATION_ID.match(generation):
        raise BadRequest(f"{generation!r} is not a generation", hint="it is 16 hex digits")
    return task_of(request), generation
