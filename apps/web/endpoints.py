"""Endpoints that write their own response: a coroutine of (request, receive, send) as ASGI app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request

Handler = Callable[[Request, Any, Any], Awaitable[None]]


class Endpoint:
    """Starlette calls a route's endpoint as an ASGI app where it is no function."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._handle(Request(scope, receive), receive, send)
