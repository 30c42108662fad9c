"""A parent that fails is replaced within 2 s, avoided by evidence, and comes back on probation."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from hawker.core.messages import decode_progress
from tests.e2e.conftest import Cluster, Daemon, Origin, wait_for
from tests.e2e.lying import Liar, host_at, start_liar

SIZE = 16 * 2**20
REPLACED = 2.0
# On a machine that does many other things.
TOLERANCE = 1.5
# A download begins a moment after it was asked for.
START = 0.3
# A scheduler that forgives sooner than the real one's 10 s, so that the test is short.
FORGIVING = """
import sys
import hawker.core.scheduling.machine as machine
from hawker.apps.cli import run
machine.SUSPECT_SECONDS = 4.0
sys.exit(run(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Came:
    """From which host a piece came, and when (`time.monotonic`)."""

    source: str
    at: float


def traced(daemon: Daemon, url: str) -> dict[int, Came]:
    """Download, and say for each piece where it came from."""
    came: dict[int, Came] = {}
    began = time.monotonic()
    body = {"url": url, "trace": True, "timeout": 60}
    with daemon.client() as client, client.stream("POST", "/peer/v1/downloads", json=body) as steps:
        assert steps.is_success, steps.read()
        for line in steps.iter_lines():
            step = decode_progress(line)
            assert step.problem is None
            for run in step.arrivals:
                for piece in range(run.first, run.last + 1):
                    assert piece not in came, "each comes once"
                    came[piece] = Came(run.source, began + run.at)
    assert step.done
    return came


def forgiving(cluster: Cluster) -> Daemon:
    words = ("serve", "scheduler", "--cluster-key", str(cluster.key))
    return cluster.start("scheduler", *words, program=["-c", FORGIVING])


def swarm(cluster: Cluster, mode: str, victims: int) -> tuple[Daemon, Liar, list[Daemon]]:
    """A scheduler, a seed, a liar who is honest yet, and victims."""
    cluster.make_key()
    scheduler = forgiving(cluster)
    seed = cluster.peer("seed", scheduler, "--seed")
    liar = start_liar(cluster, scheduler, mode)
    made = [cluster.peer(f"victim-{number}", scheduler) for number in range(victims)]
    for daemon in (seed, liar.daemon, *made):
        daemon.wait_ready()
    return scheduler, liar, made


@pytest.mark.parametrize("mode", ["wrong", "stops", "freezes"])
def test_what_a_failing_parent_was_asked_for_comes_from_another_within_two_seconds(
    mode: str, cluster: Cluster, origin: Origin
) -> None:
    url = origin.put("/file", os.urandom(SIZE))
    scheduler, liar, [victim] = swarm(cluster, mode, 1)
    try:
        traced(liar.daemon, url)
        name = host_at(cluster, scheduler, liar.daemon)["host"]
        assert liar.asked == []
        liar.lie()
        came = traced(victim, url)
        asked = liar.asked
    finally:
        liar.daemon.process.send_signal(signal.SIGCONT)
    assert asked, "it had no chance to fail"
    for request in asked:
        for piece in range(request.first, request.last + 1):
            assert came[piece].source != name
            assert -START < came[piece].at - request.at < REPLACED + TOLERANCE
    # It was left, not waited for: nothing was asked of it once the others gave in its place.
    replaced = max(came[piece].at for r in asked for piece in range(r.first, r.last + 1))
    assert max(request.at for request in asked) < replaced + START
    # One that stands still is outrun by the same requests elsewhere, perhaps before it is accused.
    assert mode != "wrong" or victim.metric("hawker_peer_parents_left_total{") >= 1
    assert (origin.requests, origin.sent_bytes) == (1, SIZE)


def test_a_host_that_several_accuse_is_avoided_and_tried_again_later(
    cluster: Cluster, origin: Origin
) -> None:
    first, second, third = (origin.put(f"/{n}", os.urandom(SIZE)) for n in range(3))
    scheduler, liar, victims = swarm(cluster, "wrong", 2)
    for url in (first, second, third):
        traced(liar.daemon, url)
    name = host_at(cluster, scheduler, liar.daemon)["host"]
    liar.lie()
    with ThreadPoolExecutor() as pool:
        for came in pool.map(lambda victim: traced(victim, first), victims):
            assert name not in {piece.source for piece in came.values()}
    wait_for(lambda: scheduler.metric("hawker_scheduler_hosts_suspected_total") == 1, "suspected")
    # By evidence of one task it is avoided in all, also by the peer that was never harmed.
    asked = len(liar.asked)
    liar.repent()
    assert name not in {piece.source for piece in traced(victims[0], second).values()}
    assert len(liar.asked) == asked
    # Its time is over: it may serve again, and being honest now gives right pieces.
    wait_for(lambda: time.monotonic() > liar.asked[-1].at + 5.0, "the suspicion ends")
    assert name in {piece.source for piece in traced(victims[1], third).values()}
    assert len(liar.asked) > asked
    assert scheduler.metric("hawker_scheduler_hosts_suspected_total") == 1
