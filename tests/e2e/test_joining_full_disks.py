"""Real full filesystems under a host that joins, and under a member that is told something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hawker.core.membership import Configuration
from tests.apps.membership.standin import StandIn
from tests.e2e import small_disk
from tests.e2e.conftest import wait_for

pytestmark = pytest.mark.skipif(
    small_disk.namespace() is None, reason="the kernel lets this user make no mount namespace"
)


@pytest.fixture
def manager() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.stop()


def test_a_disk_without_room_is_found_before_the_token_is_used(
    manager: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    hawker = [sys.executable, "-m", "hawker", "join", manager.url, "--token", "hwe_good"]
    command = small_disk.inside(32 * 1024, tmp_path / "d", *hawker, "--data", str(tmp_path / "d"))
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1 and b"No space left" in done.stderr, done.stderr
    assert manager.tokens == {"hwe_good"} and not manager.enrolled
    assert b"Traceback" not in done.stderr


def test_what_is_told_on_a_full_disk_is_done_and_kept_once_there_is_room(
    manager: StandIn, tmp_path: Path
) -> None:
    data, sock = tmp_path / "d", tmp_path / "d.sock"
    data.mkdir()
    python = f"{sys.executable} -m hawker"
    joins = f"{python} join {manager.url} --token hwe_good --plain --data {data} >&2"
    serves = f"exec {python} serve peer --port 0 --json --data {data}"
    environment = {**os.environ, "HAWKER_LISTEN__UNIX_SOCKET": str(sock)}
    process = subprocess.Popen(
        small_disk.inside(8 * 2**20, data, "sh", "-c", f"{joins} && {serves}"),
        stdout=subprocess.PIPE,
        env=environment,
    )

    def figure(name: str) -> float:
        transport = httpx.HTTPTransport(uds=str(sock))
        with httpx.Client(transport=transport, base_url="http://d", timeout=30) as client:
            lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def kept() -> int | None:
        record = small_disk.seen(process.pid, data / "membership" / "membership.json")
        told = json.loads(record.read_bytes()).get("told") or {}
        slots: int | None = told.get("configuration", {}).get("upload_slots")
        return slots

    try:
        assert process.stdout is not None and process.stdout.readline()
        wait_for(lambda: figure("hawker_membership_connected") == 1, "it is a member")
        wait_for(lambda: figure("hawker_membership_saved") == 1, "what it is told is kept")
        ballast = small_disk.seen(process.pid, data) / "ballast"
        with ballast.open("wb", buffering=0) as file:
            status = os.statvfs(ballast.parent)
            file.write(bytes(status.f_bavail * status.f_frsize))
        manager.tell(configuration=Configuration(upload_slots=3))
        wait_for(lambda: figure("hawker_peer_upload_slots") == 3, "it does what it is told")
        wait_for(lambda: figure("hawker_membership_saved") == 0, "it says that it is not kept")
        assert kept() is None, "what was there is there"
        ballast.unlink()
        manager.tell(configuration=Configuration(upload_slots=4))
        wait_for(lambda: figure("hawker_membership_saved") == 1, "it is kept")
        assert kept() == 4 == figure("hawker_peer_upload_slots")
    finally:
        process.terminate()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()
