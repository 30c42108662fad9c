"""An operation of the API, and what happens around its handler: who may, what is taken, the form of
the answer. No operation can be made without saying who may do it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tortoise.exceptions import ValidationError

from hawker.apps.manager import models
from hawker.apps.manager.access import TABLE, Permission, permission_text
from hawker.apps.manager.call import Call, Principal, Repeated, integer
from hawker.apps.manager.database import Database
from hawker.apps.manager.identity import COOKIE, Identity, bearer
from hawker.apps.manager.roster import Roster
from hawker.apps.web.endpoints import Endpoint
from hawker.apps.web.endpoints import Handler as Serve
from hawker.apps.web.requests import read_body
from hawker.core.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated
from hawker.core.membership import ENROLMENT_PREFIX, MEMBER_PREFIX
from hawker.core.messages import encode

PREFIX = "/api/v1"
MAX_BODY, LARGE_BODY = 256 * 1024, 4 * 1024
MAX_PAGE, PER_PAGE, MAX_PER_PAGE = 1_000_000, 20, 100
# Of which a body may take 30.
ANSWER_SECONDS = 60.0
# Seconds since 1970 that anybody may mean.
LATEST = 10**11
# An escaped NUL; not where the backslash itself is escaped.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_KEY = re.compile(r"^[\x21-\x7e]{1,128}$")

Handler = Callable[[Call], Awaitable[None]]
Who = Permission | Literal["anyone", "signed-in", "enrolment", "member"]


@dataclass(frozen=True)
class Operation:
    """`who` may ask: a permission, which the caller must have somewhere (the handler looks at
    where), whoever is known, anyone, a host that joins with an enrolment's token, or a member.
    `by_member`: a member may, beside whoever has the permission.

    `listing`: it answers with pages of `answer`. `conditional`:
    it needs If-Match. `repeatable`: it takes an Idempotency-Key. `many`: it answers with a list of
    `answer`. `choices`: what filters take, where that is not any text. `times`: parameters in
    seconds since 1970. `cookie`: it sets the
    session's. `open_query`: others add parameters of their own. `html`: it answers with a page.
    `events`: with a stream of events whose data are of `answer`."""

    method: str
    path: str
    summary: str
    who: Who
    handle: Handler
    body: Any = None
    answer: Any = None
    status: int = 200
    listing: bool = False
    filters: Sequence[str] = ()
    conditional: bool = False
    repeatable: bool = False
    parameters: Sequence[str] = ()
    times: Sequence[str] = ()
    by_member: bool = False
    many: bool = False
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    cookie: bool = False
    open_query: bool = False
    html: bool = False
    events: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.who, tuple) and self.who[1] not in TABLE.get(self.who[0], ()):
            raise ValueError(f"{permission_text(self.who)!r} is not in the table of permissions")

    @property
    def permission(self) -> Permission | None:
        return self.who if isinstance(self.who, tuple) else None


class Layer:
    """Turns operations into routes."""

    def __init__(self, database: Database, identity: Identity, roster: Roster) -> None:
        self._database = database
        self._identity = identity
        self._roster = roster

    def route(self, operation: Operation) -> Route:
        # Starlette adds HEAD to GET, and asks an endpoint that is an object for every method.
        endpoint = Endpoint(self.endpoint(operation))
        return Route(PREFIX + operation.path, endpoint, methods=[operation.method])

    def endpoint(self, operation: Operation) -> Serve:
        """What answers an operation, wherever it is mounted."""

        async def serve(request: Request, receive: Any, send: Any) -> None:
            with self._database.active():
                async with self._database.failures(), asyncio.timeout(ANSWER_SECONDS):
                    response = await self._answer(operation, request)
            await response(request.scope, receive, send)

        return serve

    async def _answer(self, operation: Operation, request: Request) -> Response:
        call = Call(request, permission=operation.permission, status=operation.status)
        await self._identify(operation, call)
        _no_nul("".join(request.path_params.values()))
        _parameters(operation, call)
        raw = await read_body(request, MAX_BODY)
        call.body = await take(raw, operation.body)
        if (key := request.headers.get("idempotency-key")) is not None:
            call.repeat = self._repeat(operation, call, key, raw)
            if (response := await _repeated(operation, call)) is not None:
                return response
        try:
            await operation.handle(call)
        except Repeated:
            response = await _repeated(operation, call)
            assert response is not None
            return response
        except ValidationError as exc:
            # Longer than what its column holds: there is nothing of that name.
            if not operation.listing:
                raise NotFound("there is no such thing") from exc
            call.answer = []
        return _respond(operation, call)

    async def _identify(self, operation: Operation, call: Call) -> None:
        """Find out who asks, and whether they may ask for this at all."""
        token = bearer(call.request)
        if token.startswith(MEMBER_PREFIX):
            call.seat = await self._roster.shown(token)
            if not operation.by_member:
                raise Forbidden("a member may not do this")
            return
        if token.startswith(ENROLMENT_PREFIX) != (operation.who == "enrolment"):
            raise Unauthenticated("an enrolment's token is for joining, and for nothing else")
        if operation.who == "enrolment":
            call.token = token
            return
        if operation.who == "member":
            raise Unauthenticated("members alone may do this, with their own tokens")
        if operation.who == "anyone":
            # Nobody is kept from signing in by what else they show, or by who cannot judge it.
            return
        call.principal = await self._identity.who(call.request)
        _admit(call.who, operation.permission)

    def _repeat(self, operation: Operation, call: Call, key: str, raw: bytes) -> tuple[str, str]:
        if not operation.repeatable:
            raise BadRequest("this operation takes no Idempotency-Key")
        if not _KEY.match(key):
            raise BadRequest("Idempotency-Key must be 1 to 128 visible ASCII characters")
        what = f"{operation.method} {call.request.url.path}"
        hashed = self._identity.hashed
        return hashed.digest("repeat", call.who.user.id, key), hashed.digest("request", what, raw)


def _admit(principal: Principal, permission: Permission | None) -> None:
    if permission is None or any(permission in g.permissions for g in principal.grants):
        return
    raise Forbidden(f"{principal.user.name} may not do {permission_text(permission)!r}")


def _no_nul(text: str) -> None:
    if "\0" in text:
        raise BadRequest("the request has a NUL character")


def _parameters(operation: Operation, call: Call) -> None:
    """Take the query apart; raises BadRequest for what is not known, or given twice."""
    known = {*operation.filters, *operation.parameters, *operation.times}
    if operation.listing:
        known |= {"page", "per_page"}
    given = call.request.query_params.multi_items()
    for name, value in given:
        if name not in known and not operation.open_query:
            raise BadRequest(f"there is no parameter {name!r}", hint=f"known: {sorted(known)}")
        if len(call.request.query_params.getlist(name)) > 1:
            raise BadRequest(f"the parameter {name!r} is given more than once")
        _no_nul(value)
        if name in operation.filters:
            one_of = operation.choices.get(name)
            if one_of is not None and value not in one_of:
                raise BadRequest(f"{name}={value!r} is not one of {', '.join(one_of)}")
            call.filters[name] = value
    query = call.request.query_params
    if operation.listing:
        call.page = integer(query.get("page", "1"), "page", 1, MAX_PAGE)
        call.per_page = integer(query.get("per_page", str(PER_PAGE)), "per_page", 1, MAX_PER_PAGE)


async def take(raw: bytes, kind: Any) -> Any:
    """The body; raises BadRequest, which says where in it something is wrong."""
    if len(raw) <= LARGE_BODY:
        return decode(raw, kind)
    # A thousand networks take 5 ms.
    return await asyncio.to_thread(decode, raw, kind)


def decode(raw: bytes, kind: Any) -> Any:
    """`take`, of a body that is known to be small."""
    if kind is None:
        if raw.strip():
            raise BadRequest("this operation takes no body")
        return None
    if _NUL.search(raw):
        raise BadRequest("the body has a NUL character")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise BadRequest(f"the body: {exc}") from exc


async def _repeated(operation: Operation, call: Call) -> Response | None:
    """What was answered to the first request with this key; None where there was none."""
    assert call.repeat is not None
    digest, request = call.repeat
    known = await models.Repeat.get_or_none(digest=digest)
    if known is None:
        return None
    if known.request != request:
        raise Conflict("another request had this Idempotency-Key", hint="use a new key")
    made = msgspec.json.decode(known.body)
    headers = {
        "cache-control": "no-store",
        "location": f"{call.mount}{PREFIX}{operation.path}/{made['id']}",
    }
    if "revision" in made:
        headers["etag"] = f'"{made["revision"]}"'
    return Response(known.body, known.status, headers=headers, media_type="application/json")


def _respond(operation: Operation, call: Call) -> Response:
    if isinstance(call.answer, Response):
        return call.answer
    headers = {"cache-control": "no-store", **call.headers}
    revision = getattr(call.answer, "revision", None)
    if revision is not None:
        headers["etag"] = f'"{revision}"'
    if operation.listing:
        headers["link"] = _links(call)
    if call.html is not None:
        headers["content-security-policy"] = "default-src 'none'"
        headers["referrer-policy"] = "no-referrer"
        response = Response(call.html, call.status, headers=headers, media_type="text/html")
    elif call.answer is None:
        status = call.status if "location" in headers else 204
        response = Response(status_code=status, headers=headers)
    else:
        response = Response(
            encode(call.answer), call.status, headers=headers, media_type="application/json"
        )
    if call.cookie is not None:
        secure = call.request.url.scheme == "https" if call.secure is None else call.secure
        response.set_cookie(
            COOKIE,
            call.cookie,
            path=call.mount or "/",
            secure=secure,
            httponly=True,
            samesite="strict",
            max_age=None if call.cookie else 0,
        )
    for name, attributes in call.cookies.items():
        response.set_cookie(name, **attributes)
    return response


def _links(call: Call) -> str:
    """RFC 8288, relative to the request: first, prev, next as far as there is one."""

    def link(page: int, relation: str) -> str:
        query = call.request.url.include_query_params(page=page, per_page=call.per_page).query
        return f'<?{query}>; rel="{relation}"'

    links = [link(1, "first")]
    if call.page > 1:
        links.append(link(call.page - 1, "prev"))
    if call.more:
        links.append(link(call.page + 1, "next"))
    return ", ".join(links)
