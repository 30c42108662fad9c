"""Bringing bytes to the user: a file that appears whole or not at all, or standard output in
order."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from hawker.apps.cli.output import Output
from hawker.core.digests import Digest
from hawker.core.errors import OutputFailed, Unavailable
from hawker.core.storage.delivery import deliver

_STDOUT_DESCRIPTOR = 1


async def write_file(chunks: AsyncIterator[bytes], output: Output, expected: int | None) -> None:
    """Bring a stream to disk beside the output, then under its name.

    Raises:
        Unavailable: not the expected number of bytes.
        OutputFailed: the output cannot be written, or exists by now.
    """
    partial = output.path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            written = 0
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)
                written += len(chunk)
        if expected not in (None, written):
            raise Unavailable(f"{written} bytes came instead of {expected}")
        await asyncio.to_thread(
            deliver, partial, output.path, overwrite=output.overwrite, move=True
        )
    except OSError as exc:
        raise OutputFailed(f"{output.path} cannot be written: {exc.strerror}") from exc
    finally:
        partial.unlink(missing_ok=True)


async def print_checked(chunks: AsyncIterator[bytes], digest: str, url: str) -> None:
    """Pass a stream on to standard output as it comes, then check its digest, if one is given.

    The bytes are out by then: who reads them must look at the exit code.

    Raises:
        DigestMismatch: what was printed is not what it should be.
        OutputFailed: the reader has gone.
    """
    async for chunk in checked(chunks, digest, url):
        try:
            await _in_daemon_thread(functools.partial(_write_all, chunk))
        except OSError as exc:
            raise OutputFailed(f"standard output cannot be written: {exc.strerror}") from exc


async def checked(chunks: AsyncIterator[bytes], digest: str, what: str) -> AsyncIterator[bytes]:
    """The same chunks; raises DigestMismatch at their end where they are not what they should be,
    if a digest is given."""
    wanted = Digest.parse(digest) if digest else None
    hasher = wanted.hasher() if wanted else None
    async for chunk in chunks:
        if hasher is not None:
            hasher.update(chunk)
        yield chunk
    if wanted is not None and hasher is not None:
        wanted.check(hasher, what)


def _write_all(data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(_STDOUT_DESCRIPTOR, rest) :]


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    """Run blocking work in a thread that is abandoned when we are cancelled.

    A pool's threads are joined at exit, and a pipe that nobody reads would keep us for ever.
    """
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()

    def settle(error: OSError | None) -> None:
        if finished.done():
            return
        if error is None:
            finished.set_result(None)
        else:
            finished.set_exception(error)

    def run() -> None:
        error = None
        try:
            work()
        except OSError as exc:
            error = exc
        # The loop is closed where the command ended meanwhile.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, daemon=True).start()
    await finished
