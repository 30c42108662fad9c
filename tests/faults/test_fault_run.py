"""A few seeds of the fault run, started as by hand; and that its own judgement can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.faults.bounds import Bounds
from tests.faults.clients import Violation, request
from tests.faults.origin import FaultyOrigin, Thing
from tests.faults.plan import KINDS, Ask, Fault, Plan, draw
from tests.faults.world import Daemon, World

ROOT = Path(__file__).parents[2]
# Resumable origins, large contents, right and wrong digests. Together they draw every
# way to kill, stop and freeze, a full disk, flipped bytes and an origin that changes.
SEEDS = (551, 5645, 1958, 1999)
DRAWN = {
    "kill-peer", "kill-seed", "freeze-peer", "freeze-seed", "freeze-scheduler", "restart-scheduler",
    "stop-scheduler", "disk-full", "flip-byte", "origin-changes",
}  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_every_invariant_holds_under_the_faults_of_a_seed(seed: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.run", "--seed", str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_seed_is_always_the_same_plan_and_every_fault_is_drawn() -> None:
    plans = [draw(seed) for seed in range(1, 200)]
    assert plans == [draw(seed) for seed in range(1, 200)]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(KINDS)
    assert {ask.digest for plan in plans for ask in plan.asks} == {"", "right", "wrong"}
    assert any(plan.limit for plan in plans)


def test_the_seeds_that_are_played_here_draw_what_they_are_there_for() -> None:
    plans = [draw(seed) for seed in SEEDS]
    assert {fault.kind for plan in plans for fault in plan.faults} == DRAWN
    assert {ask.digest for plan in plans for ask in plan.asks} == {"", "right", "wrong"}


def test_bytes_of_two_versions_are_seen_where_they_are_mixed(tmp_path: Path) -> None:
    """An origin takes the place of the daemon, and gives half of each version."""
    versions = [os.urandom(100_000), os.urandom(100_000)]
    origin = _origin([versions[0][:50_000] + versions[1][50_000:]])
    claimed = _origin(versions[:1])
    claimed.change(0, versions[1])
    daemon = Daemon(tmp_path, "liar", [], {})
    daemon.url = f"{origin.url(0)}?"
    ask = Ask(0.0, 0, 0, "plain", 5.0, (0.0, 1.0))
    try:
        with pytest.raises(Violation, match="I1: a plain answer of liar"):
            request(ask, daemon, "http://unused", claimed.things[0], tmp_path / "out", False)
    finally:
        origin.close()
        claimed.close()


def test_a_second_read_without_a_fault_is_seen(tmp_path: Path) -> None:
    plan = Plan(1, 3, 1, (100_000,), True, True, 0, None, 0, False, False)
    origin, world = _origin([os.urandom(100_000)]), World(tmp_path, plan)
    bounds = Bounds(plan, origin, world)
    try:
        assert httpx.get(origin.url(0)).is_success
        assert bounds.excess() == ""
        assert httpx.get(origin.url(0)).is_success
        assert "200000 bytes of version 0" in bounds.excess()
    finally:
        origin.close()
        world.stop()


def test_reading_faster_than_the_limit_is_seen(tmp_path: Path) -> None:
    plan = Plan(1, 3, 1, (9_000_000,), True, True, 0, None, 0, False, False, limit=1_000_000)
    origin, world = _origin([os.urandom(9_000_000)]), World(tmp_path, plan)
    bounds = Bounds(plan, origin, world)
    try:
        assert httpx.get(origin.url(0), headers={"range": "bytes=0-999999"}).is_success
        assert bounds.haste() == ""
        assert httpx.get(origin.url(0)).is_success
        assert "at 1000000 bytes/s, and sent" in bounds.haste()
    finally:
        origin.close()
        world.stop()


@pytest.mark.parametrize("claim", ["right", "wrong"])
def test_output_that_has_not_the_stated_digest_is_seen(
    claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that ignores what it is told gives the second version, whatever was stated."""
    thing = Thing([b"first", b"second"], [5, 6])
    target = tmp_path / "out"

    def careless(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        assert "--digest" in command
        target.write_bytes(b"second")
        return subprocess.CompletedProcess(command, 0, b"", b"")

    monkeypatch.setattr(subprocess, "run", careless)
    ask = Ask(0.0, 0, 0, "get", 5.0, (0.0, 1.0), claim)
    with pytest.raises(Violation, match="I2"):
        request(ask, Daemon(tmp_path, "peer", [], {}), "http://unused", thing, target, False)


def test_only_what_no_live_daemon_holds_may_be_read_again(tmp_path: Path) -> None:
    plan = Plan(1, 3, 1, (9_000_000,), True, True, 0, None, 0, False, False)
    origin, world = _origin([os.urandom(9_000_000)]), World(tmp_path, plan)
    bounds = Bounds(plan, origin, world)
    try:
        assert httpx.get(origin.url(0)).is_success
        reading = next(iter(origin.answers))
        reading.reader, reading.over = "seed-0", True
        bounds.lost(bounds.stakes([world.peers[0]]), "a peer without content")
        assert bounds.charges == []
        bounds.lost(bounds.stakes([world.seeds[0]]), "its only holder")
        assert [charge.size for charge in bounds.charges] == [9_000_000]
    finally:
        origin.close()
        world.stop()


def test_the_tenths_that_go_at_once_are_within_the_cluster() -> None:
    plan = Plan(1, 5, 1, (1,), True, True, 0, None, 0, False, False)
    assert plan.gone(Fault(0.0, "peers-gone", 4, 0.0, 0.0)) == [4, 0]


def _origin(things: list[bytes]) -> FaultyOrigin:
    return FaultyOrigin(things, validators=True, ranges=True, rate=0, reader_of=lambda port: "")
