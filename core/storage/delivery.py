"""From a stored file to the user's path: whole or not at all, never over another file unasked."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from hawker.core.errors import GenerationGone, OutputFailed
from hawker.core.pieces import MIB
from hawker.core.storage.linux import clone, rename_no_replace
from hawker.core.storage.mark import Mark

_COPY_STEP = 64 * MIB
# Filesystems without hard links, or that do not let this user make one.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
# copy_file_range(2) between filesystems, or on one that cannot do it.
_NO_RANGE_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


def deliver(
    source: Path,
    target: Path,
    *,
    overwrite: bool,
    hard_link: bool = False,
    move: bool = False,
    mark: Mark | None = None,
) -> str:
    """Make `target` have the bytes of `source`; blocking.

    The target appears at once and as a whole, with the mode that the umask gives (a hard link has
    that of the source). A symbolic link in its place is replaced, not followed. `move` takes the
    source away. With `mark`, a source that does not look so before and after is not delivered.

    Returns:
        How: "reflink", "copy", "hard link" or "move".

    Raises:
        OutputFailed: the target exists and `overwrite` is false, or it cannot be written; there is
            nothing of it then, and the source is where it was.
        GenerationGone: somebody changed the source.
    """
    _check_target(target, overwrite)
    try:
        if hard_link:
            _check_mark(source, mark)
            _hard_link(source, target, overwrite)
            return "hard link"
        if move and _moved(source, target, overwrite):
            return "move"
        how = _copy(source, target, overwrite, mark)
        if move:
            source.unlink()
        return how
    except FileExistsError as exc:
        raise _exists(target) from exc
    except OSError as exc:
        raise OutputFailed(f"{target} cannot be written: {exc.strerror or exc}") from exc


def _check_target(target: Path, overwrite: bool) -> None:
    """Fail before any byte is copied where the target cannot be had."""
    if not overwrite and os.path.lexists(target):
        raise _exists(target)
    try:
        mode = target.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise OutputFailed(
            f"{target} is not a regular file", hint="name a file, or write to standard output"
        )


def _exists(target: Path) -> OutputFailed:
    return OutputFailed(f"{target} exists", hint="remove it, or allow overwriting")


def _temporary(target: Path) -> Path:
    # Half of the 255 bytes a name may have at most are enough to recognise it.
    name = os.fsdecode(os.fsencode(target.name)[:120])
    return target.with_name(f".{name}.{secrets.token_hex(6)}.part")


def _check_mark(source: Path, mark: Mark | None) -> None:
    if mark is not None and Mark.of(os.stat(source)) != mark:
        raise GenerationGone(
            f"the stored file {source} was changed by somebody else",
            hint="run the same command again: it is fetched anew",
        )


def _copy(source: Path, target: Path, overwrite: bool, mark: Mark | None = None) -> str:
    temporary = _temporary(target)
    out = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            fd = os.open(source, os.O_RDONLY)
            try:
                how = _copy_bytes(fd, out)
            finally:
                os.close(fd)
            os.fsync(out)
        finally:
            os.close(out)
        _check_mark(source, mark)
        _publish(temporary, target, overwrite)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    return how


def _copy_bytes(source: int, out: int) -> str:
    with contextlib.suppress(OSError):
        clone(source, out)
        return "reflink"
    size = os.fstat(source).st_size
    try:
        copied = _copy_ranges(source, out, size)
    except OSError as exc:
        if exc.errno not in _NO_RANGE_COPY:
            raise
        copied = 0
    while copied < size:
        sent = os.sendfile(out, source, copied, min(_COPY_STEP, size - copied))
        if sent == 0:
            raise OSError(errno.EIO, "the stored file became shorter while it was copied")
        copied += sent
    return "copy"


def _copy_ranges(source: int, out: int, size: int) -> int:
    """Bytes copied inside the kernel, from the start; it may stop early."""
    copied = 0
    while copied < size:
        step = os.copy_file_range(source, out, min(_COPY_STEP, size - copied), copied, copied)
        if step == 0:
            break
        copied += step
    os.lseek(out, copied, os.SEEK_SET)
    return copied


def _moved(source: Path, target: Path, overwrite: bool) -> bool:
    """Rename; False where the target is on another filesystem."""
    fd = os.open(source, os.O_RDONLY)
    try:
        os.fchmod(fd, _mode_of_new_file(target))
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        _publish(source, target, overwrite)
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        return False
    return True


def _mode_of_new_file(target: Path) -> int:
    """The mode the umask gives; it cannot be asked for without changing it for all threads."""
    probe = _temporary(target)
    fd = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
        probe.unlink()


def _hard_link(source: Path, target: Path, overwrite: bool) -> None:
    try:
        if not overwrite:
            os.link(source, target)
            return
        temporary = _temporary(target)
        os.link(source, temporary)
        try:
            os.rename(temporary, target)
        finally:
            # rename(2) does nothing where both names are links to one file already.
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except FileExistsError:
        raise
    except OSError as exc:
        raise OutputFailed(
            f"{target} cannot be a hard link to the stored file: {exc.strerror}",
            hint="ask for a copy: a hard link needs the data directory's filesystem",
        ) from exc


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    """Give the file its name in one step; FileExistsError where it may not replace another."""
    if overwrite:
        os.rename(temporary, target)
        return
    try:
        os.link(temporary, target)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        rename_no_replace(temporary, target)
    else:
        temporary.unlink()
