"""A download as its user sees it: progress, then content that is valid and checked; or a stream.

The same for a daemon's clients and for the command line alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from hawker.core.contracts import SourceRequest
from hawker.core.digests import Digest
from hawker.core.errors import DigestMismatch, HawkerError, NotHereYet, OriginFailed
from hawker.core.messages import DownloadRequest, Progress
from hawker.core.pieces import MIB, Layout, PieceSet
from hawker.core.ranges import ByteRange
from hawker.core.storage import Entry
from hawker.core.transfer.access import restricted
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.naming import Named, digest_of, named_digest
from hawker.core.transfer.task import TaskRun
from hawker.core.transfer.users import User
from hawker.core.transfer.whole import WholeDigest

PROGRESS_EVERY = 0.1
SPAN = 4 * MIB
# How often an origin is asked whether it gives content, how long after it failed, and the longest
# pause it may ask for meanwhile.
CHECKS = 3
CHECK_PAUSE = 0.5
CHECK_PATIENCE = 30.0
WAIT = 1.0


class Download:
    """One user's part in a task; `finished` once all that was wanted is here, or was delivered."""

    def __init__(
        self,
        ground: Ground,
        run: TaskRun,
        user: User,
        request: DownloadRequest,
        origin: SourceRequest,
        now: float,
    ) -> None:
        self.run = run
        self.finished = False
        self._ground = ground
        self._origin = origin
        self._user = user
        self._request = request
        self._digest = digest_of(request)
        self._since = now

    async def progress(self) -> AsyncIterator[Progress]:
        """What is here, about ten times a second while it changes; the last one is `done`.

        Raises:
            NotHereYet: the request's timeout passed.
            HawkerError: the content cannot be had, or does not have the digest it should.
        """
        seen, told = 0, -PROGRESS_EVERY
        try:
            async with asyncio.timeout(self._request.timeout):
                while not self.run.satisfied(self._user):
                    self.run.check()
                    self.run.admit(self._user)
                    passed = self._ground.clock() - self._since
                    if passed - told >= PROGRESS_EVERY:
                        now = self._now(seen)
                        seen += len(now.arrivals)
                        told = passed
                        yield now
                    await self.run.changed.wait(WAIT)
                await self._ground.quotas.received(self.run.spec.tenant)
                await self._authorize()
                await self._verify()
        except TimeoutError as exc:
            raise NotHereYet(
                f"{self._request.url} was not here after {self._request.timeout:g} s"
            ) from exc
        self.finished = True
        yield msgspec.structs.replace(self._now(seen), done=True)

    def _now(self, seen: int) -> Progress:
        """How far the task is; arrivals from number `seen` on where a trace is wanted."""
        run, entry = self.run, self.run.entry
        layout = entry.layout if entry is not None else Layout(None, 0)
        arrivals = []
        if self._request.trace:
            for a in run.tally.arrivals[seen:]:
                arrivals.append(type(a)(a.first, a.last, a.source, round(a.at - self._since, 4)))
        return Progress(
            task=run.task,
            generation=entry.generation if entry is not None else "",
            total=layout.total,
            piece_length=layout.piece_length,
            valid_bytes=entry.valid_bytes if entry is not None else 0,
            from_origin=run.tally.origin,
            from_seeds=run.tally.seeds,
            from_peers=run.tally.peers,
            seconds=self._ground.clock() - self._since,
            arrivals=arrivals,
        )

    async def opened(self, timeout: float) -> Entry:
        """The entry, as soon as its generation is known, for those who may know that much of it.

        Raises:
            HawkerError: why there will be none, or that this user may not have it.
            TimeoutError: not within `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            entry = await self.run.opened(timeout)
            await self._authorize()
        return entry

    async def _authorize(self) -> None:
        """Content that the origin does not give to everybody is for those it gives it to. An origin
        that cannot say so just now is asked again."""
        if not restricted(self.run.spec):
            return
        source = self._ground.source(self._origin.url)
        for attempt in range(CHECKS):
            try:
                await self._ground.access.check(source, self._origin)
                return
            except OriginFailed as exc:
                pause = CHECK_PAUSE * 2**attempt if exc.retry_after is None else exc.retry_after
                if attempt + 1 == CHECKS or pause > CHECK_PATIENCE:
                    raise
            await asyncio.sleep(pause)

    async def _verify(self) -> None:
        entry = self.run.entry
        if entry is not None:
            entry.check_unchanged()
        if entry is None or not entry.complete:
            return
        if self._digest is not None:
            named = WholeDigest(self._digest, self._request.url)
            await asyncio.to_thread(named.check, entry.path)
        await self._verify_stated(entry)

    async def _verify_stated(self, entry: Entry) -> None:
        """Check what the origin says the whole has, where no reader did."""
        if not self.run.digest or not entry.complete:
            return
        stated = WholeDigest(Digest.parse(self.run.digest), self._request.url)
        try:
            await asyncio.to_thread(stated.check, entry.path)
        except DigestMismatch as exc:
            self.run.refuse(exc)
            raise

    @property
    def entry(self) -> Entry:
        """The stored content; only once progress is done."""
        assert self.run.entry is not None
        return self.run.entry

    def want(self, ranges: list[ByteRange] | None) -> None:
        """Want other bytes than the request named (its length is known now)."""
        self._user.ranges = ranges
        self.run.wishes_changed()

    async def spans(self, span: ByteRange | None = None) -> AsyncGenerator[ByteRange, None]:
        """The wanted bytes in order, in parts that are valid and may be read from the store.

        Raises:
            HawkerError: the rest cannot be had; what was delivered is the beginning of the
                right content of one generation.
        """
        run, user = self.run, self._user
        quotas, tenant = self._ground.quotas, run.spec.tenant
        entry = await self.opened(self._request.timeout)
        run.admit(user)
        position = span.start if span is not None else 0
        stop = span.stop if span is not None else None
        run.moved(user, position)
        while True:
            run.check(entry.generation)
            end = entry.layout.total if stop is None else stop
            if end is not None and position >= end:
                self.finished = True
                return
            ready = _valid_until(entry, position, quotas.deliver_part(tenant) or SPAN)
            if end is not None:
                ready = min(ready, end)
            if ready > position and run.may_deliver(entry, user):
                if ready == entry.layout.total:
                    await self._verify_stated(entry)
                await quotas.deliver(tenant, ready - position)
                yield ByteRange(position, ready)
                self._ground.counters.client_bytes += ready - position
                position = ready
                run.moved(user, position)
                await self._dispose(entry, position)
            else:
                await run.changed.wait(WAIT)

    async def _dispose(self, entry: Entry, position: int) -> None:
        """Make room behind a stream of content larger than the store."""
        if entry.windowed:
            passed = entry.valid & PieceSet.first(position // entry.layout.piece_length)
            if passed:
                await entry.discard(passed)


def _valid_until(entry: Entry, position: int, most: int) -> int:
    """The end of the valid bytes from `position` on, at most `most` further, or `SPAN`."""
    layout, valid = entry.layout, entry.valid
    piece = position // layout.piece_length
    limit = position + min(SPAN, most)
    end = position
    while piece in valid and end < limit:
        end = layout.offset(piece) + layout.length(piece)
        piece += 1
    return min(end, limit)


@contextlib.asynccontextmanager
async def download(
    conductor: Conductor,
    request: DownloadRequest,
    named: Named,
    *,
    position: int | None = None,
    patience: float | None = None,
    placed: bool = True,
) -> AsyncIterator[Download]:
    """Take part in the task that a request names; `position` is given by one that streams from
    there on. Where it is to be `placed`, a place among the tenant's downloads is waited for
    `patience` seconds, as long as the request may take where that is None.

    Raises:
        OverQuota: there was no place within that time.
    """
    spec, origin = named.spec, named.origin
    digest_of(request)
    user = User(
        ranges=None if request.range is None else [request.range],
        position=position,
        readable=not request.disable_back_to_source and named_digest(spec.url) is None,
        priority=request.priority,
    )
    ground = conductor.ground
    now = ground.clock()
    outcome = "abandoned"
    active = None
    seconds = request.timeout if patience is None else patience
    place = ground.quotas.place(spec.tenant, seconds) if placed else contextlib.nullcontext()
    try:
        async with place:
            if restricted(spec):
                # Before it takes part: what one shows must not end the reading of those who may.
                with contextlib.suppress(OriginFailed):
                    await ground.access.check(ground.source(origin.url), origin)
            async with conductor.join(spec, user, origin=origin) as run:
                active = Download(ground, run, user, request, origin, now)
                yield active
    except HawkerError as exc:
        outcome = exc.code
        raise
    finally:
        done = active is not None and active.finished
        ground.counters.downloads["done" if done else outcome] += 1
