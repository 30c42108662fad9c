"""Waiting until an answer has left this host, where the server can tell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

DEPARTED = "hawker.departed"
"""The ASGI extension of connections that can wait for what was sent; `wait` is a coroutine
function."""


async def until_departed(scope: Mapping[str, Any]) -> None:
    """Return once all but little of what was sent has left the kernel's buffer, or the client takes
    nothing more; at once where the server cannot tell."""
    extension = (scope.get("extensions") or {}).get(DEPARTED)
    if extension is not None:
        wait: Callable[[], Awaitable[None]] = extension["wait"]
        await wait()
