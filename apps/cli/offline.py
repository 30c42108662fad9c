"""The data directory of a daemon that does not run: its tasks, without anybody's help."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hawker.apps.cli.fetch import Saved
from hawker.apps.cli.output import Output
from hawker.apps.cli.writing import print_checked
from hawker.core.digests import Digest
from hawker.core.errors import NotFound
from hawker.core.messages import TaskStat
from hawker.core.settings import Settings
from hawker.core.storage import Entry, Store
from hawker.core.storage.delivery import deliver

BLOCK = 1024 * 1024
_NO_QUOTA = 1 << 62


@asynccontextmanager
async def open_directory(settings: Settings) -> AsyncIterator[Directory]:
    """The data directory, locked while it is open; one that does not exist is empty.

    Raises:
        StorageFailed: another process has it, or it cannot be read.
    """
    if not settings.data.is_dir():
        yield Directory(None, settings.data)
        return
    # Looking must not evict: that is for the daemon, whose settings may be others.
    store = await asyncio.to_thread(Store.open, settings.data, quota=_NO_QUOTA, max_age=math.inf)
    try:
        await store.start()
        yield Directory(store, settings.data)
    finally:
        await store.close()


class Directory:
    """A `Cache` without a daemon; `store` is None where there is no directory."""

    def __init__(self, store: Store | None, path: Path) -> None:
        self._store = store
        self._path = path

    async def tasks(self) -> list[TaskStat]:
        """Every stored generation."""
        return [entry.stat() for entry in self._store.entries()] if self._store else []

    async def stat(self, task: str) -> TaskStat:
        """The newest generation; raises NotFound."""
        return self._entry(task).stat()

    async def remove(self, task: str) -> None:
        """Drop every generation; raises NotFound."""
        self._entry(task)
        if self._store:
            await self._store.remove(task)

    async def save(self, task: str, digest: str, output: Output) -> Saved:
        """Bring complete content to the output.

        Raises:
            NotFound: it is not here, or not all of it.
            DigestMismatch: it does not have the digest.
            OutputFailed: the output cannot be written.
        """
        began = time.monotonic()
        async with self._complete(task, digest) as entry:
            if output.hard_link:
                await entry.prepare_hard_link()
            how = await asyncio.to_thread(
                deliver,
                entry.path,
                output.path,
                overwrite=output.overwrite,
                hard_link=output.hard_link,
            )
            return Saved(
                task=task,
                generation=entry.generation,
                path=str(output.path),
                bytes=entry.valid_bytes,
                seconds=round(time.monotonic() - began, 3),
                from_origin=0,
                from_seeds=0,
                from_peers=0,
                how=how,
                through="alone",
            )

    async def print_content(self, task: str, digest: str) -> None:
        """Pass complete content on to standard output; raises as `save` does."""
        async with self._complete(task, digest) as entry:
            await print_checked(_blocks(entry.path), "", task)

    @asynccontextmanager
    async def _complete(self, task: str, digest: str) -> AsyncIterator[Entry]:
        """The newest generation, in use; it was looked at again where the disk may have changed."""
        entry = self._entry(task)
        await entry.prepare()
        if not entry.complete:
            raise NotFound(
                f"task {task[:12]} is not complete in {self._path}",
                hint="start a daemon with `hawker up` to have the rest fetched",
            )
        with entry.using():
            if digest:
                await asyncio.to_thread(_check, entry.path, digest)
            yield entry

    def _entry(self, task: str) -> Entry:
        entry = self._store.newest(task) if self._store else None
        if entry is None:
            raise NotFound(f"task {task[:12]} is not stored in {self._path}")
        return entry


def _check(path: Path, text: str) -> None:
    digest = Digest.parse(text)
    hasher = digest.hasher()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    digest.check(hasher, str(path))


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while block := await asyncio.to_thread(file.read, BLOCK):
            yield block
