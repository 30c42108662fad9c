"""A download by one process alone: no daemon, no scheduler, nothing shared.

Its pieces live in a directory of the task, so that the same command continues after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from hawker.core.errors import StorageFailed
from hawker.core.messages import DownloadRequest, Progress
from hawker.core.priorities import Levels
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from hawker.core.storage import Store
from hawker.core.storage.identity import load_host_key
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.downloads import Download, download
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.naming import name


class LoneDownload:
    """A download without daemon; either `progress` or `stream` drives it."""

    def __init__(self, active: Download) -> None:
        self._active = active
        self._finished = False

    def progress(self) -> AsyncIterator[Progress]:
        """What is here until all is, then `done`; raises HawkerError where it cannot be had."""
        return self._active.progress()

    @property
    def path(self) -> Path:
        """The content's file; whole and checked once progress is done."""
        return self._active.entry.path

    async def stream(self) -> AsyncIterator[bytes]:
        """The content in order, each byte verified before it is given."""
        async for span in self._active.spans():
            assert span.stop is not None
            fd = self._active.entry.fd
            yield await asyncio.to_thread(os.pread, fd, span.stop - span.start, span.start)

    def finish(self) -> None:
        """The content was delivered: remove what was kept for resuming."""
        self._finished = True

    @property
    def finished(self) -> bool:
        return self._finished


@contextlib.asynccontextmanager
async def lone_download(
    settings: Settings, plugins: PluginHost, request: DownloadRequest, *, stream: bool = False
) -> AsyncIterator[LoneDownload]:
    """Fetch a URL in this process; `stream` asks for the bytes in order.

    Raises:
        StorageFailed: another process is fetching the same content, or the disk refuses.
    """
    named = name(request, local=True)
    directory = settings.data / "lone" / named.spec.task_id
    store = await asyncio.to_thread(_open_store, directory, request.url)
    lone: LoneDownload | None = None
    try:
        await store.start()
        ground = Ground(
            store=store,
            plugins=plugins,
            key=await asyncio.to_thread(load_host_key, directory),
            tokens=None,
            levels=Levels(settings.scheduler.priorities),
        )
        # Nobody else can have it here, so that there is nobody to tell apart.
        ground.access.granted(named.origin)
        conductor = Conductor(ground)
        position = 0 if stream else None
        async with (
            conductor.running(),
            download(conductor, request, named, position=position) as active,
        ):
            lone = LoneDownload(active)
            yield lone
    finally:
        await store.close()
        if lone is not None and lone.finished:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _open_store(directory: Path, url: str) -> Store:
    try:
        return Store.open(directory)
    except StorageFailed as exc:
        exc.hint = exc.hint or f"another `hawker get` may be fetching {url}"
        raise
