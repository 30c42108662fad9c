"""Downloads and imports that clients ask this peer for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request

from hawker.apps.peer.policy import Tickets
from hawker.core.errors import BadRequest, HawkerError
from hawker.core.ids import TaskSpec
from hawker.core.messages import DownloadRequest, Progress, encode
from hawker.core.pieces import MIB
from hawker.core.ranges import MAX_DIGITS
from hawker.core.storage import Entry
from hawker.core.transfer.conductor import Conductor
from hawker.core.transfer.downloads import download
from hawker.core.transfer.ground import Ground
from hawker.core.transfer.importing import Import
from hawker.core.transfer.naming import Named, named_digest

MAX_PIN = 3600.0


async def progress_lines(
    conductor: Conductor, request: DownloadRequest, named: Named, tickets: Tickets | None
) -> AsyncGenerator[bytes, None]:
    """The progress of a download, one JSON object a line; the last says `done` or why not.

    `tickets` is None for a caller on the unix socket, who is told the stored file instead.
    """
    try:
        async with download(conductor, request, named) as active:
            async for progress in active.progress():
                if not progress.done:
                    yield encode(progress)
                    continue
                entry = active.entry
                if request.hard_link:
                    await entry.prepare_hard_link()
                with contextlib.ExitStack() as held:
                    if tickets is None:
                        mark = None if entry.mark is None else entry.mark.fields
                        found = {"path": str(entry.path), "mark": mark}
                    else:
                        found = {"ticket": held.enter_context(tickets.issued(entry))}
                    yield encode(msgspec.structs.replace(progress, **found))
                    if request.pin:
                        await asyncio.sleep(MAX_PIN)
    except HawkerError as exc:
        yield encode(Progress(task=named.spec.task_id, problem=exc.problem()))


async def receive_import(ground: Ground, request: Request, spec: TaskSpec) -> Entry:
    """Store the body of an import request.

    Raises:
        BadRequest: no length, or a wrong one.
        DigestMismatch: the bytes are not those that the URL names.
        QuotaExceeded: there is no room.
    """
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or len(length) > MAX_DIGITS:
        raise BadRequest("an import needs a Content-Length", hint="send the file with its length")
    known = ground.store.newest(spec.task_id)
    if known is not None and known.complete and named_digest(spec.url) is not None:
        async for _ in request.stream():
            # The name says what it is, and it is here: read and forget.
            continue
        return known
    importing = await Import.begin(ground, spec, int(length))
    try:
        await _copy(request, importing)
        entry = await importing.finish()
    except BaseException:
        await asyncio.shield(importing.abandon())
        raise
    for older in [e for e in ground.store.entries() if e.task == entry.task and e is not entry]:
        await ground.store.remove(older.task, older.generation)
    return entry


async def _copy(request: Request, importing: Import) -> None:
    pending = bytearray()
    async for chunk in request.stream():
        pending += chunk
        if len(pending) >= MIB:
            await importing.write(bytes(pending))
            pending.clear()
    if pending:
        await importing.write(bytes(pending))
