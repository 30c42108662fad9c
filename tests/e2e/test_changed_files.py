"""A stored file that somebody else changes is noticed, dropped and fetched again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, hawker

SIZE = 3 * 2**20 + 77


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(SIZE // 2)
        byte = file.read(1)
        file.seek(SIZE // 2)
        file.write(bytes([byte[0] ^ 1]))


def shorten(path: Path) -> None:
    os.truncate(path, SIZE - 5)


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(os.urandom(SIZE))
    other.rename(path)


def link_away(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


@pytest.mark.parametrize("harm", [flip, shorten, replace, link_away, Path.unlink])
def test_changed_content_is_never_delivered(
    cluster: Cluster, origin: Origin, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/file", data)
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    out = tmp_path / "out"

    def get() -> None:
        assert fetch(daemon, url, out, "--overwrite") == (0, "")
        assert out.read_bytes() == data

    get()
    for read in (get, lambda: plain(daemon, url, data)):
        [path] = [p for p in daemon.data.glob("content/*/*") if p.suffix != ".runs"]
        harm(path)
        read()
    exported = hawker("export", url, "-O", str(tmp_path / "exported"), "-e", daemon.socket)
    assert (tmp_path / "exported").read_bytes() == data, exported.stderr


def test_a_file_changed_while_the_daemon_was_away_is_noticed_too(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/file", data)
    daemon = cluster.start("up", "up")
    plain(daemon, url, data)
    daemon.stop()
    [path] = [p for p in daemon.data.glob("content/*/*") if p.suffix != ".runs"]
    flip(path)
    again = cluster.start("up", "up")
    plain(again, url, data)
    assert origin.sent_bytes < SIZE + 2**20, "only what was damaged is fetched again"


def plain(daemon: Daemon, url: str, data: bytes) -> None:
    with httpx.Client(trust_env=False, timeout=30) as client:
        answer = client.get(f"{daemon.url}/peer/v1/content", params={"url": url})
    assert answer.status_code == 200, answer.text
    assert answer.content == data
