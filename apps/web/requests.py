"""What the roles' handlers do alike: bodies of bounded size, task ids in paths, JSON answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import NoReturn

from starlette.requests import Request
from starlette.responses import Response

from hawker.core.errors import BadRequest, TooLarge
from hawker.core.ids import TASK_ID
from hawker.core.messages import encode
from hawker.core.ranges import MAX_DIGITS

BODY_SECONDS = 30.0
LINGER_BYTES = 1024 * 1024
LINGER_SECONDS = 0.5


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body; raises TooLarge beyond `limit` bytes, BadRequest after 30 s."""
    chunks = request.stream()
    length = request.headers.get("content-length", "")
    body = bytearray()
    if length.isdecimal() and (len(length) > MAX_DIGITS or int(length) > limit):
        await _refuse(chunks, limit)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    body.clear()
                    await _refuse(chunks, limit)
    except TimeoutError as exc:
        raise BadRequest(f"the body did not come within {BODY_SECONDS:g} s") from exc
    return bytes(body)


async def _refuse(chunks: AsyncGenerator[bytes, None], limit: int) -> NoReturn:
    """Raise TooLarge, once a little more of the body is thrown away: a connection that is closed
    while its client is sending may be reset, and the client never sees why."""
    left = LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    break
    raise TooLarge(f"the body is larger than {limit} bytes")


def task_of(request: Request) -> str:
    """The task id in the path; raises BadRequest where it is none."""
    task: str = request.path_params["task"]
    if not TASK_ID.match(task):
        raise BadRequest(f"{task!r} is not a task id", hint="it is 64 hex digits")
    return task


def json_response(value: object) -> Response:
    """Anything msgspec encodes, as JSON."""
    return Response(encode(value), media_type="application/json")
