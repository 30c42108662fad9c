"""A digest that the origin states holds for the whole, whoever read its parts."""

from __future__ import annotations

import base64
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster, Origin, fetch, wait_for

SIZE = 12 * 2**20 + 11


@pytest.mark.parametrize("right", [True, False])
def test_when_the_reader_dies_each_peer_checks_for_itself(
    cluster: Cluster, origin: Origin, tmp_path: Path, right: bool
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/stated", data)
    digest = hashlib.sha256(data if right else b"something else").digest()
    origin.fields["repr-digest"] = f"sha-256=:{base64.b64encode(digest).decode()}:"
    origin.delay = 0.02
    _, seed, peers = cluster.swarm(2)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(fetch, peer, url, tmp_path / f"out-{peer.port}") for peer in peers]
        wait_for(lambda: origin.sent_bytes > SIZE // 3, "the seed reads")
        seed.kill()
        outcomes = [job.result() for job in jobs]
    for peer, (code, words) in zip(peers, outcomes, strict=True):
        target = tmp_path / f"out-{peer.port}"
        if right:
            assert (code, words) == (0, "")
            assert target.read_bytes() == data
        else:
            assert code == 5, words
            assert "sha256:" in words
            assert not target.exists()
