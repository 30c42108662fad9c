"""What `hawker top` shows fits the terminal it is shown in, whatever it is told."""

from __future__ import annotations

import pytest

from hawker.apps.cli.top_command import not_renewed
from hawker.apps.cli.top_view import BAR, screen
from hawker.core.errors import Unavailable
from hawker.core.window import (
    ClusterOverview,
    Frame,
    LeaseFrame,
    PeerFrame,
    SeenTask,
    TaskFrame,
    TaskLine,
    Totals,
    fold,
)

MIB = 2**20


def overview(**more: object) -> ClusterOverview:
    told = {
        "since": 1000.0,
        "at": 1600.0,
        "hosts": {"connected": 12, "away": 1},
        "tasks": {"live": 3, "reading": 1},
        "peers": 20,
        "complete": 5,
        "origin_bytes": 25 * 10**6,
        "delivered_bytes": 100 * 10**6,
        "saved_bytes": 75 * 10**6,
        "rate": 3_000_000,
    }
    return ClusterOverview(**{**told, **more})  # type: ignore[arg-type]


def line(number: int, **more: object) -> TaskLine:
    told = {
        "task": f"{number:064x}"[::-1],
        "url": f"https://origin.example/models/large/{number}.safetensors",
        "tenant": "default",
        "state": "live",
        "total": 10**9,
        "peers": 9,
        "complete": 4,
        "at": float(number),
    }
    return TaskLine(**{**told, **more})  # type: ignore[arg-type]


def swarm(count: int, **more: object) -> SeenTask:
    peers = [
        PeerFrame(
            number, host=f"{number:032x}", hostname=f"host-{number}", seed=number == 0, whole=True,
            state="holding" if number == 0 else "running",
            have=[(0, number % 16)], received=[(-1 if number == 0 else 0, 2 * MIB)],
        )
        for number in range(count)
    ]  # fmt: skip
    task = TaskFrame("a" * 64, "https://origin.example/x", "default", "live", "g", 16 * MIB, MIB)
    totals = Totals(peers=count, complete=1, origin_bytes=MIB, saved_bytes=MIB, rate=5)
    return fold([Frame("snapshot", 1600.0, task, peers, [LeaseFrame("l", 0, 2 * MIB)], totals)])


def test_a_cluster_in_three_lines_and_its_tasks_those_first_that_are_wanted() -> None:
    tasks = [line(1), line(2, wanting=True), line(3, state="forgotten")]
    lines = screen("eu", overview(), tasks, None, 100, 24)
    assert lines[:3] == [
        "eu: 12 hosts (1 not connected), 4 tasks, 20 peers, 5 complete, 0 leases",
        "now: 3.0 MB/s delivered, 0/s from origins",
        "in 10 min: 100.0 MB delivered, 25.0 MB from origins, 75.0 MB saved (75 %)",
    ]
    assert [told.split()[1] for told in lines[4:]] == ["wanted", "forgotten", "live"]
    assert lines[4].endswith("/large/2.safetensors") and "4/9" in lines[4]


def test_a_task_shows_its_peers_with_what_they_have_and_who_sends_it() -> None:
    lines = screen("eu", overview(), [], swarm(3), 120, 24)
    assert lines[3] == "task aaaaaaaa (live): https://origin.example/x"
    assert lines[4].startswith("16.8 MB in 16 pieces; 1/3 complete, 5 B/s")
    assert lines[5] == "host-0 0000 (seed) reads the origin: 2.1 MB"
    busy, also, seed = lines[7:]
    assert busy.startswith("host-1 0000") and also.startswith("host-2 0000")
    assert f"{'█' * 1}{'·' * (BAR - 1)}  12 %" in busy, "two of sixteen"
    assert busy.endswith("1.0 MB/s  host-0 0000 (seed) 1.0 MB/s") and "origin 1.0 MB/s" in seed


@pytest.mark.parametrize("width,height", [(80, 24), (20, 5), (200, 60), (1, 1)])
@pytest.mark.parametrize("chosen", [False, True])
def test_it_fits_any_terminal(width: int, height: int, chosen: bool) -> None:
    tasks = [line(n, url=f"https://e/\x1b[2J{'x' * 300}") for n in range(100)]
    seen = swarm(100) if chosen else None
    away = overview(away=["http://" + "h" * 200])
    lines = screen("eu\x1b[2J", away, tasks, seen, width, height)
    assert len(lines) <= height and max(map(len, lines)) <= width
    assert all(told.isprintable() for told in lines), "nothing steers the terminal"
    if chosen and height == 24:
        assert len(lines) == height and lines[-1] == "and 84 more"


def test_what_is_not_known_yet_is_shown_as_such() -> None:
    seen = fold([Frame("snapshot", 1.0, TaskFrame("b" * 64, "http://x", "t", "reading"))])
    lines = screen("eu", ClusterOverview(0.0, 0.0), [line(1, total=None)], seen, 80, 24)
    assert lines[4] == "? in 0 pieces; 0/0 complete, 0/s; origin 0, saved 0"


def test_what_a_server_says_of_a_failure_steers_no_terminal() -> None:
    told = not_renewed(Unavailable("away\x1b[2J\nand back"))
    assert told.isprintable() and told.startswith("not renewed: away")
