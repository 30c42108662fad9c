"""The registry role as an ASGI app: who may ask, what for, and the answers' form."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hawker.apps.registry.errors import RegistryError, as_registry_error, error_response
from hawker.apps.registry.manifests import Manifest, Manifests
from hawker.apps.registry.names import Target, Upstreams
from hawker.apps.registry.push import Deleted, hand_on
from hawker.apps.registry.straight import send_straight
from hawker.apps.registry.upstream import MAX_LISTING, Upstream, listing_fields
from hawker.apps.web.access import Access, as_bearer
from hawker.apps.web.content import Asker, SwarmContent, swarm_content
from hawker.apps.web.disconnect import until_disconnected
from hawker.apps.web.dragonfly import ERROR_TYPE, Wishes, error_type, swarm_fields, wishes_of
from hawker.apps.web.endpoints import Endpoint
from hawker.apps.web.parts import send_part
from hawker.apps.web.prefetch import Prefetching
from hawker.apps.web.role import Role
from hawker.core.contracts import Directions, RoleContext
from hawker.core.errors import (
    BadRequest,
    HawkerError,
    OriginRefused,
    QuotaExceeded,
    Unauthenticated,
)
from hawker.core.outgoing import OriginClient, origin_tls

API_VERSION = {"docker-distribution-api-version": "registry/2.0"}
# Of an answer about content.
BLOB_FIELDS = ("content-length", "content-range")


class RegistryRole(Role):
    """A mirror of the registries that `registry.upstreams` names."""

    name = "registry"
    path = "/v2"

    def __init__(self, context: RoleContext) -> None:
        super().__init__()
        self._access = Access(context.settings, context.plugins, context.open, context.revoked)
        self._context = context
        self._upstreams = Upstreams(context.settings.registry)
        self._content: SwarmContent | None = None
        self._prefetching: Prefetching | None = None
        self._upstream: Upstream | None = None
        self._manifests: Manifests | None = None
        self._deleted = Deleted()

    def routes(self) -> Sequence[BaseRoute]:
        # An endpoint that is an object gets every method.
        return [Route("/{path:path}", Endpoint(self._serve))]

    @contextlib.asynccontextmanager
    async def resources(self) -> AsyncIterator[None]:
        settings, context = self._context.settings, self._context
        async with contextlib.AsyncExitStack() as stack:
            self._content = await stack.enter_async_context(swarm_content(context, self.name))
            prefetching = Prefetching(self._content)
            self._prefetching = await stack.enter_async_context(prefetching)
            trusted = await asyncio.to_thread(origin_tls, settings.egress.ca)
            origins = OriginClient(context.plugins.services, trusted)
            stack.push_async_callback(origins.close)
            self._upstream = Upstream(origins)
            self._manifests = Manifests(self._upstream, self._content)
            yield

    async def follow(self, directions: Directions) -> None:
        self._access.refuse(directions.revoked)

    # ------------------------------------------------------------------ requests

    async def _serve(self, request: Request, receive: Any, send: Any) -> None:
        kind, begun = "", False

        async def sending(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            asker = await self._admit(request)
            wishes = _wishes_of(request)
            path = request.path_params["path"]
            if not path:
                await Response("{}", headers=API_VERSION, media_type="application/json")(
                    request.scope, receive, sending
                )
                return
            target = self._upstreams.locate(
                path, request.query_params.get("ns", ""), wishes.registry
            )
            kind = target.kind
            await self._answer(target, asker, wishes, request, receive, sending)
        except HawkerError as exc:
            if begun:
                # Nothing but a cut connection says that the rest does not come.
                raise
            told = as_registry_error(exc, kind)
            if told is not exc:
                told.headers[ERROR_TYPE] = error_type(exc)
            await error_response(told)(request.scope, receive, send)

    async def _answer(
        self,
        target: Target,
        asker: Asker,
        wishes: Wishes,
        request: Request,
        receive: Any,
        send: Any,
    ) -> None:
        assert self._upstream is not None
        if request.method not in ("GET", "HEAD") or target.kind == "uploads":
            if not self._context.settings.registry.push:
                raise RegistryError(
                    "UNSUPPORTED", "this mirror is read-only", 405, {"allow": "GET, HEAD"}
                )
            shown = asker.shown
            await hand_on(self._upstream, self._deleted, target, shown, request, receive, send)
            return
        await self._deleted.check(self._upstream, target, asker)
        try:
            if target.kind == "blobs":
                try:
                    await self._blob(target, asker, wishes, request, receive, send)
                except QuotaExceeded:
                    if request.method == "HEAD" or "range" in request.headers:
                        # Of a part nobody could say whether it is right.
                        raise
                    fields = _fields(target.reference)
                    work = send_straight(self._upstream, target, asker, fields, send)
                    await until_disconnected(receive, work)
            elif target.kind == "manifests":
                response = await self._manifest(target, asker, wishes, request)
                await response(request.scope, receive, send)
            else:
                response = await self._listing(target, asker, request)
                await response(request.scope, receive, send)
        except OriginRefused:
            # The peer cannot say what the upstream wants to see.
            raise await self._upstream.challenge(target, asker.tenant) from None

    async def _manifest(
        self, target: Target, asker: Asker, wishes: Wishes, request: Request
    ) -> Response:
        assert self._manifests is not None
        accept = ", ".join(request.headers.getlist("accept"))
        head = request.method == "HEAD"
        manifest = await self._manifests.get(target, asker, accept, wishes, head=head)
        fields = _fields(manifest.digest)
        if _has(request, manifest.digest):
            return Response(status_code=304, headers=fields)
        fields["content-length"] = str(manifest.length)
        response = Response(manifest.body, headers=fields)
        # Exactly as the upstream has it: Starlette would add a charset.
        _set_type(response, manifest)
        return response

    async def _listing(self, target: Target, asker: Asker, request: Request) -> Response:
        """Tags, or what refers to a manifest; asked anew each time."""
        assert self._upstream is not None
        answer = await self._upstream.ask("GET", target, asker, {}, request.url.query)
        fields = listing_fields(answer, target)
        return Response(await self._upstream.read(answer, MAX_LISTING), headers=fields)

    async def _blob(
        self,
        target: Target,
        asker: Asker,
        wishes: Wishes,
        request: Request,
        receive: Any,
        send: Any,
    ) -> None:
        assert self._content is not None and self._prefetching is not None
        digest = target.reference
        method = request.method
        fields = _range_of(request, digest) if method == "GET" else {}
        unchanged = _has(request, digest)
        async with self._content.open(
            "HEAD" if unchanged else method, target.url, asker, fields, wishes=wishes
        ) as answer:
            status = 304 if unchanged else answer.status_code
            kept = {n: answer.headers[n] for n in BLOB_FIELDS if n in answer.headers}
            if status == 416:
                kept.pop("content-length", None)
                raise RegistryError(
                    "RANGE_INVALID", "there are no such bytes", 416, _fields(digest) | kept
                )
            if wishes.prefetch and status == 206:
                self._prefetching.begin(target.url, asker, wishes)
            head = {**_fields(digest), **({} if unchanged else kept)}
            head |= swarm_fields(answer.headers)
            head["accept-ranges"] = "bytes"
            head["content-type"] = answer.headers.get("content-type", "application/octet-stream")
            raw = [(name.encode(), value.encode()) for name, value in head.items()]

            async def body() -> None:
                await send({"type": "http.response.start", "status": status, "headers": raw})
                if method == "GET" and not unchanged:
                    async for chunk in answer.aiter_raw():
                        await send_part(send, chunk)
                await send({"type": "http.response.body", "body": b""})

            await until_disconnected(receive, body())

    async def _admit(self, request: Request) -> Asker:
        """Let the caller in; what it shows for the upstream, which an open mirror hands on.

        A mirror that asks for tokens takes them as the password of any user, too, as that is what
        clients of registries can be given; they are never handed on.
        """
        given = request.headers.get("authorization", "")
        if self._context.open:
            scope = _showing(request.scope, "")
            return Asker((await self._access.require(scope, "content")).tenant, given)
        try:
            caller = await self._access.require(
                _showing(request.scope, as_bearer(given)), "content"
            )
        except Unauthenticated as exc:
            raise RegistryError(
                "UNAUTHORIZED", exc.detail, 401, {"www-authenticate": 'Basic realm="hawker"'}
            ) from exc
        return Asker(caller.tenant)


def _wishes_of(request: Request) -> Wishes:
    try:
        return wishes_of(request.headers)
    except BadRequest as exc:
        raise RegistryError("UNSUPPORTED", exc.detail, 400) from exc


def _fields(digest: str) -> dict[str, str]:
    return {**API_VERSION, "docker-content-digest": digest, "etag": f'"{digest}"'}


def _set_type(response: Response, manifest: Manifest) -> None:
    MutableHeaders(raw=response.raw_headers)["content-type"] = manifest.media_type


def _has(request: Request, digest: str) -> bool:
    """The client has this already (RFC 9110 section 13.1.2; weak comparison)."""
    tags = request.headers.get("if-none-match", "").split(",")
    return any(tag.strip().removeprefix("W/") in ("*", f'"{digest}"') for tag in tags)


def _range_of(request: Request, digest: str) -> dict[str, str]:
    """The range that the peer is asked for; none where `If-Range` names something else."""
    ranges = request.headers.getlist("range")
    condition = request.headers.get("if-range", f'"{digest}"').strip()
    return {"range": ", ".join(ranges)} if ranges and condition == f'"{digest}"' else {}


def _showing(scope: Mapping[str, Any], credentials: str) -> dict[str, Any]:
    """The request with these credentials in place of its own; empty: with none."""
    headers = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
    if credentials:
        headers.append((b"authorization", credentials.encode("latin-1", "replace")))
    return {**scope, "headers": headers}
