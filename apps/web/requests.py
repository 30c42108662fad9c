"""What the roles' handlers do alike: bodies of bounded size, task ids in paths, JSON answers."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from hawker.core.errors import BadRequest, TooLarge
from hawker.core.ids import TASK_ID
from hawker.core.messages import encode
from hawker.core.ranges import MAX_DIGITS

BODY_SECONDS = 30.0


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body; raises TooLarge beyond `limit` bytes, BadRequest after 30 s."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > MAX_DIGITS or int(length) > limit):
        raise TooLarge(f"the body is larger than {limit} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise TooLarge(f"the body is larger than {limit} bytes")
    except TimeoutError as exc:
        raise BadRequest(f"the body did not come within {BODY_SECONDS:g} s") from exc
    return bytes(body)


def task_of(request: Request) -> str:
    """The task id in the path; raises BadRequest where it is none."""
    task: str = request.path_params["task"]
    if not TASK_ID.match(task):
        raise BadRequest(f"{task!r} is not a task id", hint="it is 64 hex digits")
    return task


def json_response(value: object) -> Response:
    """Anything msgspec encodes, as JSON."""
    return Response(encode(value), media_type="application/json")
