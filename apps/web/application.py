"""Starlette's routes, with one layer around them in place of its own two.

Each layer wraps `send` to see whether an answer has begun, so that every event of a stream passes
all of them; requests for pieces are many, and pass them, too.
"""

from __future__ import annotations

from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request

from hawker.apps.web.problems import EXCEPTION_HANDLERS, unexpected


class Application(Starlette):
    """An app whose errors are answered as problems."""

    def build_middleware_stack(self) -> Any:
        return _Problems(self.router)


class _Problems:
    """What `ServerErrorMiddleware` and `ExceptionMiddleware` do together."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def answer(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            try:
                await self._app(scope, receive, answer)
            except Exception as exc:
                handler = _handler(exc)
                if handler is None:
                    raise
                if begun:
                    raise RuntimeError("the answer has begun") from exc
                response = await handler(Request(scope, receive), exc)
                await response(scope, receive, answer)
        except Exception as exc:
            response = await unexpected(Request(scope, receive), exc)
            if not begun:
                await response(scope, receive, send)
            # So that the server cuts what has begun.
            raise


def _handler(exc: Exception) -> Any:
    """The handler of the nearest class that has one, None for what nobody expected."""
    for kind in type(exc).__mro__:
        if kind is not Exception and kind in EXCEPTION_HANDLERS:
            return EXCEPTION_HANDLERS[kind]
    return None
