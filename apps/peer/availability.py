"""The availability stream: digest runs and pieces this peer has, then each new one."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from hawker.apps.peer.policy import offered
from hawker.apps.web.events import Frame
from hawker.core.contracts import Caller
from hawker.core.digests import DigestRun
from hawker.core.errors import GenerationGone
from hawker.core.messages import Availability, encode
from hawker.core.pieces import KIB, PieceSet, Run
from hawker.core.signal import Signal
from hawker.core.storage import Entry
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.slots import UploadSlots
from hawker.core.transfer.turns import BEAT, HELD_BEAT, Lateness, Turns, pause

log = logging.getLogger(__name__)

APPEAR = 5.0
# What one event says at most, so that it stays below `MAX_PEER_EVENT` however large the content;
# the rest follows at once. A signed run costs about RUN_COST bytes besides its digests.
MAX_HAVE = 8192
MAX_DIGEST_BYTES = 256 * KIB
RUN_COST = 512


class Announcer:
    """Tells children what this peer has."""

    def __init__(
        self,
        conductor: Callable[[], Conductor],
        slots: UploadSlots,
        draining: Callable[[], bool],
    ) -> None:
        self._conductor = conductor
        self._slots = slots
        self._draining = draining
        self._streams = 0
        self._late = Lateness()
        self._numbers = itertools.count()
        self._turns: dict[tuple[str, str], Turns] = {}

    def asked(self, task: str, generation: str, run: Run) -> None:
        """Somebody asks for a run of pieces."""
        turns = self._turns.get((task, generation))
        if turns is not None:
            turns.asked(PieceSet.of_run(*run), self._conductor().ground.clock())

    def served(self, task: str, generation: str, run: Run) -> None:
        """A run of pieces left this peer."""
        turns = self._turns.get((task, generation))
        if turns is not None:
            turns.served(PieceSet.of_run(*run), self._conductor().ground.clock())

    async def frames(
        self, task: str, generation: str, caller: Caller
    ) -> AsyncGenerator[Frame, None]:
        """Events until the generation is gone; a heartbeat at least each 500 ms.

        A child may hear of a generation before this host does: the stream waits a while for it. One
        that this caller may not have is waited for as long, and in the same words.
        """
        conductor = self._conductor()
        waited = 0.0
        while (entry := await self._offered(conductor, task, generation, caller)) is None:
            waited += BEAT
            if waited > APPEAR or self._draining():
                return
            yield None, encode(Availability(free=self._slots.free, waiting_upstream=True))
        try:
            with entry.using():
                await entry.prepare()
                async with aclosing(self._events(conductor, entry)) as events:
                    async for event in events:
                        yield None, encode(event)
        except GenerationGone as exc:
            # Its file went missing: the child asks others.
            log.warning("%s", exc)

    async def _offered(
        self, conductor: Conductor, task: str, generation: str, caller: Caller
    ) -> Entry | None:
        """The generation, waited for a beat, if this caller may have it."""
        entry = await conductor.entry(task, generation, BEAT)
        if entry is not None and not offered(conductor.ground, entry, caller):
            await asyncio.sleep(BEAT)
            return None
        return entry

    async def _events(
        self, conductor: Conductor, entry: Entry
    ) -> AsyncGenerator[Availability, None]:
        turns = self._turns_of(conductor, entry)
        child = next(self._numbers)
        turns.join(child, conductor.ground.clock())
        self._streams += 1
        try:
            said = PieceSet()
            told: set[bytes] = set()
            version = -1
            spoke = 0.0
            full = False
            while not entry.gone and not self._draining():
                if not full:
                    silent = conductor.ground.clock() - spoke
                    beat = min(HELD_BEAT if turns.held else BEAT, max(0.0, BEAT - silent))
                    version = await entry.wait_change(version, beat)
                now = conductor.ground.clock()
                rare = conductor.rare(entry.task)
                seen = 0 if rare is None else rare.seen
                reading, idle = conductor.brings(entry.task), self._slots.idle
                turns.deal(entry.valid, now, reading=reading, idle=idle)
                # Possession only grows; a windowed entry forgets what it delivered: no offer.
                have = PieceSet() if entry.windowed else turns.visible(child, entry.valid)
                # Digests alone are no news: they come before their pieces, and go with them.
                if not full and not have - said and now - spoke < BEAT:
                    continue
                event = self._event(entry, have - said, told, turns.alone(child, have))
                yield event
                spoke = now
                said |= PieceSet.from_runs(event.have)
                told.update(run.signature for run in event.runs)
                full = _is_full(event)
                if not full:
                    coming, late = conductor.coming(entry.task), self._late.seconds
                    seconds = turns.pause(self._streams, now, late, coming=coming)
                    await self._rest(seconds, rare, seen)
        finally:
            self._streams -= 1
            turns.leave(child, conductor.ground.clock())
            self._forget_turns(conductor)

    def _turns_of(self, conductor: Conductor, entry: Entry) -> Turns:
        """Those of an entry; what a host that reads has before the first child asks is new, too."""
        key = (entry.task, entry.generation)
        if key not in self._turns:
            seen = PieceSet() if conductor.brings(entry.task) else entry.valid
            self._turns[key] = Turns(seen=seen)
        return self._turns[key]

    def _forget_turns(self, conductor: Conductor) -> None:
        """Drop those without children; not of a task that is read now, whose children may come
        back and have been given most of it."""
        for key, turns in list(self._turns.items()):
            if not turns.children and not conductor.brings(key[0]):
                del self._turns[key]

    async def _rest(self, seconds: float, rare: Signal | None, seen: int) -> None:
        """Be silent for so many seconds; for less where rare pieces came since `seen`."""
        loop = asyncio.get_running_loop()
        least = min(seconds, pause(self._streams, 0.0, 0, self._late.seconds))
        due = loop.time() + least
        await asyncio.sleep(least)
        self._late.woke(loop.time() - due)
        if rare is None:
            await asyncio.sleep(seconds - least)
        elif seconds > least:
            await rare.wait(seconds - least, seen)

    def _event(
        self, entry: Entry, new: PieceSet, told: set[bytes], alone: PieceSet
    ) -> Availability:
        total = entry.layout.total
        have = new.runs()[:MAX_HAVE]
        return Availability(
            total=-1 if total is None else total,
            piece_length=entry.layout.piece_length,
            runs=_page(_untold(entry.runs, told)),
            have=have,
            alone=(alone & PieceSet.from_runs(have)).runs() if alone else [],
            free=self._slots.free,
            waiting_upstream=not entry.complete and not new,
        )


def _untold(runs: Sequence[DigestRun], told: set[bytes]) -> list[DigestRun]:
    """They are told in their order, and new ones are added at the end: what is looked at are those
    behind the last one that was told."""
    untold = list(itertools.takewhile(lambda run: run.signature not in told, reversed(runs)))
    untold.reverse()
    return untold


def _page(runs: Sequence[DigestRun]) -> list[DigestRun]:
    """As many of the runs as one event takes, one at least."""
    page: list[DigestRun] = []
    size = 0
    for run in runs:
        if size >= MAX_DIGEST_BYTES:
            break
        page.append(run)
        size += _cost(run)
    return page


def _is_full(event: Availability) -> bool:
    """There may be more to say."""
    digests = sum(_cost(run) for run in event.runs)
    return digests >= MAX_DIGEST_BYTES or len(event.have) >= MAX_HAVE


def _cost(run: DigestRun) -> int:
    return len(run.digests) + RUN_COST
