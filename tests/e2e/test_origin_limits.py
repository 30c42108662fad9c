"""What is asked of an origin at once and in a second, counted there; and origins that are slow."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin
from tests.e2e.hostile_origin import (
    Ask,
    Behaviour,
    HostileOrigin,
    first,
    good,
    trickle,
    trickle_head,
    trickle_parts,
)
from tests.e2e.test_hostile_origins import all_get, ask, ask_all
from tests.e2e.test_metrics import one, scrape
from tests.e2e.test_schedulers import free_port, tasks_at

IMPATIENT = Path(__file__).with_name("impatient.py")
LIMIT = 1.0
RATE = 400_000
# What each connection has in buffers of both ends before the reader takes it.
BUFFERED = 200_000
DATA = os.urandom(300_000)


def start(cluster: Cluster, seeds: int, peers: int, *flags: str) -> tuple[Daemon, list[Daemon]]:
    """A scheduler with flags, seeds and peers; the daemons, seeds first."""
    cluster.make_key()
    scheduler = cluster.scheduler("scheduler", *flags)
    made = [cluster.peer(f"seed-{number}", scheduler, "--seed") for number in range(seeds)]
    made += [cluster.peer(f"peer-{number}", scheduler) for number in range(peers)]
    for daemon in made:
        daemon.wait_ready()
    return scheduler, made


def config(cluster: Cluster, **settings: int) -> list[str]:
    file = cluster.root / "scheduler.toml"
    lines = [f"{name} = {value}" for name, value in settings.items()]
    file.write_text("\n".join(["[scheduler]", *lines]))
    return ["--config", str(file)]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Daemon]]:
    """Two seeds and a peer; two reads of one origin at once, two readers of one content."""
    cluster = Cluster(tmp_path_factory.mktemp("limited"))
    try:
        _, made = start(cluster, 2, 1, *config(cluster, origin_reads=2, readers=2))
        yield made
    finally:
        cluster.close()


class Watch:
    """An origin's view of its requests: when each began and was answered, and how many at once."""

    def __init__(self, seconds: float) -> None:
        self.spans: list[tuple[float, float]] = []
        self.most = 0
        self._seconds = seconds
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, then: Behaviour) -> Behaviour:
        def behave(ask: Ask) -> None:
            began = time.monotonic()
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            time.sleep(self._seconds)
            with self._lock:
                # Before the answer: the next request may come before it is counted otherwise.
                self._now -= 1
                self.spans.append((began, time.monotonic()))
            then(ask)

        return behave


@pytest.fixture
def hostile() -> Iterator[HostileOrigin]:
    made = HostileOrigin()
    yield made
    made.close()


def test_an_origin_is_read_by_as_many_at_once_as_it_may(
    limited: list[Daemon], hostile: HostileOrigin
) -> None:
    watch = Watch(0.3)
    urls = [hostile.put(f"/{number}", watch(good(DATA))) for number in range(6)]
    with ThreadPoolExecutor(len(urls)) as pool:
        for got in pool.map(lambda url: ask(limited[-1], url), urls):
            assert got == ("ok", DATA)
    assert watch.most == 2
    assert len(watch.spans) == 6


def test_several_schedulers_together_grant_no_more_than_one_would(
    cluster: Cluster, hostile: HostileOrigin
) -> None:
    cluster.make_key()
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    for number, port in enumerate(ports):
        file = cluster.root / f"{number}.toml"
        file.write_text(f'[scheduler]\norigin_reads = 2\nothers = ["{urls[1 - number]}"]\n')
        cluster.scheduler(f"scheduler-{number}", "--port", port, "--config", str(file))
    made = [cluster.peer_of(urls, "seed", "--seed"), cluster.peer_of(urls, "peer")]
    for daemon in made:
        daemon.wait_ready()
    watch = Watch(0.2)
    contents = [hostile.put(f"/{number}", watch(good(DATA))) for number in range(12)]
    with ThreadPoolExecutor(len(contents)) as pool:
        for got in pool.map(lambda url: ask(made[-1], url), contents):
            assert got == ("ok", DATA)
    assert all(tasks_at(cluster, url) for url in urls), "each of them has tasks"
    assert watch.most <= 2
    assert len(watch.spans) == 12


def test_an_origin_that_fails_for_several_is_tried_by_one_until_it_works_again(
    limited: list[Daemon], hostile: HostileOrigin
) -> None:
    watch = Watch(0.05)
    ill = [5]

    def sick(ask: Ask) -> None:
        ill[0] -= 1
        if ill[0] >= 0:
            ask.answer("500 No", {"content-length": 0})
        else:
            good(DATA)(ask)

    urls = [hostile.put(f"/{number}", watch(sick)) for number in range(8)]
    with ThreadPoolExecutor(len(urls)) as pool:
        for got in pool.map(lambda url: ask(limited[-1], url), urls):
            assert got == ("ok", DATA)
    spans = sorted(watch.spans)
    assert len(spans) == 5 + len(urls)
    # Four may be on their way when the third fails; then one at a time, after growing pauses.
    pauses = [after[0] - before[1] for before, after in pairwise(spans[3:6])]
    assert pauses[0] > 0.12 and pauses[1] > 0.24, pauses
    rest = spans[6:]
    assert max(began for began, _ in rest) - spans[5][1] < 3.0, "it is open again"
    assert any(a[1] > b[0] for a, b in pairwise(rest)), "to several at once"


def test_two_readers_share_one_content_and_read_each_byte_once(
    limited: list[Daemon], origin: Origin
) -> None:
    data = os.urandom(1 << 20) * 200
    url = origin.put("/large", data)
    began = [one(scrape(seed)[0], "hawker_peer_origin_bytes_total") for seed in limited[:2]]
    assert ask(limited[-1], url) == ("ok", data)
    ended = [one(scrape(seed)[0], "hawker_peer_origin_bytes_total") for seed in limited[:2]]
    read = [after - before for after, before in zip(ended, began, strict=True)]
    assert origin.sent_bytes == sum(read) == len(data)
    assert min(read) > 60 << 20, read


def test_an_origin_gives_no_more_in_a_second_than_it_is_to(cluster: Cluster) -> None:
    origin = HostileOrigin(send_buffer=32 << 10)
    _, (_, *peers) = start(cluster, 1, 2, *config(cluster, origin_rate=RATE))
    sent: list[tuple[float, int]] = []

    def metered(data: bytes) -> Behaviour:
        def behave(ask: Ask) -> None:
            ask.answer("200 OK", {"content-length": len(data), "etag": '"m"'})
            for at in range(0, len(data), 16 << 10):
                part = data[at : at + (16 << 10)]
                ask.connection.sendall(part)
                sent.append((time.monotonic(), len(part)))

        return behave

    try:
        contents = [os.urandom(3 * RATE) for _ in range(2)]
        urls = [origin.put(f"/{n}", metered(data)) for n, data in enumerate(contents)]
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(all_get, [peers, peers], urls, contents))
        took = time.monotonic() - began
    finally:
        origin.close()
    assert sum(size for _, size in sent) == 6 * RATE
    assert 5.0 < took < 8.0
    for window in (1.0, 2.0):
        for start_at, _ in sent:
            given = sum(size for at, size in sent if start_at <= at < start_at + window)
            assert given < 1.1 * RATE * window + 2 * BUFFERED


def mute(ask: Ask) -> None:
    """A head, and then nothing."""
    ask.answer("200 OK", {"content-length": 1_000_000, "etag": '"m"'})
    time.sleep(20)


SLOW: dict[str, tuple[Behaviour, str]] = {
    "head": (trickle_head, f"did not answer in {LIMIT:g} s"),
    "body": (trickle, "trickles"),
    "parts": (trickle_parts, "trickles"),
    "silent": (lambda ask: time.sleep(20), "did not answer"),
    "mute": (mute, "broke off"),
}


def steady(ask: Ask) -> None:
    """Slow, and never so slow that it is given up."""
    ask.answer("200 OK", {"content-length": len(DATA), "etag": '"s"'})
    part = len(DATA) // 16
    for at in range(0, len(DATA), part):
        ask.connection.sendall(DATA[at : at + part])
        time.sleep(0.25)


def test_a_slow_origin_is_an_error_that_says_so_or_is_read_again(cluster: Cluster) -> None:
    cluster.make_key()
    program, key = [str(IMPATIENT), str(LIMIT)], ["--cluster-key", str(cluster.key)]
    scheduler = cluster.start("scheduler", "serve", "scheduler", *key, program=program)
    made = [
        cluster.start(
            name, "serve", "peer", "--scheduler", scheduler.url, *key,
            *(("--seed",) if name == "seed" else ()), program=program,
        )
        for name in ("seed", "one", "two", "three")
    ]  # fmt: skip
    for daemon in made:
        daemon.wait_ready()
    peers = made[1:]
    # One origin each, or they would be left alone for each other's faults.
    names = ("steady", *SLOW, *(f"{name}-once" for name in SLOW))
    origins = {name: HostileOrigin() for name in names}
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(len(origins)) as pool:
            failing = {
                name: pool.submit(ask_all, peers, origins[name].put("/slow", slow))
                for name, (slow, _) in SLOW.items()
            }
            urls = [
                origins[f"{name}-once"].put("/slow", first(1, slow, good(DATA)))
                for name, (slow, _) in SLOW.items()
            ]
            urls.append(origins["steady"].put("/slow", steady))
            passing = [pool.submit(all_get, peers, url, DATA) for url in urls]
            for name, asked in failing.items():
                for kind, problem in asked.result():
                    assert kind == "origin-failed" and isinstance(problem, dict), (name, problem)
                    assert SLOW[name][1] in problem["detail"], (name, problem)
            for each in passing:
                each.result()
        assert time.monotonic() - began < 15
        assert all(origins[name].requests("/slow") == 3 for name in SLOW)
        assert origins["steady"].requests("/slow") == 1
        # What had begun is another content when it is asked for again.
        assert all(origins[f"{name}-once"].requests("/slow") <= 3 for name in SLOW)
    finally:
        for origin in origins.values():
            origin.close()
