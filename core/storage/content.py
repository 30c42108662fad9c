"""The open content file of an entry, shared by its users and by writes still under way."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hawker.core.errors import StorageFailed


class ContentFile:
    """Opened by the first user, closed when the last one and every write has let go.

    A write may outlive its user: a thread cannot be cancelled. If the descriptor were closed under
    it, its number could be another file's by then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The kernel writes a file for one thread at a time; the others spin, and take the core
        # from those that hash.
        self.turn = threading.Lock()
        self._lock = threading.Lock()
        self._holders = 0
        self._fd = -1
        self._only_read = False

    def hold(self, *, read_only: bool) -> None:
        """Open the file, or keep it open; raises OSError.

        On a filesystem that became read-only it is open for reading: what is stored can be given.
        """
        with self._lock:
            if self._holders == 0:
                self._only_read = False
                self._fd = self._open(read_only)
            self._holders += 1

    def _open(self, read_only: bool) -> int:
        if not read_only:
            try:
                return os.open(self.path, os.O_RDWR)
            except OSError as exc:
                if exc.errno != errno.EROFS:
                    raise
                self._only_read = True
        return os.open(self.path, os.O_RDONLY)

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                os.close(self._fd)

    @property
    def fd(self) -> int:
        """The descriptor; raises StorageFailed where nobody holds the file."""
        with self._lock:
            return self._held()

    @contextmanager
    def borrow(self) -> Iterator[int]:
        """The descriptor, which stays open inside, to write to.

        Raises:
            StorageFailed: nobody holds the file.
            OSError: its filesystem is read-only.
        """
        with self._lock:
            fd = self._held()
            if self._only_read:
                self._replace()
                self._only_read = False
            self._holders += 1
        try:
            yield fd
        finally:
            self.release()

    def reopen(self) -> None:
        """Let the descriptor stand for the file that has this path now; raises OSError."""
        with self._lock:
            if self._holders:
                self._replace()

    def _replace(self) -> None:
        fd = os.open(self.path, os.O_RDWR)
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)

    def _held(self) -> int:
        if self._holders == 0:
            raise StorageFailed(f"the stored file {self.path.name} is not in use")
        return self._fd


def write_fully(fd: int, offset: int, data: memoryview) -> None:
    """Write all of it; raises OSError."""
    while data:
        written = os.pwrite(fd, data, offset)
        offset += written
        data = data[written:]
