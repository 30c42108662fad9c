"""Opening a store after damage: index, sidecar, content; each is noticed and what is right kept."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from hawker.core.digests import HostKey
from hawker.core.errors import StorageFailed
from hawker.core.pieces import KIB, PieceSet
from hawker.core.storage import Store

if TYPE_CHECKING:
    from tests.core.storage.conftest import MakeSample

PIECE = 256 * KIB


def in_store(directory: Path, work: Callable[[Store], Awaitable[None]]) -> None:
    """Open, start, work, close."""

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


def change_index(directory: Path, statement: str) -> None:
    db = sqlite3.connect(directory / "index.sqlite")
    with db:
        db.execute(statement)
    db.close()


def flip_bit(path: Path, offset: int) -> None:
    mode = path.stat().st_mode
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))
    assert path.stat().st_mode == mode


def truncate(index: Path) -> None:
    os.truncate(index, index.stat().st_size // 2)


def empty(index: Path) -> None:
    os.truncate(index, 0)


def garble(index: Path) -> None:
    rng = random.Random(3)
    data = bytearray(index.read_bytes())
    for _ in range(20):
        at = rng.randrange(len(data))
        data[at : at + 200] = rng.randbytes(200)
    index.write_bytes(data)


def replace_by_random_bytes(index: Path) -> None:
    index.write_bytes(random.Random(4).randbytes(index.stat().st_size))


def change_schema(index: Path) -> None:
    change_index(index.parent, "PRAGMA user_version = 99")


def spoil_a_row(index: Path) -> None:
    change_index(index.parent, "UPDATE entries SET piece_length = 12345")


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, garble, replace_by_random_bytes, change_schema, spoil_a_row, Path.unlink],
)
def test_a_damaged_index_is_rebuilt_from_the_signed_runs(
    sample: MakeSample, directory: Path, damage: Callable[[Path], None]
) -> None:
    whole, partial = sample("whole", 9.5), sample("partial", 9.5)
    unknown = sample("unknown", 3.5, length_known=False)

    async def fill(store: Store) -> None:
        await whole.put(await whole.create(store))
        entry = await partial.create(store)
        # Runs travel ahead of the pieces.
        await entry.learn([partial.run(0, 9)], [partial.reader])
        await partial.put(entry, [1, 2, 7])
        entry = await unknown.create(store)
        await unknown.put(entry, [0, 1])
        await entry.learn([unknown.run(0, 2)], [unknown.reader])

    async def check(store: Store) -> None:
        assert len(store.entries()) == 3
        for content, valid in (
            (whole, PieceSet.first(10)),
            (partial, PieceSet.of([1, 2, 7])),
            (unknown, PieceSet.of([0, 1])),
        ):
            entry = store.get(content.task, content.generation)
            assert entry is not None and entry.valid == valid
            assert entry.layout == content.layout and entry.spec == content.spec
            content.check(entry)
            assert entry.digest_of(1) == content.digests[1]
        entry = store.newest(partial.task)
        assert entry is not None
        await partial.put(entry)
        await store.create(sample("new").spec, "0" * 16, whole.layout)

    in_store(directory, fill)
    damage(directory / "index.sqlite")
    in_store(directory, check)


def test_rebuilding_takes_no_piece_that_is_wrong_and_no_run_that_is_forged(
    sample: MakeSample, directory: Path
) -> None:
    content, forged = sample("content"), sample("forged")
    liar = HostKey.generate()

    async def fill(store: Store) -> None:
        await content.put(await content.create(store))
        entry = await forged.create(store)
        await forged.put(entry, [0])
        with entry.using():
            # The signature is not that of the reader it names.
            run = liar.sign(forged.run(1, 1))
            named = msgspec.structs.replace(run, host=forged.key.host)
            await entry.learn([named], [forged.reader])
            entry.write(PIECE, memoryview(forged.piece(1)))
            await entry.commit({1: forged.digests[1]})

    async def check(store: Store) -> None:
        entry = store.get(content.task, content.generation)
        assert entry is not None and entry.valid == PieceSet.of([0, 1, 3, 4])
        other = store.get(forged.task, forged.generation)
        assert other is not None and other.valid == PieceSet.of([0])

    in_store(directory, fill)
    (sidecar,) = directory.glob(f"content/*/{content.task}*.runs")
    flip_bit(sidecar.with_suffix(""), 2 * PIECE + 77)
    (directory / "index.sqlite").write_bytes(b"not a database at all")
    in_store(directory, check)
    assert (directory / "index.sqlite.damaged").read_bytes() == b"not a database at all"


def test_a_flipped_bit_is_found_after_an_unclean_boot(sample: MakeSample, directory: Path) -> None:
    content = sample("flipped")

    async def fill(store: Store) -> None:
        await content.put(await content.create(store))

    async def check(store: Store) -> None:
        entry = store.newest(content.task)
        assert entry is not None
        assert not entry.valid, "nothing may be used before it was verified"
        seen = entry.version
        await asyncio.gather(*(entry.prepare() for _ in range(3)))
        assert entry.valid == PieceSet.of([0, 1, 3, 4]) and entry.version > seen
        content.check(entry)

    async def mended(store: Store) -> None:
        entry = store.newest(content.task)
        assert entry is not None and entry.valid == PieceSet.of([0, 1, 3, 4])
        await content.put(entry, [2])
        assert entry.complete
        content.check(entry)

    in_store(directory, fill)
    (path,) = [p for p in directory.glob("content/*/*") if p.suffix != ".runs"]
    flip_bit(path, 2 * PIECE)
    change_index(directory, "UPDATE entries SET unsynced = 'another boot of the machine'")
    in_store(directory, check)
    in_store(directory, mended)


def test_a_clean_close_leaves_nothing_to_verify_after_a_boot(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("clean")

    async def fill(store: Store) -> None:
        await content.put(await content.create(store))

    in_store(directory, fill)
    db = sqlite3.connect(directory / "index.sqlite")
    assert db.execute("SELECT unsynced FROM entries").fetchall() == [("",)]
    db.close()


def test_suspicion_outlives_a_start_at_which_the_content_was_not_used(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("suspect")

    async def fill(store: Store) -> None:
        await content.put(await content.create(store))

    async def nothing(store: Store) -> None:
        (entry,) = store.entries()
        assert not entry.valid

    in_store(directory, fill)
    change_index(directory, "UPDATE entries SET unsynced = 'another boot of the machine'")
    in_store(directory, nothing)
    in_store(directory, nothing)


def test_pieces_whose_signed_digest_is_lost_are_fetched_again(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("unprovable")

    async def fill(store: Store) -> None:
        entry = await content.create(store)
        await content.put(entry, [0, 1])
        await content.put(entry, [3])

    async def check(store: Store) -> None:
        (entry,) = store.entries()
        await entry.prepare()
        assert entry.valid == PieceSet.of([0, 1])

    in_store(directory, fill)
    (sidecar,) = directory.glob("content/*/*.runs")
    os.truncate(sidecar, sidecar.stat().st_size - 1)
    change_index(directory, "UPDATE entries SET unsynced = 'another boot of the machine'")
    in_store(directory, check)


def test_a_torn_sidecar_tail_is_ignored_and_overwritten(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("torn")

    async def fill(store: Store) -> None:
        entry = await content.create(store)
        await content.put(entry, [0])
        await content.put(entry, [1])

    async def go_on(store: Store) -> None:
        (entry,) = store.entries()
        assert [entry.digest_of(p) is not None for p in range(3)] == [True, False, False]
        await entry.learn([content.run(1, 1)], [content.reader])
        await entry.learn([content.run(2, 2)], [content.reader])

    async def check(store: Store) -> None:
        (entry,) = store.entries()
        assert [entry.digest_of(p) is not None for p in range(4)] == [True, True, True, False]

    in_store(directory, fill)
    (sidecar,) = directory.glob("content/*/*.runs")
    for cut in (1, 40):
        data = sidecar.read_bytes()
        os.truncate(sidecar, len(data) - cut)
    in_store(directory, go_on)
    in_store(directory, check)


def test_what_an_interrupted_creation_or_removal_left_goes_at_the_start(
    sample: MakeSample, directory: Path
) -> None:
    content, half = sample("kept"), sample("half")

    async def fill(store: Store) -> None:
        await content.put(await content.create(store))
        await half.put(await half.create(store))

    async def check(store: Store) -> None:
        assert [entry.task for entry in store.entries()] == [content.task]
        # The row without files does not hinder the same generation.
        await half.put(await half.create(store))

    in_store(directory, fill)
    (sidecar,) = directory.glob(f"content/*/{half.task}*.runs")
    sidecar.unlink()
    stray = directory / "content" / "ab"
    stray.mkdir(exist_ok=True)
    (stray / f"{'ab' * 32}.{'0' * 16}.{'1' * 16}").write_bytes(b"left behind")
    (stray / "of nobody").write_bytes(b"left behind")
    in_store(directory, check)
    assert len(list(directory.glob("content/*/*"))) == 4


def test_a_file_that_became_shorter_is_verified(sample: MakeSample, directory: Path) -> None:
    content = sample("short")

    async def fill(store: Store) -> None:
        await content.put(await content.create(store))

    async def check(store: Store) -> None:
        (entry,) = store.entries()
        await entry.prepare()
        assert entry.valid == PieceSet.first(3)

    in_store(directory, fill)
    (path,) = [p for p in directory.glob("content/*/*") if p.suffix != ".runs"]
    os.truncate(path, 3 * PIECE + 100)
    in_store(directory, check)


def test_a_changed_hard_link_is_noticed_and_left_to_its_owner(
    sample: MakeSample, directory: Path, tmp_path: Path
) -> None:
    content, link = sample("linked"), tmp_path / "link"

    async def fill(store: Store) -> None:
        entry = await content.create(store)
        with pytest.raises(StorageFailed, match="not complete"):
            await entry.prepare_hard_link()
        await content.put(entry)
        await entry.prepare_hard_link()
        os.link(entry.path, link)
        assert link.stat().st_mode & 0o777 == 0o444
        await entry.prepare()
        assert entry.complete

    async def untouched(store: Store) -> None:
        (entry,) = store.entries()
        os.utime(link)
        await entry.prepare()
        assert entry.complete

    async def changed(store: Store) -> None:
        (entry,) = store.entries()
        with entry.using():
            descriptor = entry.fd
            link.chmod(0o644)
            flip_bit(link, PIECE + 5)
            edited = link.read_bytes()
            await entry.prepare()
            assert entry.valid == PieceSet.of([0, 2, 3, 4])
            assert entry.fd == descriptor
            entry.write(PIECE, memoryview(content.piece(1)))
            await entry.commit({1: content.digests[1]})
        assert entry.complete
        content.check(entry)
        assert link.read_bytes() == edited != content.data

    in_store(directory, fill)
    in_store(directory, untouched)
    in_store(directory, changed)
    in_store(directory, lambda store: content.put(store.entries()[0]))


def test_who_leaves_while_doubts_are_settled_after_a_restart_takes_them_from_nobody(
    sample: MakeSample, directory: Path
) -> None:
    """A killed daemon leaves a file that it wrote last without a word of it; nobody else did."""
    content = sample("left", 40)

    async def fill(store: Store) -> None:
        await content.put(await content.create(store))

    async def use(store: Store) -> PieceSet:
        (entry,) = store.entries()
        with entry.using():
            await entry.prepare()
            entry.check_unchanged()
            return entry.valid

    async def check(store: Store) -> None:
        first, *others = [asyncio.ensure_future(use(store)) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        for valid in await asyncio.gather(*others):
            assert valid == PieceSet.first(40) - PieceSet.of([1])
        assert first.cancelled()

    in_store(directory, fill)
    (path,) = [p for p in directory.glob("content/*/*") if p.suffix != ".runs"]
    flip_bit(path, PIECE + 5)
    in_store(directory, check)
