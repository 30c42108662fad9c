"""One process with some roles: make them, serve them, say where, stop on a signal."""

from __future__ import annotations

import asyncio
import contextlib
import json as jsonlib
import os
import signal
from collections.abc import AsyncIterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hawker.apps.compose import compose
from hawker.apps.logs import set_up_logs
from hawker.apps.memory import collect_less, giving_back, keep_freed_memory
from hawker.apps.serve import Bound, Files, Listen, serving
from hawker.apps.web.access import decide_mode
from hawker.core.contracts import RoleApp, RoleContext
from hawker.core.egress import is_loopback
from hawker.core.errors import ConfigError, Removed
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from hawker.core.storage.directory import prepare_directory
from hawker.core.tls import server_context
from hawker.core.tokens import create_key_file, read_key_file

if TYPE_CHECKING:
    from hawker.apps.membership.member import Member

WILDCARDS = ("0.0.0.0", "::", "")


async def run(settings: Settings, roles: list[str], *, json: bool = False, up: bool = False) -> int:
    """Serve the roles until SIGINT or SIGTERM; returns the exit code.

    Raises:
        ConfigError: the roles cannot be started with these settings.
        Removed: the manager of the cluster that this host joined removed it.
    """
    set_up_logs(settings.telemetry, roles)
    keep_freed_memory()
    member = await asyncio.to_thread(_member, settings, roles)
    if member is not None:
        settings = member.settings
    _prepare(settings, roles, up=up, member=member is not None)
    tls = server_context(settings.tls)
    loopback = is_loopback(settings.listen.host)
    plugins = PluginHost(settings)
    bound: asyncio.Future[Bound] = asyncio.get_running_loop().create_future()
    context = RoleContext(
        settings=settings,
        plugins=plugins,
        advertise=lambda: _advertise(settings, bound),
        open=decide_mode(settings, loopback_only=loopback),
        beside=tuple(roles),
        transports=("http1", "http2", "http3") if settings.listen.http3 else ("http1", "http2"),
        member=member is not None,
        revoked=frozenset() if member is None else member.revoked,
    )
    made: dict[str, RoleApp] = {name: plugins.get_role(name, context) for name in roles}
    mounted = {getattr(role, "path", f"/{name}"): role for name, role in made.items()}
    if member is not None:
        member.serve(list(made.values()), context.advertise)
    app = compose(mounted, () if member is None else (member,))
    listen = Listen(
        host=settings.listen.host,
        port=settings.listen.port,
        unix_socket=settings.unix_socket,
        tls=tls,
        http3=_http3(settings),
        # A proxy's connections take another quarter.
        share=0.5 if "proxy" in roles else 0.75,
    )
    try:
        async with (
            _stop_signals() as stopped,
            giving_back(),
            app.router.lifespan_context(app),
            serving(app, listen) as where,
        ):
            plugins.egress.listens(listen.host, where.port)
            others = _own_listeners(made)
            for url in others.values():
                parts = urlsplit(url)
                plugins.egress.listens(parts.hostname or "", parts.port or 0)
            bound.set_result(where)
            collect_less()
            _say_ready(where, roles, others, json=json)
            await _first(stopped, *(() if member is None else (member.removed,)))
            for role in made.values():
                drain(role)
    finally:
        await plugins.close()
    if member is not None and member.removed.is_set():
        raise Removed(f"this host was removed from the cluster {member.cluster}")
    return 0


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _member(settings: Settings, roles: list[str]) -> Member | None:
    """The membership in the data directory, None where there is none."""
    if not os.access(settings.membership_folder, os.R_OK):
        return None
    # Certificates take long to import, and few have joined.
    from hawker.apps.membership.member import Member

    return Member.of(settings, roles)


def _prepare(settings: Settings, roles: list[str], *, up: bool, member: bool) -> None:
    """The data directory, and the key that the roles trust each other by."""
    if not roles:
        raise ConfigError("no role to serve", hint="name one, such as `hawker serve peer`")
    host = settings.listen.host
    if host in WILDCARDS and not settings.peer.advertise:
        raise ConfigError(
            f"listening on {host or 'every address'}, this process cannot know its own URL",
            hint="set peer.advertise (--advertise) to the URL that others reach it by",
        )
    prepare_directory(settings.data)
    key: Path = settings.cluster_key_file
    if up and not key.exists():
        create_key_file(key)
    if "scheduler" in roles or settings.peer.schedulers or member:
        read_key_file(key)


def _http3(settings: Settings) -> Files | None:
    """The certificate of HTTP/3; None where it is not asked for.

    Raises:
        ConfigError: there is none, its clients would have to show one, or the extra is missing.
    """
    if not settings.listen.http3:
        return None
    if not settings.tls.certificate:
        raise ConfigError("listen.http3 needs tls.certificate", hint="see `hawker ca issue`")
    if settings.tls.mutual:
        raise ConfigError(
            "listen.http3 cannot ask clients for certificates",
            hint="leave tls.mutual or listen.http3 unset",
        )
    if find_spec("aioquic") is None:
        raise ConfigError("listen.http3 needs aioquic", hint="pip install 'hawker[http3]'")
    tls = settings.tls
    return Files(Path(tls.certificate), Path(tls.key or tls.certificate))


def drain(role: RoleApp) -> None:
    """Let a role end its streams; one of a plugin may have none."""
    end = getattr(role, "drain", None)
    if end is not None:
        end()


async def _advertise(settings: Settings, bound: asyncio.Future[Bound]) -> str:
    if settings.peer.advertise:
        return settings.peer.advertise.rstrip("/")
    return (await asyncio.shield(bound)).url


def _own_listeners(made: Mapping[str, RoleApp]) -> dict[str, str]:
    """The URLs of roles that have a listener besides the process's, by role."""
    found = {name: str(getattr(role, "listening", "")) for name, role in made.items()}
    return {name: url for name, url in found.items() if url}


def _say_ready(where: Bound, roles: list[str], others: Mapping[str, str], *, json: bool) -> None:
    if json:
        line = {"url": where.url, "socket": str(where.socket_path), "roles": roles, **others}
        print(jsonlib.dumps(line), flush=True)
    else:
        names = ", ".join(roles)
        more = "".join(f", {name} at {url}" for name, url in others.items())
        print(f"hawker: {names} at {where.url} and {where.socket_path}{more}", flush=True)


@contextlib.asynccontextmanager
async def _stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that is set when the process is asked to stop."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
