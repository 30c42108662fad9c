"""The contract of job brokers, on real servers; `python -m tests.outside.brokers` runs this."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hawker.core.contracts import JobBroker
from hawker.core.testing.brokers import REDELIVERY, SECRET, JobBrokerContract
from hawker.plugins.jobs.nats import NatsBroker, NatsOptions
from hawker.plugins.jobs.redis import RedisBroker, RedisOptions
from tests.outside.broker_servers import Nats, Redis
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
