"""The contract of a source as tests: subclass `SourceContract` in a test module of your own.

    from hawker.core.testing.sources import SourceContract

    class TestMySource(SourceContract):
        def make_source(self):
            return MySource()

        def put(self, name, data):
            self.server.files[name] = data
            return self.server.url(name)

        def remove(self, name):
            del self.server.files[name]

Fixtures work as in any test class. Each test makes sources on its own event loop, and closes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from hawker.core.contracts import Reading, Source, SourceRequest
from hawker.core.errors import BadRequest, NotFound, OriginChanged, OriginFailed, OriginRefused
from hawker.core.ranges import ByteRange

DEADLINE = 30.0
SETTLE = 10.0
POLL = 0.01
SMALL = 70_001
# More than the buffers between an origin and a reader hold, so that a reading can be left halfway.
LARGE = 24 * 1024 * 1024

Check = Callable[[Source], Awaitable[None]]


class SourceContract:
    """What `hawker.core.contracts.Source` promises, shown with an origin of the subclass."""

    def make_source(self) -> Source:
        """A source as it is when its plugin has been loaded; called on the test's event loop."""
        raise NotImplementedError

    def put(self, name: str, data: bytes) -> str:
        """Create or replace an object; returns its URL, with what needs quoting in it quoted.

        Names have slashes; a URL up to a slash is what `list` is asked for.
        """
        raise NotImplementedError

    def change(self, name: str, data: bytes) -> None:
        """Give an object other content, later than it was put."""
        self.put(name, data)

    def remove(self, name: str) -> None:
        """Take an object away."""
        raise NotImplementedError

    def forbid(self, name: str) -> None:
        """From now on the origin refuses this object to sources that `make_source` returns."""
        pytest.skip("this origin refuses nobody")

    # ------------------------------------------------------------------ what there is

    def test_the_whole_content_and_what_is_known_of_it(self) -> None:
        data = _random(SMALL)
        url = self.put("whole", data)

        async def check(source: Source) -> None:
            async with _opened(source, url) as reading:
                assert reading.total in (SMALL, None)
                assert reading.validator is None or reading.validator
                assert reading.digest in ("", "sha256:" + hashlib.sha256(data).hexdigest())
                assert reading.span in (None, ByteRange(0, SMALL))
                assert await _all(reading) == data

        self._run(check)

    def test_content_larger_than_any_buffer(self) -> None:
        data = _random(LARGE)
        url = self.put("large", data)

        async def check(source: Source) -> None:
            async with _opened(source, url) as reading:
                assert await _all(reading) == data

        self._run(check)

    def test_empty_content(self) -> None:
        url = self.put("empty", b"")

        async def check(source: Source) -> None:
            for wish in (None, ByteRange(0, 1), ByteRange(0)):
                async with _opened(source, url, wish) as reading:
                    assert reading.total in (0, None)
                    assert reading.span in (None, ByteRange(0, 0))
                    assert await _all(reading) == b""

        self._run(check)

    def test_a_name_that_needs_quoting(self) -> None:
        data = _random(100)
        url = self.put("a folder/50% + #1?&=ü.bin", data)

        async def check(source: Source) -> None:
            async with _opened(source, url) as reading:
                assert await _all(reading) == data

        self._run(check)

    def test_an_object_that_is_not_there(self) -> None:
        url = self.put("gone", b"gone")
        self.remove("gone")

        async def check(source: Source) -> None:
            for wish in (None, ByteRange(0, 1)):
                with pytest.raises(NotFound):
                    await source.open(SourceRequest(url), wish)

        self._run(check)

    def test_an_object_that_others_may_read(self) -> None:
        url = self.put("secret", b"secret")
        self.forbid("secret")

        async def check(source: Source) -> None:
            with pytest.raises(OriginRefused):
                await source.open(SourceRequest(url))

        self._run(check)

    # ------------------------------------------------------------------ parts

    @pytest.mark.parametrize(
        "wish",
        [
            ByteRange(0, 1),
            ByteRange(0, SMALL),
            ByteRange(1000, 3000),
            ByteRange(SMALL - 1, SMALL),
            ByteRange(SMALL - 5, SMALL + 50),
            ByteRange(3, None),
            ByteRange(SMALL + 10, SMALL + 20),
        ],
    )
    def test_a_wish_gives_that_part_or_says_that_it_gives_all(self, wish: ByteRange) -> None:
        data = _random(SMALL)
        url = self.put("part", data)

        async def check(source: Source) -> None:
            async with _opened(source, url, wish) as reading:
                assert reading.span in (None, wish.clip(SMALL))
                span = reading.span or ByteRange(0)
                assert await _all(reading) == data[span.start : span.stop]

        self._run(check)

    @pytest.mark.parametrize(
        "span",
        [
            ByteRange(0, 1),
            ByteRange(0, SMALL),
            ByteRange(1000, 3000),
            ByteRange(SMALL - 1, SMALL),
        ],
    )
    def test_a_part_of_what_was_opened_before(self, span: ByteRange) -> None:
        data = _random(SMALL)
        url = self.put("part", data)

        async def check(source: Source) -> None:
            validator, total = await self._resumable(source, url)
            reading = await source.read(SourceRequest(url), span, validator, total)
            async with _closing(reading):
                assert reading.span == span
                assert (reading.validator, reading.total) == (validator, total)
                assert await _all(reading) == data[span.start : span.stop]

        self._run(check)

    def test_a_part_beyond_the_end_is_never_another_part(self) -> None:
        url = self.put("part", _random(SMALL))

        async def check(source: Source) -> None:
            validator, total = await self._resumable(source, url)
            for start in (SMALL - 10, SMALL, SMALL + 10):
                with pytest.raises((OriginFailed, OriginChanged)):
                    await source.read(
                        SourceRequest(url), ByteRange(start, SMALL + 20), validator, total
                    )

        self._run(check)

    def test_a_part_of_content_that_changed_in_between(self) -> None:
        url = self.put("changing", _random(SMALL))

        async def check(source: Source) -> None:
            validator, total = await self._resumable(source, url)
            # As long as before, so that only the validator tells.
            self.change("changing", _random(SMALL))
            with pytest.raises(OriginChanged):
                await source.read(SourceRequest(url), ByteRange(100, 200), validator, total)
            async with _opened(source, url) as reading:
                assert reading.validator not in (validator, None)

        self._run(check)

    def test_a_part_of_content_that_went_away_in_between(self) -> None:
        url = self.put("going", _random(SMALL))

        async def check(source: Source) -> None:
            validator, total = await self._resumable(source, url)
            self.remove("going")
            with pytest.raises((NotFound, OriginChanged)):
                await source.read(SourceRequest(url), ByteRange(100, 200), validator, total)

        self._run(check)

    def test_two_parts_at_the_same_time(self) -> None:
        data = _random(LARGE)
        url = self.put("large", data)
        half = LARGE // 2

        async def check(source: Source) -> None:
            validator, total = await self._resumable(source, url)

            async def part(span: ByteRange) -> bytes:
                reading = await source.read(SourceRequest(url), span, validator, total)
                async with _closing(reading):
                    return await _all(reading)

            async with asyncio.TaskGroup() as group:
                first = group.create_task(part(ByteRange(0, half)))
                second = group.create_task(part(ByteRange(half, LARGE)))
            assert first.result() == data[:half]
            assert second.result() == data[half:]

        self._run(check)

    # ------------------------------------------------------------------ leaving early

    def test_closing_without_reading_leaves_nothing_behind(self) -> None:
        url = self.put("large", _random(LARGE))

        async def check(source: Source) -> None:
            for _ in range(10):
                reading = await source.open(SourceRequest(url))
                await reading.close()

        self._run_and_count(check)

    def test_closing_halfway_leaves_nothing_behind(self) -> None:
        data = _random(LARGE)
        url = self.put("large", data)

        async def check(source: Source) -> None:
            for _ in range(5):
                async with _opened(source, url) as reading:
                    async for chunk in reading.stream():
                        assert data.startswith(chunk)
                        break
            async with _opened(source, url) as reading:
                assert await _all(reading) == data

        self._run_and_count(check)

    def test_cancelling_at_any_moment_leaves_nothing_behind(self) -> None:
        data = _random(LARGE)
        url = self.put("large", data)

        async def check(source: Source) -> None:
            async def read() -> None:
                async with _opened(source, url) as reading:
                    assert await _all(reading) == data

            for moment in range(25):
                # Earlier and later than the answer: the delay is a different one each time.
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(read())
                    await asyncio.wait({task}, timeout=moment * 0.002)
                    task.cancel()
            await read()

        self._run_and_count(check)

    # ------------------------------------------------------------------ listings

    def test_a_listing_or_a_clear_refusal(self) -> None:
        sizes = {"listed/one": 10, "listed/two words": 20, "listed/below/three": 30}
        urls = {name: self.put(name, _random(size)) for name, size in sizes.items()}
        parent = urls["listed/one"].rpartition("/")[0] + "/"

        async def check(source: Source) -> None:
            try:
                items = [item async for item in source.list(SourceRequest(parent))]
            except BadRequest:
                return
            files = {item.url: item.size for item in items if not item.directory}
            assert files.keys() == {urls["listed/one"], urls["listed/two words"]}
            assert files[urls["listed/one"]] in (10, None)
            folders = [item.url.rstrip("/") for item in items if item.directory]
            assert folders == [urls["listed/below/three"].rpartition("/")[0]]

        self._run(check)

    # ------------------------------------------------------------------ own

    async def _resumable(self, source: Source, url: str) -> tuple[str, int | None]:
        """What a ranged reading needs to know; skips where the source has no ranges."""
        async with _opened(source, url, ByteRange(0, 1)) as reading:
            if not reading.ranges or reading.validator is None:
                pytest.skip("this source reads no parts")
            return reading.validator, reading.total

    def _run(self, check: Check) -> None:
        async def main() -> None:
            async with asyncio.timeout(DEADLINE):
                source = self.make_source()
                try:
                    await check(source)
                finally:
                    await source.close()

        asyncio.run(main())

    def _run_and_count(self, check: Check) -> None:
        """Run a check; then this process has no more open files and tasks than before."""
        url = self.put("first", b"first")

        async def main() -> None:
            async with asyncio.timeout(DEADLINE + SETTLE):
                # What is opened once and for all is no leak.
                first = self.make_source()
                async with _opened(first, url) as reading:
                    assert await _all(reading) == b"first"
                await first.close()
                await _settle(lambda: len(asyncio.all_tasks()) == 1)
                before = await _least(_open_files)
                source = self.make_source()
                try:
                    await check(source)
                finally:
                    await source.close()
                await _settle(lambda: _open_files() <= before and len(asyncio.all_tasks()) == 1)

        asyncio.run(main())


def _random(size: int) -> bytes:
    return random.randbytes(size)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def _least(count: Callable[[], int]) -> int:
    """The smallest of some counts: an origin in this process still closes what we have closed."""
    least = count()
    for _ in range(20):
        await asyncio.sleep(POLL)
        least = min(least, count())
    return least


async def _settle(done: Callable[[], bool]) -> None:
    """Until it is done; fails where it never is."""
    for _ in range(int(SETTLE / POLL)):
        if done():
            return
        await asyncio.sleep(POLL)
    pytest.fail(f"open files {_open_files()}, tasks {len(asyncio.all_tasks())}: some are left")


@contextlib.asynccontextmanager
async def _closing(reading: Reading) -> AsyncIterator[Reading]:
    try:
        yield reading
    finally:
        await reading.close()


@contextlib.asynccontextmanager
async def _opened(
    source: Source, url: str, wish: ByteRange | None = None
) -> AsyncIterator[Reading]:
    async with _closing(await source.open(SourceRequest(url), wish)) as reading:
        yield reading


async def _all(reading: Reading) -> bytes:
    return b"".join([chunk async for chunk in reading.stream()])
