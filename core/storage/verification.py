"""Pieces on disk against their digests; blocking, for threads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from hawker.core.pieces import MIB, Layout

_CHUNK = MIB
_SLICE_BYTES = 64 * MIB


def slices(layout: Layout, digests: Mapping[int, bytes]) -> Iterator[dict[int, bytes]]:
    """The pieces to check in parts of about 64 MiB, each for one thread at a time."""
    pieces = iter(sorted(digests))
    while part := list(islice(pieces, max(1, _SLICE_BYTES // layout.piece_length))):
        yield {piece: digests[piece] for piece in part}


def matching(path: Path, layout: Layout, digests: Mapping[int, bytes]) -> list[int]:
    """The pieces whose bytes on disk have the digest they should have; none of a missing file."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return []
    try:
        return [piece for piece in digests if _digest(fd, layout, piece) == digests[piece]]
    finally:
        os.close(fd)


def _digest(fd: int, layout: Layout, piece: int) -> bytes | None:
    """The digest of a piece on disk, None where it is not there as a whole or cannot be read."""
    hasher = hashlib.sha256()
    offset, left = layout.offset(piece), layout.length(piece)
    buffer = memoryview(bytearray(min(left, _CHUNK)))
    while left:
        try:
            got = os.preadv(fd, [buffer[: min(left, _CHUNK)]], offset)
        except OSError:
            return None
        if got == 0:
            return None
        hasher.update(buffer[:got])
        offset, left = offset + got, left - got
    return hasher.digest()


def synchronise(paths: Sequence[Path]) -> bool:
    """Whether the bytes of these files are on the disk now."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            os.fsync(fd)
        except OSError:
            return False
        finally:
            os.close(fd)
    return True
