"""Writes pieces until it is killed; run by test_store_crash.

One process imports what is needed and then forks a writer for each line it reads, so that each kill
costs a fork and not a start of Python. Output, one line each:

    started PID           a writer was forked
    committed N P         piece P of content N is valid
    removing N            from now on content N may be missing
    ended CODE            the writer is gone; a signal's number is negative
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import sys
import traceback
from pathlib import Path

from hawker.core.digests import DigestRun, HostKey, Reader
from hawker.core.ids import TaskSpec
from hawker.core.pieces import KIB, Layout
from hawker.core.storage import Entry, Store

PIECE = 256 * KIB
PIECES = 12
CONTENTS = 5
GENERATION = "0123456789abcdef"
KEY = HostKey.from_bytes(bytes(range(32)))


def spec_of(content: int) -> TaskSpec:
    return TaskSpec(url=f"http://origin.test/{content}")


def bytes_of(content: int) -> bytes:
    return random.Random(content).randbytes(PIECES * PIECE - 1000 * content)


def say(text: str) -> None:
    """One write, so that a line is told as a whole or not at all."""
    os.write(1, f"{text}\n".encode())


async def write(directory: Path, contents: list[bytes], rng: random.Random) -> None:
    store = Store.open(directory)
    await store.start()
    async with asyncio.TaskGroup() as group:
        for content, data in enumerate(contents):
            group.create_task(write_one(store, content, data, rng))


async def write_one(store: Store, content: int, data: bytes, rng: random.Random) -> None:
    spec, layout = spec_of(content), Layout(len(data), PIECE)
    while True:
        entry = await store.create(spec, GENERATION, layout)
        await entry.prepare()
        with entry.using():
            missing = list(layout.everything() - entry.valid)
            rng.shuffle(missing)
            for piece in missing:
                await write_piece(entry, content, piece, data)
        say(f"removing {content}")
        await store.remove(spec.task_id)


async def write_piece(entry: Entry, content: int, piece: int, data: bytes) -> None:
    part = data[piece * PIECE : (piece + 1) * PIECE]
    digest = hashlib.sha256(part).digest()
    run = DigestRun(
        task=entry.task,
        generation=GENERATION,
        first=piece,
        digests=digest,
        piece_length=PIECE,
        total=len(data),
        host=KEY.host,
        lease="lease",
    )
    await asyncio.to_thread(entry.write, piece * PIECE, memoryview(part))
    await entry.learn([KEY.sign(run)], [Reader(KEY.host, KEY.public, "lease")])
    await entry.commit({piece: digest})
    say(f"committed {content} {piece}")


def main() -> None:
    directory = Path(sys.argv[1])
    contents = [bytes_of(content) for content in range(CONTENTS)]
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(write(directory, contents, random.Random(int(line))))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        say(f"started {child}")
        _, status = os.waitpid(child, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
