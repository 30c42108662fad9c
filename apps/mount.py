"""Roles in somebody else's ASGI server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from hawker.apps.web.access import decide_mode
from hawker.apps.web.metrics import Metric
from hawker.apps.web.role import serve_lifespan
from hawker.core.contracts import RoleApp, RoleContext
from hawker.core.egress import is_loopback
from hawker.core.errors import ConfigError
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings, load
from hawker.core.storage.directory import prepare_directory


class Mounted:
    """A role with its plugins and its data directory; see `mount`."""

    def __init__(self, role: RoleApp, plugins: PluginHost, settings: Settings) -> None:
        self.name = role.name
        self._role = role
        self._plugins = plugins
        self._settings = settings
        self._entered = 0

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Start the role, and stop it when the last one leaves; for the lifespan of the app that it
        is mounted in, as Starlette's `Mount` runs no lifespan."""
        self._entered += 1
        try:
            await asyncio.to_thread(prepare_directory, self._settings.data)
            async with self._role.lifespan(app):
                yield
        finally:
            self._entered -= 1
            if not self._entered:
                await self._plugins.close()

    @property
    def ready(self) -> bool:
        return bool(getattr(self._role, "ready", True))

    @property
    def draining(self) -> bool:
        return bool(getattr(self._role, "draining", False))

    def drain(self) -> None:
        """See `Role.drain`."""
        end = getattr(self._role, "drain", None)
        if end is not None:
            end()

    def metrics(self) -> Iterable[Metric]:
        counted: Iterable[Metric] = getattr(self._role, "metrics", tuple)()
        return counted

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(self.lifespan, receive, send)
        else:
            await self._role(scope, receive, send)


def mount(
    name: str,
    *,
    auth: Literal["open", "required"],
    advertise: str,
    settings: Settings | None = None,
    beside: Sequence[str] = (),
    transports: Sequence[str] = ("http1",),
    path: str | None = None,
) -> Mounted:
    """A role for another ASGI app or server, to be mounted at `path` below `advertise`, or at
    `/{name}` where no path is given: hosts look for peers and schedulers there and nowhere else.

    `advertise` is the URL that others reach the server by, `http://host:port` or with the path that
    `/{name}` is mounted below; it also says whether the server is reached from loopback only.
    `auth` is what `auth.mode` is in a process of our own. `beside` names the other roles of the
    same app, `transports` what the server speaks. Settings come from `HAWKER_CONFIG` and
    `HAWKER_…` variables where none are given. One process may serve it: two would be two hosts.

    Raises:
        ConfigError: the settings make no sense, or `open` is not for a server that others reach.
        UnknownPlugin: there is no such role.
    """
    settings = settings or load().settings
    parts = urlsplit(advertise)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"advertise: {advertise!r} is not a URL such as http://host:port")
    loopback = is_loopback(parts.hostname)
    replace = msgspec.structs.replace
    settings = replace(
        settings,
        auth=replace(settings.auth, mode=auth),
        listen=replace(settings.listen, host=parts.hostname),
        peer=replace(settings.peer, advertise=advertise.rstrip("/")),
    )
    plugins = PluginHost(settings)
    plugins.egress.listens(parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))

    async def advertised() -> str:
        return settings.peer.advertise

    context = RoleContext(
        settings=settings,
        plugins=plugins,
        advertise=advertised,
        open=decide_mode(settings, loopback_only=loopback),
        beside=(name, *beside),
        transports=tuple(transports),
        path=None if path is None else _clean(path),
    )
    return Mounted(plugins.get_role(name, context), plugins, settings)


def _clean(path: str) -> str:
    """As ASGI's `root_path` has it: with a slash in front and none behind; empty for the root."""
    return "".join(f"/{part}" for part in path.split("/") if part)
