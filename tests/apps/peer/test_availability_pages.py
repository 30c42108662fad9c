"""However much a peer has, each event of its availability stream is small, and all is said."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest

from hawker.apps.peer.availability import Announcer, _untold
from hawker.core.clients.events import MAX_PEER_EVENT
from hawker.core.digests import MAX_RUN_PIECES, DigestRun
from hawker.core.messages import Availability, encode
from hawker.core.pieces import MAX_PIECES, MIB, Layout, PieceSet
from hawker.core.signal import Signal
from hawker.core.transfer.slots import UploadSlots
from hawker.core.transfer.turns import BEAT, Turns

# As many separate parts as there can be of so much.
FRAGMENTED = PieceSet(int("01" * (MAX_PIECES // 16), 2))


class Stored:
    """An entry that does not change."""

    task, generation = "0" * 64, "1" * 16
    gone = windowed = complete = False
    version = 1

    def __init__(self, valid: PieceSet, run_length: int, runs: int) -> None:
        self.layout = Layout(MAX_PIECES * MIB, MIB)
        self.valid = valid
        self.runs = [
            DigestRun(
                self.task,
                self.generation,
                first=number * run_length,
                digests=os.urandom(32 * run_length),
                piece_length=MIB,
                total=MAX_PIECES * MIB,
                host="a" * 32,
                lease="b" * 16,
                signature=number.to_bytes(64, "big"),
            )
            for number in range(runs)
        ]

    async def wait_change(self, seen: int, timeout: float) -> int:
        if seen == self.version:
            await asyncio.sleep(timeout)
        return self.version


@pytest.mark.parametrize(
    ("valid", "run_length", "runs"),
    [(FRAGMENTED, 1, 3000), (PieceSet.first(MAX_PIECES), MAX_RUN_PIECES, 40), (PieceSet(), 1, 1)],
    ids=["fragments", "long runs", "little"],
)
def test_events_are_small_and_all_is_said_at_once(
    valid: PieceSet, run_length: int, runs: int
) -> None:
    entry: Any = Stored(valid, run_length, runs)
    conductor: Any = SimpleNamespace(
        ground=SimpleNamespace(clock=lambda: asyncio.get_running_loop().time()),
        brings=lambda task: False,
        coming=lambda task: MAX_PIECES,
        rare=lambda task: None,
    )
    announcer = Announcer(lambda: conductor, UploadSlots(4), lambda: False)

    async def main() -> tuple[list[Availability], float]:
        events: list[Availability] = []
        began = asyncio.get_running_loop().time()
        async with aclosing(announcer._events(conductor, entry)) as stream:
            async for event in stream:
                if events and not event.runs and not event.have:
                    break
                events.append(event)
        return events, asyncio.get_running_loop().time() - began

    events, seconds = asyncio.run(main())
    assert max(len(encode(event)) for event in events) < 0.75 * MAX_PEER_EVENT
    said = [run for event in events for run in event.have]
    assert PieceSet.from_runs(said) == valid
    assert said == valid.runs(), "each is said once"
    told = [run.signature for event in events for run in event.runs]
    assert told == [run.signature for run in entry.runs]
    # None of them waits for a heartbeat.
    assert seconds < 2 * BEAT + 0.2 * len(events)


def test_what_few_others_can_give_is_told_without_waiting_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Turns, "pause", lambda *_, **__: 60.0)

    async def main() -> None:
        entry: Any = Stored(PieceSet.first(1), 1, 1)
        changed, rare = Signal(), Signal()

        async def wait_change(seen: int, timeout: float) -> int:
            await changed.wait(timeout, seen)
            return changed.seen

        entry.wait_change = wait_change
        conductor: Any = SimpleNamespace(
            ground=SimpleNamespace(clock=lambda: asyncio.get_running_loop().time()),
            brings=lambda task: False,
            coming=lambda task: MAX_PIECES,
            rare=lambda task: rare,
        )
        announcer = Announcer(lambda: conductor, UploadSlots(4), lambda: False)
        async with aclosing(announcer._events(conductor, entry)) as stream:
            entry.valid = PieceSet.first(2)
            changed.fire()
            assert PieceSet.from_runs((await anext(stream)).have) == PieceSet.first(2)
            told = asyncio.ensure_future(anext(stream))
            for pieces in (3, 4):
                entry.valid = PieceSet.first(pieces)
                changed.fire()
                await asyncio.sleep(0.1)
                assert not told.done(), "others can give it: it waits for more"
            entry.valid = PieceSet.first(5)
            changed.fire()
            rare.fire()
            async with asyncio.timeout(10):
                event = await told
            assert PieceSet.from_runs(event.have) == PieceSet.of([2, 3, 4]), "and all with it"

    asyncio.run(main())


def test_untold_are_the_runs_behind_the_last_that_was_told() -> None:
    runs = Stored(PieceSet(), 1, 6).runs
    told = {run.signature for run in runs[:3]}
    assert _untold(runs, set()) == runs
    assert _untold(runs, told) == runs[3:]
    # One that says others again takes the place of those, told or not, and stands at the end.
    assert _untold([runs[0], runs[4], runs[5]], told) == runs[4:]
    assert _untold(runs[:3], told) == []
