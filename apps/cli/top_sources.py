"""What `hawker top` looks at: schedulers, or a cluster through its manager."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import quote

import httpx

from hawker.apps.cli.job_commands import Asking, asking
from hawker.apps.cli.local_daemon import find_daemon
from hawker.apps.cli.options import Session
from hawker.core.clients.http import control_client, endpoint_client
from hawker.core.clients.observed import Observed
from hawker.core.clients.window import WindowClient
from hawker.core.errors import NotFound
from hawker.core.settings import Settings
from hawker.core.tls import client_context
from hawker.core.tokens import ClusterKey, read_key_file
from hawker.core.window import (
    OBSERVE,
    ClusterOverview,
    TaskLine,
    decode_lines,
    decode_overview,
)


class Source(Protocol):
    """A cluster; every method raises the HawkerError of whoever is asked."""

    name: str

    async def overview(self) -> ClusterOverview: ...

    async def tasks(self, limit: int) -> list[TaskLine]:
        """So many, those first in which something happened last."""
        ...

    def events(self, task: str) -> AsyncGenerator[bytes, None]:
        """A task's frames, encoded; empty where none came for a while."""
        ...


class Schedulers:
    """Schedulers that are asked themselves."""

    def __init__(self, name: str, observed: Observed) -> None:
        self.name = name
        self._observed = observed

    async def overview(self) -> ClusterOverview:
        """Raises Unavailable where none answers."""
        found = await self._observed.overview()
        if not found.schedulers:
            await self._observed.tasks(1)
        return found

    async def tasks(self, limit: int) -> list[TaskLine]:
        return (await self._observed.tasks(limit))[:limit]

    async def events(self, task: str) -> AsyncGenerator[bytes, None]:
        window = await self._observed.who_knows(task)
        async for data in window.events(task):
            yield data


class Managed:
    """A cluster, as its manager shows it to who is signed in."""

    def __init__(self, name: str, cluster: str, asked: Asking) -> None:
        self.name = name
        self._base = f"/clusters/{cluster}"
        self._asked = asked

    async def overview(self) -> ClusterOverview:
        return decode_overview(await self._asked.raw(f"{self._base}/overview"))

    async def tasks(self, limit: int) -> list[TaskLine]:
        return decode_lines(await self._asked.raw(f"{self._base}/tasks?per_page={limit}"))

    async def events(self, task: str) -> AsyncGenerator[bytes, None]:
        async with self._asked.stream(f"{self._base}/tasks/{task}/events") as events:
            async for data in events:
                yield data


@asynccontextmanager
async def open_source(
    session: Session,
    *,
    manager: str | None,
    cluster: str | None,
    schedulers: Sequence[str],
    endpoint: str | None,
) -> AsyncIterator[Source]:
    """The manager's cluster where one is named, the schedulers that are named, or those that this
    host is set up with, or the one of the local daemon."""
    if manager is not None or cluster is not None:
        async with asking(session, manager or "") as asked:
            found = await _cluster(asked, cluster)
            yield Managed(found[1], found[0], asked)
        return
    settings = session.settings
    urls = list(schedulers)
    local = None if urls else find_daemon(settings, endpoint)
    if not urls and endpoint is None:
        urls = list(settings.peer.schedulers)
    if urls:
        tls = client_context(settings.tls) if any(u.startswith("https") for u in urls) else None
        async with control_client(tls=tls) as client:
            headers = _shown(settings, named=bool(settings.cluster.key_file))
            yield Schedulers(", ".join(urls), _observed(urls, client, headers))
        return
    if local is None:
        raise NotFound(
            "no daemon runs here, and no scheduler is named",
            hint="name one with --scheduler, or a cluster with --manager; or run `hawker up`",
        )
    tls = client_context(settings.tls) if local.startswith("https://") else None
    base, client = endpoint_client(local, tls)
    async with client:
        headers = _shown(settings, named="://" not in local or bool(settings.cluster.key_file))
        try:
            await WindowClient(f"{base}/scheduler/v1", client, headers).overview()
        except NotFound as exc:
            raise NotFound(
                f"the daemon at {local} has no scheduler", hint="name one with --scheduler"
            ) from exc
        yield Schedulers(local, _observed([base], client, headers))


def _observed(urls: Sequence[str], client: httpx.AsyncClient, headers: dict[str, str]) -> Observed:
    windows = [(url, WindowClient(f"{url}/scheduler/v1", client, headers)) for url in urls]
    return Observed(windows)


def _shown(settings: Settings, *, named: bool) -> dict[str, str]:
    """The token that was set, or one of the cluster's key: to a URL only where that was named."""
    token = settings.auth.token
    key_file = settings.cluster_key_file
    if not token and named and (settings.cluster.key_file or os.access(key_file, os.R_OK)):
        token = ClusterKey(read_key_file(key_file)).mint("", [OBSERVE], subject="command-line")
    return {"authorization": f"Bearer {token}"} if token else {}


async def _cluster(asked: Asking, name: str | None) -> tuple[str, str]:
    """Id and name of the cluster; the only one where none is named.

    Raises:
        NotFound: there is none, or there are several.
    """
    query = f"&name={quote(name)}" if name is not None else ""
    rows = await asked.ask("GET", f"/clusters?per_page=2{query}")
    if not rows:
        raise NotFound(f"there is no cluster {name!r}" if name else "the manager has no cluster")
    if len(rows) > 1:
        raise NotFound("the manager has several clusters", hint="name one with --cluster")
    return str(rows[0]["id"]), str(rows[0]["name"])
