"""The `nats` broker: a stream of NATS JetStream (2.2 or newer).

[plugins.options.nats]
url = "tls://user:password@nats-1.example.com:4222,tls://user:password@nats-2.example.com:4222"
ca = "/etc/hawker/nats-ca.pem"

A queue is the stream `HAWKER-JOBS-<queue>` with the durable consumer `managers`. A stream of that
name that somebody else has made, with replicas, say, is used as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import msgspec
from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import BadRequestError, NotFoundError

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

log = logging.getLogger(__name__)

SCHEMES = ("nats://", "tls://")
CONSUMER = "managers"
LEAST_WAIT = 0.05
CLOSE_SECONDS = 1.0
PING_SECONDS = 5
"""A server that leaves two of them unanswered is away."""
OTHER_CONFIGURATION = 10058
"""The error of JetStream for a stream of that name with another configuration."""


class NatsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plugins.options.nats]`: URLs of one server or, with commas, of several of a cluster; `ca`
    is a file with certificates (PEM) to verify them by, instead of the system's."""

    url: str = "nats://127.0.0.1:4222"
    ca: str = ""


class NatsBroker:
    """One connection; where it breaks the next call makes another."""

    def __init__(self, options: NatsOptions, *, redelivery: float = REDELIVERY) -> None:
        """Raises ConfigError for what is no URL of NATS, or where `ca` has no certificates."""
        self.redelivery = redelivery
        self._servers = [url.strip() for url in options.url.split(",")]
        self._name = ", ".join(mask(url) for url in self._servers)
        if not all(map(_is_url, self._servers)):
            # Which one it is would tell of the password where that is what is wrong.
            raise ConfigError(
                "plugins.options.nats.url is no URL of NATS",
                hint="write nats://host:port, or tls://, with user:password@ before the host;"
                f" several with commas; {ENCODED}",
            )
        self._tls = None
        if options.ca or any(url.startswith("tls://") for url in self._servers):
            self._tls = trusting(options.ca, "plugins.options.nats.ca")
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._connecting: asyncio.Lock | None = None
        self._known: set[str] = set()
        self._taking: dict[str, JetStreamContext.PullSubscription] = {}

    async def put(self, queue: str, bodies: Sequence[str]) -> None:
        async with self._failures(CALL_SECONDS):
            context = await self._ready(queue)
            async with asyncio.TaskGroup() as group:
                for body in bodies:
                    group.create_task(context.publish(_subject(queue), body.encode()))

    async def take(self, queue: str, most: int, wait: float) -> Sequence[JobMessage]:
        async with self._failures(wait + CALL_SECONDS):
            context = await self._ready(queue)
            try:
                found = await self._taking[queue].fetch(most, timeout=max(wait, LEAST_WAIT))
            except TimeoutError:
                # Nobody answers, either, where there is no such consumer any more.
                await context.consumer_info(_stream(queue), CONSUMER)
                return []
            return [
                JobMessage(message.data.decode(errors="replace"), message.reply)
                for message in found
            ]

    async def acknowledge(self, queue: str, messages: Sequence[JobMessage]) -> None:
        async with self._failures(CALL_SECONDS):
            await self._ready(queue)
            client = self._client
            assert client is not None
            for message in messages:
                await client.publish(message.receipt, b"+ACK")
            await client.flush(timeout=int(CALL_SECONDS))

    async def close(self) -> None:
        client, self._client, self._context = self._client, None, None
        self._taking.clear()
        if client is not None:
            await _end(client)

    # ------------------------------------------------------------------ connection, stream

    async def _ready(self, queue: str) -> JetStreamContext:
        """A connection on which the queue is there."""
        self._connecting = self._connecting or asyncio.Lock()
        async with self._connecting:
            if self._client is None or not self._client.is_connected:
                await self.close()
                await self._connect()
            context = self._context
            assert context is not None
            if queue not in self._taking:
                lost = await self._make(context, queue)
                self._taking[queue] = await context.pull_subscribe_bind(
                    durable=CONSUMER, stream=_stream(queue)
                )
                if lost:
                    raise Unavailable(f"the job broker {self._name} has lost its queue")
            return context

    async def _connect(self) -> None:
        client = Client()
        try:
            await client.connect(
                self._servers,
                name="hawker",
                tls=self._tls,
                connect_timeout=int(CALL_SECONDS),
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                ping_interval=PING_SECONDS,
                error_cb=_note,
            )
        except BaseException:
            await _end(client)
            raise
        self._client, self._context = client, client.jetstream(timeout=CALL_SECONDS)

    async def _make(self, context: JetStreamContext, queue: str) -> bool:
        """Make the queue's stream and consumer where they are not there; whether they have been."""
        stream, lost = _stream(queue), False
        try:
            await context.stream_info(stream)
        except NotFoundError:
            lost = queue in self._known
            await self._make_stream(context, queue)
        await context.add_consumer(
            stream,
            ConsumerConfig(
                durable_name=CONSUMER,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self.redelivery,
                max_deliver=-1,
            ),
        )
        self._known.add(queue)
        return lost

    async def _make_stream(self, context: JetStreamContext, queue: str) -> None:
        try:
            await context.add_stream(
                StreamConfig(
                    name=_stream(queue),
                    subjects=[_subject(queue)],
                    retention=RetentionPolicy.WORK_QUEUE,
                    storage=StorageType.FILE,
                    max_msgs=MOST,
                    discard=DiscardPolicy.OLD,
                )
            )
        except BadRequestError as exc:
            # Another was first.
            if exc.err_code != OTHER_CONFIGURATION:
                raise

    @asynccontextmanager
    async def _failures(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except (ExceptionGroup, Error, OSError) as exc:
            # Whatever it was, begin anew: where the stream was lost, it is made again.
            await self.close()
            failure: BaseException = exc
            while isinstance(failure, BaseExceptionGroup):
                failure = failure.exceptions[0]
            told = str(failure) or "it did not answer in time"
            raise Unavailable(f"the job broker {self._name} failed: {told}") from exc


async def _end(client: Client) -> None:
    """Close it; the library waits for ever where TLS was refused."""
    with suppress(Error, OSError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await client.close()


async def _note(failure: Exception) -> None:
    """What a call does not raise; the library would print it."""
    log.debug("NATS: %s", failure)


def _is_url(text: str) -> bool:
    """Whether the library takes it for a server."""
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return text.startswith(SCHEMES) and named and not (parts.path.strip("/") or parts.fragment)


def _stream(queue: str) -> str:
    return f"HAWKER-JOBS-{queue}"


def _subject(queue: str) -> str:
    return f"hawker.jobs.{queue}"


@hookimpl
def hawker_job_broker(name: str, settings: Settings) -> JobBroker:
    return NatsBroker(options_of(settings, name, NatsOptions))
