"""The contract of job brokers, on real servers; `python -m tests.outside.brokers` runs this."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from nats.aio.client import Client
from nats.js.api import StorageType, StreamConfig
from redis.asyncio import Redis as Connection

from hawker.core.contracts import JobBroker
from hawker.core.errors import Unavailable
from hawker.core.testing.brokers import REDELIVERY, SECRET, JobBrokerContract
from hawker.plugins.jobs.nats import NatsBroker, NatsOptions
from hawker.plugins.jobs.redis import RedisBroker, RedisOptions
from tests.outside.broker_servers import PASSWORD, SERVERS, Nats, Redis, Server
from tests.outside.registry_programs import free_port


class TestRedis(JobBrokerContract):
    url = ""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with Redis(tmp_path_factory.mktemp("redis"), lasting=False) as running:
            cls.url = running.url
            yield

    def make_broker(self) -> JobBroker:
        return RedisBroker(RedisOptions(self.url), redelivery=REDELIVERY)

    def make_away(self) -> JobBroker:
        return RedisBroker(RedisOptions(f"redis://user:{SECRET}@127.0.0.1:{free_port()}/0"))


class TestNats(JobBrokerContract):
    url = ""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with Nats(tmp_path_factory.mktemp("nats"), lasting=True) as running:
            cls.url = running.url
            yield

    def make_broker(self) -> JobBroker:
        return NatsBroker(NatsOptions(self.url), redelivery=REDELIVERY)

    def make_away(self) -> JobBroker:
        return NatsBroker(NatsOptions(f"nats://user:{SECRET}@127.0.0.1:{free_port()}"))


def client(server: Server, **options: Any) -> JobBroker:
    if server.name == "nats":
        return NatsBroker(NatsOptions(**{"url": server.url, **options}))
    return RedisBroker(RedisOptions(**{"url": server.url, **options}))


async def goes(broker: JobBroker) -> None:
    """What is put comes."""
    try:
        await broker.put("queue", ["1"])
        [message] = await broker.take("queue", 1, 5.0)
        assert message.body == "1"
        await broker.acknowledge("queue", [message])
    finally:
        await broker.close()


async def fails(broker: JobBroker) -> str:
    try:
        with pytest.raises(Unavailable) as caught:
            await broker.put("queue", ["1"])
    finally:
        await broker.close()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_with_tls_is_verified(kind: type[Server], tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    pem, ca, wrong = (tmp_path / name for name in ("server.pem", "ca.pem", "other.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(ca)
    other.cert_pem.write_to_path(wrong)
    with kind(tmp_path, lasting=False, certificate=pem) as server:
        asyncio.run(goes(client(server, ca=str(ca))))
        for options in ({"ca": str(wrong)}, {}):
            assert "certificate" in asyncio.run(fails(client(server, **options)))


@pytest.mark.parametrize("kind", SERVERS)
def test_a_wrong_password_is_told_and_not_shown(kind: type[Server], tmp_path: Path) -> None:
    with kind(tmp_path, lasting=False) as server:
        url = server.url.replace(PASSWORD, f"{PASSWORD}-not")
        assert asyncio.run(fails(client(server, url=url)))


def test_of_several_nats_servers_one_that_answers_is_used(tmp_path: Path) -> None:
    with Nats(tmp_path, lasting=False) as server:
        url = f"nats://hawker:{PASSWORD}@127.0.0.1:{free_port()}, {server.url}"
        asyncio.run(goes(client(server, url=url)))


def test_a_stream_that_somebody_made_is_used_as_it_is(tmp_path: Path) -> None:
    async def check(server: Server) -> None:
        nats = Client()
        await nats.connect(server.url)
        try:
            streams = nats.jetstream()
            config = StreamConfig(
                name="HAWKER-JOBS-queue", subjects=["hawker.jobs.>"], storage=StorageType.MEMORY
            )
            await streams.add_stream(config)
            await goes(client(server))
            found = await streams.stream_info("HAWKER-JOBS-queue")
            assert found.config.storage == StorageType.MEMORY
            assert found.config.subjects == ["hawker.jobs.>"]
        finally:
            await nats.close()

    with Nats(tmp_path, lasting=False) as server:
        asyncio.run(check(server))


@pytest.mark.parametrize("kind", SERVERS)
def test_a_queue_that_was_deleted_is_told_and_made_again(
    kind: type[Server], tmp_path: Path
) -> None:
    async def delete(server: Server) -> None:
        if server.name == "nats":
            nats = Client()
            await nats.connect(server.url)
            await nats.jetstream().delete_stream("HAWKER-JOBS-queue")
            await nats.close()
            return
        async with Connection.from_url(server.url) as redis:
            assert await redis.delete("hawker:jobs:queue") == 1

    async def check(server: Server) -> None:
        broker = client(server)
        try:
            for waiting in (True, False):
                await broker.put("queue", ["1"])
                [message] = await broker.take("queue", 1, 5.0)
                await broker.acknowledge("queue", [message])
                task = asyncio.ensure_future(broker.take("queue", 1, 0.5 if waiting else 0.0))
                await asyncio.sleep(0.2)
                await delete(server)
                with pytest.raises(Unavailable):
                    await task
                    # Where it had ended before, the next ones tell.
                    for _ in range(3):
                        await broker.take("queue", 1, 0.3)
                with contextlib.suppress(Unavailable):
                    await broker.take("queue", 1, 0.3)
        finally:
            await broker.close()
        await goes(client(server))

    with kind(tmp_path, lasting=True) as server:
        asyncio.run(check(server))


def test_what_was_acknowledged_takes_no_room(tmp_path: Path) -> None:
    async def check(server: Server) -> None:
        broker = client(server)
        assert isinstance(broker, RedisBroker)
        await broker.put("queue", [str(n) for n in range(100)])
        taken = await broker.take("queue", 90, 1.0)
        await broker.acknowledge("queue", taken)
        assert await broker._redis.xlen("hawker:jobs:queue") == 10
        pending = await broker._redis.xpending("hawker:jobs:queue", "managers")
        assert pending["pending"] == 0
        await broker.close()

    with Redis(tmp_path, lasting=False) as server:
        asyncio.run(check(server))
