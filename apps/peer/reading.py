"""Sending stored bytes without ever blocking the event loop on a cold page."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
from pathlib import Path
from typing import Any, Final

from hawker.apps.web.parts import send_part
from hawker.core.errors import StorageFailed
from hawker.core.pieces import MIB
from hawker.core.ranges import ByteRange
from hawker.core.storage import Entry

MESSAGE = MIB
_NOWAIT: int = getattr(os, "RWF_NOWAIT", 0)
_BUFFER: Final = memoryview(bytearray(MESSAGE))


async def read(fd: int, offset: int, size: int) -> bytes:
    """Exactly `size` bytes: at once where they are in the page cache, else from a thread.

    Raises:
        StorageFailed: the file is shorter, or cannot be read.
    """
    if _NOWAIT and size <= MESSAGE:
        # One buffer for all: nothing else runs between filling and copying it.
        part = _BUFFER[:size]
        try:
            if os.preadv(fd, [part], offset, _NOWAIT) == size:
                return bytes(part)
        except OSError as exc:
            # EAGAIN: not in memory. EOPNOTSUPP: the filesystem cannot say.
            if exc.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):
                raise StorageFailed(f"stored content cannot be read: {exc.strerror}") from exc
            if exc.errno == errno.EOPNOTSUPP and _is_memory(os.fstat(fd).st_dev):
                return _read_fully(fd, offset, size)
    return await asyncio.to_thread(_read_fully, fd, offset, size)


@functools.cache
def _is_memory(device: int) -> bool:
    """Files of this filesystem are in memory and nowhere else: reading them waits for no disk."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    # proc(5): ID, parent, major:minor, root, …, "-", type of the filesystem, …
    kinds = {
        line.partition(" - ")[2].split(" ")[0] for line in mounts if line.split(" ")[2] == number
    }
    return kinds == {"tmpfs"}


def _read_fully(fd: int, offset: int, size: int) -> bytes:
    try:
        data = os.pread(fd, size, offset)
    except OSError as exc:
        raise StorageFailed(f"stored content cannot be read: {exc.strerror}") from exc
    if len(data) != size:
        raise StorageFailed(f"stored content ends at byte {offset + len(data)}")
    return data


async def send_span(entry: Entry, span: ByteRange, send: Any, *, last: bool = False) -> None:
    """The bytes of a definite span as body messages; unless this is the `last` of an answer, more
    is to follow.

    Raises:
        GenerationGone: somebody else changed the stored file.
        TimeoutError: the client did not take a mebibyte within 120 s.
        StorageFailed: the stored file is not what it should be.
    """
    assert span.stop is not None
    for offset in range(span.start, span.stop, MESSAGE):
        data = await read(entry.fd, offset, min(MESSAGE, span.stop - offset))
        entry.check_unchanged()
        more = not last or offset + len(data) < span.stop
        await send_part(send, data, more=more)
