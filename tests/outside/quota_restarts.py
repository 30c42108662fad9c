"""Quotas hold with several schedulers, as schedulers are killed and come again, and without one."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Cluster, Daemon, Origin, fetch, wait_for
from tests.e2e.hostile_origin import HostileOrigin, good
from tests.e2e.test_hostile_origins import ask
from tests.e2e.test_origin_limits import Watch
from tests.e2e.test_schedulers import free_port, tasks_at
from tests.outside.quota_swarms import ABOVE, MIB, Meter, limits, problem, start, used


@pytest.fixture
def hostile() -> Iterator[HostileOrigin]:
    made = HostileOrigin()
    yield made
    made.close()


def start_two(cluster: Cluster, peers: int, **quotas: int) -> tuple[list[Daemon], list[Daemon]]:
    """Two schedulers that know of quotas and of each other, a seed and peers."""
    cluster.make_key()
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    [_, file] = limits(cluster, **quotas)
    text = Path(file).read_text()
    schedulers = []
    for number, port in enumerate(ports):
        own = cluster.root / f"scheduler-{number}.toml"
        own.write_text(f'{text}\n[scheduler]\nothers = ["{urls[1 - number]}"]\n')
        flags = ("--port", port, "--config", str(own))
        schedulers.append(cluster.scheduler(f"scheduler-{number}", *flags))
    made = [cluster.peer_of(urls, "seed", "--seed")]
    made += [cluster.peer_of(urls, f"peer-{number}") for number in range(peers)]
    for daemon in made:
        daemon.wait_ready()
    return schedulers, made


def again(cluster: Cluster, scheduler: Daemon) -> Daemon:
    """The same scheduler, started anew."""
    name = scheduler.data.name
    own = cluster.root / f"{name}.toml"
    file = own if own.exists() else cluster.root / "quotas.toml"
    return cluster.scheduler(name, "--port", scheduler.port, "--config", str(file))


def decider(cluster: Cluster, schedulers: list[Daemon]) -> int:
    """Which scheduler decides about the tenant."""
    [found] = [n for n, s in enumerate(schedulers) if used(cluster, s)["decides"]]
    return found


def test_two_schedulers_keep_to_one_quota(cluster: Cluster, origin: Origin) -> None:
    budget = 64 * MIB
    schedulers, made = start_two(cluster, 2, origin_bytes=budget, concurrent_downloads=2)
    urls = [origin.put(f"/{number}", os.urandom(4 * MIB)) for number in range(20)]
    with ThreadPoolExecutor(6) as pool:
        outcomes = [kind for kind, _ in pool.map(lambda n: ask(made[n % 3], urls[n]), range(20))]
    assert all(tasks_at(cluster, scheduler.url) for scheduler in schedulers), "each has tasks"
    assert outcomes.count("ok") in (15, 16)
    assert set(outcomes) == {"ok", "quota"}
    assert budget / ABOVE <= origin.sent_bytes <= budget * ABOVE


def test_a_budget_outlives_whoever_decides(cluster: Cluster, origin: Origin) -> None:
    budget = 64 * MIB
    schedulers, made = start_two(cluster, 2, origin_bytes=budget)
    urls = [origin.put(f"/{number}", os.urandom(4 * MIB)) for number in range(20)]
    done = 0

    def get(number: int) -> None:
        nonlocal done
        kind, outcome = ask(made[number % 3], urls[done])
        assert kind in ("ok", "quota"), outcome
        done += 1

    for number in range(4):
        get(number)
    first = decider(cluster, schedulers)
    # While it reads.
    origin.delay = 0.02
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(get, 4)
        wait_for(lambda: origin.sent_bytes > 17 * MIB, "it reads")
        schedulers[first].kill()
        reading.result()
    origin.delay = 0.0
    for number in range(5, 9):
        get(number)
    # A host that read some of it is gone for good, as is the scheduler that took over.
    schedulers[first] = again(cluster, schedulers[first])
    made[0].kill()
    for daemon in made[1:]:
        daemon.wait_ready()
    for number in range(9, 12):
        get(1 + number % 2)
    schedulers[1 - first].kill()
    while done < len(urls):
        get(1 + done % 2)
    assert budget / ABOVE <= origin.sent_bytes <= budget * ABOVE
    assert problem(made[1], origin.put("/more", os.urandom(4 * MIB)))["status"] == 429


def test_places_hold_while_the_scheduler_is_killed_and_started_anew(
    cluster: Cluster, hostile: HostileOrigin, tmp_path: Path
) -> None:
    scheduler, made = start(cluster, 2, concurrent_downloads=2)
    watch, contents = Watch(2.0), [os.urandom(100_000) for _ in range(8)]
    urls = [hostile.put(f"/{n}", watch(good(data))) for n, data in enumerate(contents)]
    with ThreadPoolExecutor(len(urls)) as pool:
        jobs = [
            pool.submit(fetch, made[n % 3], url, tmp_path / f"{n}") for n, url in enumerate(urls)
        ]
        wait_for(lambda: used(cluster, scheduler)["waiting"] >= 5, "the others wait")
        scheduler.kill()
        time.sleep(0.3)
        again(cluster, scheduler)
        assert [job.result() for job in jobs] == [(0, "")] * len(urls)
    assert watch.most == 2
    for number, data in enumerate(contents):
        assert (tmp_path / f"{number}").read_bytes() == data


def test_bandwidth_holds_while_the_scheduler_is_away_and_after(
    cluster: Cluster, origin: Origin
) -> None:
    rate = 4 * MIB
    scheduler, made = start(cluster, 2, bandwidth=rate)
    meter, size = Meter(), 16 * MIB
    urls = [origin.put(f"/{number}", os.urandom(size)) for number in range(len(made))]
    began = time.monotonic()
    with ThreadPoolExecutor(len(made)) as pool:
        jobs = [pool.submit(meter.stream, *pair) for pair in zip(made, urls, strict=True)]
        wait_for(lambda: sum(n for _, n in list(meter.arrived)) > 8 * MIB, "all of them come")
        scheduler.kill()
        time.sleep(1.0)
        again(cluster, scheduler)
        assert [job.result() for job in jobs] == [size] * len(made)
    took = time.monotonic() - began
    assert len(made) * size / took <= rate * ABOVE


def test_a_killed_host_s_place_is_another_s(cluster: Cluster, origin: Origin) -> None:
    _, [_, doomed, peer] = start(cluster, 2, concurrent_downloads=1)
    origin.delay = 0.5
    slow, other = origin.put("/slow", os.urandom(4 * MIB)), origin.put("/other", b"content")
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(ask, doomed, slow)
        wait_for(lambda: origin.requests, "it is read")
        waits = pool.submit(ask, peer, other)
        time.sleep(0.5)
        assert not waits.done()
        doomed.kill()
        assert waits.result() == ("ok", b"content")
        assert lost.exception() is not None


class Relay:
    """Passes connections on to a scheduler, until it is cut."""

    def __init__(self, scheduler: Daemon) -> None:
        self._port = int(scheduler.port)
        self._cut = False
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = [self._server.accept()[0]]
                if not self._cut:
                    ends.append(socket.create_connection(("127.0.0.1", self._port)))
                    for pair in (ends, ends[::-1]):
                        threading.Thread(target=self._pass, args=pair, daemon=True).start()
                    self._ends += ends
                else:
                    ends[0].close()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self._cut = True
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._cut = False

    def close(self) -> None:
        self.cut()
        self._server.close()


def test_a_host_that_was_cut_off_for_long_tells_again_what_it_uses(
    cluster: Cluster, hostile: HostileOrigin
) -> None:
    """The scheduler has forgotten it, and is the same one as before."""
    cluster.make_key()
    scheduler = cluster.scheduler("scheduler", *limits(cluster, concurrent_downloads=1))
    scheduler.wait_ready()
    relay = Relay(scheduler)
    peer = cluster.peer_of([relay.url], "peer")
    peer.wait_ready()
    # Nothing comes, so that nothing is new meanwhile.
    url = hostile.put("/silent", lambda _: time.sleep(60))
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(ask, peer, url)
        wait_for(lambda: used(cluster, scheduler)["concurrent_downloads"] == 1, "it runs")
        wait_for(lambda: hostile.requests("/silent") == 1, "the origin is asked")
        relay.cut()
        wait_for(lambda: not cluster.view(scheduler.url, "hosts"), "the scheduler forgot it", 15)
        relay.mend()
        wait_for(lambda: used(cluster, scheduler)["concurrent_downloads"] == 1, "it is told", 15)
        [host] = cluster.view(scheduler.url, "hosts")
        assert host["tasks"] == 1
        peer.kill()
        assert lost.exception() is not None
    relay.close()


def test_a_peer_alone_keeps_to_its_own_settings(cluster: Cluster, origin: Origin) -> None:
    flags = limits(
        cluster,
        concurrent_downloads=1,
        origin_bytes=20 * MIB,
        bandwidth=4 * MIB,
        stored_bytes=10 * MIB,
    )
    alone = cluster.start("alone", "serve", "peer", *flags)
    alone.wait_ready()
    urls = [origin.put(f"/{number}", os.urandom(4 * MIB)) for number in range(6)]
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        kinds = [kind for kind, _ in pool.map(lambda url: ask(alone, url), urls[:5])]
    took = time.monotonic() - began
    assert kinds == ["ok"] * 5
    assert 20 * MIB / took <= 4 * MIB * ABOVE
    assert origin.sent_bytes == 20 * MIB
    assert problem(alone, urls[5])["status"] == 429
    with alone.client() as client:
        assert len(client.get("/peer/v1/tasks").json()) == 2
    assert problem(alone, origin.put("/large", os.urandom(11 * MIB)))["status"] == 429
