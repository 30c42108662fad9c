"""A scheduler that restarts, stays away or comes back costs the origin nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, wait_for

SIZE = 12 * 2**20 + 11


def free_port() -> str:
    """One that nobody is given who asks for any: such ports are above 32 767."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return str(port)


def test_a_scheduler_restarted_in_mid_swarm_costs_no_origin_byte(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/restart", data)
    origin.delay = 0.02
    scheduler, seed, peers = cluster.swarm(2)
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(fetch, peer, url, tmp_path / f"out-{peer.port}") for peer in peers]
        wait_for(lambda: origin.sent_bytes > SIZE // 6, "the seed reads")
        scheduler.kill()
        # Asked for while nobody decides.
        late = pool.submit(fetch, seed, url, tmp_path / "late")
        cluster.scheduler("scheduler", "--port", scheduler.port)
        assert [job.result() for job in (*jobs, late)] == [(0, "")] * 3
    for name in ("late", *(f"out-{peer.port}" for peer in peers)):
        assert (tmp_path / name).read_bytes() == data
    assert (origin.sent_bytes, origin.requests) == (SIZE, 1)


def test_a_frozen_scheduler_takes_no_lease_away_for_words_it_could_not_hear(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/frozen", data)
    origin.delay = 0.03
    scheduler, _, [peer] = cluster.swarm(1)
    cluster.peer("other-seed", scheduler, "--seed").wait_ready()
    with ThreadPoolExecutor() as pool:
        job = pool.submit(fetch, peer, url, tmp_path / "out")
        wait_for(lambda: origin.sent_bytes > SIZE // 6, "a seed reads")
        scheduler.process.send_signal(signal.SIGSTOP)
        # Longer than a reader may be silent (`scheduler.lease_timeout`).
        time.sleep(2.6)
        scheduler.process.send_signal(signal.SIGCONT)
        assert job.result() == (0, "")
    assert (tmp_path / "out").read_bytes() == data
    assert (origin.sent_bytes, origin.requests) == (SIZE, 1)


def test_what_was_read_before_a_restart_is_not_read_again_for_a_new_peer(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    data = os.urandom(SIZE)
    url = origin.put("/known", data)
    cluster.make_key()
    scheduler = cluster.scheduler()
    seed = cluster.peer("seed", scheduler, "--seed")
    first, second = (cluster.peer(name, scheduler) for name in ("first", "second"))
    for daemon in (seed, first, second):
        daemon.wait_ready()
    assert fetch(first, url, tmp_path / "first.out") == (0, "")
    seed.kill()
    scheduler.kill()
    cluster.scheduler("scheduler", "--port", scheduler.port)
    assert fetch(second, url, tmp_path / "second.out") == (0, "")
    assert (tmp_path / "second.out").read_bytes() == data
    assert (origin.sent_bytes, origin.requests) == (SIZE, 1)


def test_tasks_of_a_scheduler_that_goes_fall_to_the_other_and_back(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    cluster.make_key()
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]

    def scheduler(number: int) -> Daemon:
        name, other = f"scheduler-{number}", urls[1 - number]
        config = tmp_path / f"{name}.toml"
        config.write_text(f'[scheduler]\nothers = ["{other}"]\n')
        return cluster.scheduler(name, "--port", ports[number], "--config", str(config))

    schedulers = [scheduler(0), scheduler(1)]
    seed = cluster.peer_of(urls, "seed", "--seed")
    peers = [cluster.peer_of(urls, f"peer-{number}") for number in range(3)]
    for daemon in (seed, *peers):
        daemon.wait_ready()
    files: dict[str, int] = {}
    held: list[set[str]] = [set(), set()]
    # Whose a task is depends on the ports: a few files may all fall to one scheduler.
    while not all(held):
        assert len(files) < 64, "each of them has tasks"
        for number in range(len(files), len(files) + 8):
            url = origin.put(f"/file-{number}", os.urandom(300_000 + number))
            files[url] = number
            assert fetch(peers[0], url, tmp_path / f"a-{number}") == (0, "")
        held = [tasks_at(cluster, url) for url in urls]
    sent = origin.sent_bytes
    schedulers[1].kill()
    for url, number in files.items():
        assert fetch(peers[1], url, tmp_path / f"b-{number}") == (0, "")
    assert origin.sent_bytes == sent
    wait_for(lambda: tasks_at(cluster, urls[0]) >= held[0] | held[1], "all tasks fell to one")
    scheduler(1)
    wait_for(lambda: tasks_at(cluster, urls[1]) >= held[1], "its tasks came back")
    for url, number in files.items():
        assert fetch(peers[2], url, tmp_path / f"c-{number}") == (0, "")
        assert (tmp_path / f"c-{number}").read_bytes() == origin.files[f"/file-{number}"]
    assert origin.sent_bytes == sent == sum(map(len, origin.files.values()))


def tasks_at(cluster: Cluster, url: str) -> set[str]:
    return {task["task"] for task in cluster.view(url, "tasks")}
