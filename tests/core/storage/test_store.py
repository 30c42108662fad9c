"""A store from the outside: pieces become valid, are kept, waited for and removed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hawker.core.errors import BadRequest, GenerationGone, StorageFailed
from hawker.core.pieces import Layout, PieceSet
from hawker.core.storage import Store

if TYPE_CHECKING:
    from tests.core.storage.conftest import MakeSample


def test_committed_pieces_are_valid_and_kept_over_a_restart(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("kept")

    async def first() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        await content.put(entry, [0, 2])
        assert entry.valid == PieceSet.of([0, 2]) and not entry.complete
        await content.put(entry)
        assert entry.complete and entry.valid_bytes == len(content.data)
        await store.close()

    async def second() -> None:
        store = Store.open(directory)
        await store.start()
        entry = store.get(content.task, content.generation)
        assert entry is not None and entry is store.newest(content.task)
        await entry.prepare()
        assert entry.complete and entry.spec == content.spec and entry.layout == content.layout
        assert entry.path.read_bytes() == content.data
        assert [entry.digest_of(piece) for piece in content.pieces] == content.digests
        assert entry.readers == [content.reader]
        stat = entry.stat()
        assert stat.complete and stat.valid_bytes == len(content.data) and not stat.in_use
        await store.close()

    asyncio.run(first())
    asyncio.run(second())


def test_written_pieces_are_not_valid_before_they_are_committed(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("uncommitted")

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        with entry.using():
            entry.write(0, memoryview(content.piece(0)))
            committing = asyncio.ensure_future(entry.commit({0: content.digests[0]}))
            await asyncio.sleep(0)
            assert not entry.valid
            await committing
            assert entry.valid == PieceSet.of([0])
        await store.close()

    asyncio.run(main())


def test_a_commit_whose_caller_was_cancelled_still_becomes_visible(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("cancelled")

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        with entry.using():
            entry.write(0, memoryview(content.piece(0)))
            seen = entry.version
            committing = asyncio.ensure_future(entry.commit({0: content.digests[0]}))
            await asyncio.sleep(0)
            committing.cancel()
            await entry.wait_change(seen, 10)
            assert committing.cancelled() and 0 in entry.valid
        await store.close()

    asyncio.run(main())


def test_valid_pieces_are_never_overwritten(sample: MakeSample, directory: Path) -> None:
    content = sample("late")

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        await content.put(entry, [1])
        with entry.using():
            # One write over the pieces 0, 1 and 2, of which only 1 is valid.
            await asyncio.to_thread(entry.write, 0, memoryview(bytes(3 * len(content.piece(0)))))
            content.check(entry)
            with pytest.raises(StorageFailed, match="beyond"):
                entry.write(len(content.data), memoryview(b"x"))
        with pytest.raises(StorageFailed, match="not in use"):
            entry.write(0, memoryview(b"x"))
        with pytest.raises(StorageFailed, match="not in use"):
            _ = entry.fd
        await store.close()

    asyncio.run(main())


def test_commits_of_many_entries_at_once_all_become_valid(
    sample: MakeSample, directory: Path
) -> None:
    contents = [sample(f"many{number}", 8) for number in range(12)]

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        async with asyncio.TaskGroup() as group:
            for content in contents:
                entry = await content.create(store)
                for piece in content.pieces:
                    group.create_task(content.put(entry, [piece]))
        assert all(entry.complete for entry in store.entries())
        await store.close()

    asyncio.run(main())


def test_creating_a_generation_twice_gives_one_entry(sample: MakeSample, directory: Path) -> None:
    content, other = sample("once"), sample("once")

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entries = await asyncio.gather(*(content.create(store) for _ in range(5)))
        assert len(set(map(id, entries))) == 1
        assert store.used_bytes == len(content.data)
        younger = await other.create(store)
        assert store.newest(content.task) is younger
        assert len(store.entries()) == 2
        with pytest.raises(BadRequest, match="generation"):
            await store.create(content.spec, "../../etc/x", content.layout)
        await store.close()

    asyncio.run(main())


def test_a_cancelled_creation_leaves_nothing(sample: MakeSample, directory: Path) -> None:
    content, other = sample("cancelled"), sample("other")

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        for turns in range(4):
            creating = asyncio.ensure_future(content.create(store))
            for _ in range(turns):
                await asyncio.sleep(0)
            creating.cancel()
            await asyncio.wait([creating])
            if not creating.cancelled():
                await store.remove(content.task)
            assert store.entries() == [] and store.used_bytes == 0
        entry = await other.create(store)
        names = {path.name for path in (entry.path, entry.files.sidecar)}
        found = await asyncio.to_thread(lambda: list(directory.glob("content/*/*")))
        assert {path.name for path in found} == names
        await content.put(await content.create(store))
        await store.close()

    asyncio.run(main())


def test_a_write_that_outlives_its_user_meets_its_own_file(
    sample: MakeSample, directory: Path
) -> None:
    """The descriptor must not be closed, and its number given to another file, under a write."""
    content = sample("outlived", 40)
    writing, may_end = threading.Event(), threading.Event()

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)

        def hold() -> int:
            with entry._file.borrow() as fd:
                writing.set()
                assert may_end.wait(10)
                return os.pwrite(fd, content.piece(0), 0)

        with entry.using():
            thread = asyncio.get_running_loop().run_in_executor(None, hold)
            assert await asyncio.to_thread(writing.wait, 10)
        may_end.set()
        assert await thread == len(content.piece(0))
        assert entry.path.read_bytes()[: len(content.piece(0))] == content.piece(0)
        with pytest.raises(StorageFailed, match="not in use"):
            _ = entry.fd
        await store.close()

    asyncio.run(main())


def test_content_of_unknown_length_gets_its_total_from_a_run(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("unknown", 3.5, length_known=False)

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        assert entry.layout.total is None
        await content.put(entry, [0, 1, 2])
        assert not entry.complete
        with entry.using():
            await entry.learn([content.run(3, 3)], [content.reader])
            assert entry.layout == content.layout
            entry.write(content.layout.offset(3), memoryview(content.piece(3)))
            await entry.commit({3: content.digests[3]})
        assert entry.complete and entry.path.read_bytes() == content.data
        assert store.used_bytes == len(content.data)
        await store.close()
        again = Store.open(directory)
        kept = again.get(content.task, content.generation)
        assert kept is not None and kept.complete and kept.layout == content.layout
        await again.close()

    asyncio.run(main())


def test_runs_that_say_nothing_new_are_dropped(sample: MakeSample, directory: Path) -> None:
    content = sample("runs")

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        await entry.learn([content.run(0, 3)], [content.reader])
        size = entry.files.sidecar.stat().st_size
        await entry.learn([content.run(1, 2), content.run(0, 3)], [content.reader])
        assert entry.files.sidecar.stat().st_size == size
        assert len(entry.runs) == 1 and entry.digest_of(4) is None
        await entry.learn([content.run(3, 4)], [content.reader])
        assert len(entry.runs) == 2 and entry.digest_of(4) == content.digests[4]
        with pytest.raises(BadRequest, match="no piece 5"):
            await entry.commit({5: content.digests[0]})
        await store.close()

    asyncio.run(main())


def test_waiting_ends_with_a_change_or_the_deadline(sample: MakeSample, directory: Path) -> None:
    content = sample("waited")

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        seen = entry.version
        assert await entry.wait_change(seen, 0.01) == seen
        assert await entry.wait_change(seen - 1, 60) == seen
        waiting = asyncio.ensure_future(entry.wait_change(seen, 60))
        await asyncio.sleep(0)
        await content.put(entry, [0])
        assert await waiting > seen
        await store.close()

    asyncio.run(main())


def test_digests_alone_wake_nobody_and_the_length_does(sample: MakeSample, directory: Path) -> None:
    content = sample("learned", length_known=False)

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        with entry.using():
            seen = entry.version
            await entry.learn([content.run(0, 1, total=-1)], [content.reader])
            assert entry.version == seen
            waiting = asyncio.ensure_future(entry.wait_change(seen, 60))
            await asyncio.sleep(0)
            await entry.learn([content.run(2, 4)], [content.reader])
            assert entry.layout.total == len(content.data)
            assert await asyncio.wait_for(waiting, 5) > seen
        await store.close()

    asyncio.run(main())


def test_removing_wakes_waiters_and_frees_files_when_the_last_user_leaves(
    sample: MakeSample, directory: Path
) -> None:
    content, other = sample("removed"), sample("other")
    removed: list[tuple[str, str]] = []

    async def main() -> None:
        store = Store.open(directory)
        store.on_removed = lambda entry: removed.append((entry.task, entry.generation))
        await store.start()
        entry, idle = await content.create(store), await other.create(store)
        await content.put(entry)
        with entry.using():
            waiting = asyncio.ensure_future(entry.wait_change(entry.version, 60))
            await asyncio.sleep(0)
            assert await store.remove(content.task, "f" * 16) == 0
            assert await store.remove(content.task) == 1
            await waiting
            assert entry.gone and store.get(content.task, content.generation) is None
            assert entry.path.read_bytes() == content.data
            assert removed == [(content.task, content.generation)]
            with pytest.raises(GenerationGone):
                await entry.commit({0: content.digests[0]})
            # The same generation may come back while the old file is still read.
            reborn = await content.create(store)
            assert reborn is not entry and not reborn.valid
        assert await store.remove(other.task, other.generation) == 1
        assert not idle.path.exists()
        with pytest.raises(GenerationGone), entry.using():
            pass
        await content.put(reborn)
        await store.close()
        assert not entry.path.exists()
        again = Store.open(directory)
        (kept,) = again.entries()
        assert kept.complete and kept.path == reborn.path
        content.check(kept)
        await again.close()

    asyncio.run(main())


def test_an_entry_whose_file_vanished_is_gone(sample: MakeSample, directory: Path) -> None:
    content = sample("vanished")

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        await content.put(entry)
        entry.path.unlink()
        with pytest.raises(GenerationGone), entry.using():
            pass
        assert entry.gone and store.entries() == [] and store.used_bytes == 0
        await store.close()

    asyncio.run(main())


def test_empty_content_is_complete_at_once(sample: MakeSample, directory: Path) -> None:
    content = sample("empty", 0)

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        assert entry.complete and entry.layout == Layout(0, entry.layout.piece_length)
        await store.close()

    asyncio.run(main())


def test_a_second_process_is_told_who_has_the_directory(directory: Path) -> None:
    store = Store.open(directory)
    script = (
        "import sys; from pathlib import Path; from hawker.core.storage import Store\n"
        "from hawker.core.errors import StorageFailed\n"
        "try: Store.open(Path(sys.argv[1]))\n"
        "except StorageFailed as exc: print(exc)"
    )
    command = [sys.executable, "-c", script, str(directory)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert f"in use by process {os.getpid()}" in told and "one daemon per data directory" in told
    asyncio.run(store.close())
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert told == ""


def test_a_directory_that_others_may_write_to_is_refused(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(StorageFailed, match="chmod 700"):
        Store.open(directory)
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    with pytest.raises(StorageFailed, match="65534"):
        Store.open(directory)


def test_what_the_store_makes_is_its_owners_alone(sample: MakeSample, directory: Path) -> None:
    content = sample("private")

    async def main() -> int:
        store = Store.open(directory)
        await store.start()
        await content.put(await content.create(store))
        made = await asyncio.to_thread(lambda: [directory, *directory.rglob("*")])
        assert directory / "index.sqlite-wal" in made
        assert all(path.stat().st_mode & 0o077 == 0 for path in made)
        await store.close()
        return len(made)

    assert asyncio.run(main()) > 5


def test_a_run_that_says_several_again_takes_their_place(
    sample: MakeSample, directory: Path
) -> None:
    content = sample("merged", 6)

    async def main() -> None:
        store = Store.open(directory)
        await store.start()
        entry = await content.create(store)
        with entry.using():
            await entry.learn([content.run(p, p) for p in range(6)], [content.reader])
            whole = content.run(0, 5)
            assert entry.is_news(whole)
            await entry.learn([whole], [content.reader])
            assert entry.runs == [whole]
            assert not entry.is_news(whole)
            assert not entry.is_news(content.run(1, 2))
            assert [entry.digest_of(p) for p in range(6)] == content.digests
        await store.close()

    asyncio.run(main())
