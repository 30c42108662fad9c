"""The OpenAPI 3.1 document, from the operations and the structs that validate them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from hawker.apps.manager.access import permission_text
from hawker.apps.manager.identity import COOKIE
from hawker.apps.manager.operation import LATEST, MAX_PAGE, MAX_PER_PAGE, PER_PAGE, Operation
from hawker.apps.web.problems import CONTENT_TYPE
from hawker.core.errors import Problem
from hawker.core.version import version

_REFUSALS = {
    400: "What was sent is not understood; `detail` names the place.",
    413: "The body is too large.",
    429: "Too many attempts; `Retry-After` says when the next is taken.",
    500: "A fault of the manager's own; its log says more.",
    503: "The database cannot be used now.",
}
BEARERS = ("token", "enrolment", "member")
_KNOWN = {401: "Nobody is known to ask.", 403: "They may not."}
_REFUSED_WITH = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
_REQUEST_ID = "X-Request-Id"
_HOST = "^[0-9a-f]{32}$"
_TAG = '"[0-9]+"'
_MATCH = {"type": "string", "pattern": rf"^(\*|{_TAG}(, {_TAG})*)$"}


def _header(description: str, *, always: bool = True, **schema: Any) -> dict[str, Any]:
    return {
        "description": description,
        "required": always,
        "schema": {"type": "string", **schema},
    }


_HEADERS = {
    _REQUEST_ID: _header("Names the request in the manager's log.", always=False),
    "Cache-Control": _header("Nothing is to be kept.", enum=["no-store"]),
    "ETag": _header("The revision, for If-Match.", pattern=f"^{_TAG}$"),
    "Link": _header("RFC 8288: `first`, `prev` and `next`, relative to the request."),
    "Location": _header("The path of what was made."),
    "X-Accel-Buffering": _header("Proxies are to hand events on at once.", enum=["no"]),
    "Set-Cookie": _header("The session, or its end."),
    "Retry-After": _header("Seconds.", always=False, pattern="^[0-9]+$"),
    "WWW-Authenticate": _header("How to send a token."),
}


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The document, ready to be encoded once `servers` says where the role is mounted."""
    listed = list(operations)
    kinds = [Problem]
    for operation in listed:
        kinds += [kind for kind in (operation.body, operation.answer) if kind is not None]
    _, schemas = msgspec.json.schema_components(
        dict.fromkeys(kinds), ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for operation in listed:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Hawker manager", "version": version()},
        "paths": _without_nul(paths),
        "components": {
            "schemas": _without_nul(schemas),
            "headers": _HEADERS,
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                **{one: {"type": "http", "scheme": "bearer"} for one in BEARERS},
            },
        },
    }


def _without_nul(schema: Any) -> Any:
    """The same, but that it says of every text that it has no NUL, which is refused everywhere."""
    if isinstance(schema, list):
        return [_without_nul(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    told = {name: _without_nul(value) for name, value in schema.items()}
    if schema.get("type") == "string" and not {"pattern", "enum", "format"} & schema.keys():
        told["pattern"] = r"^[^\x00]*$"
    return told


def _describe(operation: Operation) -> dict[str, Any]:
    who = operation.who
    needed = permission_text(who) if isinstance(who, tuple) else who
    if operation.by_member and who != "member":
        needed += ", or the member itself"
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}{re.sub(r'[^a-z]+', '_', operation.path)}",
        "description": f"Asks for: {needed}.",
        "security": _security(operation),
        "parameters": [*_parameters(operation)],
        "responses": _answers(operation),
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _json(operation.body, many=False)}
    return described


def _security(operation: Operation) -> list[dict[str, Any]]:
    if operation.who == "anyone":
        return []
    if operation.who in ("enrolment", "member"):
        return [{operation.who: []}]
    schemes = ["session", "token", *(["member"] if operation.by_member else [])]
    return [{scheme: []} for scheme in schemes]


def _parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", operation.path):
        form = {"pattern": _HOST} if name == "host" else {"minLength": 1}
        yield _parameter("path", name, {"type": "string", **form}, required=True)
    if operation.listing:
        page = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 1}
        yield _parameter("query", "page", page)
        many = {"type": "integer", "minimum": 1, "maximum": MAX_PER_PAGE, "default": PER_PAGE}
        yield _parameter("query", "per_page", many)
    for name in (*operation.filters, *operation.parameters):
        one_of = {"enum": [*operation.choices[name]]} if name in operation.choices else {}
        yield _parameter("query", name, {"type": "string", **one_of})
    for name in operation.times:
        yield _parameter("query", name, {"type": "integer", "minimum": 0, "maximum": LATEST})
    if operation.conditional:
        yield _parameter("header", "If-Match", _MATCH, required=True)
    if operation.repeatable:
        key = {"type": "string", "pattern": "^[!-~]{1,128}$"}
        yield _parameter("header", "Idempotency-Key", key)


def _parameter(
    where: str, name: str, schema: dict[str, Any], *, required: bool = False
) -> dict[str, Any]:
    return {"in": where, "name": name, "schema": schema, "required": required}


def _answers(operation: Operation) -> dict[str, Any]:
    refusals = dict(_REFUSALS)
    if operation.who != "anyone" or operation.path in ("/setup", "/session") or operation.html:
        refusals |= _KNOWN
    if "{" in operation.path or operation.method == "POST":
        refusals[404] = "There is no such thing."
    if operation.method != "GET":
        refusals[409] = "A name is taken, or something is in use or missing."
    if operation.method in ("PATCH", "DELETE"):
        refusals[412] = "It is another revision by now."
    if operation.path.startswith("/auth/"):
        refusals[502] = "The provider could not be asked."
    if operation.conditional:
        refusals[428] = "If-Match is missing."
    good: dict[str, Any] = {"description": operation.summary, "headers": _headers(operation)}
    status = 204
    if operation.events:
        status = operation.status
        [item] = _json(operation.answer, many=False).values()
        # Of each event, as OpenAPI 3.2 describes streams; the data of these are JSON.
        data = {"type": "string", "contentMediaType": "application/json"}
        data |= {"contentSchema": item["schema"]}
        event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
        good["content"] = {"text/event-stream": {"schema": event}}
    elif operation.answer is not None:
        status = operation.status
        good["content"] = _json(operation.answer, many=operation.listing or operation.many)
    elif operation.html:
        status = operation.status
        good["content"] = {"text/html": {"schema": {"type": "string"}}}
    elif operation.status == 303:
        status = operation.status
    problem = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    told = {
        str(code): {
            "description": text,
            "headers": _refer(_REQUEST_ID, *_REFUSED_WITH.get(code, ())),
            "content": problem,
        }
        for code, text in sorted(refusals.items())
    }
    return {str(status): good, **told}


def _headers(operation: Operation) -> dict[str, Any]:
    """Those of a good answer."""
    names = [_REQUEST_ID, "Cache-Control"]
    if operation.listing:
        names.append("Link")
    elif {"id", "revision"} <= {*getattr(operation.answer, "__struct_fields__", ())}:
        names.append("ETag")
    if operation.status in (201, 303):
        names.append("Location")
    if operation.cookie:
        names.append("Set-Cookie")
    if operation.events:
        names.append("X-Accel-Buffering")
    return _refer(*names)


def _refer(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _json(kind: Any, *, many: bool) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    schema = {"type": "array", "items": reference} if many else reference
    return {"application/json": {"schema": schema}}
