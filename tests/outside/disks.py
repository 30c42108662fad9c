"""Daemons on an ext4 filesystem that fails under them: read-only after an error, and EIO; and a
manager on one that is full.

Not collected by itself: `pytest tests/outside/disks.py` as root, with a loop device and mkfs.ext4.
The kernel is asked for what it does by itself after a fault of the device: `abort` makes a mounted
ext4 read-only as `errors=remount-ro` does, EXT4_IOC_SHUTDOWN lets every access fail with EIO.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.manager.running import Manager, created, problem
from tests.e2e.conftest import Cluster, Daemon, Origin, fetch

MIB = 2**20
DISK = 160 * MIB
SIZE = 8 * MIB
# linux: _IOR('X', 125, __u32), and the flag that leaves the log alone.
SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 of its own."""
    if os.geteuid() or shutil.which("mkfs.ext4") is None:
        pytest.fail("this needs root, mkfs.ext4 and a loop device")
    image, place = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(DISK)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def origin() -> Iterator[Origin]:
    made = Origin()
    yield made
    made.close()


@pytest.fixture
def cluster(disk: Path) -> Iterator[Cluster]:
    """Stopped before its disk goes."""
    made = Cluster(disk)
    try:
        yield made
    finally:
        made.close()


def read_only(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,abort", str(disk)], check=True)


def failing(disk: Path) -> None:
    fd = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("@I", NO_LOG_FLUSH))
    finally:
        os.close(fd)


def start(cluster: Cluster, socket: Path) -> Daemon:
    os.environ["HAWKER_LISTEN__UNIX_SOCKET"] = str(socket)
    try:
        daemon = cluster.start("up", "up")
    finally:
        del os.environ["HAWKER_LISTEN__UNIX_SOCKET"]
    daemon.wait_ready()
    return daemon


def test_a_disk_that_became_read_only_still_gives_what_it_has(
    cluster: Cluster, disk: Path, origin: Origin, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon = start(cluster, tmp_path / "sock")
    data = os.urandom(SIZE)
    url, other = origin.put("/stored", data), origin.put("/new", os.urandom(SIZE))
    out = tmp_path / "out"
    assert fetch(daemon, url, out) == (0, "")
    read_only(disk)
    for _ in range(3):
        assert fetch(daemon, url, out, "--overwrite") == (0, "")
        assert out.read_bytes() == data
    code, told = fetch(daemon, other, tmp_path / "new")
    assert code == 1 and "Traceback" not in told, told
    assert "ead-only" in told or "readonly" in told, told
    assert not (tmp_path / "new").exists()
    with daemon.client() as client:
        assert client.get("/healthy").status_code == 200
    daemon.stop()
    assert daemon.process.returncode == 0
    assert "Traceback" not in capfd.readouterr().err


def test_a_disk_that_fails_is_told_and_the_daemon_lives(
    cluster: Cluster, disk: Path, origin: Origin, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon = start(cluster, tmp_path / "sock")
    data = os.urandom(SIZE)
    url, other = origin.put("/stored", data), origin.put("/new", os.urandom(SIZE))
    out = tmp_path / "out"
    assert fetch(daemon, url, out) == (0, "")
    failing(disk)
    # From here on every file of the disk answers EIO.
    with pytest.raises(OSError, match="Input/output error"):
        (disk / "probe").write_text("x")
    for wanted, name in ((url, "again"), (other, "new")):
        code, told = fetch(daemon, wanted, tmp_path / name)
        assert code != 0 and "Traceback" not in told and told.strip(), told
        assert not (tmp_path / name).exists()
        with daemon.client() as client:
            answer = client.get("/peer/v1/content", params={"url": wanted})
            assert answer.status_code in (502, 503, 507), answer.text
            assert client.get("/healthy").status_code == 200
    daemon.stop()
    assert daemon.process.returncode is not None
    assert "Traceback" not in capfd.readouterr().err


def test_a_daemon_on_a_disk_that_fails_does_not_start(
    cluster: Cluster, disk: Path, tmp_path: Path
) -> None:
    start(cluster, tmp_path / "sock").stop()
    failing(disk)
    command = [sys.executable, "-m", "hawker", "up", "--port", "0", "--data", str(disk / "up")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2) and "Input/output error" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_manager_whose_disk_is_full(disk: Path) -> None:
    """Reads go on, what is answered 503 is never made, and changes are taken again with room."""
    manager = Manager(disk / "data", database="")
    filler = disk / "filler"
    try:
        with manager.set_up() as root:
            with pytest.raises(OSError, match="No space left"), filler.open("wb") as file:
                while True:
                    file.write(os.urandom(4096))
                    file.flush()
            refused, made = 0, []
            for number in range(40):
                body = {"name": f"t-{number}", "description": "x" * 4000}
                answer = root.post("/tenants", json=body)
                if answer.status_code == 201:
                    made.append(answer.json())
                else:
                    refused += 1
                    assert "database or disk is full" in problem(answer, 503)
                assert root.get("/tenants?per_page=100").json() == made
            assert refused
            filler.unlink()
            made.append(created(root.post("/tenants", json={"name": "after"})))
            assert root.get("/tenants?per_page=100").json() == made
            assert len(root.get("/audit?resource=tenants&per_page=100").json()) == len(made)
            manager.kill()
            manager.start()
            with manager.client(cookies=root.cookies) as again:
                assert again.get("/tenants?per_page=100").json() == made
        manager.check()
    finally:
        manager.close()
