"""The `file` source: files of this machine.

Only this machine's own user (`SourceRequest.local`) may have any of them; for all others it reads
what lies below `sources.file.roots`. That is looked at here, at the opened file: whoever grants a
lease on a `file:` URL does not know what this machine has at its path.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

from hawker.core.contracts import Reading, Source, SourceItem, SourceRequest
from hawker.core.errors import (
    BadRequest,
    Forbidden,
    HawkerError,
    NotFound,
    OriginChanged,
    OriginFailed,
    OriginRefused,
    RangeIgnored,
)
from hawker.core.ranges import ByteRange
from hawker.core.roots import below, file_path
from hawker.core.settings import Settings
from hawker.core.validators import SETTLED_SECONDS
from hawker.pluggy_specs import hookimpl

CHUNK = 1024 * 1024


class FileReading:
    """An opened file; its validator changes with any write (device, inode, size, time)."""

    ranges = True
    digest = ""

    def __init__(self, path: str, span: ByteRange | None, roots: Sequence[str] | None) -> None:
        """Open it; `roots` are the directories it must lie in, None for anywhere."""
        self._path = path
        _check_below(path, path, roots)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # Again, for a link on its way may have changed in between.
            _check_below(_opened(self._fd, path), path, roots)
            status = os.fstat(self._fd)
            if not stat.S_ISREG(status.st_mode):
                raise BadRequest(f"{path} is not a regular file")
        except BaseException:
            os.close(self._fd)
            raise
        self.total: int | None = status.st_size
        self.validator: str | None = _validator(status)
        self.span = None if span is None else span.clip(status.st_size)
        changed = int(status.st_mtime)
        settled = 0 <= changed <= time.time() - SETTLED_SECONDS
        self.modified: int | None = changed if settled else None

    async def stream(self) -> AsyncIterator[bytes]:
        span = self.span or ByteRange(0, self.total)
        assert span.stop is not None
        for offset in range(span.start, span.stop, CHUNK):
            size = min(CHUNK, span.stop - offset)
            try:
                data = await asyncio.to_thread(os.pread, self._fd, size, offset)
            except OSError as exc:
                raise OriginFailed(f"{self._path} cannot be read: {exc.strerror}") from exc
            if len(data) != size:
                raise OriginChanged(f"{self._path} became shorter while it was read")
            yield data
        if _validator(os.fstat(self._fd)) != self.validator:
            raise OriginChanged(f"{self._path} changed while it was read")

    async def close(self) -> None:
        self.release()

    def release(self) -> None:
        """Close the file; again it does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class FileSource:
    """Reads `file:///absolute/path`; `roots` bind all but `SourceRequest.local`, None nobody."""

    def __init__(self, roots: Sequence[str] | None = None) -> None:
        self._roots = roots

    def _bounds(self, request: SourceRequest) -> Sequence[str] | None:
        return None if request.local else self._roots

    async def open(self, request: SourceRequest, span: ByteRange | None = None) -> Reading:
        roots = self._bounds(request)
        opening = asyncio.get_running_loop().run_in_executor(None, _open, request.url, span, roots)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread cannot be stopped; what it opens is nobody's.
            opening.add_done_callback(_close_unwanted)
            raise

    async def read(
        self, request: SourceRequest, span: ByteRange, validator: str, total: int | None
    ) -> Reading:
        reading = await self.open(request, span)
        if reading.validator != validator or reading.total != total:
            await reading.close()
            raise OriginChanged(f"{request.url} is not what it was any more")
        if reading.span != span:
            await reading.close()
            raise RangeIgnored(f"{request.url} ends before the range that was asked for")
        return reading

    async def list(self, request: SourceRequest) -> AsyncIterator[SourceItem]:
        path = file_path(request.url)
        try:
            items = await asyncio.to_thread(_items, path, self._bounds(request))
        except OSError as exc:
            raise _failure(exc, request.url) from exc
        for item in items:
            yield item

    async def close(self) -> None:
        return


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _items(path: str, roots: Sequence[str] | None) -> list[SourceItem]:
    """The entries of a directory by name; what cannot be looked at has no size."""
    _check_below(path, path, roots)
    items = []
    for entry in sorted(os.scandir(path), key=_name):
        directory = entry.is_dir()
        try:
            size = None if directory else entry.stat().st_size
        except OSError:
            # A link that leads nowhere, or a file that went away just now.
            size = None
        items.append(SourceItem(f"file://{quote(entry.path)}", size, directory))
    return items


def _close_unwanted(opening: asyncio.Future[FileReading]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().release()


def _open(url: str, span: ByteRange | None, roots: Sequence[str] | None) -> FileReading:
    try:
        return FileReading(file_path(url), span, roots)
    except OSError as exc:
        raise _failure(exc, url) from exc


def _opened(fd: int, path: str) -> str:
    """The path of an open file as the kernel knows it, `path` where it does not say."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return path


def _check_below(real: str, path: str, roots: Sequence[str] | None) -> None:
    if roots is not None and not below(real, roots):
        raise Forbidden(
            f"{path} of this host is not for others",
            hint="list its directory in sources.file.roots, or ask over the unix socket",
        )


def _validator(status: os.stat_result) -> str:
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return '"' + "-".join(map(str, parts)) + '"'


def _failure(exc: OSError, url: str) -> HawkerError:
    if isinstance(exc, (FileNotFoundError, NotADirectoryError)):
        return NotFound(f"{url}: there is no such file")
    if isinstance(exc, PermissionError):
        return OriginRefused(f"{url}: this user may not read it")
    return OriginFailed(f"{url} cannot be read: {exc.strerror}")


@hookimpl
def hawker_source(scheme: str, settings: Settings) -> Source:
    return FileSource(settings.sources.file.roots)
