"""Reading the origin under a lease: each wanted byte once, verified pieces and signed runs out.

The stream that `open` gives is used wherever it can be, so that a whole object costs one request.
Ranged reads follow only for what it does not cover, each on the condition that the content is
still the same. Without a strong validator there is one sequential read and no continuation.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager

import msgspec

from hawker.core.contracts import Reading, Source, SourceRequest
from hawker.core.errors import (
    DigestMismatch,
    HawkerError,
    OriginChanged,
    OriginFailed,
    RangeIgnored,
    first_of,
)
from hawker.core.ids import generation_of, random_generation
from hawker.core.messages import Changed, Failed, LeaseProgress, Read
from hawker.core.pieces import (
    MAX_PIECES,
    Layout,
    PieceSet,
    Run,
    piece_length_for,
)
from hawker.core.ranges import ByteRange
from hawker.core.storage import Entry
from hawker.core.transfer.accounting import Claimed
from hawker.core.transfer.ground import Ground, ReadingTask
from hawker.core.transfer.holding import end
from hawker.core.transfer.intake import Intake
from hawker.core.transfer.publisher import Publisher
from hawker.core.transfer.rate import Rate
from hawker.core.transfer.requests import Requests, first_wish
from hawker.core.transfer.whole import WholeDigest, stated

log = logging.getLogger(__name__)

PROGRESS_EVERY = 0.4
ATTEMPTS = 5
FIRST_BACKOFF = 0.2
LAST_BACKOFF = 5.0
# Who got no piece for so long does not try again by himself: others may have a better way.
FRUITLESS = 10.0
# How long a lease waits for pieces that other peers are sending (a stalled one is left after 1 s),
# or that wait for a digest; then it reads them itself.
ELSEWHERE = 3.0


class OriginReader:
    """Runs one lease to its end; its task, and so the scheduler, learns what became of it."""

    def __init__(self, ground: Ground, task: ReadingTask, lease: Read) -> None:
        self.lease = lease
        self.ranges = lease.ranges
        self.generation = lease.generation
        self._ground = ground
        self._task = task
        self._entry: Entry | None = None
        self._validator = lease.validator
        self._modified = lease.modified
        self._ranged = lease.ranged
        self._requests = Requests()
        self._publisher: Publisher | None = None
        self._intake: Intake | None = None
        self._digest = ""
        self._whole: WholeDigest | None = None
        self._reread = False
        self._rate = Rate(lease.rate, ground.clock())

    def extend(self, lease: Read) -> None:
        """The lease covers these ranges, at this rate, now."""
        self.ranges = lease.ranges
        self._rate.limit = lease.rate
        if self._entry is not None and self._layout.total is not None:
            self._requests.wish(self._wanted)

    @property
    def left(self) -> int:
        """How many pieces this lease is for that are not here; all that there can be where nobody
        knows how many there are."""
        if self._entry is None or self._layout.total is None:
            return MAX_PIECES
        return len(self._wanted - self._entry.valid)

    async def run(self) -> None:
        """Read until nothing wanted is missing; every end is reported, but for a cancellation."""
        log.info("reading %s under lease %s", self.lease.spec.url, self.lease.lease)
        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick())
                try:
                    await self._run()
                finally:
                    ticker.cancel()
        except* HawkerError as errors:
            await self._end_badly(first_of(errors))
        except* Exception as errors:
            log.exception("reading the origin failed")
            fault = errors.exceptions[0]
            self._ground.counters.reads[OriginFailed.code] += 1
            self._fail(OriginFailed(f"reading {self.lease.spec.url} failed: {fault!r}"))
        else:
            # What was read must be known before the lease is over, or it would be read again.
            self._task.flush()
            self._progress(done=True)
            self._ground.counters.reads["done"] += 1

    async def _end_badly(self, exc: HawkerError) -> None:
        self._ground.counters.reads[exc.code] += 1
        if isinstance(exc, DigestMismatch):
            # Before it is told, or this host would offer what the others are made to drop.
            await self._task.discard()
        if isinstance(exc, OriginChanged):
            log.warning("%s", exc)
            lease = self.lease
            changed = Changed(task=lease.task, generation=self.generation, lease=lease.lease)
            self._task.report(changed, urgent=True)
        else:
            log.warning("reading the origin failed: %s", exc)
            self._fail(exc)

    def _fail(self, exc: HawkerError) -> None:
        failed = Failed(task=self.lease.task, problem=exc.problem(), lease=self.lease.lease)
        self._task.report(failed, urgent=True)

    async def _run(self) -> None:
        source = self._ground.source(self.lease.spec.url)
        reading = None
        if self.lease.ranged and self.lease.layout is not None:
            await self._adopt(self.lease.generation, self.lease.layout)
        else:
            reading = await self._open(source)
        publisher = self._publisher
        assert publisher is not None
        try:
            async with asyncio.TaskGroup() as group:
                publishing = group.create_task(publisher.run())
                beside = group.create_task(self._read_beside(source))
                try:
                    await self._read_until_served(source, reading, group)
                    await publisher.drain()
                    await publisher.seal()
                finally:
                    beside.cancel()
                    publishing.cancel()
        except* HawkerError as errors:
            raise first_of(errors) from None
        finally:
            if reading is not None:
                await reading.close()

    async def _open(self, source: Source) -> Reading:
        async with self._may_read(1):
            # Whose tenant may read nothing at all does not even ask.
            pass
        reading = await source.open(self._asking(), first_wish(self.ranges, self._task.partial))
        self._ground.access.granted(self._task.origin)
        total, validator = reading.total, reading.validator
        generation = generation_of(validator, total) if validator else random_generation()
        self._validator = validator or ""
        self._modified = reading.modified
        self._ranged = reading.ranges and bool(validator) and total is not None
        try:
            self._expect(reading)
            await self._adopt(generation, Layout(total, piece_length_for(total)))
        except BaseException:
            await reading.close()
            raise
        return reading

    def _asking(self) -> SourceRequest:
        """What to ask for now, and how fast it will be taken."""
        return msgspec.structs.replace(self._task.origin, rate=self._rate.limit)

    def _expect(self, reading: Reading) -> None:
        """Remember what the origin says its content has; check it where all of it is read here."""
        whole = stated(reading.digest, reading.total, self.lease.spec.url)
        if whole is not None:
            self._digest = reading.digest
            self._whole = whole if self.ranges is None else None

    async def _adopt(self, generation: str, layout: Layout) -> None:
        self.generation = generation
        entry = self._entry = await self._task.adopt(generation, layout, self._modified)
        publisher = self._publisher = Publisher(self._ground, self._task, entry, self.lease.lease)
        publisher.whole = self._whole
        self._intake = Intake(self._ground, self._task, entry, publisher, self._rate)
        self._progress()
        await publisher.vouch()

    # ------------------------------------------------------------------ reading

    async def _read_until_served(
        self, source: Source, reading: Reading | None, group: asyncio.TaskGroup
    ) -> None:
        """Read what is missing. Of content larger than the store nothing is kept: its reading is
        over as soon as the one whom it is for has all or left."""
        if not self._held().windowed:
            await self._read_all(source, reading)
            return
        reads = group.create_task(self._read_all(source, reading))
        served = group.create_task(self._task.served())
        await asyncio.wait((reads, served), return_when=asyncio.FIRST_COMPLETED)
        served.cancel()
        await end(reads)

    async def _read_all(self, source: Source, reading: Reading | None) -> None:
        """The opened stream first where it helps, then ranges, until nothing is missing."""
        failures, since = 0, 0.0
        while True:
            landed = self._requests.landed.seen
            missing = self._missing()
            if not missing and self._requests.under_way:
                # What they do not bring is left for this one.
                await self._requests.landed.wait(ELSEWHERE, landed)
                continue
            if not missing and not (reading is not None and self._layout.total is None):
                elsewhere = self._elsewhere()
                if not elsewhere:
                    return
                # Another peer may yet fail to bring them: the lease is not done before.
                if reading is not None:
                    await reading.close()
                    reading = None
                since = since or self._ground.clock()
                if self._ground.clock() - since > ELSEWHERE:
                    await self._task.take_over(elsewhere)
                else:
                    await self._task.unclaimed()
                continue
            since = 0.0
            try:
                if reading is not None:
                    first, reading = reading, None
                    if not await self._use_stream(first, missing):
                        continue
                elif self._ranged:
                    run = self._requests.first(missing, self._wanted)
                    await self._read_range(source, run)
                else:
                    await self._read_again(source)
                failures = 0
            except RangeIgnored as exc:
                if not self._ranged:
                    raise
                # It only says that it has ranges: what is missing comes by once more.
                log.warning("%s", exc)
                self._ranged = False
            except OriginFailed as exc:
                failures += 1
                if failures >= ATTEMPTS or not self._may_retry(exc):
                    raise
                await asyncio.sleep(min(LAST_BACKOFF, FIRST_BACKOFF * 2**failures))

    def _may_retry(self, exc: OriginFailed) -> bool:
        """Whether this lease goes on. A pause that the origin asks for is everybody's: whoever
        grants leases must know of it."""
        fruitless = self._ground.clock() - self._taking().gained_at > FRUITLESS
        return self._ranged and not exc.retry_after and not fruitless

    @property
    def _wanted(self) -> PieceSet:
        """What this lease is for; all where the origin has no parts."""
        return self._layout.covering(self.ranges if self._ranged else None)

    def _elsewhere(self) -> PieceSet:
        """What this lease is for and is on its way from other peers."""
        if self._layout.total is None:
            return PieceSet()
        return self._task.coming & self._wanted - self._held().valid

    def _missing(self) -> PieceSet:
        if self._layout.total is None:
            return PieceSet()
        # Without ranges everything comes by; what is not kept now had to be read again.
        return self._taking().missing(self._wanted) - self._requests.under_way

    async def _use_stream(self, reading: Reading, missing: PieceSet) -> bool:
        """Take the bytes of the first request; False where they are not the ones needed."""
        start = reading.span.start if reading.span is not None else 0
        stop = reading.span.stop if reading.span is not None else None
        piece = start // self._layout.piece_length
        aligned = start == self._layout.offset(piece)
        whole = stop is None or stop == self._layout.total or not stop % self._layout.piece_length
        near = not missing or missing.runs()[0][0] == piece
        if not self._ranged or (aligned and whole and near):
            if not aligned or (not self._ranged and start):
                raise OriginFailed(f"{self._task.origin.url} answered with a part nobody asked for")
            span = ByteRange(start, stop)
            # Nothing is read beside what has no parts.
            brings = self._layout.touching(span) if self._ranged else PieceSet()
            end = self._layout.total if stop is None else stop
            coming = None if end is None else end - start
            async with self._may_read(coming, begun=True) as claim:
                with self._requests.asking(brings):
                    await self._take(reading, piece, claim)
            return True
        await reading.close()
        return False

    async def _read_again(self, source: Source) -> None:
        """All of it, where parts cannot be had: once more is all that makes sense."""
        if self._reread or not self._validator:
            raise OriginFailed(
                f"{self.lease.spec.url} cannot be read in parts, and its one reading ended early"
            )
        self._reread = True
        async with self._may_read(self._layout.total) as claim:
            reading = await source.open(self._asking())
            try:
                if (reading.validator, reading.total) != (self._validator, self._layout.total):
                    raise OriginChanged(f"{self.lease.spec.url} is not what it was any more")
                await self._take(reading, 0, claim)
            finally:
                await reading.close()

    async def _read_range(self, source: Source, run: Run) -> None:
        span = self._layout.span(run)
        with self._requests.asking(PieceSet.of_run(*run)):
            async with self._may_read(span.size) as claim:
                await self._read_span(source, span, run[0], claim)

    async def _read_span(
        self, source: Source, span: ByteRange, first: int, claim: Claimed | None
    ) -> None:
        reading = await source.read(self._asking(), span, self._validator, self._layout.total)
        try:
            await self._take(reading, first, claim)
        finally:
            await reading.close()

    async def _read_beside(self, source: Source) -> None:
        """Read what is wanted while a request is under way by requests of its own."""

        def missing() -> PieceSet:
            return self._missing() if self._ranged else PieceSet()

        await self._requests.beside(
            missing,
            lambda: self._wanted,
            lambda run: self._read_part(source, run),
            self._layout.piece_length,
        )

    async def _read_part(self, source: Source, run: Run) -> None:
        """One request beside others; where it fails its pieces are left to what reads in turn."""
        try:
            await self._read_range(source, run)
        except RangeIgnored as exc:
            log.warning("%s", exc)
        except OriginFailed as exc:
            if exc.retry_after:
                # Whoever grants leases must know of it.
                raise
            log.warning("a part of %s was not read: %s", self.lease.spec.url, exc)

    async def _take(self, reading: Reading, first: int, claim: Claimed | None) -> None:
        # What has parts gives any of them later.
        await self._taking().take(reading, first, only=not self._ranged, claim=claim)

    def _may_read(
        self, size: int | None, *, begun: bool = False
    ) -> AbstractAsyncContextManager[Claimed | None]:
        """What the tenant may read of origins; raises OverQuota."""
        return self._ground.quotas.reading(self.lease.spec.tenant, size, begun=begun)

    # ------------------------------------------------------------------ telling

    async def _tick(self) -> None:
        """Say that this reader lives, also while the origin gives nothing."""
        while True:
            self._progress()
            await asyncio.sleep(PROGRESS_EVERY)

    def _progress(self, *, done: bool = False) -> None:
        self._task.report(
            LeaseProgress(
                task=self.lease.task,
                lease=self.lease.lease,
                generation="" if self._entry is None else self.generation,
                layout=self._layout,
                validator=self._validator,
                ranged=self._ranged,
                read_bytes=0 if self._intake is None else self._intake.read_bytes,
                read_pieces=0 if self._intake is None else self._intake.read_pieces,
                done=done,
                digest=self._digest,
                modified=self._modified,
                checks=self._checks(done=done),
            ),
            urgent=True,
        )

    def _checks(self, *, done: bool) -> bool:
        """Whether this reader sees to the digest of the whole; once it is done, whether it did."""
        if done and self._held().windowed:
            return self._publisher is not None and self._publisher.checked
        return self._whole is not None

    @property
    def _layout(self) -> Layout:
        return Layout(None, piece_length_for(None)) if self._intake is None else self._intake.layout

    def _held(self) -> Entry:
        assert self._entry is not None
        return self._entry

    def _taking(self) -> Intake:
        assert self._intake is not None
        return self._intake
