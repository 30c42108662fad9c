"""A digest over the whole is right in whatever order the bytes were stored."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from hawker.core.digests import Digest
from hawker.core.errors import DigestMismatch, StorageFailed
from hawker.core.transfer.whole import WholeDigest

DATA = os.urandom(3_000_001)
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())


def stored(path: Path, data: bytes, parts: list[tuple[int, int]], digest: Digest) -> WholeDigest:
    path.write_bytes(data)
    whole = WholeDigest(digest, "http://origin.test/x")
    for start, stop in parts:
        whole.feed(start, memoryview(data)[start:stop])
    return whole


@pytest.mark.parametrize("order", ["in order", "mixed", "nothing", "the end"])
def test_right_content_passes(order: str, tmp_path: Path) -> None:
    parts = [(at, min(at + 65_536, len(DATA))) for at in range(0, len(DATA), 65_536)]
    if order == "mixed":
        random.Random(4).shuffle(parts)
    chosen = {"nothing": [], "the end": parts[20:]}.get(order, parts)
    whole = stored(tmp_path / "content", DATA, chosen, DIGEST)
    assert whole.reached(len(DATA)) == (order == "in order")
    whole.check(tmp_path / "content")


@pytest.mark.parametrize("fed", [0, 1_000_000, len(DATA)])
def test_one_flipped_byte_fails(fed: int, tmp_path: Path) -> None:
    wrong = bytearray(DATA)
    wrong[999_999] ^= 1
    whole = stored(tmp_path / "content", bytes(wrong), [(0, fed)], DIGEST)
    with pytest.raises(DigestMismatch, match=r"x has sha256:"):
        whole.check(tmp_path / "content")


def test_a_file_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    whole = WholeDigest(DIGEST, "http://origin.test/x")
    with pytest.raises(StorageFailed, match="nowhere"):
        whole.check(tmp_path / "nowhere")
