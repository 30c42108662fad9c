"""Downloads through a daemon: it fetches and stores, the command line writes the user's file."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec

from hawker.apps.cli.fetch import Saved, Show, deadline, last_step, saved
from hawker.apps.cli.output import Output
from hawker.apps.cli.writing import checked, print_checked, write_file
from hawker.core.clients.daemon import DaemonClient
from hawker.core.errors import OutputFailed
from hawker.core.messages import DownloadRequest, Progress, TaskStat
from hawker.core.storage.delivery import deliver
from hawker.core.storage.mark import Mark


async def save(daemon: DaemonClient, request: DownloadRequest, output: Output, show: Show) -> Saved:
    """Download into the daemon's store, and from there to the output."""
    began = time.monotonic()
    wanted = msgspec.structs.replace(request, pin=True, hard_link=output.hard_link)
    async with deadline(request.timeout, request.url) as limit, daemon.download(wanted) as steps:
        step = await last_step(steps, show)
        # The stored file stays while the steps are open; a copy once begun is finished.
        if step.path and os.access(step.path, os.R_OK):
            limit.reschedule(None)
            how = await asyncio.to_thread(
                deliver,
                Path(step.path),
                output.path,
                overwrite=output.overwrite,
                hard_link=output.hard_link,
                mark=None if step.mark is None else Mark(*step.mark),
            )
        else:
            how = await _transfer(daemon, step, output)
    return saved(step, output, began=began, how=how, through="daemon")


async def save_stored(daemon: DaemonClient, stat: TaskStat, digest: str, output: Output) -> Saved:
    """Bring what the daemon has stored to the output, by its id: its URL alone would not do."""
    began = time.monotonic()
    step = _stored(stat)
    how = await _transfer(daemon, step, output, digest)
    return saved(step, output, began=began, how=how, through="daemon")


async def print_by_id(daemon: DaemonClient, stat: TaskStat, digest: str) -> None:
    """Pass what the daemon has stored on to standard output, by its id."""
    async with daemon.content(_stored(stat)) as content:
        await print_checked(content.chunks, digest, stat.spec.url)


def _stored(stat: TaskStat) -> Progress:
    return Progress(
        task=stat.task,
        generation=stat.generation,
        total=stat.total,
        valid_bytes=stat.valid_bytes,
        done=True,
    )


async def _transfer(daemon: DaemonClient, step: Progress, output: Output, digest: str = "") -> str:
    if output.hard_link:
        raise OutputFailed(
            f"{output.path} cannot be a hard link: the daemon's files are not within reach",
            hint="leave out --force-hard-link",
        )
    async with daemon.content(step) as content:
        await write_file(checked(content.chunks, digest, step.task), output, step.total)
    return "stream"


async def print_content(daemon: DaemonClient, request: DownloadRequest) -> None:
    """Pass content on to standard output while it arrives, or once it is stored."""
    if _is_plain(request):
        await _print_arriving(daemon, request)
    else:
        await print_stored(daemon, request)


def _is_plain(request: DownloadRequest) -> bool:
    """Whether a plain read of the URL means the same: such a read has no options."""
    plain = DownloadRequest(request.url)
    return all(
        getattr(request, option) == getattr(plain, option)
        for option in ("priority", "filtered_query_params", "disable_back_to_source", "headers")
    )


async def _print_arriving(daemon: DaemonClient, request: DownloadRequest) -> None:
    """The digest is checked here, at the end."""
    async with deadline(request.timeout, request.url), daemon.content_of(request) as content:
        await print_checked(content.chunks, request.digest, request.url)


async def print_stored(daemon: DaemonClient, request: DownloadRequest) -> None:
    """Pass content on to standard output once the daemon has all of it, checked."""
    wanted = msgspec.structs.replace(request, pin=True)
    async with deadline(request.timeout, request.url), daemon.download(wanted) as steps:
        step = await last_step(steps, lambda step: None)
        async with daemon.content(step) as content:
            await print_checked(content.chunks, "", request.url)
