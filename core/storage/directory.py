"""The data directory: who may write to it, who holds it, and how its files are named.

    lock                                       held by the one process that uses the directory
    index.sqlite                               valid pieces
    content/ab/<task>.<generation>.<stamp>     content, sparse
    content/ab/<the same>.runs                 its header and signed digest runs

The stamp is random: a row of the index never fits the files of another life of the same
generation, so that files may be removed and made again in any order with the rows.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hawker.core.errors import StorageFailed
from hawker.core.storage.faults import storage_failure

SIDECAR_SUFFIX = ".runs"
_STEM = re.compile(r"^([0-9a-f]{64})\.([0-9a-f]{16})\.([0-9a-f]{16})$")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Files(msgspec.Struct, frozen=True):
    """Where the bytes and the runs of one life of a generation are."""

    content: Path
    sidecar: Path


class Name(msgspec.Struct, frozen=True):
    """What the name of a content file says."""

    task: str
    generation: str
    stamp: str

    @classmethod
    def new(cls, task: str, generation: str) -> Name:
        return cls(task, generation, secrets.token_hex(8))

    @classmethod
    def parse(cls, stem: str) -> Name | None:
        match = _STEM.match(stem)
        return cls(*match.groups()) if match else None

    def files(self, directory: Path) -> Files:
        stem = f"{self.task}.{self.generation}.{self.stamp}"
        folder = content_directory(directory) / self.task[:2]
        return Files(folder / stem, folder / (stem + SIDECAR_SUFFIX))


def content_directory(directory: Path) -> Path:
    return directory / "content"


def content_files(directory: Path) -> Iterator[Path]:
    """Every file below `content/`, whatever its name."""
    for folder in content_directory(directory).iterdir():
        if folder.is_dir():
            yield from (file for file in folder.iterdir() if not file.is_dir())


def prepare_directory(directory: Path) -> None:
    """Make the directory for its owner only, or make sure that nobody else can write to it.

    Raises:
        StorageFailed: it cannot be made, or it is another user's or writable by others: whoever
            can put files there can have them served.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as exc:
        raise storage_failure(exc, f"the data directory {directory}") from exc
    if status.st_uid != os.geteuid():
        raise StorageFailed(
            f"the data directory {directory} is user {status.st_uid}'s, not {os.geteuid()}'s",
            hint="choose another one with --data",
        )
    if status.st_mode & 0o022:
        raise StorageFailed(
            f"others may write to the data directory {directory}", hint=f"chmod 700 {directory}"
        )


class DirectoryLock:
    """The right to use a data directory; the kernel takes it back when the process ends."""

    def __init__(self, directory: Path, name: str = "lock") -> None:
        """Take it; raises StorageFailed naming the holder where another one has it."""
        path = directory / name
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise storage_failure(exc, f"the lock {path}") from exc
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise StorageFailed(
                f"the data directory {directory} is in use by process {holder}",
                hint="one daemon per data directory: talk to that one, or choose another --data",
            ) from exc
        # Only information, so a full disk does not matter; padded, so that no truncation is needed.
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, b"%-31d\n" % os.getpid(), 0)

    def release(self) -> None:
        os.close(self._fd)


def boot_id() -> str:
    """Names the time since the machine was started; raises StorageFailed where there is none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError as exc:
        raise storage_failure(exc, f"the boot id {_BOOT_ID}") from exc
