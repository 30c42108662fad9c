"""Several roles in one ASGI app: mounted side by side, started in order, stopped in reverse."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping

from starlette.applications import Starlette
from starlette.routing import Mount

from hawker.apps.web.application import Application
from hawker.apps.web.health import Health
from hawker.apps.web.metrics import Metric
from hawker.core.contracts import RoleApp


def compose(roles: Mapping[str, RoleApp]) -> Starlette:
    """One app of roles by the path each is mounted at, with the health routes beside them.

    Starlette's `Mount` does not run the lifespans of what it mounts; this app's lifespan does.
    """
    health = Health(lambda: _ready(roles.values()), lambda: _metrics(roles.values()))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(health.watching())
            for role in roles.values():
                await stack.enter_async_context(role.lifespan(app))
            yield

    mounts = [Mount(path, app=role) for path, role in roles.items()]
    return Application(routes=[*health.routes(), *mounts], lifespan=lifespan)


def _ready(roles: Iterable[RoleApp]) -> bool:
    return all(
        getattr(role, "ready", True) and not getattr(role, "draining", False) for role in roles
    )


def _metrics(roles: Iterable[RoleApp]) -> Iterable[Metric]:
    for role in roles:
        counters = getattr(role, "metrics", None)
        if counters is not None:
            yield from counters()
