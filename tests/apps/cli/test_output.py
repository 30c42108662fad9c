"""The user's file appears whole or not at all."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hawker.apps.cli.output import Output, default_name
from hawker.apps.cli.writing import write_file
from hawker.core.errors import OutputFailed, Unavailable


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def write(output: Output, *parts: bytes, expected: int | None = None) -> None:
    asyncio.run(write_file(chunks(*parts), output, expected))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.tar?x=/y", "b.tar"),
        ("http://h/a%20b", "a b"),
        ("s3://bucket/key", "key"),
        ("sha256:" + "a" * 64, "a" * 64),
    ],
)
def test_name_is_the_last_segment_of_the_url(url: str, name: str) -> None:
    assert default_name(url) == name


@pytest.mark.parametrize(
    "url",
    ["http://h", "http://h/", "http://h/a/", "http://h/%2e%2e", "http://h/a%2Fb", "http://h/%00"],
)
def test_url_without_a_usable_name_is_refused(url: str) -> None:
    with pytest.raises(OutputFailed):
        default_name(url)


def test_file_is_written_with_an_ordinary_mode(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write(Output(tmp_path / "f"), b"one", b"two", expected=6)
    finally:
        os.umask(old)
    assert (tmp_path / "f").read_bytes() == b"onetwo"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["f"]


def test_short_stream_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        write(Output(tmp_path / "f"), b"one", expected=6)
    assert os.listdir(tmp_path) == []


def test_failing_stream_leaves_the_old_file(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"new"
        raise Unavailable("gone")

    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(Unavailable):
        asyncio.run(write_file(broken(), Output(tmp_path / "f", overwrite=True), None))
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_file_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"new"
        (tmp_path / "f").write_bytes(b"other")

    output = Output(tmp_path / "f")
    output.check()
    with pytest.raises(OutputFailed):
        asyncio.run(write_file(slow(), output, None))
    assert (tmp_path / "f").read_bytes() == b"other"
    assert os.listdir(tmp_path) == ["f"]


def test_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to("nowhere")
    with pytest.raises(OutputFailed):
        Output(tmp_path / "f").check()


def test_long_name_can_be_written(tmp_path: Path) -> None:
    name = "n" * 255
    write(Output(tmp_path / name), b"x")
    assert os.listdir(tmp_path) == [name]
