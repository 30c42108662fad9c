"""The OpenAPI 3.1 document, from the operations and the structs that validate them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from hawker.apps.manager.access import permission_text
from hawker.apps.manager.identity import COOKIE
from hawker.apps.manager.operation import MAX_PAGE, MAX_PER_PAGE, PER_PAGE, Operation
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
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                **{one: {"type": "http", "scheme": "bearer"} for one in BEARERS},
            },
        },
    }


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
        yield _parameter("path", name, {"type": "string", "minLength": 1}, required=True)
    if operation.listing:
        page = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 1}
        yield _parameter("query", "page", page)
        many = {"type": "integer", "minimum": 1, "maximum": MAX_PER_PAGE, "default": PER_PAGE}
        yield _parameter("query", "per_page", many)
    for name in (*operation.filters, *operation.parameters):
        yield _parameter("query", name, {"type": "string"})
    if operation.conditional:
        yield _parameter("header", "If-Match", {"type": "string"}, required=True)
    if operation.repeatable:
        key = {"type": "string", "pattern": "^[!-~]{1,128}$"}
        yield _parameter("header", "Idempotency-Key", key)


def _parameter(
    where: str, name: str, schema: dict[str, Any], *, required: bool = False
) -> dict[str, Any]:
    return {"in": where, "name": name, "schema": schema, "required": required}


def _answers(operation: Operation) -> dict[str, Any]:
    refusals = dict(_REFUSALS)
    if operation.who != "anyone" or operation.path in ("/setup", "/session"):
        refusals |= _KNOWN
    if "{" in operation.path or operation.method == "POST":
        refusals[404] = "There is no such thing."
    if operation.method != "GET":
        refusals[409] = "A name is taken, or something is in use or missing."
    if operation.method in ("PATCH", "DELETE"):
        refusals[412] = "It is another revision by now."
    if operation.conditional:
        refusals[428] = "If-Match is missing."
    good: dict[str, Any] = {"description": operation.summary}
    status = 204
    if operation.answer is not None:
        status = operation.status
        good["content"] = _json(operation.answer, many=operation.listing or operation.many)
    problem = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    told = {
        str(code): {"description": text, "content": problem}
        for code, text in sorted(refusals.items())
    }
    return {str(status): good, **told}


def _json(kind: Any, *, many: bool) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    schema = {"type": "array", "items": reference} if many else reference
    return {"application/json": {"schema": schema}}
