"""A file as a torrent (BEP 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

Value = int | bytes | Mapping[bytes, "Value"]


def bencode(value: Value) -> bytes:
    """The value in bencoding, keys in order."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%b" % (len(value), value)
    pairs = (bencode(key) + bencode(value[key]) for key in sorted(value))
    return b"d%be" % b"".join(pairs)


def write_torrent(file: Path, torrent: Path, tracker: str, piece_length: int) -> None:
    """Write a torrent of one file in pieces of `piece_length` bytes, private to its tracker."""
    digests = []
    with file.open("rb") as content:
        while piece := content.read(piece_length):
            digests.append(hashlib.sha1(piece, usedforsecurity=False).digest())
    info: dict[bytes, Value] = {
        b"name": file.name.encode(),
        b"length": file.stat().st_size,
        b"piece length": piece_length,
        b"pieces": b"".join(digests),
        b"private": 1,
    }
    torrent.write_bytes(bencode({b"announce": tracker.encode(), b"info": info}))
