"""The other built-in plugins: zstd, the default evaluator, the file source, cluster tokens."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hawker.core.contracts import Candidate, Child, SourceRequest
from hawker.core.errors import (
    BadRequest,
    Forbidden,
    HawkerError,
    NotFound,
    OriginChanged,
    Unauthenticated,
)
from hawker.core.ranges import ByteRange
from hawker.core.settings import load
from hawker.core.tokens import ClusterKey, create_key_file, read_key_file
from hawker.plugins.auth.cluster import ClusterAuthenticator
from hawker.plugins.compression.zstd import MAX_OUTPUT, ZstdCodec
from hawker.plugins.evaluators.default import DefaultEvaluator
from hawker.plugins.sources.file import FileSource


@given(st.binary(max_size=5000), st.integers(1, 700))
def test_zstd_gives_back_what_it_took(data: bytes, step: int) -> None:
    codec = ZstdCodec()
    coded = codec.encode(data)
    decoder = codec.decoder()
    out = b"".join(decoder.feed(coded[at : at + step]) for at in range(0, len(coded), step))
    assert out == data and decoder.finished
    with pytest.raises(ValueError, match="after the end"):
        decoder.feed(b"more")


def test_zstd_leaves_random_data_alone_and_bounds_what_a_bomb_becomes() -> None:
    codec = ZstdCodec()
    assert not codec.worthwhile(os.urandom(65536))
    assert codec.worthwhile(b"text and text and text " * 3000)
    with pytest.raises(ValueError, match="more than"):
        codec.decoder().feed(codec.encode(bytes(MAX_OUTPUT + 1)))
    with pytest.raises(ValueError, match="zstd"):
        codec.decoder().feed(b"this is no frame at all")


counts = st.integers(0, 50)
places = st.sampled_from(["", "eu", "eu|de", "eu|de|fra", "us"])


@given(counts, counts, counts, counts, st.floats(0, 1e10), places, places, st.booleans())
def test_a_score_lies_between_zero_and_one(
    slots: int, uploads: int, served: int, failed: int, rate: float, a: str, b: str, seed: bool
) -> None:
    candidate = Candidate("h", seed, 1, 1, slots, uploads, served, failed, rate, a, b, False, 1)
    score = DefaultEvaluator().score(Child("c", a, a), candidate)
    assert score == -1 if slots == 0 else 0 <= score <= 1


def test_free_near_and_healthy_parents_score_higher() -> None:
    def score(**fields: object) -> float:
        base = {
            "host": "h", "seed": False, "have": 1, "wanted": 1, "upload_slots": 4, "uploads": 0,
            "served": 10, "failed": 0, "serving_rate": 0.0, "idc": "i", "location": "eu|de",
            "same_zone": True, "depth": 1,
        }  # fmt: skip
        child = Child("c", "i", "eu|de")
        return DefaultEvaluator().score(child, Candidate(**{**base, **fields}))  # type: ignore[arg-type] # fields by name

    best = score()
    for worse in (
        {"uploads": 4}, {"failed": 10}, {"idc": "j"}, {"location": "us"}, {"seed": True},
        {"serving_rate": 1e6},
    ):  # fmt: skip
        assert score(**worse) < best, worse


def read(url: str, span: ByteRange | None = None) -> tuple[bytes, str | None, int | None]:
    async def main() -> tuple[bytes, str | None, int | None]:
        reading = await FileSource().open(SourceRequest(url), span)
        try:
            body = b"".join([chunk async for chunk in reading.stream()])
            return body, reading.validator, reading.total
        finally:
            await reading.close()

    return asyncio.run(main())


def test_files_are_read_whole_and_in_parts(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    file = tmp_path / "a b"
    file.write_bytes(data)
    url = f"file://{tmp_path}/a%20b"
    body, validator, total = read(url)
    assert (body, total) == (data, len(data))
    assert read(url, ByteRange(5, 10)) == (data[5:10], validator, total)
    file.write_bytes(data)
    assert read(url)[1] != validator, "any write is another content"

    async def stale() -> None:
        await FileSource().read(SourceRequest(url), ByteRange(0, 1), str(validator), total)

    with pytest.raises(OriginChanged):
        asyncio.run(stale())


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("file:///nowhere/at/all", NotFound),
        ("file://otherhost/etc/hosts", BadRequest),
        ("file:relative", BadRequest),
        ("file:///tmp%00/x", BadRequest),
        ("file:///tmp", BadRequest),
        ("file:///dev/zero", BadRequest),
    ],
)
def test_what_is_no_regular_file_is_refused(url: str, error: type[HawkerError]) -> None:
    with pytest.raises(error):
        read(url)


def test_directories_are_listed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").write_bytes(b"12345")

    async def main() -> list[tuple[str, int | None, bool]]:
        items = FileSource().list(SourceRequest(f"file://{tmp_path}"))
        return [(item.url.rsplit("/", 1)[1], item.size, item.directory) async for item in items]

    assert asyncio.run(main()) == [("file", 5, False), ("sub", None, True)]


async def _read(source: FileSource, request: SourceRequest) -> bytes:
    reading = await source.open(request)
    try:
        return b"".join([chunk async for chunk in reading.stream()])
    finally:
        await reading.close()


def test_others_get_only_files_below_the_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "in-and-out"
    for directory in (inside, outside):
        directory.mkdir()
        (directory / "f").write_bytes(directory.name.encode())
    (inside / "link").symlink_to(outside / "f")
    (inside / "way").symlink_to(outside)
    source = FileSource([str(inside)])
    bad = [f"{outside}/f", f"{inside}/link", f"{inside}/way/f", f"{inside}/%2e%2e/in-and-out/f"]

    async def main() -> None:
        assert await _read(source, SourceRequest(f"file://{inside}/f")) == b"in"
        for path in (*bad, f"{outside}/nothing"):
            for none in (source, FileSource([])):
                with pytest.raises(Forbidden, match=r"sources\.file\.roots"):
                    await _read(none, SourceRequest(f"file://{path}"))
        with pytest.raises(Forbidden):
            [item async for item in source.list(SourceRequest(f"file://{outside}"))]
        for path in bad:
            asked = SourceRequest(f"file://{path}", local=True)
            assert await _read(source, asked) == b"in-and-out"

    asyncio.run(main())


def test_a_link_that_changes_while_it_is_followed_leads_nowhere_else(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "f").write_bytes(b"for all")
    (tmp_path / "secret").write_bytes(b"for its owner")
    link, over = inside / "link", threading.Event()

    def flip() -> None:
        number = 0
        while not over.is_set():
            number += 1
            other = inside / f"link-{number % 2}"
            other.symlink_to((inside / "f", tmp_path / "secret")[number % 2])
            other.rename(link)

    async def main() -> set[bytes]:
        source, seen = FileSource([str(inside)]), set()
        for _ in range(3000):
            try:
                seen.add(await _read(source, SourceRequest(f"file://{link}")))
            except (Forbidden, NotFound):
                continue
        return seen

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        assert asyncio.run(main()) == {b"for all"}
    finally:
        over.set()
        thread.join()


def test_cluster_tokens_are_known_and_others_left_to_others(tmp_path: Path) -> None:
    file = tmp_path / "key"
    create_key_file(file)
    settings = load({"cluster.key_file": str(file)}, environ={}).settings
    authenticator = ClusterAuthenticator(settings)
    token = ClusterKey(read_key_file(file)).mint("h", ["pieces"])

    async def main() -> None:
        caller = await authenticator.authenticate({"authorization": f"Bearer {token}"})
        assert caller is not None and caller.may("pieces")
        for foreign in ({}, {"authorization": "Basic eA=="}, {"authorization": "Bearer opaque"}):
            assert await authenticator.authenticate(foreign) is None
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate({"authorization": f"Bearer {token}x"})

    asyncio.run(main())
