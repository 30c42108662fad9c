"""What a host read while nobody could grant a lease, and who says it again with one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from hawker.core.digests import ALONE, DigestRun, HostKey, Reader
from hawker.core.storage import Entry, Store
from tests.core.storage.conftest import PIECE, Sample

SAMPLE = Sample("alone", os.urandom(6 * PIECE + 7), HostKey.generate(), "0123456789abcdef")
ALL = dict(enumerate(SAMPLE.digests))


def run(first: int, last: int, lease: str, *, key: HostKey = SAMPLE.key) -> DigestRun:
    unsigned = msgspec.structs.replace(SAMPLE.run(first, last), lease=lease, host=key.host)
    return key.sign(msgspec.structs.replace(unsigned, signature=b""))


async def read(entry: Entry, first: int, last: int, lease: str) -> None:
    """Store pieces as their reader does."""
    for piece in range(first, last + 1):
        part = memoryview(SAMPLE.piece(piece))
        await asyncio.to_thread(entry.write, piece * PIECE, part)
    reader = Reader(SAMPLE.key.host, SAMPLE.key.public, lease)
    await entry.learn([run(first, last, lease)], [reader])
    await entry.commit({piece: ALL[piece] for piece in range(first, last + 1)})


def test_only_what_this_host_read_under_no_lease_is_its_own_to_say_again(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store.open(tmp_path / "data")
        await store.start()
        entry = await SAMPLE.create(store)
        with entry.using():
            await read(entry, 0, 3, ALONE + "1")
            await read(entry, 4, 6, "lease")
            assert entry.read_alone(SAMPLE.key.host) == {p: ALL[p] for p in range(4)}
            assert entry.read_alone(HostKey.generate().host) == {}
            # A part of it is said again, by a reader with a lease that others go by.
            other = HostKey.generate()
            reader = Reader(other.host, other.public, "granted")
            assert entry.is_news(run(1, 2, "granted", key=other))
            await entry.learn([run(1, 2, "granted", key=other)], [reader])
            assert not entry.is_news(run(1, 2, "granted", key=other))
            assert entry.read_alone(SAMPLE.key.host) == {0: ALL[0], 3: ALL[3]}
            # Nothing of a host that read alone takes the place of that.
            assert not entry.is_news(run(0, 6, ALONE + "2"))
            await entry.learn([run(0, 3, "lease")], [SAMPLE.reader])
            assert entry.read_alone(SAMPLE.key.host) == {}
            assert {known.lease for known in entry.runs} == {"lease", "granted"}
            told = {p: entry.digest_of(p) for p in range(7)}
        await store.close()
        again = Store.open(tmp_path / "data")
        await again.start()
        entry = again.entries()[0]
        with entry.using():
            assert {p: entry.digest_of(p) for p in range(7)} == told == ALL
            assert {known.lease for known in entry.runs} == {"lease", "granted"}
        await again.close()

    asyncio.run(main())
