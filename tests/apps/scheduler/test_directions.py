"""What a manager tells a scheduler is done at once, by the role that serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from hawker.apps.compose import compose
from hawker.apps.scheduler.app import SchedulerRole
from hawker.apps.serve import Listen, serving
from hawker.core.contracts import Directions, RoleContext
from hawker.core.digests import HostKey
from hawker.core.messages import HostAnnouncement, encode
from hawker.core.registry import PluginHost
from hawker.core.scheduling import GRACE
from hawker.core.settings import Settings, load
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file

ONE, OTHER = HostKey.from_bytes(b"1" * 32), HostKey.from_bytes(b"2" * 32)


class Scheduler:
    def __init__(self, role: SchedulerRole, settings: Settings, client: httpx.AsyncClient) -> None:
        self.role, self.settings, self.client = role, settings, client
        self._key = read_key_file(settings.cluster_key_file)

    def _headers(self, host: HostKey, verb: str) -> dict[str, str]:
        token = ClusterKey(self._key, own=host).mint(host.host, [verb])
        return {"authorization": f"Bearer {token}"}

    async def announce(self, host: HostKey) -> int:
        body = encode(HostAnnouncement("http://127.0.0.1:1/peer", host.public, "boot"))
        path = f"/v1/hosts/{host.host}"
        answer = await self.client.put(path, content=body, headers=self._headers(host, "announce"))
        return answer.status_code

    async def decisions(self, host: HostKey) -> AsyncGenerator[bytes, None]:
        path = f"/v1/hosts/{host.host}/decisions"
        headers = self._headers(host, "decisions")
        async with self.client.stream("GET", path, headers=headers) as answer:
            yield b"" if answer.status_code == 200 else str(answer.status_code).encode()
            async for chunk in answer.aiter_raw():
                yield chunk

    async def told(self, *, draining: bool = False, removed: str = "", **changes: Any) -> None:
        scheduler = msgspec.structs.replace(self.settings.scheduler, **changes)
        settings = msgspec.structs.replace(self.settings, scheduler=scheduler)
        gone = frozenset({removed} if removed else ())
        await self.role.follow(Directions(settings, draining, gone))


@contextlib.asynccontextmanager
async def started(data: Path) -> AsyncIterator[Scheduler]:
    create_key_file(data / "cluster.key")
    settings = load({"storage.data": str(data)}, environ={}).settings
    plugins = PluginHost(settings)

    async def advertise() -> str:
        return "http://127.0.0.1:1"

    role = SchedulerRole(RoleContext(settings, plugins, advertise, open=True, member=True))
    app = compose({"/scheduler": role})
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(plugins.close)
        await stack.enter_async_context(app.router.lifespan_context(app))
        listen = Listen("127.0.0.1", 0, settings.unix_socket)
        bound = await stack.enter_async_context(serving(app, listen))
        client = httpx.AsyncClient(base_url=f"{bound.url}/scheduler", timeout=20, trust_env=False)
        yield Scheduler(role, settings, await stack.enter_async_context(client))


def test_a_host_that_was_removed_loses_its_stream_and_gets_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as scheduler:
            assert await scheduler.announce(ONE) == await scheduler.announce(OTHER) == 200
            async with contextlib.aclosing(scheduler.decisions(ONE)) as stream:
                assert await anext(stream) == b""
                await scheduler.told(removed=ONE.host)
                async with asyncio.timeout(10):
                    async for _ in stream:
                        pass
            assert scheduler.role.core.host_ids() == {OTHER.host}
            assert await scheduler.announce(ONE) == 403
            async with contextlib.aclosing(scheduler.decisions(ONE)) as refused:
                assert await anext(refused) == b"403"
            assert await scheduler.announce(OTHER) == 200
            await scheduler.told()
            assert await scheduler.announce(ONE) == 200, "it joined again"

    asyncio.run(main())


def test_one_that_drains_takes_no_new_hosts_where_there_is_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as scheduler:
            assert await scheduler.announce(ONE) == 200
            await scheduler.told(draining=True, others=["http://127.0.0.1:2"])
            assert await scheduler.announce(OTHER) == 503
            assert await scheduler.announce(ONE) == 200, "who is there may stay"
            await scheduler.told(draining=True, others=[])
            assert await scheduler.announce(OTHER) == 200, "it is the only one"

    asyncio.run(main())


def test_what_others_decided_for_is_not_read_rashly_by_one_that_gets_its_hosts(
    tmp_path: Path,
) -> None:
    """Nor before it was told that it does: hosts may hear of that first."""

    async def main() -> None:
        async with started(tmp_path) as scheduler:
            others, now = ["http://127.0.0.1:2"], asyncio.get_running_loop().time
            core = scheduler.role.core
            assert core.expecting(now() + 3600), "it was told nothing yet"
            await scheduler.told()
            assert not core.expecting(now()), "it is the only one"
            await scheduler.told(others=others)
            assert core.expecting(now()) and not core.expecting(now() + GRACE + 1)
            await scheduler.told(others=others, draining=True)
            assert core.expecting(now() + 3600), "it may be told otherwise at any time"
            await scheduler.told(others=others)
            assert core.expecting(now()) and not core.expecting(now() + GRACE + 1)
            await scheduler.told()
            assert not core.expecting(now())

    asyncio.run(main())


def test_its_part_of_the_limits_goes_with_how_many_there_are(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as scheduler:
            await scheduler.told(
                origin_rate=900, others=["http://127.0.0.1:2", "http://127.0.0.1:3"]
            )
            assert scheduler.role.core.limits.rate == 300
            await scheduler.told(origin_rate=900)
            assert scheduler.role.core.limits.rate == 900

    asyncio.run(main())
