"""The routes of the peer role, and what stands behind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hawker.apps.peer.availability import Announcer
from hawker.apps.peer.content import send_content, send_stored
from hawker.apps.peer.downloads import progress_lines, receive_import
from hawker.apps.peer.endpoints import Endpoint
from hawker.apps.peer.pieces import PieceServer, UploadSlots
from hawker.apps.peer.policy import Tickets, check_origin, check_private
from hawker.apps.web.access import LOCAL_USER, Access, is_local
from hawker.apps.web.events import event_stream, ndjson_stream
from hawker.apps.web.requests import json_response, read_body, task_of
from hawker.core.errors import BadRequest, NotFound
from hawker.core.ids import GENERATION_ID
from hawker.core.messages import DownloadRequest, decode_download
from hawker.core.settings import Settings
from hawker.core.transfer.conductor import Conductor

MAX_BODY = 1024 * 1024


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
            Route("/v1/host", self._host, methods=["GET"]),
            Route(generation + "/pieces/{first}-{last}", self._pieces, methods=["GET"]),
            Route(generation + "/availability", self._availability, methods=["GET"]),
            Route(generation + "/content", Endpoint(self._stored), methods=["GET"]),
            Route("/v1/content", Endpoint(self._content), methods=["GET"]),
            Route("/v1/downloads", self._download, methods=["POST"]),
            Route("/v1/tasks", self._list, methods=["GET"]),
            Route("/v1/tasks/import", self._import, methods=["POST"]),
            Route("/v1/tasks/{task}", self._stat, methods=["GET"]),
            Route("/v1/tasks/{task}", self._remove, methods=["DELETE"]),
        ]

    # ------------------------------------------------------------------ other peers

    async def _availability(self, request: Request) -> Response:
        task, generation = _ids(request)
        await self._role.access.require_token(request.scope, "pieces", task=task)
        return event_stream(self._announcer.frames(task, generation))

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
        await self._role.access.require(request.scope, "content")
        query = request.query_params
        wanted = DownloadRequest(
            url=query.get("url", ""),
            tag=query.get("tag", ""),
            application=query.get("application", ""),
            revision=query.get("revision", ""),
        )
        self._check_origin(request, wanted.url)
        await send_content(self._role.conductor, request, wanted, receive, send)

    async def _stored(self, request: Request, receive: Any, send: Any) -> None:
        task, generation = _ids(request)
        caller = await self._role.access.require(request.scope, "content", task)
        entry = self._role.conductor.ground.store.get(task, generation)
        if entry is None or not entry.complete:
            raise NotFound(f"generation {generation} of task {task} is not stored whole")
        self._tickets.check(entry, request, token=caller is not LOCAL_USER)
        counters = self._role.conductor.ground.counters
        counters.client_bytes += await send_stored(entry, request, receive, send)

    async def _download(self, request: Request) -> Response:
        await self._role.access.require(request.scope, "downloads")
        wanted = decode_download(await read_body(request, MAX_BODY))
        self._check_origin(request, wanted.url)
        if wanted.headers:
            check_private(request)
        tickets = None if is_local(request.scope) else self._tickets
        lines = progress_lines(self._role.conductor, wanted, tickets)
        return ndjson_stream(lines)

    async def _list(self, request: Request) -> Response:
        await self._role.access.require(request.scope, "tasks")
        entries = self._role.conductor.ground.store.entries()
        return json_response([entry.stat() for entry in entries])

    async def _stat(self, request: Request) -> Response:
        task = task_of(request)
        await self._role.access.require(request.scope, "tasks", task)
        entry = self._role.conductor.ground.store.newest(task)
        if entry is None:
            raise NotFound(f"nothing of task {task} is stored here")
        return json_response(entry.stat())

    async def _remove(self, request: Request) -> Response:
        task = task_of(request)
        await self._role.access.require(request.scope, "tasks:delete", task)
        if not await self._role.conductor.ground.store.remove(task):
            raise NotFound(f"nothing of task {task} is stored here")
        return Response(status_code=204)

    async def _import(self, request: Request) -> Response:
        await self._role.access.require(request.scope, "tasks:import")
        conductor = self._role.conductor
        entry = await receive_import(conductor.ground, request)
        conductor.offer(entry)
        return json_response(entry.stat())

    def _check_origin(self, request: Request, url: str) -> None:
        roots = self._role.settings.sources.file.roots
        check_origin(url, local=is_local(request.scope), roots=roots)


def _ids(request: Request) -> tuple[str, str]:
    generation: str = request.path_params["generation"]
    if not GENERATION_ID.match(generation):
        raise BadRequest(f"{generation!r} is not a generation", hint="it is 16 hex digits")
    return task_of(request), generation
