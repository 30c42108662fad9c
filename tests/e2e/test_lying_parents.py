"""Whatever a parent does, its victims end with the right bytes, soon, and without a second read."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, wait_for
from tests.e2e.lying import host_at, start_liar

SIZE = 6 * 2**20 + 99
# Those that lie in the bytes they send, and those that lie in what they say they have.
SENDERS = ["wrong", "stale", "short", "long", "stops", "slow", "flapping", "bomb", "redirects"]
TELLERS = ["boasts", "floods", "forges"]
# These do no harm that a victim could always accuse them of: who knows a digest already does not
# look at a forged one, few ask a boaster often enough, and a slow one is outrun by others.
HARMLESS = ("boasts", "forges", "slow", "stops")
PATIENCE = ("--timeout", "60")
MOST_MEMORY = 250 * 2**20


@pytest.mark.parametrize("mode", [*SENDERS, *TELLERS])
def test_victims_of_a_liar_have_the_right_bytes(
    mode: str, cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/file", data)
    cluster.make_key()
    scheduler = cluster.scheduler()
    # One slot, so that the victims need the liar.
    config = tmp_path / "narrow.toml"
    config.write_text("[peer]\nupload_slots = 1\n")
    seed = cluster.peer("seed", scheduler, "--seed", "--config", str(config))
    liar = start_liar(cluster, scheduler, mode)
    getter, streamer = (cluster.peer(f"victim-{number}", scheduler) for number in range(2))
    for daemon in (seed, liar.daemon, getter, streamer):
        daemon.wait_ready()
    if mode == "boasts":
        # It has the first piece, and says that it has all.
        assert fetch(seed, url, tmp_path / "seed.out", *PATIENCE) == (0, "")
        assert stream(liar.daemon, url, {"range": "bytes=0-0"}) == (data[:1], True)
    else:
        assert fetch(liar.daemon, url, tmp_path / "liar.out", *PATIENCE) == (0, "")
    liar.lie()
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        streamed = pool.submit(stream, streamer, url)
        assert fetch(getter, url, tmp_path / "out", *PATIENCE) == (0, "")
        body, whole = streamed.result()
    assert time.monotonic() - began < 60
    assert (tmp_path / "out").read_bytes() == data
    # What was delivered before it broke off, if it did, must be right as well.
    assert data.startswith(body)
    assert whole and len(body) == SIZE
    for victim in (getter, streamer):
        assert peak_memory(victim) < MOST_MEMORY
    assert (origin.requests, origin.sent_bytes) == (1, SIZE)
    assert liar.told if mode in TELLERS else liar.asked, "it had no chance to lie"
    if mode == "boasts":
        assert any(asked.last > 0 for asked in liar.asked), "nobody believed it"
    if mode not in HARMLESS:
        assert host_at(cluster, scheduler, liar.daemon)["failures"] > 0


def test_a_parent_that_lives_is_not_left_for_one_answer_that_stalls(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/file", data)
    cluster.make_key()
    scheduler = cluster.scheduler()
    liar = start_liar(cluster, scheduler, "stops")
    victim = cluster.peer("victim", scheduler)
    liar.daemon.wait_ready()
    victim.wait_ready()
    assert fetch(liar.daemon, url, tmp_path / "liar.out", *PATIENCE) == (0, "")
    liar.lie()
    with ThreadPoolExecutor() as pool:
        getting = pool.submit(fetch, victim, url, tmp_path / "out", *PATIENCE)
        wait_for(lambda: liar.asked, "it is asked")
        # An answer stalls if it begins while the liar lies, a moment after it was asked for.
        time.sleep(0.2)
        liar.repent()
        assert getting.result() == (0, "")
    assert (tmp_path / "out").read_bytes() == data
    assert (origin.requests, origin.sent_bytes) == (1, SIZE)
    assert victim.metric("hawker_peer_failed_requests_total") > 0, "nothing stalled"
    assert victim.metric("hawker_peer_parents_left_total") == 0


def stream(daemon: Daemon, url: str, headers: dict[str, str] | None = None) -> tuple[bytes, bool]:
    """What a plain client of a daemon gets, and whether it is told that this is all."""
    body = bytearray()
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        client.stream(
            "GET", f"{daemon.url}/peer/v1/content", params={"url": url}, headers=headers
        ) as answer,
    ):
        assert answer.is_success, answer.read()
        try:
            for part in answer.iter_raw():
                body += part
        except httpx.RemoteProtocolError:
            return bytes(body), False
    return bytes(body), True


def peak_memory(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
