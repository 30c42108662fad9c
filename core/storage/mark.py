"""What a stored file looks like, to see whether somebody else changed it."""

from __future__ import annotations

import os

import msgspec


class Mark(msgspec.Struct, frozen=True):
    """What a stored file looked like: any write by anybody changes it."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Mark:
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)

    @property
    def fields(self) -> tuple[int, int, int]:
        return self.size, self.mtime_ns, self.inode
