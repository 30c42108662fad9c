"""`hawker preheat` and `hawker jobs` against a manager with hosts: they wait, tell and fail as the
job does, though the manager is killed meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Cluster, Origin, wait_for
from tests.e2e.managed import Managed, made

MIB = 2**20


class Somebody:
    """Who is signed in at a manager."""

    def __init__(self, home: Path, managed: Managed) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HAWKER_")}
        self._environ = kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        ran = self.run(
            "login", "--manager", managed.url, "--name", "ada", typed="correct horse battery\n"
        )
        assert ran.returncode == 0, ran.stderr

    def start(self, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hawker", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self._environ, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(typed, timeout=90)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def told(self, *arguments: str) -> Any:
        ran = self.run(*arguments, "--json")
        return json.loads(ran.stdout)


@pytest.fixture
def managed(cluster: Cluster) -> Iterator[Managed]:
    running = Managed(cluster)
    seed = running.swarm(0)[1]
    wait_for(lambda: running.member(seed)["url"], "it said where it is")
    yield running
    running.api.close()


@pytest.fixture
def ada(tmp_path: Path, managed: Managed) -> Somebody:
    return Somebody(tmp_path / "home", managed)


def test_preheat_waits_tells_and_fails_as_its_job_does(
    managed: Managed, ada: Somebody, origin: Origin
) -> None:
    good, bad = origin.put("/good", os.urandom(MIB)), origin.put("/bad", b"x")
    ran = ada.run("preheat", good, "--cluster", "eu")
    assert ran.returncode == 0 and "succeeded, 1 of 1 parts, 1.0 MB" in ran.stdout, ran
    assert origin.requests == 1
    del origin.files["/bad"]
    ran = ada.run("preheat", good, bad)
    assert ran.returncode == 1 and "failed, 1 of 2 parts, 1 failed" in ran.stdout, ran
    assert bad in ran.stdout and "404" in ran.stdout
    [last, first] = ada.told("jobs", "list")
    assert (last["state"], first["state"]) == ("failed", "succeeded")
    number = str(last["id"])
    listed = ada.run("jobs", "list", "--state", "failed").stdout.splitlines()
    assert len(listed) == 2 and listed[1].split()[0] == number and "and 1 more" in listed[1]
    shown = ada.run("jobs", "show", number).stdout
    assert "1 of 2 parts" in shown and bad in shown and "ada" in shown
    origin.put("/bad", b"better")
    ran = ada.run("jobs", "retry", number)
    assert ran.returncode == 0 and "2 of 2 parts" in ran.stdout, ran
    assert ada.run("jobs", "watch", number).returncode == 0
    assert ada.told("jobs", "show", number)["failed"] == []


def test_a_job_is_left_to_itself_and_cancelled(
    managed: Managed, ada: Somebody, origin: Origin
) -> None:
    origin.delay = 0.1
    url = origin.put("/slow", os.urandom(64 * MIB))
    number = ada.run("preheat", url, "--scope", "all-seeds", "--no-wait").stdout.strip()
    assert ada.told("jobs", "show", number)["args"]["scope"] == "all-seeds"
    ran = ada.run("jobs", "cancel", number)
    assert ran.returncode == 0, ran.stderr
    ran = ada.run("jobs", "watch", number)
    assert ran.returncode == 1 and "cancelled" in ran.stdout
    ran = ada.run("jobs", "cancel", number)
    assert ran.returncode == 2 and "the job has ended (cancelled)" in ran.stderr


def test_it_waits_though_the_manager_is_killed(
    managed: Managed, ada: Somebody, origin: Origin
) -> None:
    origin.delay = 0.03
    data = os.urandom(8 * MIB)
    with ada.start("preheat", origin.put("/file", data), "--json") as process:

        def under_way() -> bool:
            found = made(managed.api.get("/jobs"))
            return bool(found) and found[0]["state"] == "running"

        wait_for(under_way, "it has begun")
        managed.daemon.kill()
        managed.start()
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert json.loads(out)["bytes"] == len(data)


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("preheat", "nginx", "http://a/b"), 2, "one image, or files"),
        (("preheat", "http://a/b", "--header", "x"), 2, "NAME:VALUE"),
        (("preheat", "http://a/b", "--cluster", "us"), 3, "no 'us' among clusters"),
        (("preheat", "http://a/b", "--count", "1"), 2, "count and percent"),
        (("preheat", "No Image"), 2, "image"),
        (("jobs", "show", "99"), 3, "no such thing among jobs"),
        (("jobs", "watch", "99"), 3, "no such thing among jobs"),
        (("jobs", "retry", "99"), 3, "no such thing among jobs"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    nobody_s: Somebody, arguments: tuple[str, ...], code: int, why: str
) -> None:
    ran = nobody_s.run(*arguments)
    assert ran.returncode == code and why in ran.stderr, ran
    assert ran.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def nobody_s(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Somebody]:
    """Signed in where there are no hosts."""
    root = tmp_path_factory.mktemp("commands")
    daemons = Cluster(root)
    try:
        running = Managed(daemons)
        yield Somebody(root / "home", running)
        running.api.close()
    finally:
        daemons.close()
