"""A peer pulls pieces over each transport, and takes the first that its parent speaks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster, Origin, fetch
from tests.e2e.test_mutual_tls import authority, issue

SIZE = 3 * 2**20 + 7


def _pull(cluster: Cluster, origin: Origin, tmp_path: Path, transports: str, *flags: str) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/file", data)
    cluster.make_key()
    scheduler = cluster.scheduler("scheduler", *(flag for flag in flags if flag != "--http3"))
    seed = cluster.peer("seed", scheduler, "--seed", *flags)
    os.environ["HAWKER_PEER__TRANSPORTS"] = transports
    try:
        peer = cluster.peer("peer", scheduler, *flags)
    finally:
        del os.environ["HAWKER_PEER__TRANSPORTS"]
    for daemon in (seed, peer):
        daemon.wait_ready()
    assert fetch(peer, url, tmp_path / "out", "--timeout", "60") == (0, "")
    assert (tmp_path / "out").read_bytes() == data
    assert (origin.requests, origin.sent_bytes) == (1, SIZE)


@pytest.mark.parametrize("transports", ["http1", "http2", "http3,http2"])
def test_pieces_come_in_clear_text(
    transports: str, cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    _pull(cluster, origin, tmp_path, transports)


@pytest.mark.parametrize("transports", ["http1", "http2", "http3"])
def test_pieces_come_over_tls(
    transports: str, cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    own = issue(authority(tmp_path / "ca"), tmp_path / "own", "127.0.0.1", "localhost")
    _pull(cluster, origin, tmp_path, transports, *own, "--http3")
