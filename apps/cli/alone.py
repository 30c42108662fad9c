"""Downloads without a daemon: this process fetches, verifies and writes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hawker.apps.cli.fetch import Saved, Show, deadline, last_step, saved
from hawker.apps.cli.output import Output
from hawker.apps.cli.writing import print_checked
from hawker.core.errors import DigestMismatch
from hawker.core.messages import DownloadRequest
from hawker.core.registry import PluginHost
from hawker.core.settings import Settings
from hawker.core.storage.delivery import deliver
from hawker.core.transfer.lone import lone_download


async def save(settings: Settings, request: DownloadRequest, output: Output, show: Show) -> Saved:
    """Download beside the store, then move to the output."""
    began = time.monotonic()
    async with (
        deadline(request.timeout, request.url) as limit,
        _plugins(settings) as plugins,
        lone_download(settings, plugins, request) as download,
    ):
        try:
            step = await last_step(download.progress(), show)
        except DigestMismatch:
            # All of it is here and wrong: continuing with it would lead here again.
            download.finish()
            raise
        limit.reschedule(None)
        how = await asyncio.to_thread(
            deliver,
            download.path,
            output.path,
            overwrite=output.overwrite,
            hard_link=output.hard_link,
            move=True,
        )
        download.finish()
    return saved(step, output, began=began, how=how, through="alone")


async def print_content(settings: Settings, request: DownloadRequest) -> None:
    """Pass content on to standard output while it arrives."""
    async with (
        deadline(request.timeout, request.url),
        _plugins(settings) as plugins,
        lone_download(settings, plugins, request, stream=True) as download,
    ):
        try:
            await print_checked(download.stream(), request.digest, request.url)
        except DigestMismatch:
            download.finish()
            raise
        download.finish()


@asynccontextmanager
async def _plugins(settings: Settings) -> AsyncIterator[PluginHost]:
    plugins = PluginHost(settings)
    try:
        yield plugins
    finally:
        await plugins.close()
