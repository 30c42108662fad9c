"""System calls that Python does not offer; each raises OSError."""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path

# linux/falloc.h
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
# linux/fs.h: _IOW(0x94, 9, int), and the flag of renameat2(2)
_FICLONE = 0x40049409
_RENAME_NOREPLACE = 0x01
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back to the filesystem; the range reads as zeros then."""
    flags = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
    _check(_libc.fallocate(fd, flags, ctypes.c_int64(offset), ctypes.c_int64(length)))


def clone(source_fd: int, target_fd: int) -> None:
    """Let the target share all blocks of the source (a reflink)."""
    fcntl.ioctl(target_fd, _FICLONE, source_fd)


def rename_no_replace(source: Path, target: Path) -> None:
    """Rename; FileExistsError where the target exists."""
    old, new = os.fsencode(source), os.fsencode(target)
    _check(_libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
