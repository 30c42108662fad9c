"""Whatever a parent does, its victims end with the right bytes, soon, and without a second read."""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch

SIZE = 6 * 2**20 + 99
LIAR = Path(__file__).with_name("liar.py")
MODES = [
    "wrong", "stale", "short", "long", "stops", "slow", "flapping", "boasts", "floods", "forges",
    "bomb", "redirects",
]  # fmt: skip
# These do no harm that a victim could always accuse them of: who knows a digest already does not
# look at a forged one.
# A stall may be outrun by the same request repeated elsewhere.
HARMLESS = ("boasts", "forges", "slow", "stops")
PATIENCE = ("--timeout", "60")
MOST_MEMORY = 250 * 2**20


@pytest.mark.parametrize("mode", MODES)
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
    liar = cluster.start(
        "liar", "serve", "peer", "--scheduler", scheduler.url, "--cluster-key", str(cluster.key),
        program=[str(LIAR), mode],
    )  # fmt: skip
    victims = [cluster.peer(f"victim-{number}", scheduler) for number in range(2)]
    for daemon in (seed, liar, *victims):
        daemon.wait_ready()
    assert fetch(liar, url, tmp_path / "liar.out", *PATIENCE) == (0, "")
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda v: fetch(v, url, tmp_path / v.port, *PATIENCE), victims))
    assert results == [(0, "")] * len(victims)
    assert time.monotonic() - began < 60
    for victim in victims:
        assert (tmp_path / victim.port).read_bytes() == data
        assert peak_memory(victim) < MOST_MEMORY
    assert (origin.requests, origin.sent_bytes) == (1, SIZE)
    if mode not in HARMLESS:
        assert host_at(cluster, scheduler, liar)["failures"] > 0


def peak_memory(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def host_at(cluster: Cluster, scheduler: Daemon, daemon: Daemon) -> dict[str, Any]:
    """A host as the scheduler sees it."""
    [view] = [h for h in cluster.view(scheduler.url, "hosts") if h["url"].startswith(daemon.url)]
    return view
