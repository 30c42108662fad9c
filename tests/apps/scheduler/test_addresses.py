"""Which URL a host may announce, and what its children are told: over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hawker.apps.compose import compose
from hawker.apps.scheduler.app import SchedulerRole
from hawker.apps.serve import Listen, serving
from hawker.core.contracts import RoleContext
from hawker.core.digests import HostKey
from hawker.core.messages import HostAnnouncement, encode
from hawker.core.registry import PluginHost
from hawker.core.settings import load
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file

OWN = HostKey.generate()

# hypercorn restarts the idle timer of a connection that is being cut, and drops the coroutine.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine 'TCPServer._idle_timeout':RuntimeWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a test drops is collected while the filter holds."""
    yield
    gc.collect()


@contextlib.asynccontextmanager
async def _clients(data: Path, **flags: Any) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A host's clients of a scheduler, over TCP and over the unix socket."""
    create_key_file(data / "cluster.key")
    named = {key.replace("__", "."): value for key, value in flags.items()}
    settings = load({"storage.data": str(data), **named}, environ={}).settings
    plugins = PluginHost(settings)

    async def advertise() -> str:
        return "http://unused"

    app = compose({"/scheduler": SchedulerRole(RoleContext(settings, plugins, advertise, True))})
    key = ClusterKey(read_key_file(settings.cluster_key_file), own=OWN)
    headers = {"authorization": f"Bearer {key.mint(OWN.host, ['announce', 'hosts'])}"}
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(plugins.close)
        await stack.enter_async_context(app.router.lifespan_context(app))
        listen = Listen("127.0.0.1", 0, settings.unix_socket)
        bound = await stack.enter_async_context(serving(app, listen))
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.AsyncHTTPTransport(uds=uds),
                    base_url=base,
                    headers=headers,
                    trust_env=False,
                )
            )
            for uds, base in ((None, bound.url), (str(bound.socket_path), "http://localhost"))
        ]


async def _announce(client: httpx.AsyncClient, url: str) -> httpx.Response:
    announcement = HostAnnouncement(url=url, key=OWN.public, boot="b")
    return await client.put(f"/scheduler/v1/hosts/{OWN.host}", content=encode(announcement))


async def _known(client: httpx.AsyncClient) -> str:
    """The URL that children get."""
    [host] = (await client.get("/scheduler/v1/hosts")).json()
    url: str = host["url"]
    return url


def _run(data: Path, body: Callable[[list[httpx.AsyncClient]], Any], **flags: Any) -> None:
    async def main() -> None:
        async with _clients(data, **flags) as clients:
            await body(clients)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("announced", "told"),
    [
        ("http://127.0.0.1:7001/peer", "http://127.0.0.1:7001/peer"),
        ("http://127.1:7001/peer", "http://127.0.0.1:7001/peer"),
        # A name may mean something else to each child, or a moment later.
        ("http://localhost:7001/peer", "http://127.0.0.1:7001/peer"),
        ("http://[::1]:7001/peer", "http://[::1]:7001/peer"),
        # The certificate says whether it is still who was meant.
        ("https://localhost:7001/peer", "https://localhost:7001/peer"),
    ],
)
def test_children_are_told_an_address_where_nothing_else_proves_the_name(
    tmp_path: Path, announced: str, told: str
) -> None:
    async def body(clients: list[httpx.AsyncClient]) -> None:
        for client in clients:
            answer = await _announce(client, announced)
            assert answer.status_code == 200, answer.text
            known = await _known(client)
            assert known == told or (
                client is clients[1] and known == told.replace("127.0.0.1", "[::1]")
            )

    _run(tmp_path, body)


@pytest.mark.parametrize(
    ("url", "status"),
    [
        # The address of another machine: its peers would be asked in this host's name.
        ("http://192.0.2.7:7001/peer", 403),
        ("https://192.0.2.7:7001/peer", 403),
        ("http://[2001:db8::7]:7001/peer", 403),
        ("http://169.254.169.254:80/peer", 403),
        ("http://no-such-host.invalid:7001/peer", 400),
        ("http://127.0.0.1/peer", 400),
        ("http://user@127.0.0.1:7001/peer", 400),
        ("http://127.0.0.1:7001/peer?x", 400),
        ("ftp://127.0.0.1:7001/peer", 400),
    ],
)
def test_the_url_of_another_machine_is_refused(tmp_path: Path, url: str, status: int) -> None:
    async def body(clients: list[httpx.AsyncClient]) -> None:
        assert (await _announce(clients[0], url)).status_code == status
        assert (await clients[0].get("/scheduler/v1/hosts")).json() == []

    _run(tmp_path, body)


def test_the_clusters_networks_may_be_announced(tmp_path: Path) -> None:
    async def body(clients: list[httpx.AsyncClient]) -> None:
        for address, status in (
            ("192.0.2.7", 200),
            ("192.0.3.7", 403),
            ("[::ffff:192.0.2.7]", 200),
        ):
            answer = await _announce(clients[0], f"http://{address}:7001/peer")
            assert answer.status_code == status, answer.text

    _run(tmp_path, body, cluster__networks=["192.0.2.0/24"])
