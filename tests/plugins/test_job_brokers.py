"""Job brokers without a server: what the options may be, and what comes where nobody answers.

`python -m tests.outside.brokers` runs the contract on real servers; here it is tried on the broker
that the manager's tests use.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hawker.core.contracts import JobBroker, JobMessage
from hawker.core.errors import Unavailable, UnknownPlugin
from hawker.core.registry import PluginHost
from hawker.core.settings import PluginSettings, Settings
from hawker.core.testing.brokers import REDELIVERY, SECRET, JobBrokerContract
from tests.e2e.test_schedulers import free_port
from tests.plugins.memory_broker import MemoryBroker, MemoryServer


class TestExampleOfTheDocumentation(JobBrokerContract):
    @pytest.fixture(autouse=True)
    def spool(self, tmp_path: Path) -> None:
        page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
        found = re.search(r"```python\n(# spool\.py.*?)```", page, re.DOTALL)
        assert found is not None
        names: dict[str, Any] = {}
        exec(found[1], names)
        self._spool, self._folder = names["Spool"], tmp_path / "spool"

    def make_broker(self) -> JobBroker:
        made: JobBroker = self._spool(self._folder, redelivery=REDELIVERY)
        return made

    def make_away(self) -> JobBroker:
        made: JobBroker = self._spool("/dev/null/spool")
        return made


class TestMemory(JobBrokerContract):
    @pytest.fixture(autouse=True)
    def server(self) -> Iterator[None]:
        self._server = MemoryServer()
        yield

    def make_broker(self) -> JobBroker:
        return MemoryBroker(self._server, redelivery=REDELIVERY)

    def make_away(self) -> JobBroker:
        server = MemoryServer()
        server.down = True
        return MemoryBroker(server)


def broker(name: str, **options: Any) -> JobBroker:
    settings = Settings(plugins=PluginSettings(options={name: options}))
    found: JobBroker = PluginHost(settings).get("hawker.jobs", name)
    return found


@pytest.mark.parametrize("name", ["redis", "nats"])
def test_nothing_is_connected_to_before_it_is_used(name: str) -> None:
    async def check() -> None:
        made = broker(name, url=f"{name}://127.0.0.1:{free_port()}")
        assert made.redelivery > 0 and len(asyncio.all_tasks()) == 1
        await made.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("redis", {"urls": "redis://host"}, "urls"),
        ("redis", {"url": 5}, "url"),
        ("redis", {"url": f"http://user:{SECRET}@host"}, "no URL of Redis"),
        ("redis", {"url": "redis://host:many"}, "no URL of Redis"),
        ("redis", {"url": f"redis://user:{SECRET}/more@host"}, "%2F"),
        ("redis", {"url": f"redis://user:{SECRET}#more@host"}, "%2F"),
        ("redis", {"url": "redis://host", "ca": "/nowhere"}, "rediss://"),
        ("redis", {"url": "rediss://host", "ca": "/nowhere"}, "/nowhere"),
        ("nats", {"server": "nats://host"}, "server"),
        ("nats", {"url": ["nats://host"]}, "url"),
        ("nats", {"url": f"http://user:{SECRET}@host"}, "no URL of NATS"),
        ("nats", {"url": ""}, "no URL of NATS"),
        ("nats", {"url": f"nats://user:{SECRET}/more@host"}, "%2F"),
        ("nats", {"url": f"nats://host, nats://user:more#{SECRET}@host"}, "%2F"),
        ("nats", {"url": f"nats://user:{SECRET}@host:many"}, "no URL of NATS"),
        ("nats", {"url": f"nats://host,user:{SECRET}@host"}, "no URL of NATS"),
        ("nats", {"url": "tls://host", "ca": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_is_wrong_is_named_at_the_start(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UnknownPlugin) as caught:
        broker(name, **options)
    assert told in str(caught.value) and SECRET not in str(caught.value)
    assert f"plugins.options.{name}" in str(caught.value)


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes what comes, and says nothing."""
    while await reader.read(1024):
        pass
    writer.close()


async def _babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks something else."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n" * 3)
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.close()


@pytest.mark.parametrize("name", ["redis", "nats"])
@pytest.mark.parametrize("server", [None, _silent, _babbling])
def test_who_is_no_broker_is_away(name: str, server: Any) -> None:
    """Each call ends in time, tells no password, and leaves no task behind."""

    async def check() -> None:
        port = free_port()
        listening = None
        if server is not None:
            listening = await asyncio.start_server(server, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
        made = broker(name, url=f"{name}://user:{SECRET}@127.0.0.1:{port}")
        calls = (
            lambda: made.put("queue", ["1"]),
            lambda: made.take("queue", 1, 0.1),
            lambda: made.acknowledge("queue", [JobMessage("1", "1")]),
        )
        # That each waits for an answer is seen by one.
        for call in calls[1:2] if server is _silent else calls:
            with pytest.raises(Unavailable) as caught:
                async with asyncio.timeout(10.0):
                    await call()
            assert f"{name}://***@127.0.0.1:{port}" in str(caught.value)
            assert SECRET not in str(caught.value)
        await made.close()
        if listening is not None:
            listening.close()
        for _ in range(100):
            if len(asyncio.all_tasks()) == 1:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"these are left: {asyncio.all_tasks()}")

    asyncio.run(check())


def test_what_was_deleted_before_it_was_acknowledged_is_in_nobody_s_way() -> None:
    """Redis 6.2 lists it for ever as nothing, among what it gives again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        again = b"*2\r\n$3\r\n0-0\r\n*2\r\n*-1\r\n"
        again += b"*2\r\n$3\r\n1-1\r\n*2\r\n$4\r\nbody\r\n$1\r\n5\r\n"
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            writer.write(again if words[0] == b"XAUTOCLAIM" else b"+OK\r\n")
        writer.close()

    async def check() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        made = broker("redis", url=f"redis://127.0.0.1:{port}?protocol=2")
        try:
            found = await made.take("queue", 4, 0.1)
        finally:
            await made.close()
            listening.close()
        assert [message.body for message in found] == ["5"]

    asyncio.run(check())
