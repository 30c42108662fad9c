"""The quota holds: what is evicted for whom, what is refused, and content larger than it."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hawker.core.errors import QuotaExceeded, StorageFailed
from hawker.core.pieces import KIB, PieceSet
from hawker.core.storage import Store

if TYPE_CHECKING:
    from tests.core.storage.conftest import MakeSample

PIECE = 256 * KIB
DAY = 86400.0


def test_the_least_recently_used_goes_first_and_nothing_in_use(
    sample: MakeSample, directory: Path
) -> None:
    a, b, c, d, e = (sample(name, 4) for name in "abcde")
    removed: list[str] = []

    async def main() -> None:
        store = Store.open(directory, quota=12 * PIECE, clock=itertools.count(1.0).__next__)
        store.on_removed = lambda entry: removed.append(entry.task)
        await store.start()
        first, second, third = [await content.create(store) for content in (a, b, c)]
        for content, entry in ((a, first), (b, second), (c, third)):
            await content.put(entry)
        with first.using():
            fourth = await d.create(store)
            assert removed == [b.task] and second.gone and not second.path.exists()
            with third.using(), fourth.using():
                with pytest.raises(QuotaExceeded):
                    await e.create(store)
                assert len(store.entries()) == 3 and store.used_bytes == 12 * PIECE
        await e.create(store)
        assert removed == [b.task, d.task]
        assert first.complete and third.complete
        await store.close()

    asyncio.run(main())


def test_content_larger_than_the_quota_evicts_nothing_in_vain(
    sample: MakeSample, directory: Path
) -> None:
    small, large = sample("small", 2), sample("large", 9)

    async def main() -> None:
        store = Store.open(directory, quota=8 * PIECE)
        await store.start()
        entry = await small.create(store)
        with pytest.raises(QuotaExceeded):
            await large.create(store)
        assert not entry.gone and store.used_bytes == 2 * PIECE
        await store.close()

    asyncio.run(main())


def test_old_content_goes_at_the_start_though_there_is_room(
    sample: MakeSample, directory: Path
) -> None:
    old, young = sample("old"), sample("young")

    async def main() -> None:
        store = Store.open(directory, clock=lambda: 10 * DAY)
        await store.start()
        await old.put(await old.create(store))
        await store.close()
        store = Store.open(directory, max_age=DAY, clock=lambda: 10.5 * DAY)
        await store.start()
        await young.put(await young.create(store))
        assert len(store.entries()) == 2
        await store.close()
        store = Store.open(directory, max_age=DAY, clock=lambda: 11.2 * DAY)
        await store.start()
        assert [entry.task for entry in store.entries()] == [young.task]
        await store.close()

    asyncio.run(main())


def test_a_smaller_quota_holds_from_the_next_start(sample: MakeSample, directory: Path) -> None:
    contents = [sample(str(number), 4) for number in range(4)]
    clock = itertools.count(1.0).__next__

    async def main() -> None:
        store = Store.open(directory, clock=clock)
        await store.start()
        for content in contents:
            await content.put(await content.create(store))
        await store.close()
        store = Store.open(directory, quota=9 * PIECE, clock=clock)
        await store.start()
        assert {entry.task for entry in store.entries()} == {c.task for c in contents[2:]}
        assert store.used_bytes == 8 * PIECE and store.quota == 9 * PIECE
        assert len(list((directory / "content").glob("*/*"))) == 4
        await store.close()

    asyncio.run(main())


def test_content_of_unknown_length_evicts_while_it_grows(
    sample: MakeSample, directory: Path
) -> None:
    idle = sample("idle", 4)
    growing = sample("growing", 6, length_known=False)
    other = sample("other", 3, length_known=False)

    async def main() -> None:
        store = Store.open(directory, quota=7 * PIECE)
        await store.start()
        kept = await idle.create(store)
        await idle.put(kept)
        entry = await growing.create(store)
        await growing.put(entry, [0, 1, 2])
        assert not kept.gone and store.used_bytes == 7 * PIECE
        await growing.put(entry, [3])
        assert kept.gone and not kept.path.exists() and store.used_bytes == 4 * PIECE
        with entry.using():
            late = await other.create(store)
            await other.put(late, [0, 1, 2])
            with late.using(), pytest.raises(QuotaExceeded):
                await asyncio.to_thread(late.write, 3 * PIECE, memoryview(b"x"))
            assert store.used_bytes == 7 * PIECE
        growing.check(entry)
        await store.close()

    asyncio.run(main())


def test_content_larger_than_the_quota_streams_through_a_window(
    sample: MakeSample, directory: Path
) -> None:
    content, window = sample("window", 24), 4

    async def main() -> None:
        store = Store.open(directory, quota=8 * PIECE)
        await store.start()
        entry = await content.create(store, window=window * PIECE)
        assert entry.windowed and store.used_bytes == window * PIECE
        read = b""
        with entry.using():
            for first in range(0, 24, window):
                pieces = PieceSet.of_run(first, first + window - 1)
                await content.put(entry, pieces)
                assert entry.valid == pieces
                read += b"".join(content.piece(piece) for piece in pieces)
                content.check(entry)
                await entry.discard(pieces)
                assert not entry.valid and entry.path.stat().st_blocks * 512 <= PIECE
        assert read == content.data
        assert entry.gone and store.entries() == [] and store.used_bytes == 0
        small = await sample("small", 8).create(store, window=PIECE)
        assert not small.windowed
        with small.using(), pytest.raises(StorageFailed):
            await small.discard(PieceSet.of([0]))
        await store.close()
        assert len(list((directory / "content").glob("*/*"))) == 2

    asyncio.run(main())


def test_a_windowed_entry_does_not_survive_its_process(sample: MakeSample, directory: Path) -> None:
    content = sample("window", 9)

    async def main() -> None:
        store = Store.open(directory, quota=8 * PIECE)
        await store.start()
        entry = await content.create(store, window=4 * PIECE)
        with entry.using():
            await content.put(entry, [0])
            await store.close()
        assert not entry.path.exists()

    asyncio.run(main())


def test_without_a_quota_nine_tenths_of_the_filesystem_may_be_used(directory: Path) -> None:
    store = Store.open(directory)
    assert 0 < store.quota < 2**60
    asyncio.run(store.close())


class Room:
    """A tenant's room in somebody's books, granted at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answer.set_result(None)

    def release(self) -> None:
        self.size = 0


class Rooms:
    def __init__(self) -> None:
        self.rooms: list[Room] = []

    def claim_room(self, tenant: str, size: int) -> Room:
        self.rooms.append(Room(size))
        return self.rooms[-1]


def test_content_is_never_counted_as_stored_and_as_claimed(
    sample: MakeSample, directory: Path
) -> None:
    """Whoever keeps the tenant's books would have other content evicted for it."""

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        store.rooms = rooms = Rooms()
        content = sample("new")
        creating = asyncio.ensure_future(content.create(store))
        counted = set()
        while not creating.done():
            await asyncio.sleep(0)
            counted.add(store.used_by("default") + sum(room.size for room in rooms.rooms))
        assert counted <= {0, len(content.data)} and len(rooms.rooms) == 1
        assert store.used_by("default") == len(content.data)
        await store.close()

    asyncio.run(main())


def test_what_of_a_tenant_may_go_is_told_with_the_bytes_of_all(
    sample: MakeSample, directory: Path
) -> None:
    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        made = [sample(f"{number}", 1 / 256) for number in range(100)]
        each = len(made[0].data)
        for content in made:
            await content.create(store)
        first, everything = store.idle_of("default")
        assert everything == store.used_by("default") == 100 * each > sum(e.size for e in first)
        assert [e.number for e in first] == sorted(e.number for e in first)
        assert store.idle_of("another") == ([], 0)
        await store.evict_of("default", 10 * each)
        assert store.used_by("default") == 10 * each == store.idle_of("default")[1]
        assert {entry.spec.url for entry in store.entries()} == {c.spec.url for c in made[90:]}
        await store.close()

    asyncio.run(main())
