"""A peer role that is served over real sockets by the process of the tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from hawker.apps.compose import compose
from hawker.apps.peer.app import PeerRole
from hawker.apps.serve import Listen, serving
from hawker.core.contracts import RoleContext, Transport
from hawker.core.messages import TaskStat
from hawker.core.registry import PluginHost
from hawker.core.settings import load
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file

HOST = "ab" * 16


@dataclass
class Peer:
    """A started peer role and its clients over TCP and over the unix socket."""

    role: PeerRole
    key: ClusterKey
    url: str
    tcp: httpx.AsyncClient
    unix: httpx.AsyncClient
    transport: Transport

    def token(self, *verbs: str, task: str = "") -> dict[str, str]:
        token = self.key.mint(HOST, verbs or ["pieces"], task=task)
        return {"authorization": f"Bearer {token}"}

    async def put(self, data: bytes, url: str = "http://origin.test/a") -> TaskStat:
        """Import content."""
        answer = await self.tcp.post("/v1/tasks/import", params={"url": url}, content=data)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=TaskStat)

    def pieces(self, stat: TaskStat, first: int, last: int) -> str:
        return f"/v1/tasks/{stat.task}/{stat.generation}/pieces/{first}-{last}"


@contextlib.asynccontextmanager
async def started(data: Path, **flags: Any) -> AsyncIterator[Peer]:
    """A peer role that serves, without a scheduler; `flags` are settings, `__` for a dot."""
    if not (data / "cluster.key").exists():
        create_key_file(data / "cluster.key")
    named = {key.replace("__", "."): value for key, value in flags.items()}
    settings = load({"storage.data": str(data), **named}, environ={}).settings
    plugins = PluginHost(settings)
    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def advertise() -> str:
        return await asyncio.shield(url)

    role = PeerRole(RoleContext(settings, plugins, advertise, open=True, beside=("peer",)))
    app = compose({"/peer": role})
    listen = Listen("127.0.0.1", 0, settings.unix_socket)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(plugins.close)
        await stack.enter_async_context(app.router.lifespan_context(app))
        bound = await stack.enter_async_context(serving(app, listen))
        url.set_result(bound.url)
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.AsyncHTTPTransport(uds=uds, trust_env=False),
                    base_url=base,
                    timeout=20,
                    trust_env=False,
                )
            )
            for uds, base in (
                (None, f"{bound.url}/peer"),
                (str(bound.socket_path), "http://localhost/peer"),
            )
        ]
        transport = plugins.get("hawker.transports", "http1")
        key = ClusterKey(read_key_file(settings.cluster_key_file))
        tcp, unix = clients
        yield Peer(role, key, f"{bound.url}/peer", tcp, unix, transport)
