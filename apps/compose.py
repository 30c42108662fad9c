"""Several roles in one ASGI app: mounted side by side, started in order, stopped in reverse."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount, Route

from hawker.apps.web.application import Application
from hawker.apps.web.endpoints import Endpoint, Handler
from hawker.apps.web.health import Health
from hawker.apps.web.metrics import Metric
from hawker.core.contracts import RoleApp


class Part(Protocol):
    """What a process has besides its roles, and serves nothing."""

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]: ...

    def metrics(self) -> Iterable[Metric]: ...


def compose(roles: Mapping[str, RoleApp], parts: Sequence[Part] = ()) -> Starlette:
    """One app of roles by the path each is mounted at, with the health routes beside them, and
    the routes that a role has `at_root` of the process; `parts`
    begin after the roles and end before them.

    Starlette's `Mount` does not run the lifespans of what it mounts; this app's lifespan does.
    """
    health = Health(
        lambda: _ready(roles.values()),
        lambda: [note for role in roles.values() for note in getattr(role, "notes", ())],
        lambda: _metrics([*roles.values(), *parts]),
        lambda scope: _oversees(roles.values(), scope),
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(health.watching())
            for role in roles.values():
                await stack.enter_async_context(role.lifespan(app))
            for part in parts:
                await stack.enter_async_context(part.lifespan(app))
            yield

    mounts = [Mount(path, app=role) for path, role in roles.items()]
    at_root = [
        Route(path, Endpoint(_handing_to(role)))
        for role in roles.values()
        for path in getattr(role, "at_root", ())
    ]
    return Application(routes=[*health.routes(), *mounts, *at_root], lifespan=lifespan)


def _handing_to(role: RoleApp) -> Handler:
    """An endpoint that leaves a path of the process to a role, which sees it as it is."""

    async def serve(request: Request, receive: Any, send: Any) -> None:
        await role(request.scope, receive, send)

    return serve


def _ready(roles: Iterable[RoleApp]) -> bool:
    return all(
        getattr(role, "ready", True) and not getattr(role, "draining", False) for role in roles
    )


async def _oversees(roles: Iterable[RoleApp], scope: Mapping[str, Any]) -> bool:
    for role in roles:
        oversees = getattr(role, "oversees", None)
        if oversees is not None and await oversees(scope):
            return True
    return False


def _metrics(roles: Iterable[RoleApp | Part]) -> Iterable[Metric]:
    for role in roles:
        counters = getattr(role, "metrics", None)
        if counters is not None:
            yield from counters()
