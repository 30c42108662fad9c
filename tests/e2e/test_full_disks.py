"""Real full and read-only filesystems under running daemons, and outputs that cannot be written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e import small_disk
from tests.e2e.conftest import hawker

if TYPE_CHECKING:
    from tests.e2e.conftest import Cluster, Daemon, Origin

MIB = 2**20
DISK = 48 * MIB
SIZE = 24 * MIB
# Less than the content, more than what a daemon writes of its own.
LEFT = 9 * MIB
PROGRAM = (str(Path(small_disk.__file__)), str(DISK))

pytestmark = pytest.mark.skipif(
    small_disk.namespace() is None, reason="the kernel lets this user make no mount namespace"
)


@contextlib.contextmanager
def filled(daemon: Daemon, leave: int) -> Iterator[None]:
    """All but `leave` bytes of the daemon's filesystem are taken while inside."""
    ballast = small_disk.seen(daemon.process.pid, daemon.data) / "ballast"
    status = os.statvfs(ballast.parent)
    with ballast.open("wb", buffering=0) as file:
        # Unbuffered: what the daemon itself takes meanwhile makes the write shorter, no error.
        file.write(bytes(status.f_bavail * status.f_frsize - leave))
    try:
        yield
    finally:
        ballast.unlink()


def fetch(daemon: Daemon, url: str, target: Path) -> tuple[int, str]:
    """`hawker get`, which cannot see the daemon's files: the bytes come through its socket."""
    done = hawker("get", url, "-O", str(target), "-e", daemon.socket, "--overwrite", timeout=90)
    return done.returncode, done.stderr.decode()


def counted(daemon: Daemon, name: str) -> int:
    with daemon.client() as client:
        lines = client.get("/metrics").text.splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"hawker_peer_{name}_total ")]
    return int(float(value))


def alive(daemon: Daemon) -> bool:
    with daemon.client() as client:
        return daemon.process.poll() is None and client.get("/healthy").status_code == 200


def test_a_disk_that_fills_up_in_mid_piece_fails_what_does_not_fit_and_nothing_else(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    scheduler, seed, [] = cluster.swarm(0)
    peer = cluster.start(
        "peer",
        *("serve", "peer", "--scheduler", scheduler.url, "--cluster-key", str(cluster.key)),
        program=PROGRAM,
    )
    peer.wait_ready()
    data, small = os.urandom(SIZE), os.urandom(MIB)
    url, small_url = origin.put("/large", data), origin.put("/small", small)
    out = tmp_path / "out"
    with filled(peer, LEFT):
        code, told = fetch(peer, url, out)
        assert code == 1 and "No space left on device" in told, told
        assert "free some space" in told and "Traceback" not in told
        assert not out.exists() and alive(peer)
        with peer.client() as client:
            failed = client.get("/peer/v1/tasks").json()
        assert not any(stat["complete"] for stat in failed)
        with seed.client() as client:
            assert client.post("/peer/v1/downloads", json={"url": small_url}).status_code == 200
    before = counted(peer, "seed_bytes")
    assert 0 < before < SIZE
    with filled(peer, 4 * MIB):
        assert fetch(peer, small_url, out) == (0, "")
        assert out.read_bytes() == small
    assert fetch(peer, url, out) == (0, "")
    assert out.read_bytes() == data
    assert counted(peer, "seed_bytes") <= SIZE + MIB, "what was stored is not fetched again"
    assert counted(peer, "duplicate_bytes") == 0
    assert origin.sent_bytes == SIZE + MIB


def test_a_seed_whose_disk_is_full_leaves_the_reading_to_others(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    cluster.make_key()
    scheduler = cluster.scheduler()
    seed = cluster.start(
        "seed",
        *("serve", "peer", "--seed", "--scheduler", scheduler.url),
        *("--cluster-key", str(cluster.key)),
        program=PROGRAM,
    )
    peer = cluster.peer("peer", scheduler)
    for daemon in (seed, peer):
        daemon.wait_ready()
    data, small = os.urandom(SIZE), os.urandom(MIB)
    url, small_url = origin.put("/large", data), origin.put("/small", small)
    out = tmp_path / "out"
    with filled(seed, LEFT):
        assert fetch(peer, url, out) == (0, "")
        assert out.read_bytes() == data
        # What the seed had read when it failed, and had not passed on.
        assert origin.sent_bytes <= SIZE + LEFT + 2 * MIB
        assert alive(seed)
    sent = origin.sent_bytes
    assert fetch(peer, small_url, out) == (0, "")
    assert out.read_bytes() == small and origin.sent_bytes == sent + MIB
    assert counted(seed, "origin_bytes") > MIB, "the seed reads again where it can"


def test_a_scheduler_whose_disk_is_full_decides_on_and_writes_when_it_can(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    cluster.make_key()
    scheduler = cluster.start(
        "scheduler", "serve", "scheduler", "--cluster-key", str(cluster.key), program=PROGRAM
    )
    peer = cluster.peer("peer", scheduler)
    peer.wait_ready()
    data = os.urandom(4 * MIB)
    url = origin.put("/file", data)
    out = tmp_path / "out"
    with filled(scheduler, 0):
        assert fetch(peer, url, out) == (0, "")
        assert out.read_bytes() == data and origin.sent_bytes == len(data)
        assert written_leases(scheduler, tmp_path) == 0
    for _ in range(200):
        if written_leases(scheduler, tmp_path):
            return
        # It tries again four times a second.
        threading.Event().wait(0.1)
    raise AssertionError("the lease was never written")


def written_leases(scheduler: Daemon, tmp_path: Path) -> int:
    """Lease records in the file, read from a copy of it."""
    data = small_disk.seen(scheduler.process.pid, scheduler.data)
    copy = tmp_path / "copy.sqlite"
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).write_bytes(
            (data / f"scheduler.sqlite{suffix}").read_bytes()
        )
    with contextlib.closing(sqlite3.connect(copy)) as database:
        [count] = database.execute("SELECT count(*) FROM leases").fetchone()
    return int(count)


def test_a_read_only_disk_still_gives_what_it_has(
    cluster: Cluster, origin: Origin, tmp_path: Path
) -> None:
    daemon = cluster.start("up", "up", program=PROGRAM)
    daemon.wait_ready()
    data, other = os.urandom(4 * MIB), os.urandom(4 * MIB)
    url, other_url = origin.put("/stored", data), origin.put("/new", other)
    out = tmp_path / "out"
    assert fetch(daemon, url, out) == (0, "")
    content = daemon.data / "content"
    pid = daemon.process.pid
    small_disk.mount(pid, "--bind", str(content), str(content))
    small_disk.mount(pid, "-o", "remount,bind,ro", str(content))
    out.unlink()
    assert fetch(daemon, url, out) == (0, "")
    assert out.read_bytes() == data
    with daemon.client() as client:
        answer = client.get("/peer/v1/content", params={"url": url})
        assert (answer.status_code, answer.content) == (200, data)
    code, told = fetch(daemon, other_url, tmp_path / "new")
    assert code == 1 and "Read-only file system" in told and "Traceback" not in told, told
    assert not (tmp_path / "new").exists() and alive(daemon)
    small_disk.umount(pid, content)
    assert fetch(daemon, other_url, out) == (0, "")
    assert out.read_bytes() == other


def test_a_daemon_does_not_start_on_a_read_only_disk(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    script = 'mount -o remount,ro "$1" && shift && exec "$@"'
    for roles in (("up",), ("serve", "peer")):
        command = small_disk.inside(DISK, data, "sh", "-c", script, "sh", str(data))
        done = hawker(*roles, "--port", "0", "--data", str(data), before=command)
        told = done.stderr.decode()
        assert done.returncode in (1, 2) and "Read-only file system" in told, told
        assert str(data) in told and "Traceback" not in told and len(told.splitlines()) <= 3, told


def test_downloads_that_exceed_the_quota_together_fail_one_and_keep_the_quota(
    cluster: Cluster, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = SIZE + SIZE // 2
    monkeypatch.setenv("HAWKER_STORAGE__QUOTA", str(quota))
    daemon = cluster.start("up", "up")
    daemon.wait_ready()
    origin.delay = 0.004
    urls = [origin.put(f"/{number}", os.urandom(SIZE)) for number in range(2)]
    results: dict[str, tuple[int, str]] = {}

    def run(url: str) -> None:
        results[url] = fetch(daemon, url, tmp_path / url.rpartition("/")[2])

    threads = [threading.Thread(target=run, args=(url,)) for url in urls]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, stored(daemon.data))
        threads[0].join(0.05)
        threads[1].join(0.05)
    assert most <= quota + 2 * MIB
    [winner] = [url for url, (code, _) in results.items() if code == 0]
    [(code, told)] = [result for url, result in results.items() if url != winner]
    assert code == 1 and "storage.quota" in told and "no room" in told, told
    saved = tmp_path / winner.rpartition("/")[2]
    assert saved.read_bytes() == origin.files["/" + saved.name]
    [loser] = [url for url in urls if url != winner]
    target = tmp_path / loser.rpartition("/")[2]
    assert not target.exists()
    # Nobody uses the first any more: it gives way.
    assert fetch(daemon, loser, target) == (0, "")
    assert target.read_bytes() == origin.files["/" + target.name]
    assert stored(daemon.data) <= quota + 2 * MIB and alive(daemon)


def stored(data: Path) -> int:
    """Bytes on the disk below a data directory."""
    total = 0
    for file in data.rglob("content/*/*"):
        try:
            total += file.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


@pytest.mark.parametrize("through", ["daemon", "nobody"])
def test_an_output_on_a_full_disk_is_told_and_leaves_nothing(
    cluster: Cluster, origin: Origin, tmp_path: Path, through: str
) -> None:
    url = origin.put("/file", os.urandom(4 * MIB))
    place = tmp_path / "place"
    place.mkdir()
    flags = ["--data", str(tmp_path / "alone")]
    if through == "daemon":
        daemon = cluster.start("up", "up")
        daemon.wait_ready()
        flags = ["-e", daemon.socket]
    script = '"$@"; code=$?; ls -A "$0"; exit $code'
    command = small_disk.inside(MIB, place, "sh", "-c", script, str(place))
    done = hawker("get", url, "-O", str(place / "out"), *flags, before=command)
    told = done.stderr.decode()
    assert done.returncode == 8 and "No space left on device" in told, told
    assert str(place / "out") in told and "Traceback" not in told
    assert done.stdout == b"", "nothing is left of it"


@pytest.mark.parametrize("through", ["daemon", "nobody"])
def test_an_output_that_cannot_be_had_is_told_and_nothing_is_touched(
    cluster: Cluster, origin: Origin, tmp_path: Path, through: str
) -> None:
    url = origin.put("/file", os.urandom(MIB))
    flags = ["--data", str(tmp_path / "alone")]
    if through == "daemon":
        daemon = cluster.start("up", "up")
        daemon.wait_ready()
        flags = ["-e", daemon.socket]
    place = tmp_path / "place"
    (place / "directory").mkdir(parents=True)
    (place / "existing").write_text("mine")
    (place / "link").symlink_to("existing")
    (place / "dangling").symlink_to("nowhere")
    before = sorted(place.iterdir())
    for name, options in (
        ("directory", []),
        ("directory", ["--overwrite"]),
        ("existing", []),
        ("link", []),
        ("dangling", []),
        ("absent/out", []),
        ("existing/out", []),
    ):
        done = hawker("get", url, "-O", str(place / name), *options, *flags)
        told = done.stderr.decode()
        assert done.returncode == 8 and name.partition("/")[0] in told, (name, told)
        assert "Traceback" not in told and sorted(place.iterdir()) == before
    assert (place / "existing").read_text() == "mine"
    # A link in the output's place is replaced, not followed.
    done = hawker("get", url, "-O", str(place / "link"), "--overwrite", *flags)
    assert done.returncode == 0 and not (place / "link").is_symlink()
    assert (place / "existing").read_text() == "mine"
