"""The downloads of a demo: a plain one, then those of all peers at once, watched and verified.

Nothing here is simulated: the peers are daemons that are asked over their unix sockets, and what
they stored is read back and hashed by this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import httpx
import msgspec

from hawker.core.clients.daemon import DaemonClient
from hawker.core.errors import HawkerError, NotFound, OriginFailed, Unavailable
from hawker.core.messages import Arrival, DownloadRequest, Progress

CONNECT_TIMEOUT = 10.0
STALL_TIMEOUT = 60.0
SEED_GRACE = 5.0
# Reading back is the machine's work, not the swarm's: two at a time is as fast as any more.
HASHERS = 2


class _Host(msgspec.Struct, frozen=True):
    host: str


@dataclass(frozen=True, slots=True)
class Plain:
    """A download by a plain HTTP client."""

    size: int
    seconds: float
    sha256: str


@dataclass(eq=False, slots=True)
class Member:
    """A daemon of the swarm, and what is known about its download.

    `began` and `ended` are seconds since the swarm's start; `path` is its stored file.
    """

    name: str
    url: str
    socket: str
    host: str
    seed: bool = False
    progress: Progress = field(default_factory=lambda: Progress(task=""))
    arrivals: list[Arrival] = field(default_factory=list)
    began: float = 0.0
    ended: float | None = None
    path: str = ""
    sha256: str = ""
    problem: str = ""

    @property
    def seconds(self) -> float | None:
        """How long its download took; None where it is not done."""
        return None if self.ended is None else self.ended - self.began


async def plain_download(url: str, on_size: Callable[[int], None]) -> Plain:
    """GET the URL as any client would, hash it and throw it away.

    `on_size` is told the length as soon as the origin names it.

    Raises:
        NotFound, OriginFailed: the origin does not give it.
    """
    digest = hashlib.sha256()
    size = 0
    timeout = httpx.Timeout(STALL_TIMEOUT, connect=CONNECT_TIMEOUT)
    client = httpx.AsyncClient(timeout=timeout, follow_redirects=True, trust_env=False)
    # From here on: what a client does before it asks is not the origin's time.
    began = time.monotonic()
    try:
        async with (
            client,
            client.stream("GET", url, headers={"accept-encoding": "identity"}) as answer,
        ):
            if answer.status_code != 200:
                kind = NotFound if answer.status_code == 404 else OriginFailed
                raise kind(f"{url} answered with status {answer.status_code}")
            if answer.headers.get("content-length", "").isdecimal():
                on_size(int(answer.headers["content-length"]))
            async for chunk in answer.aiter_raw():
                digest.update(chunk)
                size += len(chunk)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise OriginFailed(f"{url} cannot be read: {exc or type(exc).__name__}") from exc
    return Plain(size, time.monotonic() - began, digest.hexdigest())


async def introduce(name: str, url: str, socket: str, *, seed: bool, timeout: float) -> Member:
    """The daemon as a member, once it says that it can be used.

    Raises:
        Unavailable: it does not say so within `timeout` seconds.
    """
    async with httpx.AsyncClient(
        base_url=url, timeout=CONNECT_TIMEOUT, trust_env=False, verify=False
    ) as client:
        try:
            async with asyncio.timeout(timeout):
                # Another process: there is nothing to wait for but its answer.
                while not (await client.get("/readyz")).is_success:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                answer = await client.get("/peer/v1/host")
                host = msgspec.json.decode(answer.raise_for_status().content, type=_Host).host
        except (TimeoutError, httpx.HTTPError, msgspec.DecodeError) as exc:
            what = str(exc) or "it is up, but not ready for use"
            raise Unavailable(f"{name} at {url} cannot be used: {what}") from exc
    return Member(name, url, socket, host, seed)


class Swarm:
    """One URL, downloaded by every peer at once.

    Args:
        seed: is not asked to download anything; it is watched once a peer knows the content.
        peers: all start at the same moment.
    """

    def __init__(self, url: str, seed: Member, peers: list[Member]) -> None:
        self.seed, self.peers = seed, peers
        self.seconds = 0.0
        self._request = DownloadRequest(url=url, trace=True, pin=True)
        self._began = 0.0
        self._known = asyncio.Event()
        self._all_ended = asyncio.Barrier(len(peers))
        self._hashers = asyncio.Semaphore(HASHERS)

    @property
    def elapsed(self) -> float:
        """Seconds since the start, for as long as it runs."""
        return self.seconds or (time.monotonic() - self._began if self._began else 0.0)

    async def run(self) -> None:
        """Download everywhere, then hash what each peer stored.

        A peer's failure is noted as its `problem`; the others go on.
        """
        async with contextlib.AsyncExitStack() as clients, asyncio.TaskGroup() as group:
            seed, *daemons = [
                await clients.enter_async_context(DaemonClient(member.socket))
                for member in (self.seed, *self.peers)
            ]
            self._began = time.monotonic()
            watch = group.create_task(self._watch_seed(seed))
            peers = [
                group.create_task(self._download(peer, daemon))
                for peer, daemon in zip(self.peers, daemons, strict=True)
            ]
            await asyncio.wait(peers)
            if self._known.is_set():
                await asyncio.wait([watch], timeout=SEED_GRACE)
            watch.cancel()

    async def _download(self, peer: Member, daemon: DaemonClient) -> None:
        peer.began = self.elapsed
        async with contextlib.AsyncExitStack() as pinned:
            try:
                steps = await pinned.enter_async_context(daemon.download(self._request))
                await self._follow(peer, steps)
            except (HawkerError, httpx.HTTPError) as exc:
                peer.problem = str(exc) or type(exc).__name__
            # Hashing now would take the processors from those that still download.
            await self._all_ended.wait()
            self.seconds = max(peer.ended or 0.0 for peer in self.peers) or self.elapsed
            if not peer.problem:
                # The stream is still open: the file is pinned.
                async with self._hashers:
                    peer.sha256 = await asyncio.to_thread(_sha256_of, peer)

    async def _watch_seed(self, daemon: DaemonClient) -> None:
        """Join the seed's own run, which the peers' requests have set off, for its arrivals."""
        await self._known.wait()
        self.seed.began = self.elapsed
        request = msgspec.structs.replace(self._request, pin=False)
        try:
            async with daemon.download(request) as steps:
                await self._follow(self.seed, steps)
        except HawkerError as exc:
            self.seed.problem = str(exc)

    async def _follow(self, member: Member, steps: AsyncIterator[Progress]) -> None:
        """Note each step, to the last."""
        try:
            async with asyncio.timeout(STALL_TIMEOUT) as limit:
                async for step in steps:
                    limit.reschedule(asyncio.get_running_loop().time() + STALL_TIMEOUT)
                    member.progress = step
                    member.arrivals.extend(step.arrivals)
                    if step.generation:
                        self._known.set()
                    if step.done:
                        member.ended, member.path = self.elapsed, step.path
        except TimeoutError as exc:
            raise Unavailable(f"{member.name} said nothing for {STALL_TIMEOUT:.0f} s") from exc


def _sha256_of(peer: Member) -> str:
    """Hex SHA-256 of what the peer stored, as any reader of the disk finds it."""
    try:
        with open(peer.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        peer.problem = f"the stored file {peer.path!r} cannot be read: {exc.strerror}"
        return ""
