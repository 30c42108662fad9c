"""A full disk at every step: an error with a name, and nothing that looks whole."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hawker.core.errors import HawkerError, QuotaExceeded
from hawker.core.pieces import KIB, MIB
from hawker.core.storage import Store

if TYPE_CHECKING:
    from tests.core.storage.conftest import MakeSample

PIECE = 256 * KIB
SIZE = 4 * MIB


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 4 MiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "hawker-test", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small filesystem takes root")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def fill_up(directory: Path, leave: int) -> Path:
    """Take all space but `leave` bytes."""
    ballast = directory / "ballast"
    status = os.statvfs(directory)
    with ballast.open("wb") as file:
        file.write(bytes(max(0, status.f_bavail * status.f_frsize - leave)))
    return ballast


def test_a_write_on_a_full_disk_is_over_quota_and_the_piece_not_valid(
    sample: MakeSample, small_disk: Path
) -> None:
    content = sample("large", 40)

    async def main() -> None:
        store = Store.open(small_disk / "data", quota=64 * MIB)
        await store.start()
        entry = await content.create(store)
        written = []
        with entry.using(), pytest.raises(QuotaExceeded, match="No space left"):
            for piece in content.pieces:
                await asyncio.to_thread(
                    entry.write, piece * PIECE, memoryview(content.piece(piece))
                )
                written.append(piece)
        assert 0 < len(written) < 16 and not entry.valid
        await store.remove(content.task)
        small = sample("small", 4)
        again = await small.create(store)
        await small.put(again)
        assert again.complete
        small.check(again)
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("leave", [0, 4, 8, 12, 20, 40])
def test_whatever_step_finds_the_disk_full_only_committed_pieces_are_valid(
    sample: MakeSample, small_disk: Path, leave: int
) -> None:
    """Content that is on the disk, no room for its digests, its rows, or for a new entry."""
    first, second = sample("first", 4), sample("second", 2)

    async def main() -> None:
        store = Store.open(small_disk / "data")
        await store.start()
        entry = await first.create(store)
        with entry.using():
            for piece in first.pieces:
                entry.write(piece * PIECE, memoryview(first.piece(piece)))
        ballast = fill_up(small_disk, leave * KIB)
        failed = 0
        try:
            for piece in first.pieces:
                await entry.learn([first.run(piece, piece)], [first.reader])
                await entry.commit({piece: first.digests[piece]})
        except HawkerError as exc:
            assert isinstance(exc, QuotaExceeded)
            failed += 1
        try:
            await second.put(await second.create(store))
        except HawkerError as exc:
            assert isinstance(exc, QuotaExceeded)
            failed += 1
        assert failed
        valid = {entry.task: entry.valid for entry in store.entries()}
        await store.close()

        store = Store.open(small_disk / "data")
        await store.start()
        assert {entry.task: entry.valid for entry in store.entries()} == valid
        for content in (first, second):
            kept = store.newest(content.task)
            if kept is not None:
                content.check(kept)
        ballast.unlink()
        for content in (first, second):
            await content.put(await content.create(store))
        assert all(entry.complete for entry in store.entries()) and len(store.entries()) == 2
        await store.close()

    asyncio.run(main())


def test_content_can_be_removed_from_a_full_disk(sample: MakeSample, small_disk: Path) -> None:
    content = sample("full", 8)

    async def main() -> None:
        store = Store.open(small_disk / "data")
        await store.start()
        entry = await content.create(store)
        await content.put(entry)
        fill_up(small_disk, 0)
        await store.remove(content.task)
        assert not entry.path.exists() and store.used_bytes == 0
        await store.close()
        store = Store.open(small_disk / "data")
        assert store.entries() == []
        await store.close()

    asyncio.run(main())


def test_a_file_size_limit_is_a_storage_failure(directory: Path) -> None:
    """Where root may not mount, this still is a real failing write in a real process."""
    script = """
import asyncio, resource, sys
from pathlib import Path
from hawker.core.errors import StorageFailed
from hawker.core.ids import TaskSpec
from hawker.core.pieces import Layout
from hawker.core.storage import Store

async def main():
    store = Store.open(Path(sys.argv[1]))
    await store.start()
    spec = TaskSpec(url="http://origin.test/x")
    entry = await store.create(spec, "0" * 16, Layout(None, 1 << 18))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))
    with entry.using():
        entry.write(0, memoryview(bytes(1 << 18)))
        try:
            entry.write(1 << 18, memoryview(b"more"))
        except StorageFailed as exc:
            print(exc, list(entry.valid))
    await store.close()

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(directory)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "File too large" in done.stdout and done.stdout.endswith("[]\n")
