"""Taking one generation from its parents: the driver of the download machine.

Listens to what each parent has, runs the fetches the machine plans, judges what arrives, commits
what is right and reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Sequence
from math import inf
from typing import Protocol

from hawker.core.contracts import PieceRequest
from hawker.core.digests import DigestRun, Reader
from hawker.core.errors import (
    Busy,
    DigestMismatch,
    GenerationGone,
    HawkerError,
    OverQuota,
    QuotaExceeded,
    Stalled,
    StorageFailed,
    Unavailable,
)
from hawker.core.messages import (
    AnyReport,
    Availability,
    Have,
    ParentFailed,
    ParentRef,
    PieceCorrupt,
)
from hawker.core.pieces import PieceSet
from hawker.core.signal import Signal
from hawker.core.storage import Entry
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.machine import DownloadMachine, Fetch
from hawker.core.transfer.parents import availability
from hawker.core.transfer.proof import Judged, Proof
from hawker.core.transfer.sink import MemorySink, PieceSink
from hawker.core.transfer.users import Tally

log = logging.getLogger(__name__)

IDLE_WAIT = 5.0
STALL = 1.0
# A parent speaks at least each 500 ms: one that did not for so long stands still, or is gone.
LIVES = 0.9
HAVE_EVERY = 1.0
# How often is looked whether the tenant got (more) bandwidth.
QUOTA_WAIT = 0.05


class SwarmHost(Protocol):
    """What a swarm asks and tells of its task."""

    def wanted(self, offered: PieceSet) -> tuple[PieceSet, PieceSet]:
        """What is wanted, and what of it first, given what parents offer."""
        ...

    def report(self, report: AnyReport, *, urgent: bool = False) -> None: ...

    def progressed(self, *, rare: bool) -> None:
        """Pieces became valid; `rare`: few others can give them yet."""
        ...

    def disk_failed(self, error: HawkerError, *, gone: bool) -> None:
        """Nothing can be stored any more; `gone`: the files of the entry are not there."""
        ...


class Swarm:
    """One generation's exchange on this host; `run` until cancelled."""

    def __init__(
        self,
        ground: Ground,
        entry: Entry,
        host: SwarmHost,
        tally: Tally,
    ) -> None:
        self.entry = entry
        self.machine = DownloadMachine(entry.layout, entry.valid, ground.rng)
        self.proof = Proof(entry)
        self.wake = Signal()
        self._ground = ground
        self._host = host
        self._tally = tally
        self._refs: dict[str, ParentRef] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._heard_at: dict[str, float] = {}
        self._fetches: dict[int, asyncio.Task[None]] = {}
        # The bytes of each fetch that are charged to the tenant's bandwidth.
        self._asked: dict[int, int] = {}
        self._unreported = PieceSet()
        # Bytes of these by the host that sent them.
        self._senders: dict[str, int] = {}
        self._reported_at = 0.0
        self._renamed = True

    # ------------------------------------------------------------------ told from outside

    def follow(self, parents: Sequence[ParentRef], readers: Sequence[Reader]) -> None:
        """The scheduler's current record: whom to take pieces from, whose digests count."""
        self._refs = {parent.host: parent for parent in parents}
        self.proof.name_readers(readers)
        self._renamed = True
        self.wake.fire()

    def claim(self, pieces: PieceSet) -> PieceSet:
        """Reserve pieces for this host's reader: not those that are valid or on their way."""
        machine = self.machine
        free = pieces - machine.valid - machine.unproven - machine.in_flight
        machine.claimed |= free
        return free

    async def abandon(self, pieces: PieceSet) -> None:
        """Give up what is on its way to here of these pieces, and what waits for digests that
        nobody may ever give; this host's reader has them reserved."""
        self.machine.claimed |= pieces
        fetches = self.machine.bringing(pieces)
        tasks = [self._fetches[fetch.number] for fetch in fetches if fetch.number in self._fetches]
        self._cancel(fetches)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.proof.drop(pieces)
        self.machine.refused(pieces)

    def release(self) -> None:
        """The reader is gone: what it claimed and did not read is open again."""
        self.machine.claimed = PieceSet()
        self.wake.fire()

    def arrived(self, pieces: PieceSet, source: str = "") -> None:
        """Pieces became valid in the store."""
        self.machine.proven(pieces)
        self.machine.claimed -= pieces
        ref = self._refs.get(source)
        self._tally.add(self.entry.layout, pieces, source, seed=ref is not None and ref.seed)
        if not self._unreported:
            # There is something to report, in a while. What is valid now was on its way before:
            # nothing else is to be planned anew.
            self.wake.fire()
        self._unreported |= pieces
        if source:
            size = sum(self.entry.layout.length(piece) for piece in pieces)
            self._senders[source] = self._senders.get(source, 0) + size
        self._host.progressed(rare=self.machine.is_rare(pieces))

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                seen = self.wake.seen
                if self._renamed:
                    self._renamed = False
                    self._listen(group)
                    await self._settle((), "")
                self._plan(group)
                await self.wake.wait(self._pause(), seen)

    def flush(self) -> None:
        """Report what became valid since the last report."""
        pieces, self._unreported = self._unreported, PieceSet()
        senders, self._senders = self._senders, {}
        if pieces and not self.entry.windowed:
            self._host.report(
                Have(
                    task=self.entry.task,
                    generation=self.entry.generation,
                    pieces=pieces.runs(),
                    senders=senders,
                )
            )
        self._reported_at = self._ground.clock()

    def _plan(self, group: asyncio.TaskGroup) -> None:
        now = self._ground.clock()
        # Woken by every event of every parent: most of the time there is no room.
        quotas, tenant = self._ground.quotas, self.entry.spec.tenant
        while self.machine.has_room(now) and quotas.receive_wait(tenant) <= 0:
            most = quotas.receive_part(tenant)
            if not self._begin_fetches(group, now, most) or most is None:
                break
        if self._unreported and now - self._reported_at >= HAVE_EVERY:
            self.flush()

    def _begin_fetches(self, group: asyncio.TaskGroup, now: float, most: int | None) -> bool:
        """Ask for what is missing, one request of at most so many bytes where `most` is given;
        whether there was anything to ask for."""
        machine = self.machine
        machine.layout = self.entry.layout
        offered = PieceSet()
        for offer in machine.offers.values():
            offered |= offer.have
        machine.want, machine.urgent = self._host.wanted(offered)
        planned = machine.plan(now, most=most)
        for fetch in planned:
            ref = self._refs.get(fetch.parent)
            if ref is None:
                # A new record came in between; its parents are listened to next.
                machine.drop(fetch)
                continue
            size = sum(machine.layout.length(piece) for piece in fetch.pieces)
            self._asked[fetch.number] = size
            self._ground.quotas.receiving(self.entry.spec.tenant, size)
            task = group.create_task(self._fetch(fetch, ref))
            self._fetches[fetch.number] = task
            task.add_done_callback(functools.partial(self._ended, fetch))
        return bool(planned)

    def _pause(self) -> float:
        now = self._ground.clock()
        times = [now + IDLE_WAIT]
        wake_at = self.machine.wake_at(now)
        if wake_at is not None:
            times.append(wake_at)
        if self._unreported:
            times.append(self._reported_at + HAVE_EVERY)
        if wait := self._ground.quotas.receive_wait(self.entry.spec.tenant):
            times.append(now + min(wait, QUOTA_WAIT))
        return max(0.0, min(times) - now)

    def _ended(self, fetch: Fetch, task: asyncio.Task[None]) -> None:
        """However a fetch ended, even before its first step, its pieces are open again."""
        self._came(fetch, 0)
        if self._fetches.pop(fetch.number, None) is not None:
            self.machine.drop(fetch)
            self.wake.fire()

    def _came(self, fetch: Fetch, size: int) -> None:
        """So much of what was asked for came: of the tenant's bandwidth no more was used."""
        asked = self._asked.pop(fetch.number, None)
        if asked is not None:
            self._ground.quotas.arrived(self.entry.spec.tenant, size, asked)

    # ------------------------------------------------------------------ parents

    def _listen(self, group: asyncio.TaskGroup) -> None:
        for host in [host for host in self._watches if host not in self._refs]:
            self._forget(host)
        for host, ref in self._refs.items():
            if host not in self._watches and host != self._ground.host:
                self.machine.add_parent(host)
                self._watches[host] = group.create_task(self._watch(ref))

    def _forget(self, host: str) -> None:
        self.proof.forget(host)
        self._heard_at.pop(host, None)
        watch = self._watches.pop(host, None)
        if watch is not None and watch is not asyncio.current_task():
            watch.cancel()
        self._cancel(self.machine.remove_parent(host))

    def _cancel(self, fetches: Sequence[Fetch]) -> None:
        for fetch in fetches:
            task = self._fetches.get(fetch.number)
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    async def _watch(self, ref: ParentRef) -> None:
        spec, generation = self.entry.spec, self.entry.generation
        try:
            async with contextlib.aclosing(
                availability(self._ground, ref, spec, generation)
            ) as events:
                async for event in events:
                    await self._heard(ref.host, event)
        except (StorageFailed, QuotaExceeded, OverQuota, GenerationGone) as exc:
            if not self._own_failure(exc):
                self._give_up(ref.host, exc)
        except HawkerError as exc:
            self._give_up(ref.host, exc)

    def _own_failure(self, exc: HawkerError) -> bool:
        """Whether this host's own disk or its tenant's quota failed, and not the parent; the task
        is told."""
        gone = self.entry.missing
        if gone or isinstance(exc, StorageFailed | QuotaExceeded | OverQuota):
            self._host.disk_failed(exc, gone=gone)
            return True
        return False

    def _lives(self, parent: str) -> bool:
        """Its stream goes on: one connection to it may have failed, or be far behind others."""
        return self._ground.clock() - self._heard_at.get(parent, -inf) < LIVES

    async def _heard(self, parent: str, event: Availability) -> None:
        self._heard_at[parent] = self._ground.clock()
        if event.runs:
            await self._settle(event.runs, parent)
        news = False
        if event.have:
            count = self.entry.layout.count
            if count is not None and max(last for _, last in event.have) >= count:
                self._ban(parent, DigestMismatch(f"it offers pieces beyond the last of {count}"))
                return
            have, alone = PieceSet.from_runs(event.have), PieceSet.from_runs(event.alone)
            news = self.machine.announced(parent, have, alone)
        if event.free:
            news = self.machine.has_slot(parent) or news
        if news:
            self.wake.fire()

    async def _settle(self, runs: Sequence[DigestRun], parent: str) -> None:
        """Learn digests, then judge the pieces that waited for them."""
        try:
            await self.proof.learn(runs, parent)
        except DigestMismatch as exc:
            self._ban(parent, exc)
        for source, judged in self.proof.judge_held().items():
            await self._act(source, judged)

    def _give_up(self, parent: str, exc: Exception) -> None:
        """Leave a parent and tell the scheduler, who names another."""
        log.info("left parent %s: %s", parent[:12], exc)
        reason = exc.code if isinstance(exc, HawkerError) else "unavailable"
        self._ground.counters.parents_left[reason] += 1
        self._refs.pop(parent, None)
        self._forget(parent)
        failed = ParentFailed(
            task=self.entry.task,
            parent=parent,
            reason=reason,
            generation=self.entry.generation,
        )
        self._host.report(failed, urgent=True)
        self.wake.fire()

    def _ban(self, parent: str, exc: HawkerError) -> None:
        self._cancel(self.machine.ban(parent))
        self._give_up(parent, exc)

    # ------------------------------------------------------------------ pieces

    async def _fetch(self, fetch: Fetch, ref: ParentRef) -> None:
        run = (fetch.first, fetch.last)
        layout = self.entry.layout
        sink = MemorySink(layout, run) if fetch.hedge else PieceSink(layout, run, self.entry.write)
        try:
            await self._ask(fetch, ref, sink)
        finally:
            self._came(fetch, sink.received)
        # The next request need not wait until these pieces are committed.
        self.wake.fire()
        self._fetches.pop(fetch.number, None)
        await self._keep(fetch, sink)

    async def _ask(self, fetch: Fetch, ref: ParentRef, sink: PieceSink) -> None:
        try:
            transport = self._ground.transport(ref)
            await transport.fetch(self._request(fetch, ref, sink.expected), sink)
        except Busy as exc:
            self._ground.counters.refused_requests += 1
            self.machine.busy(fetch, exc.retry_after or 0.0, self._ground.clock())
        except (StorageFailed, QuotaExceeded, OverQuota) as exc:
            self.machine.drop(fetch)
            self._own_failure(exc)
        except DigestMismatch as exc:
            self.machine.drop(fetch)
            self._ban(fetch.parent, exc)
        except HawkerError as exc:
            self._ground.counters.failed_requests += 1
            often = self.machine.failed(fetch, self._ground.clock())
            late = isinstance(exc, Stalled) and self._lives(fetch.parent)
            if often or (isinstance(exc, Unavailable) and not late):
                self._give_up(fetch.parent, exc)
        else:
            self.machine.received(fetch, sink.received, self._ground.clock())

    def _request(self, fetch: Fetch, ref: ParentRef, length: int) -> PieceRequest:
        ground = self._ground
        pieces = f"{fetch.first}-{fetch.last}"
        return PieceRequest(
            base_url=ref.url,
            path=f"/v1/tasks/{self.entry.task}/{self.entry.generation}/pieces/{pieces}",
            headers=ground.headers(self.entry.spec),
            length=length,
            stall=STALL,
            codecs=ground.codecs,
        )

    async def _keep(self, fetch: Fetch, sink: PieceSink) -> None:
        """Judge every piece that arrived whole, also of a fetch that broke off later."""
        # What another fetch brought meanwhile may still be on its way into the index.
        here = self.machine.valid | self.machine.unproven
        digests = {p: d for p, d in sink.digests.items() if p not in here}
        duplicate = sum(self.entry.layout.length(p) for p in sink.digests if p not in digests)
        self._ground.counters.duplicate_bytes += duplicate
        if not digests:
            return
        # From here on nobody else asks for them, also while a repeated fetch waits for its rivals.
        self.machine.held(PieceSet.of(digests))
        if isinstance(sink, MemorySink):
            kept = await self._store_hedge(fetch, sink, digests)
            self.machine.refused(PieceSet.of(digests) - PieceSet.of(kept))
            digests = kept
        await self._act(fetch.parent, self.proof.judge(fetch.parent, digests))

    async def _store_hedge(
        self, fetch: Fetch, sink: MemorySink, digests: dict[int, bytes]
    ) -> dict[int, bytes]:
        """Write a repeated fetch once nobody else writes the same pieces."""
        rivals = [f for f in self.machine.rivals(fetch) if f.number in self._fetches]
        tasks = [self._fetches[rival.number] for rival in rivals]
        self._cancel(rivals)
        await asyncio.gather(*tasks, return_exceptions=True)
        kept: dict[int, bytes] = {}
        layout = self.entry.layout
        busy = self.machine.in_flight | self.machine.valid
        for piece, digest in digests.items():
            if piece in busy or self.entry.digest_of(piece) != digest:
                continue
            at = layout.offset(piece) - sink.start
            part = memoryview(sink.data)[at : at + layout.length(piece)]
            await asyncio.to_thread(self.entry.write, layout.offset(piece), part)
            kept[piece] = digest
        return kept

    async def _act(self, parent: str, judged: Judged) -> None:
        """Commit what is right; whoever sent a wrong piece is asked no more."""
        if judged.bad:
            self._ground.counters.corrupt_pieces += len(judged.bad)
            self.machine.refused(PieceSet.of(judged.bad))
            for piece in judged.bad:
                corrupt = PieceCorrupt(
                    task=self.entry.task,
                    generation=self.entry.generation,
                    piece=piece,
                    parent=parent,
                )
                self._host.report(corrupt, urgent=True)
            self._ban(parent, DigestMismatch(f"{len(judged.bad)} pieces with wrong digests"))
        if judged.good:
            await self.entry.commit(judged.good)
            pieces = PieceSet.of(judged.good)
            size = sum(self.entry.layout.length(piece) for piece in pieces)
            ref = self._refs.get(parent)
            if ref is not None and ref.seed:
                self._ground.counters.seed_bytes += size
            else:
                self._ground.counters.peer_bytes += size
            self.arrived(pieces, parent)
