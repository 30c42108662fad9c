"""The `redis` broker: a stream of Redis 6.2 or newer, or of what speaks its protocol.

[plugins.options.redis]
url = "rediss://user:password@redis.example.com:6379/0"
ca = "/etc/hawker/redis-ca.pem"

A queue is the stream `hawker:jobs:<queue>`, read by the consumer group `managers`. What is
acknowledged is deleted, so that the stream has only what waits.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from hawker.core.contracts import JobBroker, JobMessage
from hawker.core.errors import ConfigError, Unavailable
from hawker.core.masking import mask
from hawker.core.settings import Settings
from hawker.pluggy_specs import hookimpl
from hawker.plugins.jobs.options import (
    CALL_SECONDS,
    ENCODED,
    MOST,
    REDELIVERY,
    options_of,
    trusting,
)

GROUP = "managers"
FIELD = "body"
GONE_MS = 3_600_000
"""Consumers that were silent for so long are processes that have ended."""


class RedisOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.options.redis]`: `redis://`, `rediss://` (TLS) or `unix://`; `ca` is a file with
    certificates (PEM) to verify it by, instead of the system's."""

    url: str = "redis://127.0.0.1:6379/0"
    ca: str = ""


class RedisBroker:
    """One client; it connects with the first call, and again after each that failed."""

    def __init__(self, options: RedisOptions, *, redelivery: float = REDELIVERY) -> None:
        """Raises ConfigError for what is no URL of Redis."""
        self.redelivery = redelivery
        self._name = mask(options.url)
        self._consumer = secrets.token_hex(8)
        self._known: set[str] = set()
        self._claimed: dict[str, float] = {}
        more: dict[str, Any] = {"ssl_ca_certs": options.ca} if options.ca else {}
        if options.ca:
            if not options.url.startswith("rediss://"):
                raise ConfigError("plugins.options.redis.ca is for rediss:// URLs alone")
            trusting(options.ca, "plugins.options.redis.ca")
        try:
            # Whoever asks learns of each failure, and tries again by itself.
            self._redis: Any = Redis.from_url(
                options.url,
                decode_responses=True,
                encoding_errors="replace",
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=CALL_SECONDS,
                socket_timeout=None,
                client_name="hawker",
                **more,
            )
        except ValueError:
            # Why not would tell of the password: what follows its first "/" is taken for a port.
            raise ConfigError(
                "plugins.options.redis.url is no URL of Redis",
                hint="write redis://host:port/database, or rediss://, with user:password@ before"
                f" the host; {ENCODED}",
            ) from None

    async def put(self, queue: str, bodies: Sequence[str]) -> None:
        async with self._failures(CALL_SECONDS), self._redis.pipeline(transaction=False) as pipe:
            for body in bodies:
                pipe.xadd(_stream(queue), {FIELD: body}, maxlen=MOST, approximate=True)
            await pipe.execute()

    async def take(self, queue: str, most: int, wait: float) -> Sequence[JobMessage]:
        async with self._failures(wait + CALL_SECONDS):
            try:
                return await self._take(queue, most, wait)
            except ResponseError as exc:
                # There is no such group, or there was one until just now.
                if not str(exc).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
            await self._make(queue)
            if queue in self._known:
                raise Unavailable(f"the job broker {self._name} has lost its queue")
            self._known.add(queue)
            return await self._take(queue, most, wait)

    async def _take(self, queue: str, most: int, wait: float) -> Sequence[JobMessage]:
        stream, now = _stream(queue), time.monotonic()
        if now - self._claimed.get(queue, -math.inf) > self.redelivery / 2:
            idle = int(self.redelivery * 1000)
            found = await self._redis.xautoclaim(
                stream, GROUP, self._consumer, min_idle_time=idle, count=most
            )
            if left := _messages(found[1]):
                return left
            # Where there was something there may be more.
            self._claimed[queue] = now
        if queue not in self._known:
            await self._tidy(stream)
            self._known.add(queue)
        block = max(1, int(wait * 1000))
        found = await self._redis.xreadgroup(
            GROUP, self._consumer, {stream: ">"}, count=most, block=block
        )
        return _messages(entry for _, entries in found or () for entry in entries)

    async def _make(self, queue: str) -> None:
        try:
            await self._redis.xgroup_create(_stream(queue), GROUP, id="0", mkstream=True)
        except ResponseError as exc:
            # Another was first.
            if not str(exc).startswith("BUSYGROUP"):
                raise

    async def _tidy(self, stream: str) -> None:
        """Forget consumers that have ended, and have nothing that is not acknowledged."""
        for one in await self._redis.xinfo_consumers(stream, GROUP):
            if not one["pending"] and one["idle"] > GONE_MS:
                await self._redis.xgroup_delconsumer(stream, GROUP, one["name"])

    async def acknowledge(self, queue: str, messages: Sequence[JobMessage]) -> None:
        ids = [message.receipt for message in messages]
        if not ids:
            return
        async with self._failures(CALL_SECONDS), self._redis.pipeline(transaction=True) as pipe:
            pipe.xack(_stream(queue), GROUP, *ids)
            pipe.xdel(_stream(queue), *ids)
            await pipe.execute()

    async def close(self) -> None:
        await self._redis.aclose()

    @asynccontextmanager
    async def _failures(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except (RedisError, OSError) as exc:
            # The others that wait in the pool are as broken.
            with suppress(RedisError, OSError):
                await self._redis.connection_pool.disconnect(inuse_connections=False)
            told = str(exc) or "it did not answer in time"
            raise Unavailable(f"the job broker {self._name} failed: {told}") from exc


def _stream(queue: str) -> str:
    return f"hawker:jobs:{queue}"


def _messages(entries: Iterable[Any]) -> list[JobMessage]:
    """Redis 6.2 has nothing to tell of what was deleted before it was acknowledged."""
    return [JobMessage(fields.get(FIELD, ""), id_) for id_, fields in entries if id_ is not None]


@hookimpl
def hawker_job_broker(name: str, settings: Settings) -> JobBroker:
    return RedisBroker(options_of(settings, name, RedisOptions))
