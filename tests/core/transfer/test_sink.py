"""Bodies in whatever chunks: each piece stored at its place, and hashed."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hawker.core.errors import DigestMismatch
from hawker.core.pieces import KIB, Layout
from hawker.core.transfer.sink import MemorySink, PieceSink

PIECE = 256 * KIB
DATA = random.Random(9).randbytes(3 * PIECE + 1000)
LAYOUT = Layout(len(DATA), PIECE)
DIGESTS = {p: hashlib.sha256(DATA[p * PIECE : (p + 1) * PIECE]).digest() for p in range(4)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 400 * KIB), min_size=1, max_size=12), st.integers(0, 3))
def test_every_piece_is_stored_and_hashed(sizes: list[int], first: int) -> None:
    stored = bytearray(len(DATA))

    def store(offset: int, part: memoryview) -> None:
        stored[offset : offset + len(part)] = part

    sink = PieceSink(LAYOUT, (first, 3), store)
    memory = MemorySink(LAYOUT, (first, 3))
    body, at = DATA[first * PIECE :], 0
    for size in [*sizes, len(body)]:
        chunk = memoryview(body[at : at + size])
        sink.write(chunk)
        memory.write(chunk)
        at += len(chunk)
    expected = {piece: digest for piece, digest in DIGESTS.items() if piece >= first}
    assert sink.digests == memory.digests == expected
    assert stored[first * PIECE :] == body == bytes(memory.data)
    with pytest.raises(DigestMismatch, match="more than"):
        sink.write(memoryview(b"x"))


def test_the_tail_of_unknown_content_is_known_at_its_end() -> None:
    sink = PieceSink(Layout(None, PIECE), (0, 100), None)
    assert sink.tail() is None
    sink.write(memoryview(DATA))
    assert sink.tail() == (3, DIGESTS[3])
    assert sorted(sink.digests) == [0, 1, 2]
