"""Ranges that end beyond any content, where nobody knows yet how long it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Cluster, Origin

FAR = 10**18 - 1


@pytest.mark.parametrize("start", [0, 1 << 20, FAR - 5])
def test_a_range_beyond_content_of_unknown_length_costs_no_memory(
    cluster: Cluster, plain_origin: Origin, start: int
) -> None:
    data = os.urandom(3 * 2**20 + 5)
    url = plain_origin.put("/endless", data)
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    with daemon.client() as client:
        answer = client.get(
            "/peer/v1/content", params={"url": url}, headers={"range": f"bytes={start}-{FAR}"}
        )
        # Of content whose length is not known a range may be ignored (RFC 9110 section 14.2).
        assert answer.status_code in (200, 206, 416), answer.text
        if answer.status_code != 416:
            assert answer.content == (data if answer.status_code == 200 else data[start:])
        request = {"url": url, "range": [start, 2**62]}
        answer = client.post("/peer/v1/downloads", json=request)
        assert b'"done":true' in answer.content or b'"problem"' in answer.content
        answer = client.get("/peer/v1/content", params={"url": url})
        assert (answer.status_code, answer.content) == (200, data)
    with open(f"/proc/{daemon.process.pid}/status") as file:
        [most] = [int(line.split()[1]) for line in file if line.startswith("VmHWM")]
    assert most < 300 * 1024
